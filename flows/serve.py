"""`fluxline serve`: model versions behind a small page and an HTTP door on this machine, until Ctrl-C."""

import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from flows.ports import free_port
from flows.serving_app import serving_app
from flows.versions import open_registry
from fluxmodel.errors import InputError
from tasks.serving import Desk, ServedVersion, open_versions

GRACE_SECONDS = 30.0
"""Whoever waits when the server is stopped is served for so long; what is being drawn then is finished."""
LAST_DRAWING_SECONDS = 60


def serve_until_stopped(models: Sequence[str], port: int, queue: int) -> int:
    """Serve the models until SIGINT or SIGTERM; return the exit code.

    Raises:
        InputError: there is no such model, it cannot be read, or a number is out of its range.
    """
    for name, value, most in (("port", port, 65_335), ("queue", queue, 100_000)):
        if not 1 <= value <= most:
            raise InputError(f"--{name} is {value}; give 1 to {most}.")
    versions = open_versions(open_registry(), models)
    desk = Desk(queue)
    at = free_port(port)
    config = uvicorn.Config(
        serving_app(versions, desk),
        host="127.0.0.1",
        port=at,
        log_level="warning",
        access_log=False,
        lifespan="off",
        backlog=2048,
        timeout_graceful_shutdown=int(GRACE_SECONDS) + LAST_DRAWING_SECONDS,
    )
    server = _Server(config, desk, lambda: _say(versions, at, port))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, server.handle_exit
        )  # uvicorn raises it again when all is done: that ends nothing then
    server.run()
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


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _say(versions: Sequence[ServedVersion], at: int, wanted: int) -> None:
    stepped = "" if at == wanted else f"  (port {wanted} was taken)"
    print(f"page    http://127.0.0.1:{at}{stepped}")
    for served in versions:
        held = f" ({', '.join(served.aliases)})" if served.aliases else ""
        print(f"serves  {served.label}{held}: {', '.join(served.model.variants)}")
    print("POST /generate answers JSON prompts with PNGs. Ctrl-C stops.", flush=True)
