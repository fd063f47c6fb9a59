"""Features of real images, kept by what they are of: a reference is read once, however many models it judges.

A file is named after the digest of the images' bytes and of the network with its weights, so another image or another
network is another file, and what is found again is to the last bit what would be computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def cached_features(
    images: Tensor, label: str, compute: Callable[[Tensor], Tensor], directory: Path | None
) -> Tensor:
    """Features [n, d] of uint8 images by `compute`, from the directory where they lie there, else kept in it.

    A damaged file is computed and written again; nothing is kept where `directory` is None.
    """
    if directory is None:
        return compute(images)
    path = Path(directory) / f"{key_of(images, label)}.safetensors"
    found = _read(path, len(images))
    if found is not None:
        return found
    features = compute(images)
    _write(path, features, label)
    return features


def key_of(images: Tensor, label: str) -> str:
    """First 32 hex digits of the sha256 over network, shape and bytes of uint8 images."""
    total = hashlib.sha256(f"{label}\n{tuple(images.shape)}\n".encode())
    total.update(images.contiguous().numpy().data)
    return total.hexdigest()[:32]


def _read(path: Path, count: int) -> Tensor | None:
    """What a whole file holds; None where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            features = file.get_tensor("features")
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError):
        return None
    return features if len(features) == count and digest == _digest(features) else None


def _write(path: Path, features: Tensor, label: str) -> None:
    """Write under a name of this process, then rename: two evaluations at once leave one whole file."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    features = features.to(torch.float32).contiguous()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({"features": features}, partial, metadata={"network": label, "digest": _digest(features)})
    os.replace(partial, path)


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().data).hexdigest()
