"""What a source gave when it was last curated, so that it can be said what is new in it.

It lies beside the caches and never in the dataset: equal content gives equal bytes, whatever came before. Like them it
counts for the quota, may be deleted at any time, and never fails a run: without it nothing is said to be new or gone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fluxmodel.data.cache_quota import ROOM, cache_limit, trim
from fluxmodel.data.content_cache import locked_folder, write_recipe
from fluxmodel.data.records import Reason

if TYPE_CHECKING:
    import pyarrow as pa

MOST_NAMES = 20
_ROWS_AT_ONCE = 16_384
_LAST = "last.parquet"
_DAY = 86_400.0

T = TypeVar("T")


@dataclass(frozen=True)
class SourceChanges:
    """What differs from the last curation of the same source; each kind with its count and its first names.

    Attributes:
        num_decoded: images decoded in this run; the cache knew the others.
        is_first: whether there was none to compare with.
    """

    num_decoded: int
    is_first: bool
    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def sentence(self) -> str:
        """Return it in one line."""
        parts = [
            f"{count} {kind} ({_listed(self.names[kind], count)})" for kind, count in self.counts.items()
        ]
        told = f"; {', '.join(parts)}" if parts else "" if self.is_first else "; the source is as it was"
        return f"{self.num_decoded} decoded{told}"

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        values = asdict(self) | {"sentence": self.sentence()}
        path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class SourceLedger:
    """Streams the name, the bytes' digest and the captions' digest of each item, and compares at the end.

    Attributes:
        trouble: why it cannot be said what is new, as a sentence; empty while all is well.
    """

    def __init__(self, cache: Path, spec: str) -> None:
        """Begin the ledger of the source `spec` below the folder of all caches."""
        import pyarrow as pa

        name = hashlib.sha256(spec.encode("utf-8", "backslashreplace")).hexdigest()[:32]
        self.trouble = ""
        self._cache, self._spec, self._folder = cache, spec, cache / "sources" / name
        self._aside = self._folder / f"{uuid.uuid4().hex}.tmp"
        self._schema = pa.schema([(column, pa.string()) for column in ("id", "image", "captions")])
        self._rows: list[dict] = []
        self._lock, self._writer = -1, None
        self._tried(self._begin)

    def add(self, row: dict) -> None:
        """Note one row of the measurements; an id that was given before says nothing of its first owner."""
        if self.trouble or row["refusal"] == Reason.DUPLICATE_ID:
            return
        captions = json.dumps(row.get("captions")).encode()
        image = row.get("sha256") or row["refusal"]
        digest = hashlib.sha256(captions).hexdigest()[:32]
        self._rows.append({"id": row["id"], "image": image, "captions": digest})
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._tried(self._flush)

    def finish(self, num_decoded: int) -> SourceChanges:
        """Compare with the last curation, take its place, and return what changed."""
        found = None if self.trouble else self._tried(lambda: self._finish(num_decoded))
        return found or SourceChanges(num_decoded, True)

    def abandon(self) -> None:
        """Leave the last curation in its place; after `finish` this does nothing but give up the folder."""
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        with suppress(OSError):
            self._aside.unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            trim(self._cache, ROOM * cache_limit(self._cache))

    def _begin(self) -> None:
        import pyarrow.parquet as pq

        self._lock = locked_folder(self._folder)
        write_recipe(self._folder, {"name": "sources", "source": self._spec})
        for left in self._folder.glob("*.tmp"):  # of runs that were killed
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink(missing_ok=True)
        self._writer = pq.ParquetWriter(self._aside, self._schema, compression="zstd")

    def _finish(self, num_decoded: int) -> SourceChanges:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._flush()
        assert self._writer is not None
        self._writer.close()
        now, last = pq.read_table(self._aside), self._folder / _LAST
        try:
            before = pq.read_table(last, schema=self._schema)
        except (OSError, pa.ArrowInvalid):  # none yet, or damaged: nothing to compare with
            before = None
        self._aside.replace(last)
        return SourceChanges(num_decoded, True) if before is None else _compared(before, now, num_decoded)

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        if rows and self._writer is not None:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def _tried(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except OSError as error:
            self.trouble = f"{self._folder}: what is new in the source is not said ({error})"
            logging.getLogger(__name__).warning(self.trouble)
        return None


def _compared(before: pa.Table, now: pa.Table, num_decoded: int) -> SourceChanges:
    from pyarrow import compute

    pc: Any = compute  # its functions are made at import, which no type checker sees
    place = pc.index_in(now["id"], value_set=before["id"].combine_chunks())
    is_known = pc.is_valid(place)
    same_image = pc.equal(now["image"], before["image"].take(place))
    same_captions = pc.equal(now["captions"], before["captions"].take(place))
    gone = pc.invert(pc.is_in(before["id"], value_set=now["id"].combine_chunks()))
    chosen = {
        "new": now["id"].filter(pc.invert(is_known)),
        "replaced": now["id"].filter(pc.and_kleene(is_known, pc.invert(same_image))),
        "caption changed": now["id"].filter(
            pc.and_kleene(pc.and_kleene(is_known, same_image), pc.invert(same_captions))
        ),
        "gone": before["id"].filter(gone),
    }
    found = {kind: ids for kind, ids in chosen.items() if len(ids)}
    return SourceChanges(
        num_decoded,
        False,
        {kind: len(ids) for kind, ids in found.items()},
        {kind: ids.slice(0, MOST_NAMES).to_pylist() for kind, ids in found.items()},
    )


def _listed(names: list[str], count: int, most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if count > most else "")
