"""Do two images that hash alike show the same colours, as they are or after a common gain of brightness?

    alike  where  max |a - b| <= 24  or  max |min(255, g a) - b| <= 28,  a the darker one, 1 <= g <= 1.6

over the 8 x 8 mean colours of `color_signatures`. The gain g is one number for all cells and channels, fitted by
least squares over the cells that are not bright enough to have been clipped; so the same shapes in another hue differ.
"""

import numpy as np

# Levels of 255. Chosen by copies of every second of 1 360 emoji and the false pairs of all; see docs/duplicates.md.
MAX_DIFFERENCE = 24
MAX_DIFFERENCE_AFTER_GAIN = 28
MAX_GAIN = 1.6
_CLIPPED_FROM = 230  # a brighter cell may hold clipped pixels, so it says nothing about the gain
_COARSE_STEP = 17  # a dozen colours spread over the grid and the channels settle most pairs
_AT_ONCE = 1 << 14
_LEVELS = np.arange(256)
_BOUNDS = np.stack(
    [
        np.maximum(_LEVELS - MAX_DIFFERENCE_AFTER_GAIN, 0),
        np.minimum(np.ceil(MAX_GAIN * _LEVELS) + MAX_DIFFERENCE_AFTER_GAIN, 255),
    ]
).astype(np.uint8)
"""Of a level of the darker image, the lowest and highest the brighter one may have."""


def colors_alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return for each row of two uint8 arrays [n, 192] whether the colours agree, bool [n]; symmetric."""
    alike = np.empty(len(first), bool)
    for start in range(0, len(first), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        alike[here] = _alike(first[here], second[here])
    return alike


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    some, others = first[:, ::_COARSE_STEP], second[:, ::_COARSE_STEP]
    may_agree = np.flatnonzero(_may_agree(some, others) | _may_agree(others, some))
    first, second = first[may_agree], second[may_agree]
    found = _largest_difference(first, second) <= MAX_DIFFERENCE
    rest = np.flatnonzero(~found)
    found[rest] = _alike_after_gain(first[rest], second[rest])
    alike = np.zeros(len(some), bool)
    alike[may_agree] = found
    return alike


def _may_agree(darker: np.ndarray, brighter: np.ndarray) -> np.ndarray:
    """Return where no colour looked at forbids that a gain of 1 to `MAX_GAIN` makes the one the other, bool [n].

    |min(255, g a) - b| <= d and a <= min(255, g a) <= 1.6 a give a - d <= b <= 1.6 a + d, for every g; d is the larger
    of the two differences allowed, so that equality as it is passes too.
    """
    low, high = _BOUNDS[:, darker]
    return ((brighter >= low) & (brighter <= high)).all(axis=1)


def _alike_after_gain(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    excess = second.sum(axis=1, dtype=np.int64) - first.sum(axis=1, dtype=np.int64)
    is_darker = excess > 0
    darker = np.where(is_darker[:, None], first, second).astype(np.float32)
    brighter = np.where(is_darker[:, None], second, first).astype(np.float32)
    counted = np.where(brighter < _CLIPPED_FROM, darker, 0)
    gain = (counted * brighter).sum(axis=1) / np.maximum((counted * counted).sum(axis=1), 1)
    gain[excess == 0] = 1  # neither is the darker one
    brightened = np.minimum(darker * np.clip(gain, 1, MAX_GAIN)[:, None], 255)
    return np.abs(brightened - brighter).max(axis=1, initial=0) <= MAX_DIFFERENCE_AFTER_GAIN


def _largest_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the largest absolute difference in each row of two uint8 arrays, uint8 [n]."""
    return (np.maximum(first, second) - np.minimum(first, second)).max(axis=1, initial=0)
