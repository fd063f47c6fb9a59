"""`fluxline serve`: model versions behind a small page and an HTTP door on this machine, until Ctrl-C."""

import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from flows.ports import free_port
from flows.serving_app import serving_app
from flows.versions import open_registry
from fluxmodel.errors import InputError
from tasks.serving import Desk, ServedVersion, Shelf

GRACE_SECONDS = 30.0
"""Whoever waits when the server is stopped is served for so long; what is being drawn then is finished."""
LAST_DRAWING_SECONDS = 60
FOLLOW_SECONDS = 10.0
"""Between two looks at the registry's aliases, which are one short query a model."""


def serve_until_stopped(models: Sequence[str], port: int, queue: int) -> int:
    """Serve the models until SIGINT or SIGTERM; return the exit code.

    Raises:
        InputError: there is no such model, it cannot be read, or a number is out of its range.
    """
    for name, value, most in (("port", port, 65_335), ("queue", queue, 100_000)):
        if not 1 <= value <= most:
            raise InputError(f"--{name} is {value}; give 1 to {most}.")
    shelf = Shelf(open_registry(), models)
    desk = Desk(queue)
    at = free_port(port)
    config = uvicorn.Config(
        serving_app(shelf, desk),
        host="127.0.0.1",
        port=at,
        log_level="warning",
        access_log=False,
        lifespan="off",
        backlog=2048,
        timeout_graceful_shutdown=int(GRACE_SECONDS) + LAST_DRAWING_SECONDS,
    )
    server = _Server(config, desk, lambda: _say(shelf.versions, at, port))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, server.handle_exit
        )  # uvicorn raises it again when all is done: that ends nothing then
    stopped = threading.Event()
    threading.Thread(target=_follow, args=(shelf, stopped), daemon=True).start()
    try:
        server.run()
    finally:
        stopped.set()
    print(f"Stopped; drew {_requests(desk.drawn)}.")
    return 0


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, desk: Desk, say: Callable[[], None]):
        super().__init__(config)
        self.desk, self.say = desk, say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.say()  # not before it listens: who reads the address may ask at once

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            here = self.desk.waiting
            print(f"Stopping; serves {_requests(here)} first." if here else "Stopping.", flush=True)
        self.desk.close(GRACE_SECONDS)
        super().handle_exit(sig, frame)


def _follow(shelf: Shelf, stopped: threading.Event) -> None:
    """Take what is promoted while we serve; where that cannot be read, say so and go on as before."""
    told = ""
    while not stopped.wait(FOLLOW_SECONDS):
        try:
            if shelf.follow():
                _say_served(shelf.versions)
            told = ""
        except Exception as error:
            if str(error) != told:
                told = str(error)
                print(f"What was promoted meanwhile is not served yet: {told}", flush=True)


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _say(versions: Sequence[ServedVersion], at: int, wanted: int) -> None:
    stepped = "" if at == wanted else f"  (port {wanted} was taken)"
    print(f"page    http://127.0.0.1:{at}{stepped}")
    _say_served(versions)
    print("POST /generate answers JSON prompts with PNGs. Ctrl-C stops.", flush=True)


def _say_served(versions: Sequence[ServedVersion]) -> None:
    for served in versions:
        held = f" ({', '.join(served.aliases)})" if served.aliases else ""
        print(f"serves  {served.label}{held}: {', '.join(served.model.variants)}", flush=True)
