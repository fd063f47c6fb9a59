"""What `fluxline plan` says, in lines for people."""

from collections.abc import Iterator

from fluxmodel.sizing import PlannedJob
from tasks.pace import seconds_said
from tasks.sizing import Plan

_LABEL, _NUMBER, _BAR = 22, 16, 30
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
_PHASES = {"forward": "forward pass", "backward": "backward pass", "update": "update"}
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def plan_lines(plan: Plan) -> list[str]:
    """Return the whole plan, the verdict last."""
    job = plan.job
    tokens = f"{job.shape.image_tokens} image and {job.text_tokens} text tokens"
    return [
        job.said,
        f"{tokens}; {_place(job)}",
        "",
        *_parameters(plan),
        *_operations(plan),
        *_memory(plan),
        *_time(plan),
        "",
        _verdict(plan),
    ]


def _place(job: PlannedJob) -> str:
    if job.target == "gpu":
        return f"{job.world_size} GPU{'s' if job.world_size > 1 else ''}"
    return f"{job.world_size} process{'es' if job.world_size > 1 else ''} on this machine's processor"


def _row(label: str, number: str, said: str = "") -> str:
    return f"{label:<{_LABEL}}{number:>{_NUMBER}}  {said}".rstrip()


def _parameters(plan: Plan) -> Iterator[str]:
    adapters = plan.parameters.get("adapters", 0)
    network = sum(plan.parameters.values()) - adapters
    yield _row("parameters", f"{network:,}")
    for part, num in plan.parameters.items():
        said = f"{num / network:.1%} as many, trained" if part == "adapters" else f"{num / network:.1%}"
        yield _row(f"  {part}", f"{num:,}", said)


def _operations(plan: Plan) -> Iterator[str]:
    job, flops = plan.job, plan.job.step_flops
    forward, backward = sum(flops.forward.values()), sum(flops.backward.values())
    doubled = ", twice for guidance" if job.num_passes > 1 else ""
    by_rule = job.six_n_d(plan.parameters)
    yield "operations"
    yield _row(
        "  an image",
        _operations_said(job.image_flops),
        f"{job.num_steps} step{'s' if job.num_steps > 1 else ''}{doubled}",
    )
    yield _row(
        "  a training step",
        _operations_said(flops.total),
        f"{_operations_said(forward)} forward, {_operations_said(backward)} backward; "
        f"6 N D says {by_rule / flops.total:.2f} times that",
    )


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.job.memory
    each = " in each process" if plan.job.world_size > 1 else ""
    yield _row(
        "memory of a step", _bytes_said(memory.peak), f"at its most{each}, in the {_PHASES[memory.phase]}"
    )
    for part, num in memory.parts.items():
        yield _row(f"  {part}", _bytes_said(num), "█" * round(_BAR * num / memory.peak))
    if memory.phase == "update":
        yield _row("  before that", _bytes_said(memory.kept), "activations kept for the backward pass")
    if memory.start > memory.peak and plan.job.target == "cpu":
        yield _row("  before the steps", _bytes_said(memory.start), "while fp32 weights are copied")


def _time(plan: Plan) -> Iterator[str]:
    speed = plan.speed
    if speed is None:
        if not plan.refusal:
            yield _row("time", "unknown", "name the kind of GPU (--gpu h100, ...) to have it estimated")
        return
    yield "time"
    yield _row("  matrix products", f"{_operations_said(speed.peak_flops)}/s", speed.peak_said)
    for label, seconds, mfu, said in (
        ("an image", speed.image_seconds, speed.image_mfu, speed.image_said),
        ("a training step", speed.step_seconds, speed.step_mfu, speed.step_said),
    ):
        yield _row(f"  {label}", _short_time(seconds), f"MFU {mfu:.0%}, {_tried(said)}")
    yield _row(f"  {plan.train_steps} steps", seconds_said(speed.total_seconds), _cost(plan))


def _tried(said: str) -> str:
    return said if said == "assumed" else f"measured: {said}"


def _cost(plan: Plan) -> str:
    assert plan.speed is not None
    kind = "GPU hours" if plan.job.target == "gpu" else "hours of this machine"
    cost = "" if plan.speed.cost is None else f", {plan.speed.cost:.2f} at the price told"
    return f"{plan.speed.hours:.2g} {kind}{cost}"


def _verdict(plan: Plan) -> str:
    need = _bytes_said(plan.job.need_bytes)
    if plan.refusal:
        return f"does not fit: needs {need}, and {plan.where.said}"
    return f"fits: needs {need} with what a process takes beside its tensors, and {plan.where.said}"


def _short_time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else seconds_said(seconds)


def _operations_said(number: float) -> str:
    return _scaled(number, _PREFIXES) + "FLOP"


def _bytes_said(number: float) -> str:
    return _scaled(number, _BYTES)


def _scaled(number: float, units: tuple[tuple[float, str], ...]) -> str:
    if not number:
        return f"0 {units[-1][1]}"
    size, unit = next((each for each in units if number >= each[0]), units[-1])
    value = number / size
    decimals = max(0, 3 - len(str(int(value)))) if size > 1 else 0
    return f"{value:,.{decimals}f} {unit}"
