"""Ports of 127.0.0.1: a free one, kept from other commands until our server listens there, and whose a server is."""

import fcntl
import os
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fluxmodel.errors import StageError

_TRIED = 200


@dataclass(frozen=True)
class PortClaim:
    """A port that no other command of this user takes, though nobody listens there yet."""

    port: int
    descriptor: int

    def give_up(self) -> None:
        """Leave the port to others."""
        with suppress(OSError):
            os.close(self.descriptor)


def claim_port(start: int) -> PortClaim:
    """Claim the first free port from `start` up; a server takes seconds before it listens.

    Raises:
        StageError: there is none.
    """
    for port in range(start, start + _TRIED):
        descriptor = os.open(_lock_file(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        if _is_free(port):
            return PortClaim(port, descriptor)
        os.close(descriptor)
    raise _none_free(start)


def free_port(start: int) -> int:
    """Return the first free port of 127.0.0.1 from `start` up.

    Raises:
        StageError: there is none.
    """
    for port in range(start, start + _TRIED):
        if _is_free(port):
            return port
    raise _none_free(start)


def listens(pid: int, port: int) -> bool:
    """Return whether process `pid`, or one it started, listens at `port`: another's server may answer there."""
    import psutil

    with suppress(psutil.Error):
        leader = psutil.Process(pid)
        for member in [leader, *leader.children(recursive=True)]:
            with suppress(psutil.Error):
                for each in member.net_connections("tcp"):
                    if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
                        return True
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _lock_file(port: int) -> Path:
    return Path(tempfile.gettempdir()) / f"fluxline-{os.getuid()}-port-{port}"


def _none_free(start: int) -> StageError:
    last = start + _TRIED - 1
    return StageError(f"No port of 127.0.0.1 from {start} to {last} is free; stop some server.")
