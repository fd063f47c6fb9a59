"""How long a job takes: by trying it on this machine's processor, or by a GPU's published peak and an assumption."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fluxmodel.gpu_figures import GPUS
from fluxmodel.sizing import PlannedJob
from fluxmodel.training.probe import Probe, matmul_peak, num_threads, probe_sampling, probe_training

ASSUMED_MFU = 0.4
"""Share of the peak where nothing can be tried: on GPUs that are not here, and for networks too large to try."""


@dataclass(frozen=True)
class Speed:
    """How long things take and how that is known.

    Attributes:
        peak_flops: operations a second of one GPU, or of one process here, at best.
        peak_said: where that is from.
        step_seconds, image_seconds: a training step with all processes, an image with one.
        step_mfu, image_mfu: share of the peak.
        step_said, image_said: what was tried, or that it is assumed.
        total_seconds: of all training steps.
        hours: GPU hours, or hours of this machine.
        cost: at the price told; None without one.
    """

    peak_flops: float
    peak_said: str
    step_seconds: float
    image_seconds: float
    step_mfu: float
    image_mfu: float
    step_said: str
    image_said: str
    total_seconds: float
    hours: float
    cost: float | None


def measured_speed(job: PlannedJob, train_steps: int, price: float | None) -> Speed:
    """Try a job's step and its sampling on this machine for a few seconds.

    A job computes with one thread in each of its processes; how many there are is believed to multiply its speed.
    """
    with num_threads(1):
        peak = matmul_peak(job.shape.dtype)
        step = probe_training(job.shape, peak) or _assumed(peak)
        image = probe_sampling(replace(job.shape, batch=job.num_passes, rank=0), peak) or _assumed(peak)
    return _speed(job, (peak, "measured, one thread"), step, image, (train_steps, 1, price))


def assumed_speed(job: PlannedJob, gpu: str, train_steps: int, price: float | None) -> Speed:
    """Say how long a job takes at `ASSUMED_MFU` of what is published of a kind of GPU."""
    peak = GPUS[gpu].peak(job.precision)
    said = f"published, {gpu}"
    return _speed(job, (peak, said), _assumed(peak), _assumed(peak), (train_steps, job.world_size, price))


def _assumed(peak: float) -> Probe:
    return Probe(ASSUMED_MFU * peak, "assumed", False)


def _speed(
    job: PlannedJob,
    peak: tuple[float, str],
    step: Probe,
    image: Probe,
    bill: tuple[int, int, float | None],
) -> Speed:
    train_steps, num_paid, price = bill
    step_seconds = job.step_flops.total / (step.flops_per_second * job.world_size)
    hours = train_steps * step_seconds * num_paid / 3600
    return Speed(
        *peak,
        step_seconds=step_seconds,
        image_seconds=job.image_flops / image.flops_per_second,
        step_mfu=step.flops_per_second / peak[0],
        image_mfu=image.flops_per_second / peak[0],
        step_said=step.said,
        image_said=image.said,
        total_seconds=train_steps * step_seconds,
        hours=hours,
        cost=None if price is None else hours * price,
    )
