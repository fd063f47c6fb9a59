"""Counts of what curation refused, with a bounded list of examples."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from fluxmodel.data.records import Reason, UnreadableFile

MAX_LISTED = 200


@dataclass(frozen=True)
class Dropped:
    """One refused image, caption, metadata row or folder: where, why, and what was found."""

    path: str
    reason: str
    detail: str


class Tally:
    """What was seen and dropped so far."""

    def __init__(self) -> None:
        self.seen = 0
        self._dropped: Counter[Reason] = Counter()
        self._problems: Counter[Reason] = Counter()
        self._examples: dict[Reason, list[Dropped]] = defaultdict(list)

    @property
    def num_dropped(self) -> int:
        """Images dropped."""
        return self._dropped.total()

    @property
    def num_refused(self) -> int:
        """Images dropped, and captions, rows, folders and shards that could not be read whole."""
        return self._dropped.total() + self._problems.total()

    def drop(self, path: str, reason: Reason, detail: str) -> None:
        """Count one image as dropped."""
        self._dropped[reason] += 1
        self._note(path, reason, detail)

    def note_problem(self, item: UnreadableFile) -> None:
        """Count something that is no image: a caption file, a metadata row, a folder, a shard."""
        self._problems[item.reason] += 1
        self._note(item.path, item.reason, item.detail)

    def dropped_counts(self) -> dict[str, int]:
        """Return reason -> number of images, the most frequent first."""
        return _by_count(self._dropped)

    def problem_counts(self) -> dict[str, int]:
        """Return reason -> number of captions, rows, folders and shards, the most frequent first."""
        return _by_count(self._problems)

    def listed(self) -> tuple[Dropped, ...]:
        """Return at most `MAX_LISTED` examples, rare reasons first so that none is crowded out."""
        rare_first = sorted(self._examples.items(), key=lambda item: (len(item[1]), item[0]))
        return tuple(example for _, examples in rare_first for example in examples)[:MAX_LISTED]

    def _note(self, path: str, reason: Reason, detail: str) -> None:
        if len(self._examples[reason]) < MAX_LISTED:
            self._examples[reason].append(Dropped(path, str(reason), detail))


def _by_count(counts: Counter[Reason]) -> dict[str, int]:
    return {
        str(reason): count for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    }
