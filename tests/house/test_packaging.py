"""Tests of what surrounds the package: the pinned versions, the wheel, the image, the composition."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT
from tests.house.papers import PAPERS, paper
from tests.lib.waiting import PATIENCE
from wsd import __version__
from wsd.config import Settings

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = "wsd-daemon"
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


# constraints.txt


PARTS = ["run", "build", "dev", "test"]


class Pin(NamedTuple):
    requirement: Requirement
    hashes: list[str]


def pins(part: str) -> dict[str, Pin]:
    """Return the pinned distributions of a part of constraints.txt (run, build, dev or test) by their names."""
    text = (ROOT / "constraints.txt").read_text()
    body = re.split(r"^# --- (\w+)$", text, flags=re.MULTILINE)
    parts = dict(zip(body[1::2], body[2::2], strict=True))
    assert list(parts) == PARTS
    found: dict[str, Pin] = {}
    for line in parts[part].replace("\\\n", " ").splitlines():
        if line.strip():
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            pin = Pin(Requirement(requirement), hashes)
            found[canonicalize_name(pin.requirement.name)] = pin
    return found


def test_everything_is_pinned_and_hashed() -> None:
    for part in PARTS:
        assert pins(part)
        for pin in pins(part).values():
            assert re.fullmatch(r"==[0-9a-z.]+", str(pin.requirement.specifier))
            assert pin.hashes
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in pin.hashes)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (["run"], PROJECT["dependencies"]),
        (["run", "build"], EXTRAS["build"]),
        (["run", "build", "dev"], EXTRAS["dev"]),
        (PARTS, [*EXTRAS["test"], *EXTRAS["bench"]]),
    ],
    ids=PARTS,
)
def test_the_pins_cover_the_project(parts: list[str], wanted: list[str]) -> None:
    pinned = {name: pin for part in parts for name, pin in pins(part).items()}
    for requirement in map(Requirement, wanted):
        (exact,) = pinned[canonicalize_name(requirement.name)].requirement.specifier
        assert requirement.specifier.contains(exact.version), f"{requirement}: run `make lock`"


def test_the_parts_do_not_overlap() -> None:
    names = [name for part in PARTS for name in pins(part)]
    assert len(names) == len(set(names))


def test_the_build_requirements_are_pinned_through_the_extra() -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert system["requires"] == EXTRAS["build"]


def test_the_pins_name_no_place() -> None:
    # An index, a mirror or a folder of whoever pinned would be used by everyone else.
    assert "/" not in (ROOT / "constraints.txt").read_text()


# The Makefile


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_make_help_names_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert {line.split()[1] for line in make("help").splitlines()} == set(phony[1].split())
    assert make() == make("help")


def test_make_run_says_what_is_missing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for arguments, words in (
        ((f"PYTHON={python}", f"VENV={tmp_path}/venv"), "On Debian and Ubuntu: apt install python3-venv"),
        ((f"PYTHON={sys.executable}", "VENV=/dev/null/venv"), "make VENV=/tmp/wsd-venv"),
    ):
        result = run(["make", "--no-print-directory", "run", *arguments], cwd=ROOT, env=outer_environ())
        assert result.returncode != 0 and words in result.stdout
    assert not (tmp_path / "venv").exists()


@pytest.mark.timeout(900)  # it waits for the downloads
def test_make_run_installs_what_dev_needs_and_no_more(tmp_path: Path) -> None:
    stamp = tmp_path / "venv" / "runs"
    result = run(
        ["make", str(stamp), f"VENV={stamp.parent}", f"PYTHON={sys.executable}"],
        cwd=copied(tmp_path),
        env=outer_environ(),
    )
    assert result.returncode == 0, result.stdout
    wanted = {name for part in ("run", "build", "dev") for name, pin in pins(part).items() if needed(pin)}
    assert installed(stamp.parent / "bin" / "python").keys() - {"pip", "setuptools"} == wanted | {NAME}
    assert run([f"{stamp.parent}/bin/wsd", "--version"], cwd=tmp_path, env=outer_environ()).returncode == 0


def copied(folder: Path) -> Path:
    """Return a copy of what is built from, below the folder: builds leave nothing in the checkout."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "wsd"):
        copy(ROOT / name, checkout / name if (ROOT / name).is_dir() else checkout)
    return checkout


def needed(pin: Pin) -> bool:
    """Tell whether a pin is for this Python and system."""
    return pin.requirement.marker is None or pin.requirement.marker.evaluate()


def installed(python: Path | str, **environ: str) -> dict[str, str]:
    """Return the distributions that an interpreter finds, and their versions."""
    code = """if True:
        import importlib.metadata, json
        print(json.dumps([[found.name, found.version] for found in importlib.metadata.distributions()]))
    """
    result = run([str(python), "-c", code], cwd=Path("/"), env=environ or outer_environ())
    return {canonicalize_name(name): version for name, version in json.loads(result.stdout)}


# The virtual environment of systemd/README.md


@pytest.mark.timeout(900)  # it waits for the downloads
def test_the_recipe_for_a_virtual_environment(tmp_path: Path) -> None:
    (recipe,) = (block.text for block in paper("systemd/README.md").of("In a virtual environment", "sh"))
    unit = (ROOT / "systemd" / "wsd.service").read_text()
    (program,) = re.findall(r"^ExecStart=(\S+) serve$", unit, re.MULTILINE)
    (tmp_path / "usr" / "local" / "bin").mkdir(parents=True)
    recipe = re.sub(r"(?<=\s)/", f"{tmp_path}/", recipe)
    recipe = recipe.replace("python3 ", f"{sys.executable} ")
    result = run(["sh", "-ec", recipe], cwd=copied(tmp_path), env=outer_environ())
    assert result.returncode == 0, result.stdout
    result = run([f"{tmp_path}{program}", "--version"], cwd=tmp_path, env=outer_environ())
    assert (result.returncode, result.stdout) == (0, f"wsd {__version__}\n")
    found = installed(tmp_path / "opt" / "wsd" / "bin" / "python")
    for name, pin in pins("run").items():
        assert not needed(pin) or f"=={found[name]}" == str(pin.requirement.specifier)


# The image


class Step(NamedTuple):
    stage: int
    instruction: str
    argument: str


def steps() -> Iterator[Step]:
    """Parse the Dockerfile, as far as this one goes: comments, continued lines, one instruction a line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage = -1
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, argument = line.split(maxsplit=1)
            stage += instruction == "FROM"
            yield Step(stage, instruction, argument)


STEPS = list(steps())


def last(instruction: str) -> str:
    """Return the argument of an instruction that the last stage has once."""
    (argument,) = (step.argument for step in STEPS if step.stage == 1 and step.instruction == instruction)
    return argument


def variables() -> dict[str, str]:
    """Return the environment that the image gives to its process."""
    return dict(item.split("=", 1) for item in shlex.split(last("ENV")))


class Image(NamedTuple):
    """What the Dockerfile's first stage makes, below a folder that stands for the root of its file system."""

    root: Path
    workdir: Path

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a process in the container, with this machine's programs behind it."""
        path = f"{self.root}/opt/wsd/bin:{os.environ['PATH']}"
        return {**outer_environ(), **variables(), "PATH": path, **more}


def outer_environ() -> dict[str, str]:
    """Return this process's environment without what is meant for its own Python and its own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WSD_"))}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Carry out the steps of the Dockerfile's first stage."""
    root = tmp_path_factory.mktemp("image")
    programs = root / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    environ = {**outer_environ(), "PATH": f"{programs}:{os.environ['PATH']}"}
    workdir = root
    for step in STEPS:
        if step.stage > 0:
            break
        if step.instruction == "WORKDIR":
            workdir = root / step.argument.lstrip("/")
            workdir.mkdir(parents=True)
        elif step.instruction == "COPY":
            *sources, target = step.argument.split()
            for source in sources:
                copy(ROOT / source, workdir / target)
        elif step.instruction == "RUN":
            command = ["sh", "-ec", step.argument.replace("/opt/", f"{root}/opt/")]
            result = run(command, cwd=workdir, env=environ)
            assert result.returncode == 0, result.stdout
    return Image(root, workdir)


def copy(source: Path, target: Path) -> None:
    """Copy as COPY does: a folder's content, a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def run(command: list[str], *, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


# The first of them waits for the downloads.
downloads = pytest.mark.timeout(900)


@downloads
def test_the_image_runs_wsd(image: Image) -> None:
    result = run([*json.loads(last("ENTRYPOINT")), "--version"], cwd=image.workdir, env=image.environ())
    assert (result.returncode, result.stdout) == (0, f"wsd {__version__}\n")


@downloads
def test_the_image_holds_the_pinned_distributions_and_no_others(image: Image) -> None:
    expected = {
        name: str(pin.requirement.specifier).removeprefix("==") for name, pin in pins("run").items() if needed(pin)
    }
    assert installed("python", **image.environ()) == {**expected, NAME: __version__}


@downloads
def test_the_image_needs_a_key(image: Image) -> None:
    command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    result = run(command, cwd=image.workdir, env=image.environ())
    assert result.returncode == 2
    assert "jwt_key: not given" in result.stdout


@downloads
def test_the_container_is_healthy_and_stops(image: Image, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 64)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    environ = image.environ(WSD_PORT="0", WSD_ADMIN_PORT=port, WSD_JWT_KEY_FILE=str(tmp_path / "key"))
    # Without a Redis the daemon is not ready, but it is healthy.
    environ["WSD_REDIS_URL"] = f"unix://{tmp_path}/redis.sock"
    check = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert run(check, cwd=image.root, env=environ).returncode != 0
    command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    with notified(tmp_path / "notify") as (receiver, notify_socket):
        environ["NOTIFY_SOCKET"] = notify_socket
        with subprocess.Popen(command, cwd=image.root, env=environ) as process:
            try:
                assert b"READY=1" in receiver.recv(4096)
                assert run(check, cwd=image.root, env=environ).returncode == 0
                process.send_signal(getattr(signal, last("STOPSIGNAL")))
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()


@contextmanager
def notified(path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Listen to what a process tells systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(PATIENCE)
        yield receiver, str(path)


@downloads
def test_the_wheel_holds_the_package_and_its_licence(image: Image) -> None:
    (wheel,) = (image.workdir / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "wsd").rglob("*.py")}
    assert names >= modules | {path for path in PAPERS if path.startswith("wsd/")}
    assert {name.split("/")[0] for name in names} == {"wsd", f"wsd_daemon-{__version__}.dist-info"}
    assert f"wsd_daemon-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_source_distribution_holds_the_papers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    result = run(command, cwd=ROOT, env=outer_environ())
    assert result.returncode == 0, result.stdout
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert names >= set(PAPERS)


def test_the_image_is_set_up_for_containers() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", last("FROM"))
    ports = {str(Settings.model_fields[name].default) for name in ("port", "admin_port")}
    assert set(last("EXPOSE").split()) == ports
    settings = {name for name in variables() if name.startswith("WSD_")}
    assert {name.removeprefix("WSD_").lower() for name in settings} <= set(Settings.model_fields)


# The composition


def test_the_composition_fits_the_image() -> None:
    # As text: nothing else here needs a YAML parser.
    text = (ROOT / "compose.yaml").read_text()
    assert re.findall(r'- "(\d+):(\d+)"', text) == [("3000", "3000"), ("5080", "3000")]
    settings = re.findall(r"^ +WSD_(\w+): ", text, re.MULTILINE)
    assert {name.lower() for name in settings} == {"redis_url", "jwt_key_file"}
    assert "WSD_JWT_KEY_FILE: /run/secrets/jwt_key\n" in text
    assert "/jwt_key\n" in (ROOT / ".gitignore").read_text()
    assert "\t" not in text
