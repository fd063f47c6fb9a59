"""Named sizes: every number a whole run needs, by name. Imports no torch.

| preset | what it is for | cost on two CPU cores |
|---|---|---|
| smoke | the whole chain in a few seconds of training, for tests; quality is not asserted | well under a minute |
| demo | scenes of the richest level, learned well enough to follow prompts to the eye | minutes |
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.training_job import OptimizerSettings, PairSettings, Precision, TrainingJob


class TrainingTemplate(BaseModel):
    """A training job without its places: what `job` fills in is data, inputs, output, seed and precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal[
        "autoencoder", "detector", "dual_encoder", "captioner", "flow", "lora", "style_classifier"
    ] = Field(description="Which network is trained.")
    model: dict[str, Any] = Field(default_factory=dict, description="Fields of the network's configuration.")
    objective: dict[str, Any] = Field(default_factory=dict, description="Fields of the objective's settings.")
    optimizer: OptimizerSettings = OptimizerSettings()
    steps: int = Field(gt=0, description="Optimizer steps.")
    batch_size: int = Field(gt=0, description="Samples a step.")
    ema_decay: float = Field(default=0.995, ge=0, lt=1, description="Decay of the averaged weights.")
    world_size: int = Field(default=1, gt=0, description="Processes that share each batch.")
    gpus: int = Field(
        default=0, ge=0, description="GPUs asked for where there are any; 0: one for each process."
    )
    gpu_memory_gb: float = Field(default=0.0, ge=0, description="Memory each must have, GB; 0: any.")
    checkpoint_every: int = Field(default=100, gt=0, description="Steps between checkpoints.")

    def job(
        self,
        data: str,
        output: str,
        inputs: dict[str, str] | None = None,
        seed: int = 0,
        precision: Precision = "auto",
    ) -> TrainingJob:
        """Return the job at its places."""
        return TrainingJob(
            **self.model_dump(), data=data, output=output, inputs=inputs or {}, seed=seed, precision=precision
        )


class Preset(BaseModel):
    """A whole run by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Its name.")
    description: str = Field(description="What it is for and what it costs.")
    data: str = Field(description="The data it runs on unless told otherwise.")
    rules: dict[str, Any] = Field(default_factory=dict, description="Fields of the curation rules.")
    autoencoder: TrainingTemplate
    detector: TrainingTemplate
    dual_encoder: TrainingTemplate
    captioner: TrainingTemplate
    flow: TrainingTemplate
    pairs: PairSettings = Field(description="The pairs that Reflow learns from.")
    rectify: TrainingTemplate
    lora: TrainingTemplate
    style_classifier: TrainingTemplate
    style: str = Field(description="The style the LoRA learns unless told otherwise.")
    num_steps: int = Field(default=8, gt=0, description="Default Euler steps of the base model.")
    guidance: float = Field(default=2.0, ge=1, description="Default guidance of the base model.")
    evaluation: dict[str, Any] = Field(default_factory=dict, description="Fields of the evaluation settings.")


_TEXT = {"dim": 128, "context": 2}
"""Words that know their neighbours: at 1600 steps short prompts drawn all right went from 0.38 to 0.70."""


def _mmdit(hidden_size: int, num_heads: int, depth: int, depth_single_blocks: int) -> dict[str, Any]:
    """Return an MM-DiT over packed 8-channel latents and the words of `_TEXT`, head dimension 32."""
    return {
        "in_channels": 32,
        "out_channels": 32,
        "vec_in_dim": _TEXT["dim"],
        "context_in_dim": _TEXT["dim"],
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "depth": depth,
        "depth_single_blocks": depth_single_blocks,
        "axes_dim": (8, 12, 12),
        "guidance_embed": False,
    }


_ON_PAIRS = {
    "coupling": "pairs",
    "caption_mix": {"prompt": 1.0},
    "caption_dropout": 0.0,
    "time_density": "u_shaped",
    "noise_share": 0.5,
    "huber_width": 0.1,
}
"""Reflow: the student learns the guided teacher's pairs and needs no guidance, hence no empty captions.

The pseudo-Huber loss makes one step take a side where the teacher's choice hangs on a hair: images all right
0.728 -> 0.760, attributes 0.939 -> 0.948, on the same pairs."""


DEMO = Preset(
    name="demo",
    description="Two shapes in nine places, eight shapes, eight colours, two sizes: the whole chain in minutes.",
    data="procedural:shapes?level=full&n=20000&seed=0",
    autoencoder=TrainingTemplate(
        kind="autoencoder",
        model={"width": 64, "num_blocks": 2},
        optimizer=OptimizerSettings(muon_learning_rate=0.02, warmup_steps=50, decay_fraction=0.7),
        steps=4500,
        batch_size=16,
        ema_decay=0.99,
        checkpoint_every=500,
    ),
    detector=TrainingTemplate(
        kind="detector",
        optimizer=OptimizerSettings(
            learning_rate=5e-3, muon_learning_rate=0.02, clip_norm=10.0, decay_fraction=0.6
        ),
        steps=400,
        batch_size=64,
        ema_decay=0.98,
    ),
    dual_encoder=TrainingTemplate(
        kind="dual_encoder",
        model={"image_width": 64, "text_width": 64},
        optimizer=OptimizerSettings(learning_rate=2e-3, muon_learning_rate=0.02, decay_fraction=0.6),
        steps=250,
        batch_size=96,
        ema_decay=0.98,
    ),
    captioner=TrainingTemplate(
        kind="captioner",
        optimizer=OptimizerSettings(learning_rate=2e-3, muon_learning_rate=0.02, decay_fraction=0.6),
        steps=460,
        batch_size=64,
        ema_decay=0.98,
    ),
    flow=TrainingTemplate(
        kind="flow",
        model=_mmdit(128, 4, 1, 3),
        objective={"text": _TEXT, "time_density": "uniform"},
        optimizer=OptimizerSettings(learning_rate=3e-3, muon_learning_rate=0.02, decay_fraction=0.6),
        steps=1600,
        batch_size=64,
        world_size=2,
        gpus=1,  # its two processes are for two cores; one GPU has room for both
        checkpoint_every=200,
    ),
    pairs=PairSettings(num=4000, num_steps=8, guidance=1.5),
    rectify=TrainingTemplate(
        kind="flow",
        objective=_ON_PAIRS,
        optimizer=OptimizerSettings(
            learning_rate=2e-3, muon_learning_rate=0.015, warmup_steps=20, decay_fraction=0.6
        ),
        steps=600,
        batch_size=64,
        ema_decay=0.98,
    ),
    guidance=1.5,
    style="style:wash?level=full&n=16&seed=0",
    lora=TrainingTemplate(
        kind="lora",
        objective={"prior_share": 0.4, "strength": 1.25},
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=20, decay_fraction=0.6),
        steps=500,
        batch_size=32,
        ema_decay=0.98,
    ),
    style_classifier=TrainingTemplate(
        kind="style_classifier",
        optimizer=OptimizerSettings(
            learning_rate=5e-3,
            muon_learning_rate=0.02,
            clip_norm=10.0,
            warmup_steps=20,
            decay_fraction=0.6,
        ),
        steps=400,
        batch_size=64,
        ema_decay=0.95,
    ),
    evaluation={
        "num_images": 1000,
        "num_held_out": 500,
        "steps": (1, 2, 4, 8),
        "guidance": 1.5,
        "workers": 2,
        "thresholds": {
            "attr_acc": 0.90,
            "all_correct": 0.60,
            "held_out/attr_acc": 0.85,
            "held_out/all_correct": 0.45,
        },
    },
)

SMOKE = Preset(
    name="smoke",
    description="The whole chain in a few seconds of training; quality is not asserted.",
    data="procedural:shapes?level=demo&n=400&seed=0",
    autoencoder=TrainingTemplate(
        kind="autoencoder",
        model={"width": 32, "num_blocks": 1},
        objective={"num_images": 400, "num_validation": 64},
        steps=30,
        batch_size=16,
        checkpoint_every=10,
    ),
    detector=TrainingTemplate(
        kind="detector",
        model={"width": 32, "num_blocks": 1},
        objective={"num_images": 400, "num_validation": 64},
        steps=20,
        batch_size=32,
        checkpoint_every=10,
    ),
    dual_encoder=TrainingTemplate(
        kind="dual_encoder",
        model={
            "image_width": 32,
            "text_width": 32,
            "image_layers": 1,
            "text_layers": 1,
            "projection_dim": 32,
        },
        objective={"num_images": 400, "num_validation": 64},
        steps=10,
        batch_size=32,
        checkpoint_every=5,
    ),
    captioner=TrainingTemplate(
        kind="captioner",
        model={"width": 32, "image_layers": 1, "text_layers": 1},
        objective={"num_images": 400, "num_validation": 64},
        steps=20,
        batch_size=32,
        checkpoint_every=10,
    ),
    flow=TrainingTemplate(
        kind="flow",
        model=_mmdit(64, 2, 1, 1),
        objective={"text": _TEXT},
        optimizer=OptimizerSettings(learning_rate=3e-3, muon_learning_rate=0.02),
        steps=40,
        batch_size=32,
        world_size=2,
        gpus=1,  # its two processes are for two cores; one GPU has room for both
        checkpoint_every=10,
    ),
    pairs=PairSettings(num=64, num_steps=2),
    rectify=TrainingTemplate(
        kind="flow",
        objective=_ON_PAIRS,
        optimizer=OptimizerSettings(learning_rate=1e-3, muon_learning_rate=0.01),
        steps=20,
        batch_size=32,
        world_size=2,
        gpus=1,  # its two processes are for two cores; one GPU has room for both
        checkpoint_every=10,
    ),
    style="style:wash?level=demo&n=8&seed=0",
    lora=TrainingTemplate(kind="lora", objective={"rank": 4}, steps=10, batch_size=16, checkpoint_every=5),
    style_classifier=TrainingTemplate(
        kind="style_classifier",
        model={"width": 16},
        objective={"num_images": 64, "num_validation": 32},
        steps=10,
        batch_size=16,
        checkpoint_every=5,
    ),
    num_steps=2,
    evaluation={
        "num_images": 64,
        "num_held_out": 32,
        "num_detailed": 32,
        "num_lora": 16,
        "num_paths": 16,
        "num_calibration": 20,
        "steps": (1, 2),
        "rectified_steps": (1, 2),
        "guidance": 2.0,
    },
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (DEMO, SMOKE)}


class NetworkShape(BaseModel):
    """A network by name without a run of its own: what `fluxline plan` needs to know of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: dict[str, Any] = Field(description="Fields of the MM-DiT's configuration.")
    image_size: int = Field(default=1024, gt=0, description="Side of its images, pixels.")
    downscale: int = Field(default=8, gt=0, description="Side of an image over that of its latents.")
    text_tokens: int = Field(gt=0, description="Tokens of a caption, padding included.")
    num_steps: int = Field(
        gt=0, description="Euler steps of an image; its guidance is an input, not a second call."
    )


NETWORKS: dict[str, NetworkShape] = {
    "flux_dev": NetworkShape(network={"guidance_embed": True}, text_tokens=512, num_steps=28),
    "flux_schnell": NetworkShape(network={"guidance_embed": False}, text_tokens=256, num_steps=4),
}
"""FLUX.1's two networks; the fields not named are the configuration's defaults."""
