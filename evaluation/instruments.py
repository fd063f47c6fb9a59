"""Everything one set of generated images is measured with, and what comes out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .caption_retrieval import CaptionChoice, chance
from .clip_score import admission, clip_scores
from .features import FeatureExtractor, detector_extractor, dual_encoder_extractor, unit_range
from .frechet import ReferenceFeatures
from .geneval import Answers, answer, score
from .identity import digest_of_directory
from .inception import inception_extractor
from .kid import kernel_distance
from .nearest import Nearest
from .prompts import Benchmark, PromptSet
from .scene_judge import EMPTY, SceneJudge, SceneReading
from .settings import EvaluationSettings
from .statistics import Interval, clustered_bootstrap, mean_share, proportion
from .stopwatch import timed
from .verdicts import Verdicts, compare


@dataclass
class Measured:
    """Images drawn for a prompt set, and all that was read off them, image by image."""

    asked: PromptSet
    images: Tensor
    fd: Interval | None
    kid: Interval | None
    reading: SceneReading | None
    verdicts: Verdicts | None
    clip: np.ndarray | None
    hits: np.ndarray | None
    seed: int = 0
    place: tuple[int, float] = (0, 1.0)
    """Steps and guidance the images were drawn with, where no point of a curve says it."""
    features: Tensor | None = None
    """What the distances were measured on, [n, d]."""
    whole: dict[str, Interval] = field(default_factory=dict)
    """What the set tells as a whole, by metric, where that was asked (`distribution.py`)."""
    nearest: Nearest | None = None
    """The training images nearest to these, where they were sought."""

    answers: Answers | None = None
    """What came of the tasks, where the prompts are tasks."""

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Every metric that could be measured, by name."""
        found: dict[str, Interval] = {}
        prompts = self.asked.prompts
        if self.verdicts is not None:
            found["attr_acc"] = mean_share(self.verdicts.accuracy, prompts, self.seed)
            found["all_correct"] = proportion(self.verdicts.all_correct, prompts, self.seed)
            found["undecided"] = mean_share(self.verdicts.undecided_share, prompts, self.seed)
            found["extra_objects"] = proportion(self.verdicts.num_extra > 0, prompts, self.seed)
        if self.answers is not None and self.answers.judged.any():
            found["geneval"] = score(self.answers, self.asked.tags, prompts, self.seed)
        if self.hits is not None and len(self.hits):
            found["retrieval"] = proportion(self.hits, prompts, self.seed)
        if self.clip is not None:
            found["clip"] = clustered_bootstrap(self.clip, prompts, self.seed)
        found |= {name: each for name, each in (("fd", self.fd), ("kid", self.kid)) if each is not None}
        return found

    def value(self, name: str) -> float:
        """Value of a metric, minus infinity where it was not measured."""
        return self.intervals[name].value if name in self.intervals else -np.inf


class Instruments:
    """The evaluators of one evaluation, made once.

    Attributes:
        skipped: what is not measured, with the reason.
    """

    @timed("reading evaluators and reference")
    def __init__(
        self,
        evaluators: dict[str, Path],
        benchmark: Benchmark,
        settings: EvaluationSettings,
        cache: Path | None = None,
    ):
        self.settings = settings
        self.skipped: dict[str, str] = {}
        self._choices: dict[str, CaptionChoice] = {}
        self.dual_encoder = self._load_dual_encoder(evaluators.get("dual_encoder"))
        self.extractor, self.detector = self._load_extractor(evaluators)
        self.judge = SceneJudge(benchmark.level) if benchmark.level else None
        if self.judge is None:
            self.skipped["attr_acc"] = (
                "no scene judge: these images have no scene description to be judged by"
            )
        self.skipped |= benchmark.unjudged
        self.extractor.cache = cache
        if self.extractor.metric_name != "FID":  # that one is defined over the features as they are
            self.extractor.standardise(benchmark.reference)
        self.reference = ReferenceFeatures(self.extractor.of_real(benchmark.reference))

    def _load_dual_encoder(self, directory: Path | None) -> Any:
        self.clip_admission = None
        self.text_image: str | None = None
        if directory is None:
            self.skipped["clip"] = self.skipped["retrieval"] = "no dual encoder was given"
            return None
        from fluxmodel.encoders.dual_encoder import DualEncoder

        self.clip_admission = admission(directory)
        if not self.clip_admission.admitted:
            self.skipped["clip"] = self.clip_admission.reason
        self.text_image = f"dual encoder {digest_of_directory(directory)}"
        return DualEncoder.from_directory(directory)

    def _load_extractor(self, evaluators: dict[str, Path]) -> tuple[FeatureExtractor, Any]:
        detector = detector_extractor(evaluators["detector"]) if "detector" in evaluators else None
        if detector is None:
            self.skipped["detector_agreement"] = "no detector was given"
        if "inception" in evaluators:
            return inception_extractor(evaluators["inception"]), detector and detector.network
        if detector is not None:
            return detector, detector.network
        return dual_encoder_extractor(evaluators["dual_encoder"], self.dual_encoder), None

    @timed("measuring images")
    def measure(self, images: Tensor, asked: PromptSet, distances: bool = True) -> Measured:
        """Read everything off images drawn for `asked`; distances only where their number is the reference's."""
        features = self.extractor(images) if distances else None
        clip = hits = reading = verdicts = answers = None
        if self.dual_encoder is not None:
            embeddings = None
            if "clip" not in self.skipped:
                scores, embeddings = clip_scores(self.dual_encoder, images, asked.prompts)
                clip = scores.numpy().astype(np.float64)
            hits = self._choice(asked).hits(images, embeddings)
        if self.judge is not None and (asked.asked is not None or asked.tasks):
            reading = self.judge.read(images)
            verdicts = compare(asked.asked, reading) if asked.asked is not None else None
            answers = answer(asked.tasks, reading) if asked.tasks else None
        return Measured(
            asked=asked,
            images=images,
            fd=self.reference.distance(features) if features is not None else None,
            kid=kernel_distance(self.reference.features, features) if features is not None else None,
            reading=reading,
            verdicts=verdicts,
            clip=clip,
            hits=hits,
            seed=self.settings.seed,
            answers=answers,
            features=features,
        )

    def _choice(self, asked: PromptSet) -> CaptionChoice:
        """The candidates of a prompt set; kept, because every point of a curve asks for the same."""
        if asked.identity not in self._choices:
            settings = self.settings
            self._choices[asked.identity] = CaptionChoice(
                self.dual_encoder, asked.prompts, settings.num_candidates, settings.seed
            )
        return self._choices[asked.identity]

    def chance(self, asked: PromptSet) -> float:
        """Share of captions found by guessing."""
        return chance(asked.prompts, self.settings.num_candidates)

    def detector_verdicts(self, measured: Measured) -> Verdicts | None:
        """The learned detector's verdict on the same images; None where there is no detector."""
        if self.detector is None or measured.asked.asked is None:
            return None
        seen = detector_reading(self.detector, measured.images, self.judge.bank.level.name)  # type: ignore[union-attr]
        return compare(measured.asked.asked, seen)


@torch.inference_mode()
def detector_reading(detector: Any, images: Tensor, level: str) -> SceneReading:
    """What the learned detector sees in uint8 images [n, 3, H, W], in the judge's form; it is never undecided."""
    scores = [detector(unit_range(batch)) for batch in images.split(250)]
    present = torch.cat([each.presence for each in scores]) > 0
    cells = {
        name: torch.cat([getattr(each, name) for each in scores]).argmax(-1).masked_fill(~present, EMPTY)
        for name in ("shape", "size", "color")
    }
    background = torch.cat([each.background for each in scores]).argmax(-1)
    return SceneReading(level, background=background, unexplained=torch.zeros(present.shape), **cells)


def agreement(first: Verdicts, second: Verdicts) -> np.ndarray:
    """Share of an image's asked attributes on which two verdicts count equally many right, [n]."""
    difference = sum(np.abs(first.right[name] - second.right[name]) for name in first.right)
    return 1 - difference / np.maximum(1, sum(first.asked.values()))


def card_of(directory: Path) -> dict[str, Any]:
    """An evaluator's card: what it can do; empty where it has none."""
    path = Path(directory) / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
