"""The model card of a version: README.md with YAML front matter, as diffusers' and hub models have it."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report_numbers import number
from tasks.gate import GateDecision
from tasks.run_key import RunRecord

README = "README.md"
_TAGS = ("text-to-image", "flow-matching", "mm-dit")
_BETTER = {"higher": "higher", "lower": "lower", "none": ""}
_FIRST = ("attr_acc", "all_correct", "retrieval", "fd", "kid", "clip", "latency_ms")
_FURTHER = ("guided_max/", "held_out_guided_max/", "detailed_guided_max/")


def front_matter(lineage: Sequence[RunRecord], licence: str = "", lora_name: str = "") -> str:
    """Return the YAML block that tools read: library, task, tags, data; the licence only where it is known."""
    tags = [*_TAGS]
    tags += ["rectified-flow", "few-step"] if _stage(lineage, "rectify") else []
    tags += ["lora"] if lora_name else []
    lines = ["library_name: fluxline", "pipeline_tag: text-to-image"]
    lines += [f"license: {licence}"] if licence else []
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    lines += ["datasets:", f'- "{data_of(lineage)}"'] if data_of(lineage) else []
    return "\n".join(["---", *lines, "---", ""])


def model_card(
    name: str,
    lineage: Sequence[RunRecord],
    evaluation: Mapping[str, Any],
    decision: GateDecision | None = None,
    lora_name: str = "",
) -> str:
    """Return the card's text, in Markdown: what it is, how to use it, how good it is, data, limits, lineage."""
    parts = [
        f"# {name}\n\n{_what(lineage, evaluation, lora_name)}",
        f"## Use\n\n{_use(name, evaluation, lora_name)}",
        f"## How good it is\n\n{_quality(evaluation)}",
        f"## What the gate said: {decision.verdict}\n\n{_bullets(decision.reasons)}" if decision else "",
        f"## Data\n\n{_data(lineage)}",
        f"## Intended use and limits\n\n{_limits(evaluation)}",
        f"## What it was made of\n\n{_made(lineage)}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def data_of(lineage: Sequence[RunRecord]) -> str:
    """Return what the model was trained on, in a few words."""
    record = _stage(lineage, "curate")
    if record is None:
        return ""
    source = record.identity.parameters.get("source", {})
    return source.get("data") or f"a folder with fingerprint {source.get('fingerprint', '')[:12]}"


def _what(lineage: Sequence[RunRecord], evaluation: Mapping[str, Any], lora_name: str) -> str:
    train, rectify = _stage(lineage, "train"), _stage(lineage, "rectify")
    size = (
        f" of {train.metrics['parameters']:,.0f} parameters"
        if train and "parameters" in train.metrics
        else ""
    )
    said = (
        f"A text-to-image model: a FLUX-style MM-DiT{size}, trained by flow matching in the latents of its "
    )
    said += "own autoencoder"
    if rectify is not None:
        head = evaluation.get("headline", {})
        steps = head.get("steps", 1) if head.get("curve") == "rectified" else 1
        said += f", then rectified so that {steps} {'step draws' if steps == 1 else 'steps draw'} an image"
    said += f". Trained by Fluxline on `{data_of(lineage)}`."
    return said + (f" With a LoRA, `{lora_name}`." if lora_name else "")


def _use(name: str, evaluation: Mapping[str, Any], lora_name: str) -> str:
    prompt = "a red circle"
    head = evaluation.get("headline", {})
    steps = head.get("steps", 1)
    lora = f"\nfluxline generate '{prompt}' --model {name} --lora {lora_name}" if lora_name else ""
    return (
        f"```bash\nfluxline generate '{prompt}' --model {name} --steps {steps} --seed 0{lora}\n"
        f"mlflow models serve -m models:/{name}@champion --env-manager local\n```\n\n"
        "```python\nfrom fluxmodel import TextToImage\n\n"
        "pipe = TextToImage.from_pretrained(directory)  # this version's files\n"
        f'image = pipe("{prompt}", num_steps={steps}, seed=0)[0]\n```'
    )


def _quality(evaluation: Mapping[str, Any]) -> str:
    metrics = [m for m in evaluation.get("metrics", []) if not m["name"].startswith(_FURTHER)]
    if not metrics:
        return "It was not measured."
    rank = {name: place for place, name in enumerate(_FIRST)}
    metrics.sort(key=lambda m: ("/" in m["name"], rank.get(m["name"], len(rank))))
    rows = [
        f"| {m['name']} | {number(m['name'], m['value'])} | {_interval(m)} | {m['n']:,} | {_BETTER[m['direction']]} |"
        for m in metrics
        if m["value"] is not None
    ]
    head = evaluation.get("headline", {})
    where = (
        f"{head.get('curve', '')}, {head.get('steps')} step(s), guidance {head.get('guidance', 1):g}".replace(
            "_", " "
        )
    )
    table = "| metric | value | 95 % interval | images | better |\n|---|---|---|---|---|\n" + "\n".join(rows)
    identity = evaluation.get("identity", {})
    by = [f"{word}: {identity[field]}" for field, word in _MEASURED_WITH.items() if identity.get(field)]
    return f"At its headline point ({where}).\n\n{table}\n\nMeasured with: " + "; ".join(by) + "."


_MEASURED_WITH = {
    "judge": "judge",
    "feature_extractor": "features of the distances",
    "text_image": "text and image",
    "prompts": "prompts",
    "dtype": "numbers",
}


def _interval(metric: Mapping[str, Any]) -> str:
    if metric.get("ci_low") is None or metric.get("ci_high") is None:
        return ""
    return f"{number(metric['name'], metric['ci_low'])} to {number(metric['name'], metric['ci_high'])}"


def _data(lineage: Sequence[RunRecord]) -> str:
    curate, captions = _stage(lineage, "curate"), _stage(lineage, "caption")
    said = [f"`{data_of(lineage)}`" + (f": {curate.gave}" if curate else "")]
    said += [f"captions: {captions.gave}"] if captions else []
    return _bullets(said)


def _limits(evaluation: Mapping[str, Any]) -> str:
    said = [
        "It draws what its data showed, in the words of its captions, at the size it was trained on; words it was not "
        "trained on mean nothing to it.",
        "Its figures hold for the prompts and the judge above; figures of another identity are not comparable.",
    ]
    held = {m["name"]: m["value"] for m in evaluation.get("metrics", [])}
    if (seen := held.get("attr_acc")) is not None and (unseen := held.get("held_out/attr_acc")) is not None:
        said.append(
            f"On combinations it never saw: {unseen:.1%} of the attributes right, against {seen:.1%} on seen ones."
        )
    weakest = _weakest(evaluation.get("groups") or {})
    return _bullets([*said, *([weakest] if weakest else [])])


def _weakest(groups: Mapping[str, Any]) -> str:
    """The group with the lowest share of attributes right, in words."""
    rows = [
        (row["attr_acc"]["value"], kind, row["group"])
        for kind, found in groups.items()
        for row in found
        if isinstance(row, Mapping)
        and isinstance(row.get("attr_acc"), Mapping)
        and row["attr_acc"].get("value") is not None
    ]
    if not rows:
        return ""
    value, kind, group = min(rows)
    return f"Weakest where the {kind.replace('_', ' ')} is {group}: {value:.1%} of the attributes right."


def _made(lineage: Sequence[RunRecord]) -> str:
    rows = [
        f"| {r.identity.stage} | {r.gave} | {r.seconds:.0f} s | `{r.artifact.digest[:12]}` | `{r.run_key[:12]}` |"
        for r in lineage
    ]
    return "| stage | gave | took | artifact | run key |\n|---|---|---|---|---|\n" + "\n".join(rows)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _stage(lineage: Sequence[RunRecord], stage: str) -> RunRecord | None:
    return next((record for record in lineage if record.identity.stage == stage), None)
