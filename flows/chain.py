"""The chain of stages, each submitted when something first asks for it: whoever wants one stage gets what it needs."""

from __future__ import annotations

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
            job = self.plan.parts[name]
            future = prepare.submit(self.context, name, job, **self._own, **waits)
            self._parts[name] = self._note(f"prepare-{name}", future)
        return self._parts[name]

    @cached_property
    def dataset(self) -> Future:
        """The curated data set."""
        return self._note("curate", curate.submit(self.context, self.plan.source, self.plan.rules))

    @cached_property
    def captions(self) -> Future:
        """The captions of its images."""
        dataset = self.dataset
        self.part("autoencoder")  # not asked for here, but of the parts it takes longest: it goes first
        captioner = self.part("captioner") if "captioner" in self.plan.parts else None
        return self._note("caption", caption.submit(self.context, dataset, captioner, self.plan.captioner))

    @cached_property
    def latents(self) -> Future:
        """Latents of images and tokens of captions."""
        future = encode.submit(self.context, self.dataset, self.captions, self.part("autoencoder"))
        return self._note("encode", future)

    @cached_property
    def base(self) -> Future:
        """The base model."""
        latents, autoencoder = self.latents, self.part("autoencoder")
        return self._note(
            "train", train.submit(self.context, latents, autoencoder, self.plan.flow, self.plan.sampler)
        )

    @cached_property
    def model(self) -> Future:
        """The few-step model, with the base it learnt from."""
        plan = self.plan
        future = rectify.submit(
            self.context, self.base, self.latents, plan.pairs, plan.rectify, plan.rectified
        )
        return self._note("rectify", future)

    @cached_property
    def lora(self) -> Future:
        """The LoRA of the plan's style; None where there is none."""
        if self.plan.style is None:
            return None
        future = finetune.submit(
            self.context, self.base, self.latents, self.part("autoencoder"), self.plan.style, self.plan.lora
        )
        return self._note("finetune", future)

    @cached_property
    def style_classifier(self) -> Future:
        """What recognises the style; None where there is none."""
        if self.plan.style is None:
            return None
        future = prepare_style_classifier.submit(
            self.context, self.plan.style, self.plan.style_classifier, **self._own, wait_for=[self.base]
        )
        return self._note("prepare-style_classifier", future)

    @cached_property
    def evaluation(self) -> Future:
        """How the model was judged."""
        model = self.model
        judged = {
            "dataset": self.dataset,
            "lora": self.lora,
            "style_classifier": self.style_classifier,
            "settings": self.plan.evaluation,
        }
        judges = {name: self.part(name) for name in self.plan.parts if name in JUDGES}
        given = {name: value for name, value in (judged | judges).items() if value is not None}
        return self._note("evaluate", evaluate.submit(self.context, model, **given))

    @cached_property
    def decision(self) -> Future:
        """The gate's answer."""
        return self._note("gate", gate.submit(self.context, self.evaluation, self.plan.name, self.plan.gate))

    @cached_property
    def version(self) -> Future:
        """The version in the registry."""
        evaluation, decision = self.evaluation, self.decision
        future = register.submit(
            self.context, self.model, evaluation, decision, self.dataset, self.plan.name, self.lora
        )
        return self._note("register", future)

    @property
    def _own(self) -> dict[str, Future]:
        """What the embedded parts learn from: scenes of their own, or the images at hand."""
        if self.plan.source.is_procedural:
            return {"data": self.plan.source.data}
        return {"dataset": self.dataset}

    def _note(self, name: str, future: Future) -> Future:
        self._submitted[name] = future
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
