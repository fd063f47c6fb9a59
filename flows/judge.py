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
    "latency_ms": "one image",
}
_WORTH_TELLING = 0.1
"""Seconds below which a part of an evaluation is not told."""
_FILE_WIDTH = 160
"""Columns of a table that goes to a file."""


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
    """Print the table of several models, the best first, and the figures, report and time of each."""
    from rich.console import Console

    results = found["evaluations"]
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    if len(results) > 1:
        console.print(_table(results, found["sorted_by"]))
        console.print(f"\nSorted by {_SHOWN[found['sorted_by']]}, with its 95 % interval.", highlight=False)
    for result in results:
        lines = _details(result)
        width = max(map(len, lines))
        console.print()
        for label, value in lines.items():
            console.print(f"{label:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def _table(results: list[dict[str, Any]], key: str) -> Any:
    """A row a model: the metric it is sorted by with its interval, and the others."""
    from rich.table import Table

    names = [name for name in _SHOWN if name != key and any(name in result["metrics"] for result in results)]
    table = Table("", "steps", _SHOWN[key], *(_SHOWN[name] for name in names), box=None, header_style="bold")
    for result in results:
        metrics = result["metrics"]
        cells = [_said(key, metrics[key]), *(_said(name, metrics.get(name), bare=True) for name in names)]
        table.add_row(Path(result["directory"]).name, _point(result["headline"]), *cells)
    return table


def _details(result: dict[str, Any]) -> dict[str, str]:
    """What there is to say of one model, by label."""
    from evaluation.report_evidence import drawn_as

    lines = {"model": result["model"], "point": _point(result["headline"])}
    metrics = result["metrics"]
    lines |= {words: _said(name, metrics[name]) for name, words in _SHOWN.items() if name in metrics}
    if result["groups"]:
        rows = [(row["group"], row.get("geneval") or row.get("all_correct")) for row in result["groups"]]
        lines["groups"] = ", ".join(
            f"{name} {each['value']:.0%} of {each['n']}" for name, each in rows if each
        )
    if result["contestant"] is not None:
        lines["drawn"] = drawn_as(result["contestant"])
    lines |= {f"no {name}": reason for name, reason in result["skipped"].items()}
    parts = [
        f"{name} {seconds:.1f} s" for name, seconds in result["parts"].items() if seconds >= _WORTH_TELLING
    ]
    lines["time"] = f"{result['seconds']:.1f} s: " + ", ".join(parts)
    lines["report"] = result["report"]
    return lines


def _point(head: dict[str, Any]) -> str:
    return f"{head['steps']}" + (
        f", guidance {head['guidance']:g}" if head["guidance"] != 1 else ", unguided"
    )


def _said(name: str, metric: dict[str, Any] | None, bare: bool = False) -> str:
    """A metric in words, with its interval unless `bare`."""
    from evaluation.report_numbers import number

    if metric is None or metric["value"] is None:
        return "-"
    if bare or metric["ci_low"] is None:
        return number(name, metric["value"])
    low, high = (number(name, metric[end]).removesuffix("%") for end in ("ci_low", "ci_high"))
    return f"{number(name, metric['value'])} ({low} to {high})"


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
