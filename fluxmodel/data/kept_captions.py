"""Captions that are kept as soon as they are written, by the pixels they describe: nothing is captioned twice.

A captioner killed at any moment asks again, at most, about what was in its hands: the batch at work of a directory, the
`concurrency` requests under way of an endpoint. Failures are not kept, so the next run tries those images again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxmodel.data.caption_writers import CaptionFailure, CaptionWriter, Result
from fluxmodel.encoders.captioner import FINISHES, Written
from fluxmodel.errors import StageError

if TYPE_CHECKING:
    import numpy as np

_VERSION = 2
_IN_A_ROW = 20
"""Failures without any success between them after which a writer counts as gone, unless captions of it are kept."""


class FailureBudget:
    """How many images may fail before the stage does.

    Args:
        total: images in all.
        share: the share of them that may fail; one image may fail wherever it is above 0.
        most: how many at most.
    """

    def __init__(self, total: int, share: float, most: int):
        self.total, self.allowed = total, min(most, math.ceil(share * total))
        self.reasons: Counter[str] = Counter()
        self._in_a_row = 0
        self._is_proven = False

    def note_kept(self) -> None:
        """Hear that captions of this writer are there already.

        What is left to ask about may then be what it always fails on, so a row of failures no longer speaks of the
        writer: from now on the totals alone count.
        """
        self._is_proven = True

    def note(self, results: Sequence[Result]) -> None:
        """Count.

        Raises:
            StageError: too many failed.
        """
        for result in results:
            if isinstance(result, Written):
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            self.reasons[result.reason] += 1
            if self.reasons.total() > self.allowed:
                raise StageError(
                    f"{self.reasons.total()} of {self.total} images could not be captioned, {self.allowed} may fail "
                    f"({self._counts()}; the last: {result.detail or result.reason}). What was written is kept: mend "
                    "the captioner, or raise --max-failed-share and --max-failed, and run again."
                )
            if self._in_a_row >= _IN_A_ROW and not self._is_proven:
                raise StageError(
                    f"The captioner failed {_IN_A_ROW} times in a row ({self._counts()}; the last: "
                    f"{result.detail or result.reason}). What was written is kept: mend it and run again."
                )

    def _counts(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())


class KeptCaptions:
    """A writer that looks first whether a caption is kept.

    Args:
        writer: asked about the other images.
        cache: folder of all caches; None keeps nothing.
        budget: told of every fresh result.
    """

    def __init__(self, writer: CaptionWriter, cache: str | Path | None, budget: FailureBudget):
        from fluxmodel.data.content_cache import ContentCache

        self._writer, self._budget = writer, budget
        recipe = {
            "name": "captions",
            "version": _VERSION,
            "writer": writer.name,
            "revision": writer.revision,
            "prompt_hash": writer.prompt_hash,
            **writer.recipe,
        }
        self._cache = ContentCache(cache, recipe) if cache is not None else None

    def write(self, images: np.ndarray, ids: Sequence[str]) -> list[Result]:
        """Return of every image what was written of its pixels, now or earlier, or why nothing could be.

        Raises:
            StageError: too many images failed; what was written is kept.
        """
        keys = [pixel_key(image) for image in images]
        known = {key: said for key in dict.fromkeys(keys) if (said := self._kept(key)) is not None}
        if known:
            self._budget.note_kept()
        # Two images with the same pixels are asked about once.
        fresh = list(dict.fromkeys(key for key in keys if key not in known))
        if fresh:
            places = [keys.index(key) for key in fresh]

            def keep(results: Sequence[tuple[int, Result]]) -> None:
                self._keep([(fresh[index], result) for index, result in results])
                self._budget.note([result for _, result in results])

            written = self._writer.write(images[places], [ids[place] for place in places], keep)
            known |= dict(zip(fresh, written, strict=True))
        return [known[key] for key in keys]

    def close(self) -> None:
        """Give up the files and the writer."""
        self._writer.close()
        if self._cache is not None:
            self._cache.close()

    def _kept(self, key: str) -> Result | None:
        value = self._cache.get(key) if self._cache is not None else None
        return None if value is None else result_of(json.loads(value))

    def _keep(self, results: Sequence[tuple[str, Result]]) -> None:
        if self._cache is None:
            return
        for key, result in results:
            if isinstance(result, Written):
                self._cache.put(key, json.dumps(told_of(result)).encode())
        self._cache.flush()


def pixel_key(image: np.ndarray) -> str:
    """Return the sha256 of an image's pixels and shape."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def told_of(result: Result) -> Any:
    """Return a result as JSON."""
    return list(result) if isinstance(result, Written) else {"reason": result.reason, "detail": result.detail}


def result_of(told: Any) -> Result:
    """Read what `told_of` returned.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if isinstance(told, dict):
        return CaptionFailure(**told)
    written = Written(*told)
    if not isinstance(written.text, str) or written.finish not in FINISHES:
        raise ValueError(f"no caption: {str(told)[:80]}")
    return written
