"""The features behind a report's distances, kept as a file, so that two evaluations can be paired afterwards.

    features.safetensors    headline [n, d], of the headline point's images in the order of their rows in rows.parquet;
                            reference [m, d], of the real images they were held against; float32, as measured

Two distances to one reference are dependent, and only their features tell by how much: the gate leaves the same
prompts out of both (`ReferenceFeatures.difference`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "features.safetensors"


def write_features(directory: Path, headline: Tensor, reference: Tensor, label: str) -> None:
    """Write both sides of the headline's distances, [n, d] and [m, d]; `label` names the extractor."""
    from safetensors.torch import save_file

    sides = {"headline": headline, "reference": reference}
    held = {name: each.float().contiguous() for name, each in sides.items()}
    save_file(held, Path(directory) / FILE, metadata={"extractor": label})


def read_features(directory: Path) -> dict[str, Tensor] | None:
    """Read `headline` and `reference`; None where an evaluation has none (it was made before they were kept).

    Raises:
        InputError: the file is damaged or holds something else; names it and the cure.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    cure = "evaluate the model again"
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); {cure}.") from error
    for name in ("headline", "reference"):
        if name not in found:
            raise InputError(f"{path} holds no {name!r}, only {sorted(found)}; {cure}.")
    headline, reference = found["headline"], found["reference"]
    if headline.ndim != 2 or reference.ndim != 2 or headline.shape[1] != reference.shape[1]:
        raise InputError(
            f"{path}: headline {tuple(headline.shape)} and reference {tuple(reference.shape)} are no features of one "
            f"extractor, [n, d] and [m, d]; {cure}."
        )
    return {"headline": headline, "reference": reference}
