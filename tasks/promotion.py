"""Who is champion: `champion` and `previous` move together, or neither does.

MLflow has no transaction over two aliases, so both are written inside one of Prefect's (it needs no server): a
failure at the second write, or of the stage's task afterwards, puts the old aliases back. Commands of one
FLUXLINE_HOME wait for each other. A kill between the two writes leaves the old champion in its place with
`previous` beside it, and the same command again finishes the move.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from fluxmodel.errors import InputError
from tasks import registry, tracking
from tasks.home import Home
from tasks.registry import CHAMPION, PREVIOUS, RegisteredVersion

ANYONE = "*"
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Move:
    """What became of the aliases of a model.

    Attributes:
        name: registered model.
        champion: version that is the champion now; empty where there is none.
        previous: version that was it before; empty where there was none.
        moved: whether anything moved.
        said: the same as a sentence.
    """

    name: str
    champion: str
    previous: str
    moved: bool
    said: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def promote(home: Home, version: RegisteredVersion, who: str, reason: str, expected: str = ANYONE) -> Move:
    """Make a version the champion, and the champion before it `previous`.

    A champion with the very same weights is replaced without becoming `previous`: going back to it would change
    nothing.

    Args:
        home: where the registry is.
        version: the new champion.
        who: `gate` or `manual`, kept as a tag of the version.
        reason: why, kept likewise.
        expected: the champion the decision was made against (empty: none); another one now stops the move.
    """
    name = version.name
    with alone(home, name):
        before = registry.aliases(home, name)
        old = before.get(CHAMPION, "")
        if old == version.version:
            return _stays(before, name, f"{name} version {old} is the champion already.")
        if expected not in (ANYONE, old):
            said = f"The champion of {name} moved from {_told(expected)} to {_told(old)} since the decision; "
            return _stays(before, name, said + "run the same command again to compare with that one.")
        wanted = {CHAMPION: version.version}
        if old and not _same_weights(registry.find_version(home, name, old), version):
            wanted = {PREVIOUS: old, **wanted}
        _move(home, name, before, wanted, _note(version, who, reason))
    after = {**before, **wanted}
    was = f", before it {_told(old)}" if old else ""
    said = f"The champion of {name} is version {version.version} now{was}."
    return Move(name, after[CHAMPION], after.get(PREVIOUS, ""), True, said)


def promote_by_hand(home: Home, version: RegisteredVersion, reason: str, is_forced: bool) -> Move:
    """Promote a version because a person says so; the gate's reject is overruled only by force.

    Raises:
        InputError: the gate rejected it.
    """
    if version.tags.get("gate.verdict") == "reject" and not is_forced:
        why = version.tags.get("gate.reasons", "").splitlines()
        raise InputError(
            f"The gate rejected {version.name} version {version.version} ({' '.join(why).rstrip('.')}); "
            "to promote it all the same, add --force and a --reason."
        )
    return promote(home, version, "manual", reason)


def rollback(home: Home, name: str, reason: str = "") -> Move:
    """Make `previous` the champion again, and the champion `previous`; doing it twice undoes it.

    Raises:
        InputError: there is no version to go back to.
    """
    with alone(home, name):
        before = registry.aliases(home, name)
        old, new = before.get(CHAMPION, ""), before.get(PREVIOUS, "")
        if not before:
            raise InputError(f"There is no registered model {name!r}; `fluxline run` makes one.")
        if not new or new == old:
            raise InputError(
                f"{name} has no champion before {_told(old)}, so there is nothing to go back to."
            )
        back = registry.find_version(home, name, new)
        # The champion first: cut off between the two, the version asked for is the champion already.
        wanted = {CHAMPION: new, PREVIOUS: old} if old else {CHAMPION: new}
        _move(home, name, before, wanted, _note(back, "rollback", reason))
    said = f"The champion of {name} is version {new} again; version {old} is `previous`."
    return Move(name, new, old, True, said)


@contextmanager
def alone(home: Home, name: str) -> Iterator[None]:
    """Hold the lock of a model's aliases.

    Raises:
        InputError: another command holds it for too long.
    """
    folder = home.root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    with (folder / f"{quote(name, safe='')}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"Another command is moving the aliases of {name}; try again later."
                    ) from None
                time.sleep(0.05)
        yield


def _move(
    home: Home, name: str, before: dict[str, str], wanted: dict[str, str], note: RegisteredVersion
) -> None:
    from prefect.transactions import transaction

    with transaction() as both:
        both.stage(None, on_rollback_hooks=[partial(_restore, home, name, before, wanted)])
        for alias, version in wanted.items():
            tracking.client(home).set_registered_model_alias(name, alias, version)
        registry.set_tags(home, note, note.tags)


def _restore(home: Home, name: str, before: dict[str, str], wanted: dict[str, str], _: object) -> None:
    """Put back what we wrote; an alias that someone else moved meanwhile is left alone."""
    now = registry.aliases(home, name)
    for alias, version in wanted.items():
        if now.get(alias) != version:
            continue
        if alias in before:
            tracking.client(home).set_registered_model_alias(name, alias, before[alias])
        else:
            tracking.client(home).delete_registered_model_alias(name, alias)


def _note(version: RegisteredVersion, who: str, reason: str) -> RegisteredVersion:
    """The version with the tags that say who made it champion, when and why."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    tags = {"promotion.who": who, "promotion.time": when, "promotion.reason": reason or "none given"}
    return replace(version, tags=tags)


def _same_weights(one: RegisteredVersion, other: RegisteredVersion) -> bool:
    digests = [version.tags.get("artifact_digest", "") for version in (one, other)]
    return bool(digests[0]) and digests[0] == digests[1]


def _stays(before: dict[str, str], name: str, said: str) -> Move:
    return Move(name, before.get(CHAMPION, ""), before.get(PREVIOUS, ""), False, said)


def _told(version: str) -> str:
    return f"version {version}" if version else "none"
