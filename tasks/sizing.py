"""What a job costs, asked before it is begun: names and directories to jobs, and this machine's memory and speed."""

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from fluxmodel.errors import InputError
from fluxmodel.gpu_figures import GPUS
from fluxmodel.presets import NETWORKS, PRESETS, Preset

if TYPE_CHECKING:
    from fluxmodel.job_speed import Speed
    from fluxmodel.sizing import PlannedJob

DEFAULT_TRAIN_STEPS = 1000
_GIGABYTE = 1e9
CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limit is written, if there is one."""


@dataclass(frozen=True)
class AskedPlan:
    """What the user told; 0 and empty are the preset's or the network's own.

    Attributes:
        what: a preset, a network's name or a model directory.
        lora: whether adapters are trained instead of the network.
        rank: of them.
        size: side of the images, pixels.
        batch: images of a step, over all GPUs.
        gpus: how many share it.
        gpu: kind of GPU, by a name of `GPUS`.
        gpu_memory: memory of each, GB.
        dtype: auto, fp32 or bf16.
        steps: solver steps of an image.
        train_steps: optimizer steps.
        hours_price: of a GPU, or of this machine, in any currency.
    """

    what: str
    lora: bool = False
    rank: int = 0
    size: int = 0
    batch: int = 0
    gpus: int = 0
    gpu: str = ""
    gpu_memory: float = 0.0
    dtype: str = "auto"
    steps: int = 0
    train_steps: int = 0
    hours_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rank", "size", "batch", "gpus", "gpu_memory", "steps", "train_steps", "hours_price"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} is {value}; give 0 or more.")
        if self.dtype not in ("auto", "fp32", "bf16"):
            raise InputError(f"--dtype is {self.dtype!r}; choose one of auto, fp32, bf16.")
        if self.gpu and self.gpu not in GPUS:
            raise InputError(f"--gpu is {self.gpu!r}; choose one of {', '.join(GPUS)}, or give --gpu-memory.")
        if self.gpus and not self.on_gpu:
            raise InputError(
                f"--gpus is {self.gpus}, of an unknown kind; name it with --gpu or --gpu-memory."
            )
        if self.rank and not self.lora:
            raise InputError(f"--rank is {self.rank}, which is a LoRA's; add --lora.")

    @property
    def on_gpu(self) -> bool:
        return bool(self.gpu or self.gpu_memory)


@dataclass(frozen=True)
class Room:
    """The memory a job may take: bytes for each GPU, or on this machine for all of its processes."""

    num_bytes: float
    said: str


def planned_job(asked: AskedPlan) -> tuple["PlannedJob", int]:
    """Return the job asked for and its number of training steps.

    Raises:
        InputError: there is no such preset or directory, or a value does not fit it.
    """
    if asked.what in PRESETS:
        job, train_steps = _of_preset(PRESETS[asked.what], asked.lora, asked.on_gpu)
    elif asked.what in NETWORKS:
        job, train_steps = _of_network(asked.what), DEFAULT_TRAIN_STEPS
    elif Path(asked.what).is_dir():
        from fluxmodel.model_shape import read_job

        job, train_steps = read_job(Path(asked.what)), DEFAULT_TRAIN_STEPS
    else:
        named = ", ".join((*PRESETS, *NETWORKS))
        raise InputError(f"{asked.what!r} is neither a preset ({named}) nor a directory; name one of them.")
    from fluxmodel.sizing import DEFAULT_RANK

    world_size = (asked.gpus or 1) if asked.on_gpu else job.world_size
    told: dict[str, Any] = {
        "image_size": asked.size or job.image_size,
        "batch": asked.batch or max(job.batch, world_size),
        "world_size": world_size,
        "rank": asked.rank or job.rank or (DEFAULT_RANK if asked.lora else 0),
        "num_steps": asked.steps or job.num_steps,
        "target": "gpu" if asked.on_gpu else "cpu",
        "precision": _precision(asked),
    }
    return replace(job, **told), asked.train_steps or train_steps


def _precision(asked: AskedPlan) -> Literal["fp32", "bf16"]:
    if asked.dtype != "auto":
        return "bf16" if asked.dtype == "bf16" else "fp32"
    if asked.on_gpu:
        return "bf16"
    from fluxmodel.training.precision import choose_precision

    return "bf16" if choose_precision("auto") == "bf16" else "fp32"


def _of_preset(preset: Preset, lora: bool, on_gpu: bool) -> tuple["PlannedJob", int]:
    from fluxmodel.data.procedural import ProceduralSource
    from fluxmodel.encoders.autoencoder import AutoencoderConfig
    from fluxmodel.encoders.text import WordEncoderConfig
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.sizing import DEFAULT_RANK, PlannedJob

    template = preset.lora if lora else preset.flow
    job = PlannedJob(
        preset.name,
        MMDiTConfig.model_validate(preset.flow.model),
        image_size=ProceduralSource.parse(preset.data).level.image_size,
        downscale=AutoencoderConfig.model_validate(preset.autoencoder.model).downscale,
        text_tokens=WordEncoderConfig.model_validate(preset.flow.objective.get("text", {})).max_tokens,
        batch=template.batch_size,
        world_size=template.world_size,
        rank=template.objective.get("rank", DEFAULT_RANK) if lora else 0,
        optimizer=template.optimizer,
        num_steps=preset.num_steps,
        num_passes=2 if preset.guidance > 1 else 1,
    )
    return job, template.steps


def _of_network(name: str) -> "PlannedJob":
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.sizing import PlannedJob

    shape = NETWORKS[name]
    config = MMDiTConfig.model_validate(shape.network)
    return PlannedJob(
        name, config, shape.image_size, shape.downscale, shape.text_tokens, num_steps=shape.num_steps
    )


def room(asked: AskedPlan) -> Room:
    """Return the memory there is: as told, as the GPU's kind has it, or what is free here."""
    if asked.gpu_memory:
        return Room(asked.gpu_memory * _GIGABYTE, f"--gpu-memory is {asked.gpu_memory:g} GB")
    if asked.gpu:
        return Room(
            GPUS[asked.gpu].memory_gb * _GIGABYTE, f"an {asked.gpu} has {GPUS[asked.gpu].memory_gb} GB"
        )
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no such limit, or "max"
        free = min(free, _cgroup_room())
    return Room(free, f"{free / _GIGABYTE:.1f} GB of memory are free here")


def _cgroup_room() -> float:
    """Return what a container's limit leaves; files it has read and no longer uses go when memory is wanted."""
    limit, used = (float((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    return max(0.0, limit - (used - float(stat.get("inactive_file", 0))))


def refusal(asked: AskedPlan, job: "PlannedJob", where: Room) -> tuple[str, "PlannedJob | None"]:
    """Return why a job cannot fit and the nearest that does, in one sentence, and that job."""
    from fluxmodel.sizing import least_job, nearest_that_fits

    said = f"{job.said}, needs {job.need_bytes / _GIGABYTE:.1f} GB, but {where.said}"
    nearest = nearest_that_fits(job, where.num_bytes)
    if nearest is None:
        least = least_job(job)
        need = least.need_bytes / _GIGABYTE
        return f"{said}; nothing near fits: even {least.said}, needs {need:.1f} GB.", None
    need = nearest.need_bytes / _GIGABYTE
    command = f"fluxline plan {shlex.quote(asked.what)} {_flags(asked, nearest)}"
    return f"{said}; the nearest that fits needs {need:.1f} GB: {command}", nearest


def _flags(asked: AskedPlan, job: "PlannedJob") -> str:
    """The flags that ask for a job, where the first one was asked for."""
    told = {
        "--lora": "" if job.rank else None,
        "--rank": asked.rank or None,
        "--size": job.image_size,
        "--batch": job.batch,
        "--dtype": job.precision,
        "--gpus": asked.gpus or None,
        "--gpu": asked.gpu or None,
        "--gpu-memory": f"{asked.gpu_memory:g}" if asked.gpu_memory else None,
    }
    return " ".join(f"{flag} {value}".rstrip() for flag, value in told.items() if value is not None)


@dataclass(frozen=True)
class Plan:
    """All that is said of a job; `speed` is None where it does not fit, or nothing is known of the GPU.

    Attributes:
        job: what was asked for.
        train_steps: optimizer steps.
        parameters: of the network by part, and of the adapters.
        where: the memory there is.
        speed: how long things take.
        refusal: why it cannot fit, and what does; "" where it fits.
        nearest: what does; None where nothing near does, or the job fits.
    """

    job: "PlannedJob"
    train_steps: int
    parameters: dict[str, int]
    where: Room
    speed: "Speed | None"
    refusal: str = ""
    nearest: "PlannedJob | None" = None


def plan_job(asked: AskedPlan) -> Plan:
    """Return what a job costs, having tried it where it fits here.

    Raises:
        InputError: it is not clear which job.
    """
    from fluxmodel.sizing import count_parameters

    job, train_steps = planned_job(asked)
    where = room(asked)
    parameters = count_parameters(job.config, job.rank)
    if job.need_bytes > where.num_bytes:
        return Plan(job, train_steps, parameters, where, None, *refusal(asked, job, where))
    return Plan(job, train_steps, parameters, where, _speed(asked, job, train_steps))


def _speed(asked: AskedPlan, job: "PlannedJob", train_steps: int) -> "Speed | None":
    from fluxmodel.job_speed import assumed_speed, measured_speed

    price = asked.hours_price or None
    if asked.on_gpu:
        return assumed_speed(job, asked.gpu, train_steps, price) if asked.gpu else None
    return measured_speed(job, train_steps, price)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as one JSON object; bytes, operations and seconds."""
    job, memory, flops, speed = plan.job, plan.job.memory, plan.job.step_flops, plan.speed
    return {
        "name": job.name,
        "job": _job_as_json(job) | {"train_steps": plan.train_steps},
        "parameters": {"parts": plan.parameters, **_totals(plan)},
        "flops": {
            "image": job.image_flops,
            "step": flops.total,
            "step_forward": sum(flops.forward.values()),
            "step_backward": sum(flops.backward.values()),
            "step_by_6nd": job.six_n_d(plan.parameters),
        },
        "memory": {
            "peak": memory.peak,
            "phase": memory.phase,
            "parts": memory.parts,
            "kept_for_backward": memory.kept,
            "start": memory.start,
            "need": round(job.need_bytes),
            "room": round(plan.where.num_bytes),
        },
        "speed": asdict(speed) if speed is not None else None,
        "fits": not plan.refusal,
        "refusal": plan.refusal,
        "nearest": _job_as_json(plan.nearest) if plan.nearest is not None else None,
    }


def _totals(plan: Plan) -> dict[str, int]:
    adapters = plan.parameters.get("adapters", 0)
    network = sum(plan.parameters.values()) - adapters
    return {"network": network, "trained": adapters or network}


def _job_as_json(job: "PlannedJob") -> dict[str, Any]:
    return {
        "size": job.image_size,
        "image_tokens": job.shape.image_tokens,
        "text_tokens": job.text_tokens,
        "batch": job.batch,
        "processes": job.world_size,
        "rank": job.rank,
        "precision": job.precision,
        "steps": job.num_steps,
        "passes": job.num_passes,
        "target": job.target,
    }
