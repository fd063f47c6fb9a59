"""The command `fluxline`. Heavy libraries are imported by the verbs, so that `--help` answers at once."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import CycloptsError, Parameter

import flows.cli_operations
import flows.cli_plan
import flows.stage_verbs  # noqa: F401  the verbs of both are registered by importing them
from evaluation.gate_settings import GateSettings
from flows.command import Json as _Json
from flows.command import app
from flows.config import PipelineConfig
from fluxmodel.errors import FluxlineError, InputError, InterruptedRun
from tasks.drawing import Drawing
from tasks.prune_rules import PruneRules

_DEFAULT = PipelineConfig()
_DRAWING = Drawing()
_GATE = GateSettings()
_PRUNE = PruneRules()


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code: 0 done, 1 failed, 2 bad input, 3 incomparable, 75 go on later."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Run the command and return its exit code; an expected error is one sentence on stderr."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        from flows.sentences import usage_sentence

        print(f"fluxline: {usage_sentence(error)}", file=sys.stderr)
        return 2
    except FluxlineError as error:
        print(f"fluxline: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fluxline: Interrupted; the same command goes on from there.", file=sys.stderr)
        return InterruptedRun.exit_code
    except Exception as error:
        from flows.environment import keep_fault

        print(
            f"fluxline: A fault of ours: {type(error).__name__}; it is described in {keep_fault()}.",
            file=sys.stderr,
        )
        return 1
    return result if isinstance(result, int) else 0


@app.command
def run(*, config: Annotated[PipelineConfig, Parameter(name="*")] = _DEFAULT, as_json: _Json = False) -> int:
    """Run the whole chain: prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register.

    Args:
        config: what to run.
        as_json: whether to print the outcome as one JSON object.
    """
    from flows.run import run_pipeline

    outcome = run_pipeline(config)
    if as_json:
        print(json.dumps(outcome))
    return 0


@app.command
def generate(
    prompts: Annotated[
        list[str] | None, Parameter(negative="", help="One or more prompts, in the data's words.")
    ] = None,
    /,
    *,
    how: Annotated[Drawing, Parameter(name="*")] = _DRAWING,
    again: Annotated[
        Path | None,
        Parameter(
            name="--from", help="A PNG that Fluxline drew: draw it again, but for what is said besides."
        ),
    ] = None,
    out: Annotated[Path, Parameter(help="Folder for the PNG files.")] = Path("."),
    as_json: _Json = False,
) -> int:
    """Draw images from prompts with a registered model."""
    from flows.versions import open_registry
    from tasks.generate import draw, draw_again

    if again is not None:
        images = draw_again(open_registry(), again, prompts or [], how, out)
    elif prompts:
        images = draw(open_registry(), prompts, how, out)
    else:
        raise InputError("prompts is missing; say what to draw, or name an image with --from.")
    if as_json:
        print(json.dumps({"images": [asdict(image) for image in images]}))
    else:
        for image in images:
            print(f"{image.path}  {image.prompt}  (seed {image.seed})")
    return 0


_Name = Annotated[str, Parameter(help="Registered model; default the newest.")]
_Reason = Annotated[str, Parameter(help="Why; kept as a tag of the version.")]


@app.command
def promote(
    name: _Name = "",
    /,
    *,
    version: Annotated[
        str, Parameter(help="Number or alias; default what waits for approval, else the challenger.")
    ] = "",
    force: Annotated[bool, Parameter(negative="", help="Promote even what the gate rejected.")] = False,
    reason: _Reason = "",
    as_json: _Json = False,
) -> int:
    """Make a version the champion by hand; the champion before it becomes `previous`."""
    from flows.versions import promote_version

    return _say_move(promote_version(name, version, force, reason).as_dict(), as_json)


@app.command
def rollback(name: _Name = "", /, *, reason: _Reason = "", as_json: _Json = False) -> int:
    """Make the previous champion the champion again; doing it twice undoes it."""
    from flows.versions import roll_back

    return _say_move(roll_back(name, reason).as_dict(), as_json)


def _say_move(move: dict, as_json: bool) -> int:
    print(json.dumps(move) if as_json else move["said"])
    return 0


@app.command
def gate(
    challenger: Annotated[
        str, Parameter(help="A version (7, an alias, NAME@7), or a directory with an evaluation.")
    ],
    champion: Annotated[str, Parameter(help="The same, for the side whose place is asked for.")],
    /,
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Decide on what is stored; nothing moves.")] = False,
    name: _Name = "",
    preset: Annotated[str, Parameter(help="Preset whose thresholds are asked, too.")] = "",
    settings: Annotated[GateSettings, Parameter(name="*")] = _GATE,
    as_json: _Json = False,
) -> int:
    """Say by which rules the gate would promote one evaluation over another; exit code 3 if they are incomparable."""
    from flows.gate import print_decision, try_gate

    if not dry_run:
        said = (
            "It is `fluxline run` that lets the gate decide; to try it on stored evaluations, add --dry-run."
        )
        raise InputError(said)
    decision = try_gate(challenger, champion, name, preset, settings)
    if as_json:
        print(decision.model_dump_json())
    else:
        print_decision(decision)
    return 0


@app.command
def compare(
    a: Annotated[
        str, Parameter(help="A version (v7, 7, an alias, NAME@7), or a directory with an evaluation.")
    ],
    b: Annotated[str, Parameter(help="The same, for the other side.")],
    /,
    *,
    name: _Name = "",
    out: Annotated[
        Path | None,
        Parameter(help="Folder for the page and the picture; default ./comparisons/NAME-OLD-NEW."),
    ] = None,
    as_json: _Json = False,
) -> int:
    """Lay two versions side by side: a page, a picture, and what the gate would say; exit code 3 if incomparable.

    Of two versions of one model the later is the challenger, else the first named.
    """
    from flows.compare import compare_models, print_comparison, require_comparable

    found = compare_models(a, b, name, out)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        print_comparison(found)
    require_comparable(found)
    return 0


@app.command
def serve(
    models: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="NAME@VERSION, NAME@ALIAS or a directory each; default the newest model's champion and challenger.",
        ),
    ] = None,
    /,
    *,
    port: Annotated[int, Parameter(help="Port of 127.0.0.1; a busy one is stepped over.")] = 8100,
    queue: Annotated[int, Parameter(help="Requests at once before another gets 503.")] = 512,
) -> int:
    """Serve model versions: a page to try them side by side, and POST /generate, until Ctrl-C."""
    from flows.serve import serve_until_stopped

    return serve_until_stopped(models or [], port, queue)


@app.command
def evaluate(
    models: Annotated[
        list[str],
        Parameter(
            negative="",
            help="NAME@7, a number or alias of the newest model, a model directory, a diffusers pipeline.",
        ),
    ],
    /,
    *,
    like: Annotated[
        str, Parameter(help="Version whose evaluation is repeated; default the newest run's.")
    ] = "",
    num_images: Annotated[int, Parameter(help="Images in each point; 0 as there, or one a prompt.")] = 0,
    steps: Annotated[str, Parameter(help="Steps along the curves, such as 1,2,4; default as there.")] = "",
    guidance: Annotated[
        float, Parameter(help="Guidance; 0 as there, or as a pipeline is meant to be drawn.")
    ] = 0.0,
    prompts: Annotated[
        str,
        Parameter(
            help="File of prompts (.txt, .csv, .jsonl) to ask instead, or `geneval` for ours in its form."
        ),
    ] = "",
    size: Annotated[int, Parameter(help="Side of a pipeline's own images, pixels; 0 its native one.")] = 0,
    batch_size: Annotated[
        int, Parameter(help="Images a pipeline draws together; 0 chooses by their size.")
    ] = 0,
    out: Annotated[
        Path | None, Parameter(help="Folder of the evaluation; of several models, their parent.")
    ] = None,
    as_json: _Json = False,
) -> int:
    """Judge models, ours or others', by one evaluation: same prompts, noise seeds, judges and settings."""
    from flows.judge import judge_models, print_results, read_steps
    from tasks.judge import Asked

    asked = Asked(num_images, read_steps(steps), guidance, prompts, size, batch_size)
    found = judge_models(models, like, asked, out)
    if as_json:
        print(json.dumps(found))
    else:
        print_results(found)
    return 0


@app.command
def up() -> int:
    """Start the Prefect and MLflow servers and serve the pipeline, until Ctrl-C."""
    from flows.up import serve_until_stopped

    return serve_until_stopped()


@app.command
def doctor(*, as_json: _Json = False) -> int:
    """Check this machine, and say what to do about each trouble."""
    from flows.doctor import check_all, print_checks

    checks = check_all()
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}))
    else:
        print_checks(checks)
    return 1 if any(check.state == "bad" for check in checks) else 0


@dataclass(frozen=True)
class _Why:
    stage: str
    reused: bool
    reason: str
    run_key: str


@app.command
def why(
    stage: Annotated[str, Parameter(help="A stage, or the beginning of its name; default all.")] = "",
    /,
    *,
    as_json: _Json = False,
) -> int:
    """Say of each stage why its last run was reused or made again."""
    from tasks.home import open_home
    from tasks.run_key import RunBook

    book = RunBook(open_home())
    latest = [book.history(name)[-1] for name in book.stages() if name.startswith(stage.replace(" ", "-"))]
    if not latest:
        from fluxmodel.errors import InputError

        known = ", ".join(book.stages()) or "none yet: `fluxline run` makes them"
        raise InputError(f"No stage {stage!r} has run; stages that have: {known}.")
    rows = [_Why(d.stage, d.reused, book.reason(d), d.run_key) for d in latest]
    if as_json:
        print(json.dumps({"stages": [asdict(row) for row in rows]}))
    else:
        width = max(len(row.stage) for row in rows)
        for row in rows:
            print(f"{row.stage:<{width}}  {row.reason}")
    return 0


@app.command
def prune(
    *,
    rules: Annotated[PruneRules, Parameter(name="*")] = _PRUNE,
    yes: Annotated[bool, Parameter(negative="", help="Remove; without it, only say what would go.")] = False,
    as_json: _Json = False,
) -> int:
    """Remove what no version, latest run or unfinished work needs; without --yes only say what would go."""
    from flows.prune import print_pruned
    from flows.prune import prune as prune_by

    done = prune_by(rules, yes)
    if as_json:
        print(json.dumps(done))
    else:
        print_pruned(done)
    return 1 if done["troubles"] else 0


if __name__ == "__main__":
    main()
