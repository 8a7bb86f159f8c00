"""The admin port: is the daemon alive, is it ready, what has it counted.

Served by the same library as the clients: it reads the request within limits of size and time, and what we return from
``process_request`` goes out as a plain HTTP response.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from wsd.errors import StartupError

__all__ = ["Admin"]


class Admin:
    """Answers ``/healthz``, ``/readyz`` and ``/metrics``.

    Args:
        registry: what ``/metrics`` shows.
        unready: returns why the daemon isn't ready, or ``""`` if it is.
        details: returns lines for people that ``/readyz`` shows beside it.
    """

    def __init__(
        self, registry: CollectorRegistry, unready: Callable[[], str], details: Callable[[], list[str]] = list
    ) -> None:
        self._registry = registry
        self._unready = unready
        self._details = details
        self._server: Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to answer; return the port. Port 0 takes any that is free.

        Raises:
            StartupError: if it can't listen there.
        """

        async def never(connection: ServerConnection) -> None:
            raise AssertionError("every request is answered before a handshake")

        try:
            self._server = await serve(never, host, port, process_request=self._answer, compression=None)
        except OSError as exc:
            raise StartupError(f"can't listen on {host} port {port} (admin): {exc.strerror or exc}") from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _answer(self, connection: ServerConnection, request: Request) -> Response:
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "ok\n")  # that we answer shows that the loop turns
        if path == "/readyz":
            reason = self._unready()
            lines = [f"not ready: {reason}" if reason else "ready", *self._details(), ""]
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK,
                "\n".join(lines),
            )
        if path == "/metrics":
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
            response = connection.respond(HTTPStatus.OK, encode(self._registry).decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = content_type
            return response
        return connection.respond(HTTPStatus.NOT_FOUND, "there are /healthz, /readyz and /metrics here\n")
