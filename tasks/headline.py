"""What is told first of a run: the few settings and numbers by which people compare runs and versions.

They stand, under the same names, on the parent run, on the evaluation's and on the run a version comes from, because
MLflow's tables and its page of two versions show what these runs hold and nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.cards import numbers, read_json
from tasks.run_key import RunRecord, StageIdentity
from tasks.tracking import MetricPoint, flat

_SETTINGS = {
    "train": {
        "steps": "job.steps",
        "batch_size": "job.batch_size",
        "learning_rate": "job.optimizer.learning_rate",
        "hidden_size": "job.model.hidden_size",
    },
    "rectify": {"steps": "job.steps", "num_pairs": "pairs.num"},
    "finetune": {"steps": "job.steps", "style": "style.source"},
    "evaluate": {"num_images": "settings.num_images", "guidance": "settings.guidance"},
}
_WRAPPERS = ("job.", "settings.", "source.")
# MLflow writes all of a run's parameters above each of its images, which leaves these no room: what a network's ends
# or the machine fix, and what hardly anyone varies, stands in the run's record.json alone.
_UNSAID = frozenset({
    "kind", "part", "threads", "world_size", "model.in_channels", "model.out_channels", "model.vec_in_dim",
    "model.context_in_dim", "model.axes_dim", "model.guidance_embed", "optimizer.betas", "optimizer.clip_norm",
    "optimizer.decay_fraction", "optimizer.warmup_steps", "sampler.image_size",
})  # fmt: skip
_CURVE_NUMBERS = ("attr_acc", "all_correct", "retrieval", "fd", "kid", "clip", "undecided", "latency_ms")


def headline_settings(lineage: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the settings in force, `stage.name` -> value, of the stages a model came from."""
    found: dict[str, Any] = {}
    for record in lineage:
        stage, parameters = record.identity.stage, record.identity.parameters
        if stage == "curate":
            found["data"] = parameters.get("source", {}).get("data", "")
        if stage == "train":
            found["train.seed"] = record.identity.seed
        for name, path in _SETTINGS.get(stage, {}).items():
            found[f"{stage}.{name}"] = _at(parameters, path)
    return {name: value for name, value in found.items() if value not in (None, "")}


def stage_settings(identity: StageIdentity) -> dict[str, str]:
    """Return a stage's settings as MLflow's parameters: one level, without the wrapper that holds most of them.

    The few that nobody asks for are left out.
    """
    plain = flat({**identity.parameters, "seed": identity.seed})
    found: dict[str, str] = {}
    for name, value in plain.items():
        if value in (None, ""):
            continue
        short = next((name.removeprefix(w) for w in _WRAPPERS if name.startswith(w)), name)
        if short in _UNSAID:
            continue
        said = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        found[name if short in found or (short != name and short in plain) else short] = said
    return found


def headline_metrics(directory: Path) -> dict[str, float]:
    """Return the numbers of an evaluation's headline point by their names in `evaluation.json`, and where it lies."""
    report = read_json(directory / "evaluation.json")
    place = {name: (report.get("headline") or {}).get(name) for name in ("steps", "guidance", "calls")}
    told = {each["name"]: each.get("value") for each in report.get("metrics", []) if "/" not in each["name"]}
    further = {
        each["name"]: each.get("value")
        for each in report.get("metrics", [])
        if each["name"]
        in ("held_out/attr_acc", "held_out/all_correct", "detailed/attr_acc", "detailed/all_correct")
    }
    return numbers(told | place | further)


def all_metrics(directory: Path) -> dict[str, float]:
    """Return every single number of an evaluation: the headline first, other prompt sets and the LoRA by prefix."""
    report = read_json(directory / "evaluation.json")
    found = headline_metrics(directory)
    found |= numbers({each["name"]: each.get("value") for each in report.get("metrics", [])})
    for row in (report.get("straightness") or {}).get("rows", []):
        found |= numbers(
            {f"{row['curve']}/{name}": row[name]["value"] for name in ("straightness_error", "path_length")}
        )
    lora = (report.get("lora") or {}).get("metrics", [])
    return found | numbers({f"lora/{each['name']}": each.get("value") for each in lora})


def curve_points(directory: Path, names: Sequence[str] = _CURVE_NUMBERS) -> list[MetricPoint]:
    """Return `curve/metric` at solver steps of each point of an evaluation's curves, by rising steps."""
    curves: Mapping[str, Any] = read_json(directory / "evaluation.json").get("curves", {})
    points = [
        MetricPoint(f"{curve}/{name}", value, int(row["steps"]))
        for curve, rows in curves.items()
        for row in rows
        for name, value in numbers({name: row.get(name) for name in names}).items()
    ]
    return sorted(points, key=lambda point: (point.name, point.step))


def _at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
