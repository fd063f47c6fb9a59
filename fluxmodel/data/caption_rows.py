"""The table of captions: a row for each text of each image, with where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fluxmodel.data.caption_flags import UNFIT
from fluxmodel.errors import ArtifactError

ROWS = "captions.parquet"


@dataclass(frozen=True)
class CaptionRow:
    """One text of one image and where it comes from; `model` is None where a person or the source wrote it."""

    id: str
    split: str
    text: str
    kind: str
    model: str | None = None
    revision: str | None = None
    prompt_hash: str | None = None
    tokens: int | None = None
    score: float | None = None
    flags: tuple[str, ...] = ()
    agreement: float | None = None
    """Cosine of its embedding and the image's, by a dual encoder."""


def write_rows(rows: Sequence[CaptionRow], path: Path) -> None:
    """Write the table of captions; equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, texts = pa.string(), pa.list_(pa.string())
    types = {"tokens": pa.int32(), "score": pa.float64(), "flags": texts, "agreement": pa.float64()}
    schema = pa.schema([(name, types.get(name, text)) for name in CaptionRow.__dataclass_fields__])
    table = pa.Table.from_pylist([{**asdict(row), "flags": list(row.flags)} for row in rows], schema)
    pq.write_table(table, path, compression="zstd")


def read_rows(directory: str | Path, split: str | None = None) -> list[CaptionRow]:
    """Read the captions of a directory that `caption_dataset` wrote.

    Raises:
        ArtifactError: there are none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(Path(directory) / ROWS).to_pylist()
        every = [CaptionRow(**{**row, "flags": tuple(row["flags"])}) for row in rows]
    except (OSError, pa.ArrowInvalid, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{directory}: no captions can be read there ({error}); caption again."
        ) from error
    return [row for row in every if split in (None, row.split)]


def trainable_captions(rows: Sequence[CaptionRow], ids: Sequence[str]) -> list[list[CaptionRow]]:
    """Return of every id the captions to learn from, newest of a kind last.

    A text flagged with one of `UNFIT` (no text, a refusal, a loop, not in the grammar) is left out where the image has
    another.
    """
    by_id: dict[str, list[CaptionRow]] = {own: [] for own in ids}
    for row in rows:
        if row.id in by_id and row.text:
            by_id[row.id].append(row)
    return [
        [row for row in own if UNFIT.isdisjoint(row.flags)] or own for own in (by_id[name] for name in ids)
    ]
