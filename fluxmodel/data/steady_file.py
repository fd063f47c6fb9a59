"""Reading from afar: what fails in passing is tried again, and what keeps failing ends the run.

A read that a network lost must never pass for a damaged file: the data set would be finished, and kept, without it.
"""

import contextlib
import io
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from fluxmodel.errors import InputError

# True whenever it is asked again, so it is told at once.
DEFINITE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PAUSES = (0.5, 2.0, 8.0)
_NETWORK_PACKAGES = frozenset("aiohttp botocore httpcore httpx huggingface_hub requests urllib3".split())
Result = TypeVar("Result")


def steadily(place: str, act: Callable[[], Result]) -> Result:
    """Return what `act` returns, tried again where it fails in passing.

    Raises:
        OSError: what is asked for is not there, or not permitted.
        InputError: it failed every time, for whatever other cause.
    """
    failures = 0
    while True:
        try:
            return act()
        except DEFINITE:
            raise
        except Exception as error:  # every storage package raises its own kinds
            wait(failures, place, error)
            failures += 1


def wait(failures: int, place: str, error: Exception) -> None:
    """Wait after a failure, each time longer.

    Args:
        failures: how many there were before.
        place: what a sentence calls that which is read.
        error: what went wrong.

    Raises:
        InputError: there were too many.
    """
    if failures >= len(_PAUSES):
        said = (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(" .")
        raise InputError(
            f"--data {place}: cannot be read ({said}), tried {failures + 1} times; what is there may be whole, so no "
            "data set is made without it: check the network and run the command again."
        ) from error
    time.sleep(_PAUSES[failures])


def is_passing(error: BaseException) -> bool:
    """Return whether an error is that of a network, rather than of what was read through it."""
    if isinstance(error, DEFINITE):
        return False
    is_of_network = type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES
    # pyarrow says by a plain OSError without a number that a page is damaged.
    is_of_system = isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None)
    return is_of_network or is_of_system


class SteadyFile(io.RawIOBase):
    """A remote file that is opened anew, at the same place, where a read of it fails in passing."""

    def __init__(self, open_file: Callable[[], Any], place: str) -> None:
        """Open the file; see `steadily` for what is raised, here and by `read`.

        Args:
            open_file: opens it at its beginning.
            place: what a sentence calls it.
        """
        self._open, self._place = open_file, place
        self._file: IO[bytes] = steadily(place, open_file)
        self._position, self._is_broken = 0, False

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the storage can read from any place."""
        return self._file.seekable()

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; return it."""
        self._file.seek(offset, whence)
        self._position = self._file.tell()
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, fewer only at the end of the file; all that are left by default."""
        data = steadily(self._place, lambda: self._whole(-1 if size is None else size))
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(
            Exception
        ):  # what was read is whole, whatever its connection says at the end
            self._file.close()
        super().close()

    def _whole(self, size: int) -> bytes:
        if self._is_broken:
            self._file = self._open()
            if self._position:
                self._file.seek(self._position)
        self._is_broken, parts, left = True, [], size
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part) if size > 0 else 0
        self._is_broken = False
        return b"".join(parts)
