"""Watching data: have they changed, and are they quiet again, so that a retraining is worth its while?

A look is cheap: names, sizes and times first, and only the files whose size or times changed are read. What was seen
is kept under FLUXLINE_HOME and replaced at once, so a look that is cut off is simply taken again. A change is told when
two looks at least `quiet_seconds` apart saw the very same files, since an upload may be half done; and never twice for
the same content, neither when it comes back later nor after a crash.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fluxmodel.data.storage import UNREADABLE, fingerprint_of
from fluxmodel.errors import InputError
from tasks.announce import announce
from tasks.home import Home
from tasks.watched_files import WatchedFiles, watched_files
from tasks.whole_file import write_whole

EVENT = "fluxline.dataset.changed"
_RACY_NS = 2_000_000_000
"""A file changed so shortly before a look may change again within the same tick of its clock: it is read again."""


@dataclass(frozen=True)
class Change:
    """A data set that is not what it was.

    Attributes:
        data: the folder, file or URI, absolute.
        fingerprint: of its content now, as the pipeline would find it.
        before: the fingerprint last told, or first seen.
        added: files that were not there then.
        removed: files that are gone.
        changed: files with other content.
        num_files: images, captions and metadata now.
    """

    data: str
    fingerprint: str
    before: str
    added: int
    removed: int
    changed: int
    num_files: int

    @property
    def said(self) -> str:
        """The change in a few words."""
        return (
            f"{self.added} files added, {self.removed} removed, {self.changed} changed; {self.num_files} now"
        )


@dataclass(frozen=True)
class Look:
    """What a look came to.

    Attributes:
        state: `first` look, `same` as before, `restless` (changed, but not quiet yet), `known` (back to content that
            was told before), or `changed` (and told now).
        said: the same as a sentence.
        change: what changed; None where nothing did.
        num_read: files whose content was read.
    """

    state: Literal["first", "same", "restless", "known", "changed"]
    said: str
    change: Change | None = None
    num_read: int = 0


def look(
    home: Home, data: str, quiet_seconds: float, tell: Callable[[Change], object], now: float | None = None
) -> Look:
    """Look at data, and `tell` of a change once it is quiet; what `tell` raises leaves the change untold.

    Args:
        home: where what was seen is kept.
        data: the folder or files, as `--data` names them.
        quiet_seconds: how long nothing may have changed before a change counts, seconds.
        tell: is given the change; when it returns, the change counts as told.
        now: Unix time; by default the clock's.

    Raises:
        InputError: the data are gone, hold no image or cannot be read whole; nothing is told then.
    """
    now = time.time() if now is None else now
    source = watched_files(data)
    place = home.watches / f"{hashlib.sha256(source.spec.encode()).hexdigest()[:16]}.json"
    with _alone(place, source.spec):
        before = _read(place)
        files, num_read = _files(source, before.get("files", {}), now)
        digests = {path: entry["digest"] for path, entry in files.items()}
        fingerprint = fingerprint_of(source.kind, sorted(digests.items()))
        kept = {"data": source.spec, "files": files, "looked": now}
        if not before:
            write_whole(place, json.dumps(kept | {"told": [fingerprint], "base": digests, "restless": None}))
            return Look("first", f"{source.spec} is watched from now on: {len(files)} files.", None, num_read)
        kept |= {"told": before["told"], "base": before["base"], "restless": None}
        if fingerprint == before["told"][-1]:
            write_whole(place, json.dumps(kept))
            return Look("same", f"{source.spec} has not changed: {len(files)} files.", None, num_read)
        change = _change(source.spec, fingerprint, before, digests)
        if fingerprint in before["told"]:
            told = [each for each in before["told"] if each != fingerprint]
            write_whole(place, json.dumps(kept | {"told": [*told, fingerprint], "base": digests}))
            said = f"{source.spec} is back to what it was before ({change.said}); that was told already."
            return Look("known", said, change, num_read)
        restless = before.get("restless") or {}
        since = restless["since"] if restless.get("fingerprint") == fingerprint else now
        if now - since < quiet_seconds:
            write_whole(place, json.dumps(kept | {"restless": {"fingerprint": fingerprint, "since": since}}))
            left = quiet_seconds - (now - since)
            said = f"{source.spec} changed ({change.said}); it is told once nothing changes for {left / 60:.3g} min."
            return Look("restless", said, change, num_read)
        tell(change)
        write_whole(place, json.dumps(kept | {"told": [*before["told"], fingerprint], "base": digests}))
    return Look("changed", f"{source.spec} changed: {change.said}.", change, num_read)


def announce_change(change: Change, more: dict[str, Any]) -> bool:
    """Send the event `fluxline.dataset.changed`; return whether it is new to Prefect's server.

    Args:
        change: what changed.
        more: what else an automation may pass on, by name.

    Raises:
        StageError: Prefect did not take it.
    """
    resource = {
        "prefect.resource.id": resource_id(change.data),
        "prefect.resource.name": Path(change.data).name,
    }
    return announce(EVENT, f"{change.data} {change.fingerprint}", resource, asdict(change) | more)


def resource_id(data: str) -> str:
    """Return the id under which events about a folder are found."""
    return f"fluxline.dataset.{hashlib.sha256(data.encode()).hexdigest()[:16]}"


def _files(source: WatchedFiles, known: dict[str, Any], now: float) -> tuple[dict[str, dict[str, Any]], int]:
    """Each file's size, times and digest, taken from `known` where size and times are the same; and how many were read.

    One that could be read before and cannot now keeps its digest: a disk that hiccups is no change of the data.
    """
    found, num_read = {}, 0
    for path in source.paths:
        old = known.get(path, {})
        times = source.stat(path)
        if times is not None and times == old.get("stat"):
            found[path] = old
            continue
        digest = source.digest(path)
        num_read += 1
        if digest.startswith(UNREADABLE) and old:
            digest = old["digest"]
        is_racy = times is None or now * 1e9 - max(times[1], times[2]) < _RACY_NS
        found[path] = {"stat": None if is_racy else times, "digest": digest}
    return found, num_read


def _change(data: str, fingerprint: str, before: dict[str, Any], digests: dict[str, str]) -> Change:
    base = before["base"]
    both = base.keys() & digests.keys()
    return Change(
        data=data,
        fingerprint=fingerprint,
        before=before["told"][-1],
        added=len(digests.keys() - base.keys()),
        removed=len(base.keys() - digests.keys()),
        changed=sum(base[path] != digests[path] for path in both),
        num_files=len(digests),
    )


@contextmanager
def _alone(place: Path, data: str) -> Iterator[None]:
    """Hold the lock of a watch; two looks at once would both tell."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{data} is being looked at by another run; this one changes nothing.") from None
        yield


def _read(place: Path) -> dict[str, Any]:
    try:
        return json.loads(place.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{place} cannot be read ({error}); remove it, and the next look counts as the first."
        ) from error
