"""The one pass over a source: every item measured, decoded at most once, and what has pixels spooled.

Measures are kept by content where there is a cache, and flushed as the pass goes: a curation that was killed
decodes nothing again that it had flushed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.data.caption_checks import MAX_CHARACTERS, check_caption, normalise
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.diversity import word_number, words_of
from fluxmodel.data.image_measures import ImageMeasures, measure, recall, recipe, remember
from fluxmodel.data.measurements import WORDS, MeasurementWriter
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile

if TYPE_CHECKING:
    from fluxmodel.data.content_cache import ContentCache
    from fluxmodel.data.curation_tally import Tally
    from fluxmodel.data.source_ledger import SourceLedger
    from fluxmodel.data.sources import Source
    from fluxmodel.data.spool import Spool

Progress = Callable[[int, int, str], None]
_PROGRESS_EVERY, _FLUSH_EVERY = 256, 1024
_ANY_LENGTH = CurationRules(min_caption_words=1, max_caption_words=1 << 40)


class MeasurementPass:
    """Measures the items of a source, in their order.

    Attributes:
        num_decoded: images that the cache did not know.
    """

    def __init__(self, rules: CurationRules, cache: ContentCache | None) -> None:
        self.num_decoded = 0
        self._max_pixels = rules.max_pixels
        self._cache = cache

    def run(
        self,
        source: Source,
        output: Path,
        spool: Spool,
        tally: Tally,
        ledger: SourceLedger | None,
        progress: Progress | None,
    ) -> None:
        """Write measurements.parquet into `output` and fill the spool."""
        writer, known_ids = MeasurementWriter(output), set()
        total = len(source)  # asked once: a source of many shards adds them up
        try:
            for item in source:
                if isinstance(item, UnreadableFile) and not item.is_image:
                    tally.note_problem(item)
                    continue
                row = self._row(item, source.name, known_ids)
                writer.add(row)
                if row["refusal"] is None and isinstance(item, RawSample):
                    spool.add(_sample(item, row))
                if ledger is not None:
                    ledger.add(row)
                tally.seen += 1
                if self._cache is not None and tally.seen % _FLUSH_EVERY == 0:
                    self._cache.flush()
                if progress and (tally.seen % _PROGRESS_EVERY == 0 or tally.seen == total):
                    progress(tally.seen, total, f"{self.num_decoded} decoded")
        finally:
            writer.close()
        spool.finish()

    def _row(self, item: RawSample | UnreadableFile, source_name: str, known_ids: set[str]) -> dict:
        """Return an item's row of the measurements."""
        row = {"id": stored(item.id), "path": stored(item.path), "source": source_name, "detail": ""}
        if isinstance(item, UnreadableFile):
            return row | {"refusal": str(item.reason), "detail": stored(item.detail)}
        row |= {"source": stored(item.source), "licence": stored(item.licence), "num_bytes": len(item.image)}
        row["has_scene"] = item.scene is not None
        if item.id in known_ids:
            detail = f"id {row['id']!r} was given before"
            return row | {"refusal": str(Reason.DUPLICATE_ID), "detail": detail}
        known_ids.add(item.id)
        found = self._measures(item.image)
        columns = {name: getattr(found, name) for name in found.__slots__}
        return row | columns | {"detail": stored(found.detail)} | _caption_columns(item.captions)

    def _measures(self, data: bytes) -> ImageMeasures:
        sha256 = hashlib.sha256(data).hexdigest()
        found = recall(self._cache, sha256, self._max_pixels) if self._cache is not None else None
        if found is None:
            self.num_decoded += 1
            found = measure(data, sha256, self._max_pixels)
            if self._cache is not None:
                remember(self._cache, found, self._max_pixels)
        return found


def open_cache(directory: str | Path) -> ContentCache:
    """Return the cache of measures below a directory of caches."""
    from fluxmodel.data.content_cache import ContentCache

    return ContentCache(directory, recipe())


def stored(text: str | None) -> str | None:
    """Return a text as UTF-8 can hold it: a lone surrogate (bytes of a file name) is written out."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _caption_columns(captions: tuple[Caption, ...]) -> dict:
    """Return the captions, normalised and without repetitions, with the words of each and why it is no text.

    Of one that is endless, and so refused, only as much is kept as shows that.
    """
    texts: dict[tuple[str, str], Caption] = {}
    for caption in captions:
        text = normalise(caption.text)
        texts.setdefault((text, caption.kind), Caption(text, caption.kind, caption.model))
    refusals = [check_caption(each.text, _ANY_LENGTH) for each in texts.values()]
    first = next(
        (each.text for each, refusal in zip(texts.values(), refusals, strict=True) if refusal is None), ""
    )
    return {
        "captions": [
            {"text": stored(each.text[: MAX_CHARACTERS + 1]), "kind": each.kind, "model": stored(each.model)}
            for each in texts.values()
        ],
        "caption_words": [len(each.text.split(" ")) if each.text else 0 for each in texts.values()],
        "caption_refusals": [None if refusal is None else str(refusal) for refusal in refusals],
        WORDS: [word_number(word) for word in words_of(first)],
    }


def _sample(item: RawSample, row: dict) -> dict:
    """Return the columns of a shard, all but the split."""
    same = ("id", "source", "licence", "sha256", "pixel_sha256", "width", "height", "captions")
    return {name: row[name] for name in same} | {
        "image": {"bytes": item.image, "path": row["path"]},
        "phash": f"{row['phash']:016x}",
        "scene": stored(item.scene),
    }
