"""Feature extractors for the Frechet distance and KID, each carrying the name its numbers are labelled with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .feature_cache import cached_features
from .identity import digest_of_directory


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as floats in [-1, 1], what every network here takes."""
    return images.float() / 127.5 - 1


class FeatureExtractor(nn.Module):
    """A module from uint8 images [n, 3, H, W] to features [n, num_features].

    Attributes:
        label: the network with its digest; part of the identity of every distance over it.
        metric_name: "FID" over Inception features, else "Frechet distance".
    """

    def __init__(
        self,
        network: Any,
        compute: Callable[[Tensor], Tensor],
        num_features: int,
        label: str,
        batch_size: int = 250,
    ):
        super().__init__()
        if isinstance(network, nn.Module):
            network.eval().requires_grad_(False)
        self.network = network
        self.network_label = label
        self.cache: Path | None = None
        """Where features of real images are kept; None keeps none."""
        self.compute = compute
        self.num_features = int(num_features)
        self.label = label
        self.batch_size = batch_size
        self.mean = torch.zeros(self.num_features)
        self.deviation = torch.ones(self.num_features)

    @property
    def metric_name(self) -> str:
        """What a distance over these features may be called."""
        return "FID" if self.label.startswith("inception") else "Frechet distance"

    def standardise(self, images: Tensor) -> None:
        """From now on give features with mean 0 and deviation 1 over these images; the label says so.

        An embedded network's features have whatever scale training left: the few largest would decide the whole
        distance (a detector's real against real was 4086 for a model's 4469), and the cubic kernel would explode.
        Nearly constant features are not blown up beyond a hundredth of the usual deviation.
        """
        features = self.of_real(images)
        deviation = features.std(0)
        self.mean, self.deviation = (
            features.mean(0),
            deviation.clamp(min=0.01 * float(deviation.mean()) + 1e-12),
        )
        self.label += ", standardised by the reference"

    def forward(self, images: Tensor) -> Tensor:
        """Features of uint8 images, in batches."""
        return (self._raw(images) - self.mean) / self.deviation

    def of_real(self, images: Tensor) -> Tensor:
        """The same, looked up in the cache: for reference and training images, which many models are held against."""
        raw = cached_features(images, self.network_label, self._raw, self.cache)
        return (raw - self.mean) / self.deviation

    @torch.inference_mode()
    def _raw(self, images: Tensor) -> Tensor:
        batches = images.split(self.batch_size)
        return torch.cat([self.compute(unit_range(batch)).detach().float().cpu() for batch in batches])


def detector_extractor(directory: Path) -> FeatureExtractor:
    """Pooled features of the embedded scene detector."""
    from fluxmodel.encoders.detector import SceneDetector

    detector = SceneDetector.from_directory(directory)
    label = f"scene detector {digest_of_directory(directory)}"
    return FeatureExtractor(detector, detector.features, detector.num_features, label)


def dual_encoder_extractor(directory: Path, encoder: Any = None) -> FeatureExtractor:
    """Image embeddings of the dual encoder: what there is where no detector can be trained."""
    if encoder is None:
        from fluxmodel.encoders.dual_encoder import DualEncoder

        encoder = DualEncoder.from_directory(directory)
    label = f"dual encoder {digest_of_directory(directory)}"
    return FeatureExtractor(encoder, encoder.image_embeddings, encoder.num_features, label)
