"""Judging any model as the pipeline's evaluation judges: the same data, evaluators and settings, in a child process."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.settings import ContestantSettings, EvaluationSettings
from fluxmodel.errors import InputError, InterruptedRun, first_fault
from fluxmodel.pretrained_folder import is_pipeline
from tasks import registry
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cards import read_json
from tasks.generate import find_model
from tasks.home import Home
from tasks.launch import STOP, run_child
from tasks.leases import Asker, lease
from tasks.progress import board
from tasks.resources import RESOURCES, num_slots
from tasks.run_key import RunBook
from tasks.seat import need_of

GENEVAL = "geneval"
_EVALUATORS = ("dual_encoder", "detector")
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Bench:
    """What models are judged on and with.

    Attributes:
        dataset: directory of the curated data.
        evaluators: directories by name.
        settings: of the evaluation it is taken from.
        source: whose evaluation that was, in words.
    """

    dataset: Path
    evaluators: dict[str, Path]
    settings: EvaluationSettings
    source: str


@dataclass(frozen=True)
class Asked:
    """What a user asks to be otherwise than in the bench; empty or 0 leaves it.

    Attributes:
        num_images: images a point.
        steps: numbers of steps along the curves, rising.
        guidance: guidance of the guided curve.
        prompts: a file of prompts, or `geneval`.
        size: side of a contestant's own images, pixels.
        batch_size: images a contestant draws together.
    """

    num_images: int = 0
    steps: tuple[int, ...] = ()
    guidance: float = 0.0
    prompts: str = ""
    size: int = 0
    batch_size: int = 0


def find_bench(home: Home, like: str = "") -> Bench:
    """Return what the newest evaluation of this home was made on, or that of the version `like`.

    Raises:
        InputError: nothing has been evaluated yet, or there is no such version.
        ArtifactError: a part of it is neither in the store nor in MLflow.
    """
    return _bench_of_version(home, like) if like else _newest_bench(home)


def _newest_bench(home: Home) -> Bench:
    book = RunBook(home)
    records = [book.read(decision.run_key) for decision in reversed(book.history("evaluate"))]
    record = next(filter(None, records), None)
    if record is None:
        raise InputError(
            "Nothing has been evaluated here yet, so there is nothing to judge by; "
            "`fluxline run` makes a data set and evaluators, or name a version with --like NAME@7."
        )
    lineage = {each.artifact.digest: each.artifact for each in book.lineage([record.artifact.digest])}
    refs = {name: lineage[digest] for name, digest in record.identity.upstream.items() if digest in lineage}
    fields = record.identity.parameters["settings"] | {"seed": record.identity.seed}
    return _bench(home, refs, fields, "the newest run's evaluation")


def _bench_of_version(home: Home, like: str) -> Bench:
    with registry.answering(home):
        version = find_version(home, like)
        evaluation = read_json(registry.evaluation_directory(home, version) / "evaluation.json")
        stages = {"dataset": "curate"} | {name: f"prepare-{name}" for name in _EVALUATORS}
        found = {name: registry.stage_artifact(version, stage, name) for name, stage in stages.items()}
    refs = {name: ref for name, ref in found.items() if ref is not None}
    source = f"the evaluation of {version.name} version {version.version}"
    return _bench(home, refs, evaluation.get("settings", {}), source)


def _bench(home: Home, refs: dict[str, ArtifactRef], fields: dict[str, Any], source: str) -> Bench:
    store = ArtifactStore(home)
    missing = [name for name in ("dataset", "dual_encoder") if name not in refs]
    if missing:
        raise InputError(
            f"{source} names no {missing[0]}; run the pipeline again, or choose another with --like."
        )
    evaluators = {name: store.path(refs[name]) for name in _EVALUATORS if name in refs}
    known = {name: value for name, value in fields.items() if name in EvaluationSettings.model_fields}
    return Bench(store.path(refs["dataset"]), evaluators, EvaluationSettings.model_validate(known), source)


def find_version(home: Home, what: str) -> registry.RegisteredVersion:
    """Return the version NAME@WHICH, a number or alias of the newest model, or the best of a NAME.

    Raises:
        InputError: there is none.
    """
    name, at, which = what.rpartition("@")
    if at and not (name and which):
        raise InputError(f"{what!r} is no version; write it as NAME@7 or NAME@champion.")
    if not at:
        name, which = ("", what) if what.isdigit() or what in registry.ALIASES else (what, "")
    return registry.find_version(home, name or registry.newest_model_name(home), which)


def find_contestant(home: Home, what: str) -> Path:
    """Return the directory of a model: a path, or a registered version.

    Raises:
        InputError: there is none, or the directory holds no model.
    """
    if "/" in what or Path(what).is_dir():
        directory = find_model(home, what)
        if not (directory / "model_index.json").is_file():
            raise InputError(
                f"{what}: no model_index.json there; name a model directory of ours or a diffusers pipeline."
            )
        return directory
    with registry.answering(home):
        return registry.model_directory(home, find_version(home, what))


def settings_for(
    bench: Bench, asked: Asked, directory: Path
) -> tuple[EvaluationSettings, ContestantSettings]:
    """Return the bench's settings with what was asked otherwise.

    Raises:
        InputError: a value is out of its range, or the file of prompts is wrong.
    """
    from pydantic import ValidationError

    changed: dict[str, Any] = {"workers": min(_MOST_WORKERS, num_slots())}
    if asked.num_images or asked.prompts:
        changed["num_images"] = asked.num_images or _num_asked(asked.prompts)
    if asked.steps:
        changed |= {"steps": asked.steps, "rectified_steps": asked.steps}
    is_ours = not is_pipeline(directory)
    if asked.guidance and is_ours:
        changed["guidance"] = asked.guidance
    try:
        own = {
            "steps": asked.steps,
            "guidance": asked.guidance,
            "size": asked.size,
            "batch_size": asked.batch_size,
        }
        return (
            EvaluationSettings.model_validate(bench.settings.model_dump() | changed),
            ContestantSettings.model_validate(own),
        )
    except ValidationError as error:
        fault = (
            first_fault(error).removeprefix("Input ").replace("rectified_steps", "steps").replace("_", "-")
        )
        raise InputError(f"--{fault[:1].lower()}{fault[1:]}; correct it and run again.") from error


def _num_asked(prompts: str) -> int:
    """How many images a set of prompts asks for: one a prompt; ours in GenEval's form 40 a tag."""
    if prompts == GENEVAL:
        return 240
    from evaluation.prompt_files import read_prompts

    return max(4, len(read_prompts(Path(prompts))))


def judge(
    home: Home,
    bench: Bench,
    directory: Path,
    asked: Asked,
    out: Path,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Judge a model in a child process and put the evaluation at `out`; nothing is left of one that is interrupted.

    Raises:
        InputError: the model, the prompts or a setting is wrong, or `out` holds something else.
        InterruptedRun: it was stopped.
        StageError: the child failed; quotes its log.
    """
    settings, contestant = settings_for(bench, asked, directory)
    _refuse_other(out)
    work = home.work(f"judge-{uuid.uuid4().hex[:12]}")
    work.mkdir(parents=True)
    job = {
        "model": str(directory.absolute()),
        "dataset": str(bench.dataset),
        "evaluators": {name: str(place) for name, place in bench.evaluators.items()},
        "settings": settings.model_dump(mode="json"),
        "contestant": contestant.model_dump(mode="json"),
        "prompts": _place(asked.prompts),
        "output": str(work / "output"),
        "threads": 1,
        "cache": str(home.features),
        "pixels": str(home.cache),
    }
    try:
        needed = RESOURCES["evaluate"]
        asker = Asker("evaluate", home=str(home.root), priority=needed.priority)
        with lease(need_of(needed, ()), asker, STOP.is_set, board().say) as held:
            limits = {"timeout_seconds": needed.timeout_seconds, "progress": progress, "lease": held}
            made = run_child("evaluation", job, work, **limits)
        _put(made, out)
    except (KeyboardInterrupt, InterruptedRun):
        shutil.rmtree(work, ignore_errors=True)
        raise InterruptedRun("Interrupted; nothing was kept, and the same command starts again.") from None
    except InputError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return out


def _place(prompts: str) -> str | None:
    """The prompts as the child is told them: it runs elsewhere, so a path is made whole."""
    if not prompts:
        return None
    return prompts if prompts == GENEVAL else str(Path(prompts).absolute())


def _refuse_other(out: Path) -> None:
    """Refuse to replace anything but an earlier evaluation."""
    if out.exists() and not (
        out.is_dir() and (not any(out.iterdir()) or (out / "evaluation.json").is_file())
    ):
        raise InputError(f"--out {out} holds something else than an evaluation; name a new folder.")


def _put(made: Path, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
        shutil.copytree(made, partial)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written ({error.strerror}); name a folder you own."
        ) from error


def slug(what: str) -> str:
    """Return a folder's name for a model: `shapes@7` -> `shapes-7`."""
    name = Path(what).name if "/" in what or Path(what).is_dir() else what
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def read_result(directory: Path, seconds: float) -> dict[str, Any]:
    """Return what the verb prints of one evaluation: headline numbers, places, and where the time went."""
    document = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))
    cost = document["cost"]
    parts = {
        **cost.get("parts", {}),
        "starting, and writing pages": round(max(0.0, seconds - cost["seconds"]), 2),
    }
    return {
        "directory": str(directory),
        "report": str(directory / "report.html"),
        "headline": document["headline"],
        "metrics": {
            each["name"]: {name: each[name] for name in ("value", "ci_low", "ci_high", "n", "direction")}
            for each in document["metrics"]
        },
        "groups": document["groups"].get("given", []),
        "skipped": document["skipped"],
        "contestant": document.get("contestant"),
        "seconds": round(seconds, 2),
        "parts": dict(sorted(parts.items(), key=lambda each: -each[1])),
    }
