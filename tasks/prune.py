"""Prune: what a home no longer needs goes, by rule; what anything may still need stays, whatever the rules say.

Needed are the artifacts of every registered version with all they were made of, of the latest run of each stage, of
runs that are still to be finished or to be logged. Versions themselves go only where `keep_versions` says so, and
never one with an alias. An artifact leaves the store and MLflow together; the numbers of its run stay.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxmodel.data import cache_quota
from tasks import registry, tracking
from tasks.artifacts import ArtifactStore, StoredArtifact
from tasks.home import Home
from tasks.in_use import unused
from tasks.needed import needed_digests, needed_work, used_at
from tasks.prune_rules import PruneRules

DAY = 86_400.0
GIGABYTE = 1e9
LEFTOVER_SECONDS = 3600.0
"""What a writer cut off left behind goes after an hour: none takes so long between two files."""


@dataclass(frozen=True)
class Going:
    """One thing that goes: what it is, how large, how old, and why it may."""

    kind: str
    name: str
    num_bytes: int
    age_days: float
    why: str
    what: Any = field(repr=False, default=None)


@dataclass(frozen=True)
class PrunePlan:
    """What would go and what stays.

    Attributes:
        going: in the order in which it goes.
        kept: by reason, how many bytes of the store stay.
        store_bytes: what the store holds now.
        said: whether the quota is met, as a sentence; empty without one.
    """

    going: list[Going]
    kept: dict[str, int]
    store_bytes: int
    said: str

    @property
    def freed_bytes(self) -> int:
        """What goes out of the store."""
        return sum(each.num_bytes for each in self.going if each.kind in ("artifact", "leftover"))


def plan(home: Home, rules: PruneRules, now: float | None = None) -> PrunePlan:
    """Return what the rules let go; removes nothing.

    Raises:
        StageError: MLflow does not answer, so nobody knows what its versions need.
    """
    now = time.time() if now is None else now
    with registry.answering(home):
        versions = registry.all_versions(home)
    dropped = list(_old_versions(versions, rules, now))
    need = needed_digests(home, [v for v in versions if v not in [each.what for each in dropped]])
    lying = ArtifactStore(home).listing()
    used = used_at(home)
    going, kept = [], {}
    for stored in sorted(lying, key=lambda each: _last_use(each, used)):
        age = (now - _last_use(stored, used)) / DAY
        reason = _kept_because(stored, need, age, rules)
        if reason:
            kept[reason] = kept.get(reason, 0) + stored.num_bytes
        elif stored.ref is None:
            said = "cut off while it was written or removed"
            going.append(Going("leftover", Path(stored.place).name, stored.num_bytes, age, said, stored))
        else:
            name = f"{stored.ref.kind} {stored.ref.digest[:12]}"
            said = "no version, latest run or unfinished work needs it"
            going.append(Going("artifact", name, stored.num_bytes, age, said, stored))
    store_bytes = sum(each.num_bytes for each in lying)
    if rules.quota:
        going, kept = _until_quota(going, kept, store_bytes, rules)
    work = list(_old_work(home, rules, now))
    caches = list(_old_caches(home, rules, now))
    made = PrunePlan([*dropped, *going, *work, *caches], kept, store_bytes, "")
    return PrunePlan(made.going, kept, store_bytes, _quota_said(made, rules))


def prune(home: Home, rules: PruneRules) -> tuple[PrunePlan, list[str]]:
    """Remove what the rules let go; return it, and a sentence for each thing that could not be removed.

    Nothing else may work in the home meanwhile. Cut off at any moment it leaves whole artifacts only, and the same
    command goes on.

    Raises:
        InputError: something works in the home.
        StageError: MLflow does not answer.
    """
    with unused(home):
        found = plan(home, rules)
        troubles = []
        for each in found.going:
            try:
                _remove(home, each)
            except Exception as error:  # a read-only bucket, MLflow gone in the middle: the rest can still go
                troubles.append(f"{each.kind} {each.name} stays: {type(error).__name__}: {error}")
        return found, troubles


def _remove(home: Home, going: Going) -> None:
    if going.kind == "version":
        registry.drop_version(home, going.what)
    elif going.kind == "work":
        shutil.rmtree(going.what)
    elif going.kind == "cache":
        cache_quota.remove(going.what)
    else:
        stored: StoredArtifact = going.what
        if stored.ref is not None:
            for run_id in tracking.runs_with_artifact(home, stored.ref.digest, limit=1000):
                tracking.delete_files(home, run_id, stored.ref.kind)
        ArtifactStore(home).sweep(stored)


def _old_versions(versions: list[registry.StoredVersion], rules: PruneRules, now: float) -> Iterator[Going]:
    """Of each model what lies beyond the newest `keep_versions`, has no alias and is old enough."""
    num_newer: dict[str, int] = {}
    for version in versions:
        num_newer[version.name] = num_newer.get(version.name, 0) + 1
        age = (now - version.created) / DAY
        is_old = (
            rules.keep_versions and num_newer[version.name] > rules.keep_versions and age >= rules.older_than
        )
        if is_old and not version.aliases:
            said = f"older than the newest {rules.keep_versions}, and without an alias"
            yield Going("version", f"{version.name} {version.version}", 0, age, said, version)


def _kept_because(stored: StoredArtifact, need: dict[str, str], age: float, rules: PruneRules) -> str:
    if stored.ref is None:
        return "" if age * DAY >= LEFTOVER_SECONDS else "being written"
    if stored.ref.digest in need:
        return f"needed by {need[stored.ref.digest]}"
    return "" if age >= rules.older_than else f"used in the last {rules.older_than:g} days"


def _until_quota(
    going: list[Going], kept: dict[str, int], total: int, rules: PruneRules
) -> tuple[list[Going], dict[str, int]]:
    """Of what may go only as much as the quota asks for; it comes oldest first."""
    taken, kept = [], dict(kept)
    for each in going:
        if each.kind == "leftover" or total > rules.quota * GIGABYTE:
            taken.append(each)
            total -= each.num_bytes
        else:
            kept["within the quota"] = kept.get("within the quota", 0) + each.num_bytes
    return taken, kept


def _quota_said(found: PrunePlan, rules: PruneRules) -> str:
    if not rules.quota:
        return ""
    left = found.store_bytes - found.freed_bytes
    if left <= rules.quota * GIGABYTE:
        return f"The quota of {rules.quota:g} GB is met: the store then holds {left / GIGABYTE:.3g} GB."
    most = sorted(found.kept.items(), key=lambda item: -item[1])[:3]
    held = "; ".join(f"{size / GIGABYTE:.3g} GB {reason}" for reason, size in most)
    return (
        f"The quota of {rules.quota:g} GB is not met: {left / GIGABYTE:.3g} GB must stay ({held}). "
        "Fewer --keep-versions or a smaller --older-than let more go."
    )


def _old_work(home: Home, rules: PruneRules, now: float) -> Iterator[Going]:
    """Scratch folders of runs that are over and old: logs and spools, checkpoints of what was never finished."""
    kept = needed_work(home)
    for folder in sorted((home.root / "work").glob("*")):
        files = [path for path in folder.rglob("*") if path.is_file()]
        written = max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime)
        age = (now - written) / DAY
        if folder.name not in kept and age >= rules.older_than and not _is_locked(folder / "lock"):
            size = sum(path.stat().st_size for path in files)
            yield Going("work", folder.name[:12], size, age, "logs and scratch of a run that is over", folder)


def _old_caches(home: Home, rules: PruneRules, now: float) -> Iterator[Going]:
    """Caches by content that were not used for long, and the longest unused of those beyond their own quota."""
    held = cache_quota.holdings(home.cache)
    left, limit = sum(each.num_bytes for each in held), cache_quota.cache_limit(home.root)
    for each in held:
        age = (now - each.used) / DAY
        is_old = age >= rules.older_than and (
            each.name not in cache_quota.KEPT_LONGEST or not rules.older_than
        )
        if not each.is_open and (is_old or left > limit):
            left -= each.num_bytes
            said = f"not used for {rules.older_than:g} days" if is_old else "beyond the quota of caches"
            yield Going(
                "cache", f"{each.name} {each.folder.name[:8]}", each.num_bytes, age, said, each.folder
            )


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _last_use(stored: StoredArtifact, used: dict[str, float]) -> float:
    return max(stored.written, used.get(stored.ref.digest, 0.0) if stored.ref else 0.0)
