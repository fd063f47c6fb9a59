"""The headline judge of procedural scenes: exact analysis by synthesis, no learned part.

In each grid cell every object that could stand there is tried: shape x size x shift x blur x colour. With D the
image less its background b, a template a in colour c leaves

    |D - (c - b) a|^2 = |D|^2 - 2 (c - b).(sum a D) + |c - b|^2 sum a^2,

so one matrix product a D answers for all colours. The best explanation wins, and the judge says *undecided* where
even the best is poor, or where another shape, size or colour explains nearly as well. The thresholds below were
set on clean renders and on damaged ones (blur, noise), never on a trained model's images; `calibration.py` measures
them anew in each report.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fluxmodel.data.styles import PLAIN, Style

from .templates import TemplateBank, template_bank

EMPTY, UNDECIDED = -1, -2
# Share of a cell's energy the best template may leave unexplained.
POOR = 0.25
# How much more the runner-up must leave than the best: as a share of the energy, and relative to the best.
MARGIN, RATIO = 0.003, 1.25
# Share of the faintest object's energy below which a cell counts as empty.
FAINT = 0.35
# A pixel supports a background colour within this distance; so many must, and so many more than for the next.
NEAR, SUPPORT, LEAD = 0.17, 0.30, 0.10
NAME = (
    f"scene_judge(poor={POOR}, margin={MARGIN}, ratio={RATIO}, faint={FAINT}, near={NEAR}, support={SUPPORT})"
)


@dataclass(frozen=True)
class SceneReading:
    """What the judge sees in n images; numbers index the level's names.

    `shape`, `size`, `color` [n, cells]: EMPTY where nothing stands, UNDECIDED where the judge can't say.
    `background` [n]: UNDECIDED where no colour has enough support. `unexplained` [n, cells]: share of the cell's
    energy the best template leaves, 0 in empty cells.
    """

    level: str
    shape: Tensor
    size: Tensor
    color: Tensor
    background: Tensor
    unexplained: Tensor

    def __len__(self) -> int:
        return len(self.background)


class SceneJudge:
    """Reads images of one level, drawn in one style."""

    def __init__(self, level_name: str, style: Style = PLAIN):
        self.bank: TemplateBank = template_bank(level_name, style)
        self.name = f"{NAME}, level={level_name}" + (f", style={style.name}" if style != PLAIN else "")

    def read(self, images: Tensor, batch_size: int = 250) -> SceneReading:
        """Read uint8 images [n, 3, H, W] of the level's size."""
        size = self.bank.level.image_size
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"the judge reads uint8 images [n, 3, {size}, {size}], not {tuple(images.shape)}"
            )
        parts = [
            self._read(images[start : start + batch_size]) for start in range(0, len(images), batch_size)
        ]
        names = ("shape", "size", "color", "background", "unexplained")
        return SceneReading(
            self.bank.level.name, *(torch.cat([part[name] for part in parts]) for name in names)
        )

    def _read(self, images: Tensor) -> dict[str, Tensor]:
        pixels = images.flatten(2).mT.float() / 255
        background, paint, noise = self._background(pixels)
        bank, windows = self.bank, self.bank.windows
        left = (pixels - paint[:, None])[:, windows] * bank.inside[..., None]
        energy = left.square().sum((-2, -1))
        faintest = bank.faintest[background.clamp(min=0)]
        cells = {name: torch.full(energy.shape, EMPTY) for name in ("shape", "size", "color")}
        unexplained = torch.zeros_like(energy)
        for cell in range(len(windows)):
            rows = (energy[:, cell] - noise * bank.inside[cell].sum() > FAINT * faintest).nonzero()[:, 0]
            if len(rows):
                best = self._explain(left[rows, cell], energy[rows, cell], paint[rows], cell)
                unexplained[rows, cell] = best.pop("unexplained")
                for name, values in best.items():
                    cells[name][rows, cell] = values
        return {**cells, "background": background, "unexplained": unexplained}

    def _background(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Name [n], true colour [n, 3] and noise energy a pixel [n] of the background.

        The colour is the mean of the pixels near the likeliest name; the noise is their median squared distance
        from it, brought to the mean by the ratio of the two for a chi-square of three degrees (2.366 : 3).
        """
        distance = (pixels[:, :, None] - self.bank.backgrounds).square().sum(-1).sqrt()
        near = (distance < NEAR).float()
        support = near.mean(1)
        ranked = support.sort(1, descending=True).values
        first, second = ranked[:, 0], ranked[:, 1] if ranked.shape[1] > 1 else torch.zeros(len(ranked))
        name = support.argmax(1)
        chosen = near[torch.arange(len(pixels)), :, name]
        paint = (chosen[..., None] * pixels).sum(1) / chosen.sum(1, keepdim=True).clamp(min=1)
        unclear = (first < SUPPORT) | (first - second < LEAD)
        paint = torch.where(unclear[:, None], pixels.median(1).values, paint)
        spread = (pixels - paint[:, None]).square().sum(-1)
        noise = torch.where(chosen > 0, spread, torch.nan).nanmedian(1).values.nan_to_num() * 3 / 2.366
        noise = noise.masked_fill(unclear, 0)
        return torch.where(unclear, UNDECIDED, name), paint, noise

    def _explain(self, left: Tensor, energy: Tensor, paint: Tensor, cell: int) -> dict[str, Tensor]:
        """Best explanation of one cell's window [m, pixels, 3] in each of m images."""
        bank = self.bank
        num_shapes, num_sizes, num_variants = bank.num_kinds
        overlap = torch.einsum("mpc,tp->mtc", left, bank.masks[cell])
        tint = bank.colors - paint[:, None]
        gain = 2 * torch.einsum("mtc,mkc->mkt", overlap, tint)
        gain -= tint.square().sum(-1)[..., None] * bank.energy[cell]
        gain = gain.view(len(left), len(bank.colors), num_shapes, num_sizes, num_variants).amax(-1)
        residual = (energy[:, None, None, None] - gain).clamp(min=0) / energy[:, None, None, None]
        best = residual.flatten(1).min(1).values
        decided = {
            "color": _clear_winner(residual.amin((2, 3)), best),
            "shape": _clear_winner(residual.amin((1, 3)), best),
            "size": _clear_winner(residual.amin((1, 2)), best),
        }
        for name, values in decided.items():
            decided[name] = torch.where(best > POOR, UNDECIDED, values)
        return {**decided, "unexplained": best}


def _clear_winner(residual: Tensor, best: Tensor) -> Tensor:
    """Number of the choice [m] that leaves least of [m, choices], or UNDECIDED where another is nearly as good."""
    if residual.shape[1] == 1:
        return torch.zeros(len(residual), dtype=torch.long)
    second = residual.topk(2, dim=1, largest=False).values[:, 1]
    unclear = (second - best < MARGIN) | (second < RATIO * best)
    return torch.where(unclear, UNDECIDED, residual.argmin(1))
