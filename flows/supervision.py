"""What `fluxline up` started stays up: a part that ends by itself is started again, up to a limit."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fluxmodel.errors import StageError
from fluxmodel.stop_request import StopRequest
from tasks.launch import stop_group

MAX_RESTARTS = 5
WINDOW_SECONDS = 600.0
"""What ends more often than so many times in so long has a trouble that starting it again does not mend."""


class Part(Protocol):
    """A server or the runner."""

    title: str
    log: Path
    process: subprocess.Popen

    def restart(self, stop: StopRequest) -> list[str]:
        """Start it again where it was, wait until it answers, and return what else is to be said.

        Raises:
            StageError: it ended again, or did not answer in time.
        """
        ...

    def look(self) -> list[str]:
        """Do what it needs now and then while it is up; return what is to be said."""
        ...


class Supervisor:
    """Looks after parts, in the order in which they need each other.

    Args:
        parts: what is to stay up.
        say: told in one line what ended and that it is up again.
        stop: set when everything is to end; nothing is waited for then.
    """

    def __init__(self, parts: Sequence[Part], say: Callable[[str], None], stop: StopRequest):
        self.parts, self.say, self.stop = parts, say, stop
        self._restarts: dict[str, list[float]] = {part.title: [] for part in parts}

    def look(self) -> None:
        """Start again what has ended, and let the rest look after itself.

        Raises:
            StageError: it ends again and again.
        """
        for part in self.parts:
            if part.process.poll() is not None:
                self._restart(part)
            else:
                self._say(*part.look())

    def _restart(self, part: Part) -> None:
        now, how = time.monotonic(), _how(part.process.returncode)
        recent = [at for at in self._restarts[part.title] if now - at < WINDOW_SECONDS]
        if len(recent) >= MAX_RESTARTS:
            minutes = f"{WINDOW_SECONDS / 60:.0f} minutes"
            raise StageError(
                f"The {part.title} ended by itself {len(recent) + 1} times in {minutes}; its log is {part.log}."
            )
        self._restarts[part.title] = [*recent, now]
        self._say(f"The {part.title} {how}; starting it again ...")
        try:
            lines = part.restart(self.stop)
        except StageError as error:
            stop_group(
                part.process, grace=10.0
            )  # where it only does not answer; the next look finds it ended
            self._say(str(error))
            return
        self._say(f"The {part.title} is up again after {time.monotonic() - now:.0f} s.")
        self._say(*lines)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.say(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}")


def _how(code: int) -> str:
    number = -code if code < 0 else code - 128  # a guard reports its program's signal as 128 and more
    if number > 0 and number in {each.value for each in signal.Signals}:
        return f"was ended by {signal.Signals(number).name}"
    return f"ended by itself (exit code {code})"
