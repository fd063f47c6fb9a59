"""`fluxline prune`: what a home no longer needs goes, by rule; without `--yes` it only says what would."""

from dataclasses import asdict
from typing import Any

from flows.versions import open_registry
from tasks.prune import GIGABYTE, PrunePlan, plan
from tasks.prune import prune as remove
from tasks.prune_rules import PruneRules

_MOST_ROWS = 40
_SUMMED = {"work": "scratch folders", "leftover": "leftovers"}


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

    console = Console(soft_wrap=True, highlight=False, markup=False)
    shown = [each for each in done["going"] if each["kind"] in ("version", "artifact", "cache")]
    for each in shown[:_MOST_ROWS]:
        what = f"{each['kind']} {each['name']}"
        console.print(
            f"goes:  {_size(each['num_bytes']):>9}  {what:<32}  {each['age_days']:4.0f} days  {each['why']}"
        )
    if len(shown) > _MOST_ROWS:
        console.print(f"goes:  and {len(shown) - _MOST_ROWS} more; --json names all")
    for kind, words in _SUMMED.items():
        same = [each for each in done["going"] if each["kind"] == kind]
        if same:
            size = _size(sum(each["num_bytes"] for each in same))
            console.print(f"goes:  {size:>9}  {len(same)} {words}: {same[0]['why']}")
    for reason, size in sorted(done["kept_bytes"].items(), key=lambda item: -item[1]):
        console.print(f"stays: {_size(size):>9}  {reason}")
    for sentence in (*done["troubles"], done["quota"], done["said"]):
        if sentence:
            console.print(sentence)


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
