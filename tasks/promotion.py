"""Who is champion: `champion` and `previous` move together, or neither does, and never name one version both.

MLflow has no transaction over two aliases, so both are written inside one of Prefect's (it needs no server): a
failure at the second write, or of the stage's task afterwards, puts the old aliases back. Against a kill between the
writes the whole move is noted first, as a tag of the registered model, and whoever moves aliases next finishes it
before anything else. `previous` goes first and comes back last, so that no moment shows a version as both. Commands of
one FLUXLINE_HOME wait for each other.

Where the gate asks for a person's approval the version is tagged `approval` = `pending` with the reasons; promoting it
by hand completes that, and any move of the champion ends it, since the decision was about the champion before.
"""

import fcntl
import getpass
import json
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
MAX_REASON = 1000
"""Characters of a reason that are kept; the form for an approval takes no more either."""
APPROVAL, PENDING = "approval", "pending"
_MOVE = "fluxline.move"


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


def promote(
    home: Home, version: RegisteredVersion, who: str, reason: str, expected: str = ANYONE, by: str = ""
) -> Move:
    """Make a version the champion, and the champion before it `previous`.

    A champion with the very same weights is replaced without becoming `previous`: going back to it would change
    nothing.

    Args:
        home: where the registry is.
        version: the new champion.
        who: `gate` or `manual`, kept as a tag of the version.
        reason: why, kept likewise.
        expected: the champion the decision was made against (empty: none); another one now stops the move.
        by: the person; empty for whoever this process belongs to.
    """
    name = version.name
    with alone(home, name):
        _finish(home, name)
        before = registry.aliases(home, name)
        old = before.get(CHAMPION, "")
        if old == version.version:
            _end_approvals(home, name)
            return _stays(before, name, f"{name} version {old} is the champion already.")
        if expected not in (ANYONE, old):
            said = f"The champion of {name} moved from {_told(expected)} to {_told(old)} since the decision; "
            return _stays(before, name, said + "run the same command again to compare with that one.")
        wanted = {CHAMPION: version.version}
        if old and not _same_weights(registry.find_version(home, name, old), version):
            wanted = {PREVIOUS: old, **wanted}
        _move(home, name, before, wanted, _note(version, who, reason, by))
    after = {**before, **wanted}
    if after.get(PREVIOUS) == version.version:  # the version before, promoted anew with its own weights
        after.pop(PREVIOUS)
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
        finished = _finish(home, name)
        before = registry.aliases(home, name)
        old, new = before.get(CHAMPION, ""), before.get(PREVIOUS, "")
        if finished == "rollback":  # this very command, cut off the last time
            return Move(name, old, new, True, _back(name, old, new))
        if not before:
            raise InputError(f"There is no registered model {name!r}; `fluxline run` makes one.")
        if not new or new == old:
            raise InputError(
                f"{name} has no champion before {_told(old)}, so there is nothing to go back to."
            )
        back = registry.find_version(home, name, new)
        wanted = {CHAMPION: new, PREVIOUS: old} if old else {CHAMPION: new}
        _move(home, name, before, wanted, _note(back, "rollback", reason))
    return Move(name, new, old, True, _back(name, new, old))


def ask_approval(home: Home, version: RegisteredVersion, reasons: list[str]) -> None:
    """Tag a version that the gate would promote as waiting for a person, unless it is the champion already."""
    if registry.aliases(home, version.name).get(CHAMPION) == version.version:
        return
    registry.set_tags(home, version, {APPROVAL: PENDING, "approval.reasons": "\n".join(reasons)[:4000]})


def pending(home: Home, name: str) -> list[RegisteredVersion]:
    """Return the versions of a model that wait for a person, newest first."""
    return registry.tagged_versions(home, name, APPROVAL, PENDING)


def _end_approvals(home: Home, name: str) -> None:
    """Clear what waited: it was decided against the champion before."""
    for version in pending(home, name):
        tracking.client(home).delete_model_version_tag(name, version.version, APPROVAL)


def _back(name: str, new: str, old: str) -> str:
    also = f"; version {old} is `previous`" if old else ""
    return f"The champion of {name} is version {new} again{also}."


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
    """Note the move, make it, and drop the note; whatever fails puts the old aliases back."""
    from prefect.transactions import transaction

    move = {"before": before, "wanted": wanted, "version": note.version, "tags": note.tags}
    tracking.client(home).set_registered_model_tag(name, _MOVE, json.dumps(move))
    with transaction() as both:
        both.stage(None, on_rollback_hooks=[partial(_restore, home, name, before, wanted)])
        _make(home, name, move)


def _make(home: Home, name: str, move: dict[str, Any]) -> None:
    """Write what a noted move wants, as far as it is not written yet; then drop the note."""
    _write(home, name, {**registry.aliases(home, name), **move["wanted"]})
    registry.set_tags(home, RegisteredVersion(name, move["version"], {}), move["tags"])
    _end_approvals(home, name)
    tracking.client(home).delete_registered_model_tag(name, _MOVE)


def _finish(home: Home, name: str) -> str:
    """Finish a move that was cut off; return who began it, empty where there was none.

    Where someone else moved the champion meanwhile, theirs stands and the note is dropped.
    """
    noted = registry.model_tags(home, name).get(_MOVE, "")
    if not noted:
        return ""
    move = json.loads(noted)
    between = [state.get(CHAMPION, "") for state in (move["before"], move["wanted"])]
    if registry.aliases(home, name).get(CHAMPION, "") not in between:
        tracking.client(home).delete_registered_model_tag(name, _MOVE)
        return ""
    _make(home, name, move)
    return str(move["tags"].get("promotion.who", ""))


def _write(home: Home, name: str, wanted: dict[str, str]) -> None:
    """Set `champion` and `previous`; one that is not wanted goes. No moment shows one version as both."""
    client, now = tracking.client(home), registry.aliases(home, name)
    target = {alias: wanted.get(alias, "") for alias in (CHAMPION, PREVIOUS)}
    if target[PREVIOUS] == target[CHAMPION]:
        target[PREVIOUS] = ""
    if now.get(PREVIOUS) and now[PREVIOUS] != target[PREVIOUS]:
        client.delete_registered_model_alias(name, PREVIOUS)
    for alias in (CHAMPION, PREVIOUS):
        if target[alias] and now.get(alias) != target[alias]:
            client.set_registered_model_alias(name, alias, target[alias])
    if now.get(CHAMPION) and not target[CHAMPION]:
        client.delete_registered_model_alias(name, CHAMPION)


def _restore(home: Home, name: str, before: dict[str, str], wanted: dict[str, str], _: object) -> None:
    """Put back what we wrote; a champion that someone else made meanwhile is left alone."""
    now = registry.aliases(home, name)
    ours = (before.get(CHAMPION, ""), wanted.get(CHAMPION, ""))
    if now.get(CHAMPION, "") in ours:
        _write(home, name, before)
    elif now.get(PREVIOUS) == wanted.get(PREVIOUS):
        _write(home, name, {CHAMPION: now[CHAMPION], PREVIOUS: before.get(PREVIOUS, "")})
    if registry.model_tags(home, name).get(_MOVE):
        tracking.client(home).delete_registered_model_tag(name, _MOVE)


def _note(version: RegisteredVersion, who: str, reason: str, by: str = "") -> RegisteredVersion:
    """The version with the tags that say who made it champion, when and why."""
    answer = answer_tags(reason, by)
    tags = {"promotion.who": who, "promotion.time": answer["approval.time"]}
    tags["promotion.reason"] = answer["approval.reason"]
    if who != "gate":
        tags["promotion.by"] = answer["approval.by"]
    return replace(version, tags=tags | (answer if version.tags.get(APPROVAL) == PENDING else {}))


def answer_tags(reason: str, by: str = "") -> dict[str, str]:
    """Return the tags that say who answered for a version that waited, when and why."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    why = (reason or "none given")[:MAX_REASON]
    return {"approval.by": by or _user(), "approval.time": when, "approval.reason": why}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "unknown"


def _same_weights(one: RegisteredVersion, other: RegisteredVersion) -> bool:
    digests = [version.tags.get("artifact_digest", "") for version in (one, other)]
    return bool(digests[0]) and digests[0] == digests[1]


def _stays(before: dict[str, str], name: str, said: str) -> Move:
    return Move(name, before.get(CHAMPION, ""), before.get(PREVIOUS, ""), False, said)


def _told(version: str) -> str:
    return f"version {version}" if version else "none"
