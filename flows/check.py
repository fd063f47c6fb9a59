"""One finding of `fluxline doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check: its name, `good`, `note` (works, but worth knowing) or `bad`, what was found, and the cure."""

    name: str
    state: str
    found: str
    cure: str = ""
