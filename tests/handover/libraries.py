"""Clients that are not ours: websocket-client, aiohttp, a browser; and ``wsd tail``, which people keep open.

Each listens to some topics, subscribes to another one and leaves it in turn, and pings.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
import websocket
from aiohttp import web

from bench.processes import Program, free_port
from tests.handover.diary import Diary
from tests.handover.peers import World
from tests.lib.programs import Command, tailing
from tests.lib.waiting import PATIENCE, eventually

__all__ = ["CHROMIUM", "AiohttpClient", "Browser", "Foreign", "Tail", "WebSocketClient"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PERIOD = 0.1
"""Seconds between two requests."""


class Foreign:
    """What these clients have in common.

    Args:
        world: what they have to do with.
        name: of the diary.
        topics: what to subscribe to; the last one now and then.
    """

    def __init__(self, world: World, name: str, topics: Sequence[str]) -> None:
        self.world = world
        self.diary = Diary(name, world.tolerated)
        self._topics = topics
        self._over = False  # whether nothing more is to be asked
        self._stack = AsyncExitStack()

    @property
    def diaries(self) -> list[Diary]:
        """What it wrote down."""
        return [self.diary]

    @property
    def url(self) -> str:
        """Where the daemon is."""
        return f"ws://127.0.0.1:{self.world.port}/"

    @property
    def gone(self) -> bool:
        """Whether the server has closed it."""
        return self.diary.end is not None

    port = 0  # that of its socket, if it can be told

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await eventually(self._listens, f"{self.diary.name} is subscribed")
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.diary.leaves()
        await self._stack.aclose()

    def _listens(self) -> bool:
        return all(topic in self.diary.topics for topic in self._topics[:-1]) or self.diary.end is not None

    async def start(self) -> None:
        """Connect, and begin to ask and to read."""
        raise NotImplementedError

    async def poise(self) -> None:
        """It notices nothing."""

    async def go_on(self) -> None:
        """It has noticed nothing."""

    async def settle(self) -> None:
        """Ask nothing more, and wait until nothing is owed."""
        self._over = True
        with suppress(AssertionError):  # the judge finds what is owed
            await eventually(lambda: self.diary.end or not (self.diary.owed or self.diary.pings), "all replies")

    async def catch_up(self, closed: Mapping[str, int]) -> None:
        """Wait until a number beyond these has come on every topic that it is subscribed to."""
        with suppress(AssertionError):  # the judge finds what is missing
            await eventually(lambda: self.diary.end or self.diary.is_beyond(closed), "the last numbers")

    def _requests(self) -> Iterator[str]:
        """What it asks for, one after the other; the session must be known."""
        numbers = itertools.count(1)
        yield self._request(next(numbers), "authorization", self.world.token(("*",)))
        for topic in self._topics[:-1]:
            yield self._request(next(numbers), "subscribe", topic)
        while True:
            yield self._request(next(numbers), "subscribe", self._topics[-1])
            yield self._request(next(numbers), "ping")
            yield self._request(next(numbers), "unsubscribe", self._topics[-1])

    def _request(self, number: int, action: str, context: str = "") -> str:
        self.diary.asks(action, context, number)
        request: dict[str, Any] = {"action": action, "id": number}
        if action != "ping":
            request |= {"session": self._session, "context": context}
        return json.dumps(request)

    _session = ""

    def _read_text(self, text: str | bytes) -> None:
        message = orjson.loads(text)
        self._session = message.get("session", self._session)
        self.diary.received(message, time.monotonic())


class AiohttpClient(Foreign):
    """A client of aiohttp."""

    async def start(self) -> None:
        """See :meth:`Foreign.start`."""
        http = await self._stack.enter_async_context(aiohttp.ClientSession())
        self._socket = await self._stack.enter_async_context(http.ws_connect(self.url, autoping=False))
        self.port = self._socket.get_extra_info("sockname")[1]
        for act in (self._read, self._ask):
            task = asyncio.create_task(act())
            self._stack.push_async_callback(self._end, task)

    @staticmethod
    async def _end(task: asyncio.Task[None]) -> None:
        task.cancel()
        for result in await asyncio.gather(task, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self._read_text(message.data)
            elif message.type is aiohttp.WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG:
                self.diary.ponged(bytes(message.data))
        code = self._socket.close_code
        self.diary.ended(code if code != aiohttp.WSCloseCode.ABNORMAL_CLOSURE else None, "", time.monotonic())

    async def _ask(self) -> None:
        await eventually(lambda: self._session, "the session")
        with suppress(aiohttp.ClientError, OSError):  # the connection has ended, which _read() finds
            for number, request in enumerate(self._requests()):
                await self._socket.send_str(request)
                payload = b"aiohttp %d" % number
                self.diary.pinged(payload)
                await self._socket.ping(payload)
                await asyncio.sleep(PERIOD)
                if self._over or self.diary.end is not None:
                    return


class WebSocketClient(Foreign):
    """A client of websocket-client, which blocks a thread of its own."""

    async def start(self) -> None:
        """See :meth:`Foreign.start`."""
        self._ending = False
        self._failure: Exception | None = None
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        self._stack.callback(self._end, thread)

    def _end(self, thread: threading.Thread) -> None:
        self._ending = True
        thread.join(PATIENCE)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            client = websocket.create_connection(self.url, timeout=PATIENCE)
            assert client.sock is not None
            self.port = client.sock.getsockname()[1]
            try:
                self._converse(client)
            except (websocket.WebSocketConnectionClosedException, OSError) as exc:
                self.diary.ended(None, str(exc), time.monotonic())
            finally:
                client.shutdown()  # type: ignore[no-untyped-call]  # its stub
        except Exception as exc:
            self._failure = exc

    def _converse(self, client: websocket.WebSocket) -> None:
        client.settimeout(PERIOD)
        requests = self._requests()
        due = 0.0
        for number in itertools.count():
            if self._ending:
                return
            if self._session and not self._over and time.monotonic() >= due:
                due = time.monotonic() + PERIOD
                client.send(next(requests))
                payload = b"thread %d" % number
                self.diary.pinged(payload)
                client.ping(payload)
            with suppress(websocket.WebSocketTimeoutException):
                opcode, frame = client.recv_data_frame(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._read_text(frame.data)
                elif opcode == websocket.ABNF.OPCODE_PONG:
                    self.diary.ponged(frame.data)
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    self.diary.ended(int.from_bytes(frame.data[:2], "big"), "", time.monotonic())
                    return


PAGE = """<!doctype html><script>
const [url, token, topics] = SETTINGS;
const log = [];
const socket = new WebSocket(url);
let session, number = 0, asked = 0, over = false;
const ask = (action, context = "") => {
  log.push(["asked", [action, context, ++number]]);
  socket.send(JSON.stringify(action === "ping" ? { action, id: number } : { action, session, context, id: number }));
};
socket.onmessage = ({ data }) => {
  log.push(["got", data]);
  if (session === undefined && (session = JSON.parse(data).session) !== undefined) {
    ask("authorization", token);
    for (const topic of topics.slice(0, -1)) ask("subscribe", topic);
    setInterval(turn, 100);
  }
};
const turn = () => {
  if (!over) ask(["subscribe", "ping", "unsubscribe"][asked++ % 3], topics.at(-1));
};
socket.onclose = ({ code, reason }) => log.push(["closed", [code, reason]]);
const tell = async () => {
  const answer = await fetch("/told", { method: "POST", body: JSON.stringify(log.splice(0)) });
  over = (await answer.text()) === "over";
  setTimeout(tell, 50);
};
tell();
</script>"""
"""It tells everything, in order, and asks until it hears that it is over."""


class Browser(Foreign):
    """A page in Chromium."""

    async def start(self) -> None:
        """See :meth:`Foreign.start`."""
        port = free_port()
        application = web.Application(client_max_size=2**26)
        application.add_routes([web.get("/", self._page), web.post("/told", self._told)])
        runner = web.AppRunner(application)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        profile = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        self._stack.enter_context(
            Program(
                [
                    *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                    *(f"--user-data-dir={profile}", f"http://127.0.0.1:{port}/"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    async def _page(self, request: web.Request) -> web.Response:
        settings = json.dumps([self.url, self.world.token(("*",)), self._topics])
        return web.Response(text=PAGE.replace("SETTINGS", settings), content_type="text/html")

    async def _told(self, request: web.Request) -> web.Response:
        for kind, told in await request.json():
            if kind == "asked":
                self.diary.asks(*told)
            elif kind == "got":
                self._read_text(told)
            else:
                self.diary.ended(told[0] if told[0] != 1006 else None, told[1], time.monotonic())
        return web.Response(text="over" if self._over else "")


class Tail(Foreign):
    """``wsd tail``: it prints every number, and says nothing more once it is subscribed."""

    async def start(self) -> None:
        """See :meth:`Foreign.start`."""
        token = self.world.token(("*",))
        self._command: Command = await asyncio.to_thread(
            lambda: tailing("--url", self.url, *self._topics, WSD_TOKEN=token)
        )
        self._stack.callback(self._command.kill)
        self.diary.greeted()
        now = time.monotonic()
        for number, topic in enumerate(self._topics):
            self.diary.asks("subscribe", topic, number)
            self.diary.received({"action": "subscribe", "message": "context subscribed", "id": number}, now)
        self._said = len(self._command.err.read)
        self._taken = 0

    def _take(self) -> None:
        lines = self._command.out.read
        while self._taken < len(lines):
            topic, _, number = lines[self._taken].decode().partition("\t")
            self.diary.received({"action": "message", "topic": topic, "snapshot": int(number)}, time.monotonic())
            self._taken += 1

    async def settle(self) -> None:
        """See :meth:`Foreign.settle`."""
        for line in self._command.err.read[self._said :]:
            self.diary.problem(f"said {line.decode().strip()!r}")
        if self._command.status is not None:
            self.diary.ended(None, f"status {self._command.status}", time.monotonic())

    async def catch_up(self, closed: Mapping[str, int]) -> None:
        """See :meth:`Foreign.catch_up`."""

        def beyond() -> bool:
            self._take()
            return self.diary.is_beyond(closed) or self.diary.end is not None

        with suppress(AssertionError):  # the judge finds what is missing
            await eventually(beyond, "the last numbers")
