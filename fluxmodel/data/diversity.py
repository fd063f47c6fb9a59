"""How varied a dataset is: the Vendi score of its looks, and how evenly words are spread over its captions.

    Vendi = exp(-sum_i l_i log l_i),  l the eigenvalues of K / n,  K_ij = exp(-|x_i - x_j|^2 / (2 d s^2))

(Friedman and Dieng 2022, arXiv:2210.02410): the effective number of different images, n where none is like another, 1
where all are equal. x are the colours of an 8 x 8 grid in [0, 1], d numbers; |.| / sqrt(d) is the mean difference of
two images' colours, and at s = 0.1 two that differ by a tenth of the range are 0.61 alike.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ALIKE = 0.1
"""Mean difference of colours, of their range, at which two images are 0.61 alike."""
NUM_LOOKED_AT = 1000
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts without spaces: Thai and Lao, Burmese, Khmer, kana, Chinese characters."""
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_NUM_WORDS = 20
_ROWS_AT_ONCE = 4096


def vendi_score(features: np.ndarray, width: float = ALIKE) -> float:
    """Return the Vendi score of features [n, d], under a Gaussian kernel of their mean difference.

    Raises:
        ValueError: there are no features, or one of them is not finite.
    """
    if len(features) == 0 or not np.isfinite(features).all():
        raise ValueError("the Vendi score needs at least one row of finite features")
    rows = features.astype(np.float64)
    squares = (rows**2).sum(1)
    apart = np.clip(squares[:, None] + squares - 2 * rows @ rows.T, 0, None) / rows.shape[1]
    return effective_number(np.clip(np.linalg.eigvalsh(np.exp(-apart / (2 * width**2))), 0, None))


def effective_number(amounts: Sequence[float] | np.ndarray) -> float:
    """Return exp of the entropy of amounts after they are scaled to sum 1."""
    shares = np.asarray(amounts, np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def normalised(text: str) -> str:
    """Return lower-case words without punctuation, one space between them."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(" " if unicodedata.category(character)[0] in "PSZC" else character for character in folded)
    return " ".join(kept.split())


def tokens_of(text: str) -> list[str]:
    """Return the words of a normalised text; of writing without spaces, the characters."""
    return _TOKEN.findall(text)


def words_of(text: str) -> list[str]:
    """Return the different words of a text in their order, without those that hold a digit: they number things."""
    words = dict.fromkeys(tokens_of(normalised(text)))
    return [word for word in words if not any(character.isdigit() for character in word)]


def word_number(word: str) -> int:
    """Return the number that stands for a word in the measurements, 32 bits."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def measure_diversity(directory: str | Path, measurements: pa.Table, kept: np.ndarray) -> dict[str, Any]:
    """Return how varied the readable images and the kept ones are, as it stands in curation.json.

    Of each: `num_images`; `vendi` of the `num_looked_at` images whose digests are smallest, so that it does not depend
    on the order; `num_words` different words in their first captions, and `effective_words`, exp of the entropy of how
    many images have each. `common_words` are the commonest of the readable images: [word, images, kept images].

    Args:
        directory: of the dataset, for its captions.
        measurements: at least pixel_sha256, colors and refusal.
        kept: bool [n].
    """
    has_pixels = measurements["refusal"].is_null().to_numpy()
    seen_words, kept_words = _count_words(directory, has_pixels, kept)
    return {
        "readable": _looks(measurements, has_pixels) | _spread(seen_words),
        "kept": _looks(measurements, kept) | _spread(kept_words),
        "common_words": [
            [word, count, kept_words[word]]
            for word, count in sorted(seen_words.items(), key=lambda each: (-each[1], each[0]))[:_NUM_WORDS]
        ],
    }


def _looks(measurements: pa.Table, chosen: np.ndarray) -> dict[str, Any]:
    from pyarrow import compute

    rows = np.flatnonzero(chosen)
    order = compute.select_k_unstable(  # pyright: ignore[reportAttributeAccessIssue]  made at import
        measurements["pixel_sha256"].take(rows),
        k=min(NUM_LOOKED_AT, len(rows)),
        sort_keys=[("", "ascending")],
    )
    colors = measurements["colors"].take(rows[order.to_numpy()]).to_pylist()
    grids = np.array([np.frombuffer(each, np.uint8) for each in colors]) / 255
    return {
        "num_images": len(rows),
        "num_looked_at": len(grids),
        "vendi": vendi_score(grids) if len(grids) else 0.0,
    }


def _spread(words: Counter[str]) -> dict[str, Any]:
    return {"num_words": len(words), "effective_words": effective_number([*words.values()]) if words else 0.0}


def _count_words(
    directory: str | Path, has_pixels: np.ndarray, kept: np.ndarray
) -> tuple[Counter[str], Counter[str]]:
    """Count the images that have each word in their first caption, reading captions a few at a time."""
    import pyarrow.parquet as pq

    from fluxmodel.data.measurements import MEASUREMENTS

    seen: Counter[str] = Counter()
    of_kept: Counter[str] = Counter()
    row = 0
    with pq.ParquetFile(Path(directory) / MEASUREMENTS) as file:
        columns = ["captions", "caption_refusals"]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for captions, refusals in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                if has_pixels[row]:
                    words = words_of(first_text(captions, refusals))
                    seen.update(words)
                    if kept[row]:
                        of_kept.update(words)
                row += 1
    return seen, of_kept


def first_text(captions: Sequence[dict[str, Any]] | None, refusals: Sequence[str | None] | None) -> str:
    """Return the first caption that is text, as the measurements say it; empty where there is none."""
    both = zip(captions or (), refusals or (), strict=True)
    return next((caption["text"] for caption, refusal in both if refusal is None), "")
