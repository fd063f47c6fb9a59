"""Inception features (Szegedy et al. 2015), over which alone a Frechet distance may be called FID.

The network is torchmetrics' own, which takes it from torch-fidelity; its weights are a file the user has. None of the
three is a dependency: torchvision needs its own build beside torch's, and torch-fidelity brings all of CUDA. Images
are brought to the network's 299 pixels by a clean resize before (Parmar et al. 2022, arXiv:2104.11222), so that its
own, which aliases, has nothing left to do. Bytes go in, as that network wants them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from fluxmodel.errors import InputError

from .features import FeatureExtractor
from .resize import resize_clean

SIDE = 299
NUM_FEATURES = 2048
WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"


def inception_extractor(weights: Path) -> FeatureExtractor:
    """Pooled features of Inception-v3 from a file of weights, or from a directory that holds it as `WEIGHTS`.

    Raises:
        InputError: the weights or what reads them is missing; says which, and the cure.
    """
    weights = Path(weights)
    weights = weights / WEIGHTS if weights.is_dir() else weights
    if not weights.is_file():
        raise InputError(
            f"{weights}: no Inception weights there; name the file {WEIGHTS} that torch-fidelity publishes, "
            "or leave Inception out."
        )
    network = load_network(weights)

    def compute(images: Tensor) -> Tensor:
        bytes_ = ((images + 1) * 127.5).round().clamp(0, 255).byte()
        return network(resize_clean(bytes_, SIDE))

    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    label = f"inception-v3-compat {digest}, clean resize to {SIDE}x{SIDE}"
    return FeatureExtractor(network, compute, NUM_FEATURES, label, batch_size=50)


def load_network(weights: Path) -> Any:
    """Return torchmetrics' Inception with weights from a file.

    Raises:
        InputError: torch-fidelity or torchvision is missing or broken, or the file holds something else.
    """
    try:
        import torch_fidelity  # noqa: F401  # pyright: ignore[reportMissingImports]
        from torchmetrics.image.fid import NoTrainInceptionV3
    except (
        Exception
    ) as error:  # a half-installed torchvision raises RuntimeError where it registers its operators
        raise InputError(
            f"Inception features need torch-fidelity and a torchvision that fits this torch ({_brief(error)}); "
            "install both (`pip install torchmetrics[image] torchvision`), or leave Inception out."
        ) from error
    try:
        return NoTrainInceptionV3("inception-v3-compat", [str(NUM_FEATURES)], str(weights))
    except Exception as error:  # torch-fidelity hands on whatever reading the file raised
        raise InputError(
            f"{weights}: no weights of Inception-v3 ({_brief(error)}); name {WEIGHTS}."
        ) from error


def _brief(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
