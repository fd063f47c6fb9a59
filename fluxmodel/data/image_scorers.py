"""Models that score images: one port, `ImageScorer`, and behind it a CLIP or an image classifier of transformers.

An image is prepared alone, as small as its network sees it, and scored in batches of one fixed size: a score does not
depend on which images lie beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from fluxmodel.data.measurements import EMBEDDING
from fluxmodel.data.scoring_models import AGREEMENT, BATCH, ScoringModel
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


class ImageScorer(Protocol):
    """Something that gives every image a number, or a vector.

    Attributes:
        reads_captions: whether the number is of image and caption; it is not asked of an image without one.
    """

    reads_captions: bool

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Return what the network sees of an image, uint8 RGB [h, w, 3]."""
        ...

    def score(self, prepared: Sequence[Tensor], captions: Sequence[str]) -> np.ndarray:
        """Return the number or the vector of each prepared image, at most `BATCH`; raises what the network raises."""
        ...


def open_scorer(model: ScoringModel) -> ImageScorer:
    """Load a model, on a GPU where there is one.

    Raises:
        InputError: its files cannot be read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = {AGREEMENT: AgreementScorer, EMBEDDING: EmbeddingScorer}
    return kinds.get(model.column, LabelScorer)(model, device)


class EmbeddingScorer:
    """The embedding of an image by a CLIP, of length 1; it sees the middle square as training does."""

    reads_captions = False

    def __init__(self, model: ScoringModel, device: torch.device):
        from fluxmodel.encoders.dual_encoder import DualEncoder

        try:
            self._encoder = DualEncoder.from_directory(model.directory).to(device)
        except Exception as error:  # transformers and safetensors raise whatever a damaged file leads to
            raise _unreadable(model, error) from error
        self._device = device
        self._side = self._encoder.model.config.vision_config.image_size

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Return the middle square at the tower's side, uint8 [side, side, 3]."""
        import numpy as np
        from PIL import Image, ImageOps

        square = ImageOps.fit(Image.fromarray(pixels), (self._side, self._side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square))

    @torch.inference_mode()
    def score(self, prepared: Sequence[Tensor], captions: Sequence[str]) -> np.ndarray:
        """Return the embeddings, float32 [n, d]."""
        return self._seen(prepared)[: len(prepared)].float().cpu().numpy()

    def _seen(self, prepared: Sequence[Tensor]) -> Tensor:
        from fluxmodel.pixels import to_signed

        return self._encoder.image_embeddings(to_signed(torch.stack(_filled_up(prepared)).to(self._device)))


class AgreementScorer(EmbeddingScorer):
    """The cosine of image and caption by a CLIP."""

    reads_captions = True

    @torch.inference_mode()
    def score(self, prepared: Sequence[Tensor], captions: Sequence[str]) -> np.ndarray:
        """Return the cosines, float32 [n]."""
        tokens = self._encoder.tokenize(_filled_up(captions))
        read = self._encoder.embed_tokens({name: each.to(self._device) for name, each in tokens.items()})
        return (self._seen(prepared) * read).sum(1)[: len(prepared)].float().cpu().numpy()


class LabelScorer:
    """The probability of some labels of an image classifier: added, or the largest where labels are no alternatives.

    A model of such labels, or of a single one, has a sigmoid where others have a softmax.
    """

    reads_captions = False

    def __init__(self, model: ScoringModel, device: torch.device):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        where = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = AutoImageProcessor.from_pretrained(model.directory, **where)
            network = AutoModelForImageClassification.from_pretrained(model.directory, **where)
        except Exception as error:  # transformers and safetensors raise whatever a damaged file leads to
            raise _unreadable(model, error) from error
        self._network = network.to(device).eval()
        self._device = device
        config = self._network.config
        self._places = [place for place, name in config.id2label.items() if str(name) in model.labels]
        self._is_exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Return what the model's own processor makes of the image, [3, h, w]."""
        from PIL import Image

        return self._processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def score(self, prepared: Sequence[Tensor], captions: Sequence[str]) -> np.ndarray:
        """Return the probabilities, float32 [n]."""
        logits = self._network(pixel_values=torch.stack(_filled_up(prepared)).to(self._device)).logits.float()
        shares = (logits.softmax(1) if self._is_exclusive else logits.sigmoid())[
            : len(prepared), self._places
        ]
        return (shares.sum(1) if self._is_exclusive else shares.amax(1)).cpu().numpy()


def _filled_up(items: Sequence[T]) -> list[T]:
    """Return items with the last one repeated up to `BATCH`: kernels round otherwise for other sizes."""
    return [*items, *[items[-1]] * (BATCH - len(items))]


def _unreadable(model: ScoringModel, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:200]
    return InputError(
        f"models.{model.column} is {model.directory}: transformers cannot read it ({said}); copy the model again."
    )
