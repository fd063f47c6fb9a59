"""What differs between two curated datasets: images by id and content, and the decisions that changed.

An image is the same where its id and its pixels are; under its id with other pixels it was replaced in place; its
pixels under an id that is new, where the old id is gone, were renamed. Decisions are compared for every image either
source gave, dropped ones too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxmodel.data.curated_dataset import CuratedDataset, require_columns
from fluxmodel.data.storage import open_regular
from fluxmodel.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

    _Require = Callable[[pa.Schema, Sequence[str], Path], None]

KINDS = ("added", "removed", "replaced", "renamed", "recaptioned")
KEPT, ABSENT = "kept", "not in the source"
NUM_SHOWN = 8
_DECISIONS = "decisions.parquet"
_COMPARED, _DECIDED = ("id", "pixel_sha256", "captions"), ("id", "rule", "passed")


@dataclass(frozen=True)
class ChangedImage:
    """One image that differs; what it was not, or is not, is empty.

    Attributes:
        old_id, new_id: its names.
        old, new: its encoded bytes, where it is shown.
        old_caption, new_caption: the first caption that the other side lacks.
        verdict: what curation says of an image that is gone: the rule that drops it, or that the source lacks it.
    """

    old_id: str = ""
    new_id: str = ""
    old: bytes = b""
    new: bytes = b""
    old_caption: str = ""
    new_caption: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class DecisionChange:
    """Images on which curation decides otherwise now: `before` and `after` are a rule that drops, kept, or absent."""

    before: str
    after: str
    num_images: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class DatasetDiff:
    """How two curated datasets differ; counts are exact, `shown` holds the first few of each kind.

    num_old = same + replaced + renamed + recaptioned + removed, num_new = the same with added in place of removed.
    An image whose pixels were replaced counts as that alone, whatever its captions.
    """

    num_old: int
    num_new: int
    same: int
    counts: dict[str, int]
    shown: dict[str, tuple[ChangedImage, ...]]
    decisions: tuple[DecisionChange, ...]
    rules: dict[str, tuple[Any, Any]]

    @property
    def is_same(self) -> bool:
        """Whether no image, caption or decision differs."""
        return not (any(self.counts.values()) or self.decisions)


@dataclass(frozen=True)
class _Image:
    pixels: str
    captions: tuple[str, ...]


def require_readable(dataset: Path) -> None:
    """Read all that a diff compares, images alone left out: what is damaged shows in seconds.

    Raises:
        ArtifactError: it is no curated dataset, or damaged.
    """
    for shard in _shards(dataset):
        for _ in _rows(shard, _COMPARED, require_columns):
            pass
    for _ in _rows(dataset / _DECISIONS, _DECIDED, _require_decisions):
        pass


def diff_datasets(old: str | Path, new: str | Path, num_shown: int = NUM_SHOWN) -> DatasetDiff:
    """Return how the curated dataset in directory `new` differs from that in `old`.

    Raises:
        ArtifactError: one of them is no curated dataset, or damaged.
    """
    old, new = Path(old), Path(new)
    left, right = _images(old), _images(new)
    kinds = _kinds(left, right)
    chosen = {kind: pairs[:num_shown] for kind, pairs in kinds.items()}
    before = _bytes(old, {a for pairs in chosen.values() for a, _ in pairs if a})
    after = _bytes(new, {b for pairs in chosen.values() for _, b in pairs if b})
    verdicts = _verdicts(old, left), _verdicts(new, right)
    changed = sum(len(kinds[kind]) for kind in ("replaced", "renamed", "recaptioned"))
    return DatasetDiff(
        num_old=len(left),
        num_new=len(right),
        same=len(left) - len(kinds["removed"]) - changed,
        counts={kind: len(kinds[kind]) for kind in KINDS},
        shown={
            kind: tuple(
                ChangedImage(
                    a,
                    b,
                    before.get(a, b""),
                    after.get(b, b""),
                    *_captions(left.get(a), right.get(b)),
                    "" if b else verdicts[1].get(a, ABSENT),
                )
                for a, b in pairs
            )
            for kind, pairs in chosen.items()
        },
        decisions=_decision_changes(*verdicts),
        rules=_rule_changes(CuratedDataset(old).record, CuratedDataset(new).record),
    )


def _kinds(left: dict[str, _Image], right: dict[str, _Image]) -> dict[str, list[tuple[str, str]]]:
    """Sort what differs into kinds of (old id, new id), in the order of the datasets."""
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    gone: dict[str, list[str]] = defaultdict(list)
    for key, image in left.items():
        if key not in right:
            gone[image.pixels].append(key)
    moved = set()
    for key, image in right.items():
        if key in left:
            if image.pixels != left[key].pixels:
                found["replaced"].append((key, key))
            elif set(image.captions) != set(left[key].captions):
                found["recaptioned"].append((key, key))
        elif gone[image.pixels]:
            before = gone[image.pixels].pop(0)
            moved.add(before)
            found["renamed"].append((before, key))
        else:
            found["added"].append(("", key))
    found["removed"] = [(key, "") for key in left if key not in right and key not in moved]
    return found


def _images(dataset: Path) -> dict[str, _Image]:
    rows = (row for shard in _shards(dataset) for row in _rows(shard, _COMPARED, require_columns))
    return {
        row["id"]: _Image(row["pixel_sha256"], tuple(each["text"] for each in row["captions"] or []))
        for row in rows
    }


def _bytes(dataset: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read the images of some ids, and only the row groups that hold them."""
    import pyarrow.parquet as pq

    found: dict[str, bytes] = {}
    for shard in _shards(dataset) if wanted else ():
        with _told(shard), pq.ParquetFile(shard) as file:
            require_columns(file.schema_arrow, ("id", "image"), shard)
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"].to_pylist()
                here = [place for place, key in enumerate(ids) if key in wanted]
                if here:
                    images = file.read_row_group(group, columns=["image"])["image"]
                    found |= {ids[place]: images[place].as_py()["bytes"] for place in here}
    return found


def _captions(old: _Image | None, new: _Image | None) -> tuple[str, str]:
    before, after = (old.captions if old else ()), (new.captions if new else ())
    lost = [text for text in before if text not in after] or before
    gained = [text for text in after if text not in before] or after
    return (lost[0] if lost else ""), (gained[0] if gained else "")


def _verdicts(dataset: Path, kept: Iterable[str]) -> dict[str, str]:
    """Return for each id the source gave the first rule that dropped it, or that it is kept."""
    found: dict[str, str] = {}
    for row in _rows(dataset / _DECISIONS, _DECIDED, _require_decisions):
        if row["passed"] is False:
            found.setdefault(row["id"], row["rule"])
    return found | dict.fromkeys(kept, KEPT)


def _decision_changes(old: dict[str, str], new: dict[str, str]) -> tuple[DecisionChange, ...]:
    """Count the changes by what was decided before and after, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in [*old, *(key for key in new if key not in old)]:
        change = old.get(key, ABSENT), new.get(key, ABSENT)
        if change[0] != change[1]:
            counts[change] += 1
            if len(examples[change]) < NUM_SHOWN // 2:
                examples[change].append(key)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(DecisionChange(*change, num, tuple(examples[change])) for change, num in ordered)


def _rule_changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    before, after = old.get("rules", {}), new.get("rules", {})
    names = dict.fromkeys([*before, *after])
    return {
        name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    }


def _shards(dataset: Path) -> list[Path]:
    CuratedDataset(dataset)  # says what is wrong with it, if anything is
    return sorted(dataset.glob("shard-*.parquet"))


def _rows(path: Path, columns: Sequence[str], require: _Require) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with _told(path), open_regular(path) as opened, pq.ParquetFile(opened) as file:
        require(file.schema_arrow, columns, path)
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            yield from batch.to_pylist()


def _require_decisions(schema: pa.Schema, names: Sequence[str], place: Path) -> None:
    missing = [name for name in names if schema.names.count(name) != 1]
    if missing:
        raise ArtifactError(f"{place}: there is no column {missing[0]!r}; curate the data again.")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which file is damaged."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}); curate the data again."
        ) from error
