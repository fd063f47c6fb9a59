"""Everything that can stand in a grid cell, as a bank of coverage masks for the scene judge.

The renderer itself draws the masks, so judge and data cannot drift apart. The bank is in the order shape, size,
shift and blur; each cell sees its own window of the image, because cells of a 3x3 grid do not fall on whole pixels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fluxmodel.data.procedural import BACKGROUNDS, LEVELS, PALETTE, Level, template_masks
from fluxmodel.data.styles import PLAIN, Style

# Half the jitter's range more than training shows: a model may place an object slightly off. Steps of a quarter
# pixel leave at most an eighth between an object and its nearest template: under 1 % of its energy.
SHIFTS = tuple(np.arange(-4, 5) * 0.25)
# Autoencoders soften edges. A soft red ring is a red ring, so softness (standard deviation in pixels) is explained
# like a shift; without it thin shapes blurred by one pixel were read in the wrong colour in 1 % of cases.
BLURS = (0.0, 0.6, 1.0)


@dataclass(frozen=True)
class TemplateBank:
    """Masks of one level. Pixels are in [0, 1]."""

    level: Level
    masks: Tensor
    """[cells, shapes * sizes * shifts * blurs, window pixels]; windows are padded to one size with zeros."""
    energy: Tensor
    """Sum of squares of each mask, [cells, shapes * sizes * shifts * blurs]."""
    windows: Tensor
    """Pixel numbers of each cell's window, [cells, window pixels]; padding points at pixel 0."""
    inside: Tensor
    """1 where the window holds a pixel, 0 where it is padding, [cells, window pixels]."""
    colors: Tensor
    """[colors, 3] in the level's order."""
    backgrounds: Tensor
    """[backgrounds, 3] in the level's order; a style that brings its own has that one alone."""
    faintest: Tensor
    """Energy of the faintest object that can stand on each background, [backgrounds]."""

    @property
    def num_kinds(self) -> tuple[int, int, int]:
        """Numbers of shapes, sizes and variants (shifts and blurs)."""
        return len(self.level.shapes), len(self.level.sizes), len(SHIFTS) ** 2 * len(BLURS)


@lru_cache(maxsize=4)
def template_bank(level_name: str, style: Style = PLAIN) -> TemplateBank:
    """Draw the bank of a level in a style; a tenth of a second, once."""
    level = LEVELS[level_name]
    windows, inside = _windows(level)
    masks = []
    for cell in range(level.grid**2):
        drawn = template_masks(level, cell // level.grid, cell % level.grid, SHIFTS, style)
        flat = torch.from_numpy(drawn).flatten(0, 2)
        soft = torch.stack([gaussian_blur(flat, sigma) for sigma in BLURS], dim=1)
        masks.append(soft.flatten(0, 1).flatten(1)[:, windows[cell]] * inside[cell])
    bank = torch.stack(masks)
    colors = torch.tensor([PALETTE[name] for name in level.colors]) / 255
    named = [BACKGROUNDS[name] for name in level.backgrounds]
    backgrounds = torch.tensor([style.background] if style.background else named) / 255
    energy = bank.square().sum(-1)
    sharp = energy[:, :: len(BLURS)]
    contrast = (colors[None] - backgrounds[:, None]).square().sum(-1).min(1).values
    return TemplateBank(level, bank, energy, windows, inside, colors, backgrounds, contrast * sharp.min())


def _windows(level: Level) -> tuple[Tensor, Tensor]:
    """Pixels whose centres lie in each cell, padded to the largest cell."""
    axis = np.minimum(
        ((np.arange(level.image_size) + 0.5) * level.grid / level.image_size).astype(int), level.grid - 1
    )
    owner = (axis[:, None] * level.grid + axis[None, :]).ravel()
    pixels = [np.flatnonzero(owner == cell) for cell in range(level.grid**2)]
    width = max(len(each) for each in pixels)
    windows = np.zeros((len(pixels), width), np.int64)
    inside = np.zeros((len(pixels), width), np.float32)
    for cell, each in enumerate(pixels):
        windows[cell, : len(each)], inside[cell, : len(each)] = each, 1
    return torch.from_numpy(windows), torch.from_numpy(inside)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur float images [..., H, W] by a Gaussian of `sigma` pixels; edges repeat."""
    if sigma == 0:
        return images
    rows, columns = (_blur_matrix(side, sigma) for side in images.shape[-2:])
    return rows @ images @ columns.T


def _blur_matrix(side: int, sigma: float) -> Tensor:
    """One axis of the blur as a matrix [side, side]; what lies outside repeats the edge."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-offsets.float().square() / (2 * sigma**2))
    matrix = torch.zeros(side, side)
    sources = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    return matrix.scatter_add_(1, sources, (kernel / kernel.sum()).expand(side, -1))
