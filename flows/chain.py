"""The chain of stages, each submitted when something first asks for it: whoever wants one stage gets what it needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from flows.plan import Plan
from tasks.caption import caption
from tasks.curate import curate
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.finetune import finetune, prepare_style_classifier
from tasks.gate import gate
from tasks.prepare import prepare
from tasks.rectify import rectify
from tasks.register import register
from tasks.stage_run import RunContext
from tasks.train import train

STAGES = (
    "prepare", "curate", "caption", "encode", "train", "rectify", "finetune", "evaluate", "gate", "register",
)  # fmt: skip
"""In the order a run is read; `prepare` stands for all embedded parts."""
JUDGES = ("dual_encoder", "detector")
"""Parts that only the evaluation asks for: made beside rectify and finetune, which leave a core free. Earlier they
took a core that training was waiting for: 37 s of the demo's chain, on two cores."""
Future = Any
"""A stage's artifact to be: Prefect takes it wherever the artifact is wanted, which its types do not say."""


class Chain:
    """One run's stages as futures. Asking for one submits it, and before it all it waits for.

    Where the plan has a stage's artifact already, that is taken instead, and nothing is submitted for it.

    Args:
        plan: what each stage is told.
        context: the run they belong to.
    """

    def __init__(self, plan: Plan, context: RunContext):
        self.plan, self.context = plan, context
        self._parts: dict[str, Future] = {}
        self._submitted: dict[str, Future] = {}

    def upto(self, stage: str) -> dict[str, Future]:
        """Submit `stage`, one of STAGES, and what it needs; return the futures by name, in reading order."""
        if stage == "prepare":
            for name in self.plan.parts:
                self.part(name)
        else:
            getattr(self, _ATTRIBUTES[stage])
        return {name: self._submitted[name] for name in sorted(self._submitted, key=self._place)}

    def part(self, name: str) -> Future:
        """Embedded part `name`. In a run that trains, those the evaluation alone asks for wait for the training."""
        if name not in self._parts:
            waits: dict[str, Any] = {}
            if name in JUDGES and "train" in self._submitted:
                waits["wait_for"] = [self.base]
            self._parts[name] = self._made(
                f"prepare-{name}",
                lambda: prepare.submit(self.context, name, self.plan.parts[name], **self._own, **waits),
            )
        return self._parts[name]

    @cached_property
    def dataset(self) -> Future:
        """The curated data set."""
        return self._made(
            "curate",
            lambda: curate.submit(self.context, self.plan.source, self.plan.rules, self.plan.models),
        )

    @cached_property
    def captions(self) -> Future:
        """The captions of its images."""
        return self._made("caption", self._caption)

    def _caption(self) -> Future:
        dataset = self.dataset
        self.part("autoencoder")  # not asked for here, but of the parts it takes longest: it goes first
        captioner = self.part("captioner") if "captioner" in self.plan.parts else None
        return caption.submit(self.context, dataset, captioner, self.plan.captioner, self.plan.agreement)

    @cached_property
    def latents(self) -> Future:
        """Latents of images and tokens of captions."""
        return self._made(
            "encode",
            lambda: encode.submit(self.context, self.dataset, self.captions, self.part("autoencoder")),
        )

    @cached_property
    def base(self) -> Future:
        """The base model."""
        return self._made("train", self._train)

    def _train(self) -> Future:
        plan, latents, autoencoder = self.plan, self.latents, self.part("autoencoder")
        start = {"start": plan.start} if plan.start is not None else {}
        return train.submit(self.context, latents, autoencoder, plan.flow, plan.sampler, **start)

    @cached_property
    def model(self) -> Future:
        """The few-step model, with the base it learnt from."""
        plan = self.plan
        return self._made(
            "rectify",
            lambda: rectify.submit(
                self.context, self.base, self.latents, plan.pairs, plan.rectify, plan.rectified
            ),
        )

    @cached_property
    def lora(self) -> Future:
        """The LoRA of the plan's style; None where there is none."""
        plan, style = self.plan, self.plan.style
        if style is None:
            return None
        return self._made(
            "finetune",
            lambda: finetune.submit(
                self.context, self.base, self.latents, self.part("autoencoder"), style, plan.lora
            ),
        )

    @cached_property
    def style_classifier(self) -> Future:
        """What recognises the style; None where there is none."""
        plan = self.plan
        if plan.style is None:
            return None
        base = self.base
        waits: dict[str, Any] = {"wait_for": [base]} if "train" in self._submitted else {}
        return self._made(
            "prepare-style_classifier",
            lambda: prepare_style_classifier.submit(
                self.context, plan.style, plan.style_classifier, **self._own, **waits
            ),
        )

    @cached_property
    def evaluation(self) -> Future:
        """How the model was judged."""
        return self._made("evaluate", self._evaluate)

    def _evaluate(self) -> Future:
        model = self.model
        judged = {
            "dataset": self.dataset,
            "captions": self._learned,
            "lora": self.lora,
            "style_classifier": self.style_classifier,
            "settings": self.plan.evaluation,
        }
        judges = {name: self.part(name) for name in self.plan.parts if name in JUDGES}
        given = {name: value for name, value in (judged | judges).items() if value is not None}
        return evaluate.submit(self.context, model, **given)

    @property
    def _learned(self) -> Future | None:
        """The captions the model learned from; of latents that were made before they are not known."""
        is_known = "encode" not in self.plan.given or "caption" in self.plan.given
        return self.captions if is_known else None

    @cached_property
    def decision(self) -> Future:
        """The gate's answer."""
        plan = self.plan
        return self._made("gate", lambda: gate.submit(self.context, self.evaluation, plan.name, plan.gate))

    @cached_property
    def version(self) -> Future:
        """The version in the registry."""
        return self._made("register", self._register)

    def _register(self) -> Future:
        evaluation, decision = self.evaluation, self.decision
        return register.submit(
            self.context, self.model, evaluation, decision, self.dataset, self.plan.name, self.lora
        )

    @property
    def _own(self) -> dict[str, Future]:
        """What the embedded parts learn from: scenes of their own, or the images at hand."""
        if self.plan.source.is_procedural:
            return {"data": self.plan.source.data}
        return {"dataset": self.dataset}

    def _made(self, name: str, submit: Callable[[], Future]) -> Future:
        """Return the artifact the plan has of stage `name`, else submit it and remember that."""
        if name in self.plan.given:
            return self.plan.given[name]
        future = self._submitted[name] = submit()
        return future

    def _place(self, name: str) -> tuple[int, int]:
        kind, _, part = name.partition("-")
        parts = list(self.plan.parts)
        return STAGES.index(kind), parts.index(part) if part in parts else len(parts)


_ATTRIBUTES = {
    "curate": "dataset",
    "caption": "captions",
    "encode": "latents",
    "train": "base",
    "rectify": "model",
    "finetune": "lora",
    "evaluate": "evaluation",
    "gate": "decision",
    "register": "version",
}
