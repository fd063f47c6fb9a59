"""What one training child is asked to do: a JSON file in, metrics.jsonl and a directory out. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "fp32", "bf16"]


class OptimizerSettings(BaseModel):
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101), optionally with Muon for the inner matrices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate of AdamW.")
    muon_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate of Muon for inner matrices; null trains all by AdamW.",
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.99), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(default=0.01, ge=0, description="Decoupled weight decay.")
    warmup_steps: int = Field(default=40, ge=0, description="Steps of linear warm-up.")
    decay_fraction: float = Field(
        default=0.35, ge=0, le=1, description="Last share of steps, decaying linearly to 0."
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")


class SampleSettings(BaseModel):
    """Which images a flow's training draws on its way; none without prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...] = Field(default=(), description="Drawn each time from the same noise.")
    every: int = Field(
        default=100, gt=0, description="Steps between them; the first and last have images too."
    )
    num_steps: int = Field(default=8, gt=0, description="Euler steps of an image.")
    guidance: float = Field(default=1.0, ge=1, description="Guidance; 1 is unguided.")

    def is_due(self, step: int, total: int) -> bool:
        """Return whether images are drawn after `step` of `total` steps."""
        return bool(self.prompts) and (step % self.every == 0 or step == total)


class TrainingJob(BaseModel):
    """One run of the loop; `semantic` leaves out what does not change the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal[
        "autoencoder", "detector", "dual_encoder", "captioner", "flow", "lora", "style_classifier"
    ] = Field(description="Which network is trained.")
    data: str = Field(description="A procedural specification, a curated dataset, or (flow) encoded latents.")
    inputs: dict[str, str] = Field(
        default_factory=dict, description="Directories of networks the objective needs."
    )
    output: str = Field(description="Directory that receives metrics.jsonl, checkpoints/ and final/.")
    model: dict[str, Any] = Field(default_factory=dict, description="Fields of the network's configuration.")
    objective: dict[str, Any] = Field(default_factory=dict, description="Fields of the objective's settings.")
    optimizer: OptimizerSettings = OptimizerSettings()
    steps: int = Field(gt=0, description="Optimizer steps.")
    batch_size: int = Field(gt=0, description="Samples a step, over all processes.")
    ema_decay: float = Field(
        default=0.995, ge=0, lt=1, description="Decay of the averaged weights that are kept."
    )
    seed: int = Field(default=0, ge=0, description="Seed of weights, batches and noise.")
    precision: Precision = Field(
        default="auto", description="bf16 working copy where a probe shows that it pays."
    )
    threads: int = Field(default=1, gt=0, description="Threads of each process.")
    world_size: int = Field(default=1, gt=0, description="Processes that share each batch.")
    gpus: int = Field(
        default=0, ge=0, description="GPUs asked for where there are any; 0: one for each process."
    )
    gpu_memory_gb: float = Field(default=0.0, ge=0, description="Memory each must have, GB; 0: any.")
    checkpoint_every: int = Field(default=100, gt=0, description="Steps between checkpoints.")
    log_every: int = Field(default=10, gt=0, description="Steps between lines of metrics.jsonl.")
    samples: SampleSettings = Field(
        default=SampleSettings(), description="Images drawn on the way, into samples/; they change no bit."
    )

    def semantic(self) -> dict[str, Any]:
        """Return the fields the result depends on: all but places, machines and how often it writes."""
        places = {
            "data",
            "inputs",
            "output",
            "gpus",
            "gpu_memory_gb",
            "checkpoint_every",
            "log_every",
            "samples",
        }
        return self.model_dump(mode="json", exclude=places)


class PairSettings(BaseModel):
    """How the pairs of Reflow are drawn: noise, and the latent a teacher makes of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num: int = Field(default=3000, gt=0, description="Pairs.")
    num_steps: int = Field(default=8, gt=0, description="Euler steps of the teacher.")
    guidance: float = Field(default=2.0, ge=1, description="Guidance of the teacher; the student needs none.")
    batch_size: int = Field(default=250, gt=0, description="Images sampled together; fixes rounding.")
    precision: Precision = Field(default="auto", description="Of the teacher's network while it draws.")
    workers: int = Field(default=1, gt=0, description="Processes that share the work; change no bit.")

    def semantic(self) -> dict:
        """Return the fields that influence the pairs."""
        return self.model_dump(mode="json", exclude={"workers"})
