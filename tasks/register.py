"""Register: make the model a version in MLflow's registry, with its lineage and alias `challenger`."""

import json
from pathlib import Path

from prefect import task

from tasks import registry, tracking
from tasks.artifacts import ArtifactRef
from tasks.cards import read_json
from tasks.evaluate import read_evaluation
from tasks.home import Home
from tasks.run_key import RunBook, RunRecord
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

FILE = "registration.json"


def _version_gone(home: Home, directory: Path) -> str:
    made = read_json(directory / FILE)
    try:
        stands = registry.has_version(home, made["name"], made["version"])
    except Exception:  # MLflow away: what it said last counts
        return ""
    return "" if stands else f"{made['name']} version {made['version']} is not in the registry any more"


REGISTER = Stage("register", kind="registration", modules=("tasks.register",), fallen=_version_gone)


@task(**REGISTER.options(), task_run_name="register")
def register(
    context: RunContext, model: ArtifactRef, evaluation: ArtifactRef, dataset: ArtifactRef, name: str
) -> ArtifactRef:
    """Register the evaluated model under `name`."""
    inputs = {"model": model, "evaluation": evaluation, "dataset": dataset}
    return REGISTER.run(context, _register, **inputs, name=name)


def _register(
    run: StageRun, model: ArtifactRef, evaluation: ArtifactRef, dataset: ArtifactRef, name: str
) -> Outcome:
    metrics = read_evaluation(run.path(evaluation))
    lineage = RunBook(run.home).lineage([model.digest, evaluation.digest])
    tags = {"run_key": run.identity.run_key, "git_commit": registry.git_commit(), "dataset": _data(lineage)}
    for record in lineage:
        tags |= {
            f"{record.identity.stage}.run_key": record.run_key,
            f"{record.identity.stage}.digest": record.artifact.digest,
        }
    card = model_card(name, lineage, metrics)
    with registry.answering(run.home):
        run_id = run.mlflow_run()
        made = registry.register_version(run.home, name, run_id, run.path(model), model, tags, card)
        tracking.log_run(run.home, run_id, tags={"model": name, "model_version": made.version})
    final = run.output / "final"
    final.mkdir(parents=True, exist_ok=True)
    registration = {"name": name, "version": made.version, "alias": registry.CHALLENGER}
    (final / FILE).write_text(json.dumps(registration, indent=1, sort_keys=True))
    return Outcome(final, f"{name} version {made.version}, alias {registry.CHALLENGER}")


def model_card(name: str, lineage: list[RunRecord], metrics: dict[str, float]) -> str:
    """Return a short model card: what it is, what it was made of, how good it is."""
    numbers = "\n".join(f"| {k} | {v:.4g} |" for k, v in metrics.items() if "." not in k)
    made = "\n".join(f"| {r.identity.stage} | {r.gave} | `{r.artifact.digest[:12]}` |" for r in lineage)
    return (
        f"# {name}\n\nA text-to-image model trained by Fluxline on `{_data(lineage)}`: a FLUX MM-DiT by flow "
        "matching in the latents of its own autoencoder.\n\nRead it with `fluxmodel.TextToImage.from_pretrained`, or "
        f"draw with `fluxline generate PROMPT --model {name}`.\n\n## How good it is\n\n| | |\n|---|---|\n{numbers}\n\n"
        f"## What it was made of\n\n| stage | gave | digest |\n|---|---|---|\n{made}\n"
    )


def _data(lineage: list[RunRecord]) -> str:
    for record in lineage:
        if record.identity.stage == "curate":
            source = record.identity.parameters.get("source", {})
            return source.get("data") or f"a folder with fingerprint {source.get('fingerprint', '')[:12]}"
    return ""
