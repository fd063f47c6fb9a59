"""`fluxline prune`: what a home no longer needs goes, by rule; without `--yes` it only says what would."""

from dataclasses import asdict
from typing import Any

from flows.versions import open_registry
from tasks.prune import GIGABYTE, PrunePlan, plan
from tasks.prune import prune as remove
from tasks.prune_rules import PruneRules

_MOST_ROWS = 40


def prune(rules: PruneRules, is_meant: bool) -> dict[str, Any]:
    """Say what the rules let go, and remove it if that is meant.

    Raises:
        InputError: something works in the home, so nothing may be removed.
        StageError: MLflow does not answer.
    """
    home = open_registry()
    found, troubles = remove(home, rules) if is_meant else (plan(home, rules), [])
    going = [{key: value for key, value in asdict(each).items() if key != "what"} for each in found.going]
    return {
        "removed": is_meant,
        "going": going,
        "kept_bytes": found.kept,
        "store_bytes": found.store_bytes,
        "freed_bytes": found.freed_bytes,
        "quota": found.said,
        "troubles": troubles,
        "said": _said(found, is_meant, troubles),
    }


def print_pruned(done: dict[str, Any]) -> None:
    """Print a line for each thing that goes, what stays and why, and the sum."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if done["going"]:
        table = Table("", "what", "size", "unused for", "why it may go", box=None, header_style="bold")
        for each in done["going"][:_MOST_ROWS]:
            days = f"{each['age_days']:.0f} days"
            table.add_row(each["kind"], each["name"], _size(each["num_bytes"]), days, each["why"])
        console.print(table)
        if len(done["going"]) > _MOST_ROWS:
            console.print(f"and {len(done['going']) - _MOST_ROWS} more; --json names all")
    for reason, size in sorted(done["kept_bytes"].items(), key=lambda item: -item[1]):
        console.print(f"stays: {_size(size):>9}  {reason}", markup=False, highlight=False)
    for sentence in (*done["troubles"], done["quota"], done["said"]):
        if sentence:
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _said(found: PrunePlan, is_meant: bool, troubles: list[str]) -> str:
    if not found.going:
        return "There is nothing to prune by these rules."
    things = (
        f"{len(found.going) - len(troubles)} of {len(found.going)} things"
        if troubles
        else f"{len(found.going)} things"
    )
    freed, held = _size(found.freed_bytes), _size(found.store_bytes)
    if is_meant:
        return f"Removed {things}; the store held {held}, of which {freed} went, and their copies in MLflow with them."
    would = f"{things} would go, {freed} of the store's {held}, and their copies in MLflow"
    return f"{would}; nothing is removed without --yes."


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIGABYTE:.2f} GB" if num_bytes >= GIGABYTE else f"{num_bytes / 1e6:.1f} MB"
