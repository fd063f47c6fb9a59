"""`fluxline evaluate`: models judged by the same evaluation, one after the other, and their table."""

import time
from pathlib import Path
from typing import Any

from flows.environment import set_environment
from flows.run import shown, stoppable
from flows.servers import use_running
from fluxmodel.errors import InputError
from tasks.home import open_home
from tasks.judge import Asked, find_bench, find_contestant, judge, read_result, settings_for, slug
from tasks.progress import board

SORTED_BY = ("geneval", "all_correct", "retrieval", "fd")
"""What the table is sorted by: the first of these that was measured."""
_SHOWN = {
    "geneval": "GenEval-style",
    "all_correct": "images all correct",
    "attr_acc": "attributes right",
    "retrieval": "own caption found",
    "clip": "CLIP score",
    "fd": "Frechet distance",
    "latency_ms": "ms an image",
}


def judge_models(models: list[str], like: str, asked: Asked, out: Path | None) -> dict[str, Any]:
    """Judge models alike and return their results, best first.

    Args:
        models: registered versions, model directories or diffusers pipelines.
        like: version whose evaluation is repeated; empty takes the newest run's.
        asked: what is asked otherwise.
        out: directory of the evaluation, of several their parent; None puts them below the home.

    Raises:
        FluxlineError: what went wrong, in one sentence.
    """
    home = open_home().make()
    set_environment(home)
    use_running(home)
    bench = find_bench(home, like)
    entered = {what: find_contestant(home, what) for what in dict.fromkeys(models)}
    for directory in entered.values():
        settings_for(bench, asked, directory)  # what is wrong is said before anything is drawn
    places = _places(home.evaluations, list(entered), out)
    results = []
    with shown(), stoppable("Stopping ..."):
        board().say(f"Judged like {bench.source}.")
        for what, directory in entered.items():
            started = time.monotonic()
            name = places[what].name

            def tell(done: int, total: int, message: str, name: str = name) -> None:
                board().update(name, done, total, message)

            made = judge(home, bench, directory, asked, places[what], tell)
            result = read_result(made, time.monotonic() - started)
            board().finish(name, f"{result['seconds']:.1f} s")
            results.append({"model": what, **result})
    key = sorted_by(results)
    return {
        "like": bench.source,
        "sorted_by": key,
        "evaluations": sorted(results, key=lambda r: _rank(r, key)),
    }


def read_steps(text: str) -> tuple[int, ...]:
    """Return the numbers of `1,2,4`; none for an empty text.

    Raises:
        InputError: it is no such list.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--steps is {text!r}; give whole numbers with commas between, such as 1,2,4.")
    return tuple(int(part) for part in parts)


def sorted_by(results: list[dict[str, Any]]) -> str:
    """Return the metric a table of these results is sorted by."""
    return next(name for name in (*SORTED_BY, "latency_ms") if all(name in r["metrics"] for r in results))


def print_results(found: dict[str, Any]) -> None:
    """Print one model's figures, or the table of several; and where each report is and its time went."""
    from rich.console import Console
    from rich.table import Table

    results = found["evaluations"]
    names = [name for name in _SHOWN if any(name in result["metrics"] for result in results)]
    table = Table("", "steps", *(_SHOWN[name] for name in names), box=None, header_style="bold")
    for result in results:
        head = result["headline"]
        steps = f"{head['steps']}" + (f", guidance {head['guidance']:g}" if head["guidance"] != 1 else "")
        table.add_row(result["model"], steps, *(_cell(name, result["metrics"].get(name)) for name in names))
    console = Console()
    console.print(table)
    if len(results) > 1:
        console.print(
            f"\nSorted by {_SHOWN[found['sorted_by']]}; 95 % intervals below each figure.", highlight=False
        )
    for result in results:
        _print_details(console, result)


def _print_details(console: Any, result: dict[str, Any]) -> None:
    parts = [f"{name} {seconds:.1f} s" for name, seconds in result["parts"].items() if seconds >= 0.05]
    lines = {
        "model": result["model"],
        "report": result["report"],
        "time": f"{result['seconds']:.1f} s: " + ", ".join(parts),
    }
    if result["groups"]:
        rows = [(row["group"], row.get("geneval") or row.get("all_correct")) for row in result["groups"]]
        lines["groups"] = ", ".join(f"{name} {_percent(each)}" for name, each in rows if each)
    if (contestant := result["contestant"]) is not None:
        lines["drawn"] = (
            f"{contestant['family']} ({contestant['pipeline']}, {contestant['solver']}) "
            f"at {contestant['size']} pixels, safety checker off, "
            f"{contestant['truncated_prompts']} prompts cut at {contestant['max_tokens']} tokens"
        )
    for name, reason in result["skipped"].items():
        lines[f"no {name}"] = reason
    console.print()
    width = max(map(len, lines))
    for label, value in lines.items():
        console.print(f"{label:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def _places(below: Path, models: list[str], out: Path | None) -> dict[str, Path]:
    """Where each model's evaluation goes; two of one name are told apart by a number."""
    if out is not None and len(models) == 1:
        return {models[0]: out}
    places: dict[str, Path] = {}
    for what in models:
        name, number = slug(what), 2
        while (out or below) / name in places.values():
            name, number = f"{slug(what)}-{number}", number + 1
        places[what] = (out or below) / name
    return places


def _rank(result: dict[str, Any], key: str) -> float:
    metric = result["metrics"][key]
    return metric["value"] if metric["direction"] == "lower" else -metric["value"]


def _cell(name: str, metric: dict[str, Any] | None) -> str:
    from evaluation.report_numbers import number

    if metric is None or metric["value"] is None:
        return "-"
    said = number(name, metric["value"])
    if metric["ci_low"] is None:
        return said
    return f"{said}\n{number(name, metric['ci_low'])} to {number(name, metric['ci_high'])}"


def _percent(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.0%} of {interval['n']}"
