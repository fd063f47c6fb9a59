"""A model as an evaluation takes it up: loaded, with the points of the curves it is measured at.

A model of ours has variants, each with its curve; a diffusers pipeline has one curve, guided or not, and brings its
own solver, size and precision, which become part of what is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxmodel.pretrained_folder import is_pipeline
from fluxmodel.training_job import Precision

from .contestants import Contestant
from .curves import Place, places
from .identity import CONTESTANT, Identity
from .sampler import Sampler
from .settings import ContestantSettings, EvaluationSettings
from .stopwatch import timed


@dataclass(frozen=True)
class Entrant:
    """A model that is judged.

    Attributes:
        directory: where it lies.
        pipe: what draws: `TextToImage` or a `Contestant`.
        variants: names of its variants, the default first.
        places: every point it is measured at.
        precision: of its network.
    """

    directory: Path
    pipe: Any
    variants: tuple[str, ...]
    places: list[Place]
    precision: Precision

    def sampler(self, settings: EvaluationSettings) -> Sampler:
        """Return what draws its images; a contestant draws in this process, in batches of its own."""
        if isinstance(self.pipe, Contestant):
            return Sampler(self.pipe, None, self.pipe.batch_size)
        return Sampler(self.pipe, self.directory, settings.batch_size, settings.workers, self.precision)

    @property
    def computes_in(self) -> str:
        """What its network computes in."""
        return self.pipe.dtype if isinstance(self.pipe, Contestant) else self.precision

    def own_identity(self, shared: Identity) -> Identity:
        """Return the identity with what a contestant brings; of a model of ours as it is."""
        if not isinstance(self.pipe, Contestant):
            return shared
        model = f"{CONTESTANT}{type(self.pipe.pipe).__name__} {shared.model}"
        return shared.model_copy(update={"model": model, **self.pipe.identity()})

    @property
    def record(self) -> dict[str, Any] | None:
        """How a contestant was drawn; None for a model of ours."""
        return self.pipe.record() if isinstance(self.pipe, Contestant) else None


@timed("loading the model")
def enter(
    model_dir: Path,
    pipe: Any,
    image_size: int,
    settings: EvaluationSettings,
    contestant: ContestantSettings | None = None,
) -> Entrant:
    """Load a model of ours or a diffusers pipeline, unless it is loaded already.

    Args:
        model_dir: where it lies.
        pipe: the model where it is loaded; None reads it.
        image_size: side of the reference's images, pixels.
        settings: how models are judged.
        contestant: how a diffusers pipeline is drawn.

    Raises:
        InputError: the directory holds neither, or a part of it is missing or wrong.
    """
    from fluxmodel.sampling import in_precision
    from fluxmodel.text_to_image import TextToImage
    from fluxmodel.training.precision import choose_precision

    if pipe is None and is_pipeline(model_dir):
        pipe = Contestant.from_directory(model_dir, image_size, contestant)
    if isinstance(pipe, Contestant):
        return Entrant(model_dir, pipe, ("base",), _places(pipe), "fp32")
    precision = choose_precision(settings.precision)
    pipe = pipe or in_precision(TextToImage.from_pretrained(model_dir), precision)
    variants = variants_of(pipe)
    return Entrant(model_dir, pipe, variants, places(variants, settings), precision)


def variants_of(pipe: Any) -> tuple[str, ...]:
    """Return the names of a model's variants, its default first."""
    index = getattr(pipe, "index", None)
    return (index.name, *index.variants) if index else ("base",)


def _places(pipe: Contestant) -> list[Place]:
    """One curve: what a contestant draws without guidance stands with the unguided, all else with the guided."""
    return [
        Place(
            f"base_{'guided' if guidance > 1 else 'unguided'}",
            "",
            steps,
            guidance,
            pipe.calls(steps, guidance),
        )
        for steps, guidance in pipe.places
    ]
