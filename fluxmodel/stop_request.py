"""A wish to stop that a signal handler may set."""

import time

_PAUSE_SECONDS = 0.1


class StopRequest:
    """Whether a stop was asked for.

    Unlike threading.Event it takes no lock: a signal may come while its thread holds that lock, in `wait` or in the
    handler of an earlier signal; the handler would then wait for its own thread for ever.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Ask for a stop."""
        self._is_set = True

    def clear(self) -> None:
        """Take it back."""
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether it was asked for."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Return whether it was asked for, as soon as it is, or after `seconds`."""
        end = time.monotonic() + seconds
        while not self._is_set and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _PAUSE_SECONDS))
        return self._is_set
