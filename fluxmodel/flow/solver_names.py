"""The solvers by name, for whoever asks for one; imports no torch."""

from typing import Literal

Solver = Literal["euler", "heun", "midpoint"]
