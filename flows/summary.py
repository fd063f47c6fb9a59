"""The closing table of a run."""

from typing import Any

from tasks.gate import WAITING
from tasks.home import Home


def print_summary(home: Home, outcome: dict[str, Any]) -> None:
    """Print what each stage cost and gave, and where to look."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    table = Table("stage", "", "seconds", "what it gave", box=None, pad_edge=False, header_style="bold")
    table.columns[2].justify = "right"
    for stage in outcome["stages"]:
        state = stage["reason"] if stage["reused"] else "ran"
        seconds = "-" if stage["reused"] else f"{stage['seconds']:.1f}"
        table.add_row(stage["name"], state.split(":")[0], seconds, stage["gave"])
    console.print()
    console.print(table)
    reused = [stage for stage in outcome["stages"] if stage["reused"]]
    if reused:
        console.print(f"\n{len(reused)} of {len(outcome['stages'])} stages {reused[0]['reason']}.")
    where = outcome["mlflow_url"] or f"`fluxline up`, then run {outcome['mlflow_run_id']}"
    width = max(map(len, outcome["figures"]), default=0)
    console.print()
    for label, value in outcome["figures"].items():
        console.print(f"{label:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)
    console.print()
    print_lines([("total", f"{outcome['seconds']:.1f} s"), *_verdict(outcome), *_made(outcome, where)])


def print_lines(lines: list[tuple[str, str]]) -> None:
    """Print what is told after the table, a label before each."""
    from rich.console import Console

    for label, value in lines:
        Console(stderr=True).print(f"{label:<8} {value}", markup=False, highlight=False, soft_wrap=True)


def _made(outcome: dict[str, Any], where: str) -> list[tuple[str, str]]:
    """What came of it: a version, or what the last stage left."""
    if not outcome["model_version"]:
        last = outcome["stages"][-1]
        return [(last["name"], last["artifact"]), ("mlflow", where)]
    return [
        ("model", _registered(outcome)),
        ("report", outcome["evaluation"]),
        ("mlflow", where),
        ("draw", f'fluxline generate "WORDS LIKE THE DATA\'S CAPTIONS" --model {outcome["model_name"]}'),
    ]


def _verdict(outcome: dict[str, Any]) -> list[tuple[str, str]]:
    """The gate's answer with its first reason, and whether it waits for a person; no line without a gate."""
    if not outcome.get("verdict"):
        return []
    reasons = outcome.get("reasons", [])
    waits = [("approval", reason) for reason in reasons if reason.startswith(WAITING)]
    return [("verdict", ": ".join([outcome["verdict"], *reasons[:1]])), *waits]


def _registered(outcome: dict[str, Any]) -> str:
    said = f"{outcome['model_name']} version {outcome['model_version']}"
    aliases = outcome.get("aliases", [])
    if not aliases:
        return said
    return f"{said}, alias{'es' if len(aliases) > 1 else ''} {' and '.join(aliases)}"
