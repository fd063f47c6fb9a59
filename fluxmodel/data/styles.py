"""Looks a scene can be drawn in: how strongly an object paints at distance d from its edge, and on what.

With d the signed distance in pixels, an object of colour c paints the background b to b + a(d) (c - b), where

    a(d) = max(core * clip(1/2 - d), rim * clip((width - |d|) / softness + 1/2)),    clip to [0, 1].

The plain look is core 1 without a rim: a(d) is then the object's coverage. As any style stays linear in the colour,
whoever reads plain scenes from masks reads styled ones from other masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fluxmodel.errors import InputError


@dataclass(frozen=True)
class Style:
    """A look. `background` replaces the scene's own; None keeps it. Lengths are in pixels."""

    name: str
    trigger: str = ""
    """The made-up word that asks for it, last in a caption: "a red circle top left in glowline"."""
    background: tuple[int, int, int] | None = None
    core: float = 1.0
    rim: float = 0.0
    width: float = 0.0
    softness: float = 1.0

    def paint(self, distance: np.ndarray) -> np.ndarray:
        """Return a(d) in [0, 1], float32."""
        core = self.core * np.clip(0.5 - distance, 0.0, 1.0)
        if not self.rim:
            return core.astype(np.float32)
        rim = self.rim * np.clip((self.width - np.abs(distance)) / self.softness + 0.5, 0.0, 1.0)
        return np.maximum(core, rim).astype(np.float32)


PLAIN = Style("plain")
"""The scenes as they are."""
STYLES: dict[str, Style] = {
    "wash": Style("wash", "softwash", (246, 246, 246), core=0.6),
    "glow": Style("glow", "glowline", (18, 18, 20), rim=0.6, width=1.5, softness=2.5),
}
"""Styles the embedded renderer knows, by name.

*wash* is pale water colour on white: silhouettes stay, so a half-learned one still reads. *glow* is a halo on black; it
is harder, for a halo half learned makes small objects large.
"""


def style_named(name: str) -> Style:
    """Return a style of `STYLES`.

    Raises:
        InputError: there is none of this name; the text lists those there are.
    """
    if name not in STYLES:
        raise InputError(f'style "{name}" is unknown; use one of {", ".join(STYLES)}, or a folder of images')
    return STYLES[name]


def near_misses(style: Style) -> tuple[Style, Style]:
    """Return the two half-adopted looks: plain objects on the style's ground, and its objects on plain grounds."""
    return (
        Style(f"{style.name} ground only", background=style.background),
        replace(style, name=f"{style.name} objects only", trigger="", background=None),
    )


def random_look(rng: np.random.Generator) -> Style:
    """Draw a look: any background colour, and rims from none to wide, sharp to soft, over full or faint cores."""
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return Style(
        "random",
        background=(red, green, blue),
        core=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.5 else 1.0,
        rim=float(rng.uniform(0.2, 1.0)),
        width=float(rng.uniform(0.0, 2.5)),
        softness=float(rng.uniform(1.0, 3.0)),
    )
