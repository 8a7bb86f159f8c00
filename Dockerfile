# The image of wsd. Every distribution in it is the one that constraints.txt names, checked by its hash.

FROM python:3.13.9-slim-trixie AS build
WORKDIR /src

COPY constraints.txt ./
RUN sed '/^# --- build$/,$d' constraints.txt > run.txt && sed '/^# --- dev$/,$d' constraints.txt > build.txt
# --only-binary: to build one would run whatever it names as its build requirements, without hashes.
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --only-binary=:all: -r build.txt
RUN python -m venv --without-pip /opt/wsd \
    && /opt/build/bin/pip --python /opt/wsd/bin/python install --require-hashes --only-binary=:all: -r run.txt

COPY LICENSE README.md pyproject.toml ./
COPY wsd/ wsd/
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/wsd/bin/python install --no-deps --no-index dist/*.whl

FROM python:3.13.9-slim-trixie
COPY --from=build /opt/wsd /opt/wsd

# From outside only the ports can be reached that whoever starts the container publishes.
ENV PATH=/opt/wsd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WSD_HOST=0.0.0.0 \
    WSD_ADMIN_HOST=0.0.0.0

# A user without a name, a home and rights. A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 3000 3001
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/healthz' % os.environ.get('WSD_ADMIN_PORT', 3001), timeout=2)"]
# The exec form: wsd is process 1, and SIGTERM reaches it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["wsd"]
CMD ["serve"]
