"""What `fluxline promote`, `rollback` and `compare` do with the versions of registered models."""

from pathlib import Path
from typing import Any

from fluxmodel.errors import IncomparableError, InputError
from tasks import promotion, registry
from tasks.home import Home, open_home


def open_registry() -> Home:
    """Return the home, with MLflow and Prefect pointed to where the user or `fluxline up` has them."""
    from flows.environment import set_environment
    from flows.servers import use_running

    home = open_home().make()
    set_environment(home)
    use_running(home)
    return home


def promote_version(name: str, which: str, is_forced: bool, reason: str) -> promotion.Move:
    """Make a version (by number or alias, default the challenger) the champion by hand.

    Raises:
        InputError: there is none, or the gate rejected it and force was not asked for.
    """
    home = open_registry()
    with registry.answering(home):
        name = name or registry.newest_model_name(home)
        version = registry.find_version(home, name, which or registry.CHALLENGER)
        return promotion.promote_by_hand(home, version, reason, is_forced)


def roll_back(name: str, reason: str) -> promotion.Move:
    """Make the previous champion the champion again.

    Raises:
        InputError: there is no previous one.
    """
    home = open_registry()
    with registry.answering(home):
        return promotion.rollback(home, name or registry.newest_model_name(home), reason)


def compare_models(left: str, right: str) -> dict[str, Any]:
    """Return the gate's decision on two models, the first as challenger, the second as champion.

    Args:
        left: a version (`name@3`, `name@champion`, or a number or alias of the newest model), or a directory
            with an evaluation.
        right: likewise.

    Raises:
        InputError: there is no such model or evaluation.
        IncomparableError: they were measured differently; names the fields.
    """
    from evaluation.gate import GateSettings, decide

    home = open_registry()
    with registry.answering(home):
        challenger, champion = _evaluation(home, left), _evaluation(home, right)
    decision = decide(challenger, champion, GateSettings())
    if decision.verdict == "incomparable":
        raise IncomparableError(decision.reasons[0])
    return {
        "a": left,
        "b": right,
        **decision.model_dump(exclude={"name", "evaluation", "champion", "settings"}),
    }


def print_comparison(found: dict[str, Any]) -> None:
    """Print the compared numbers as a table, and the verdict below."""
    from rich.console import Console
    from rich.table import Table

    from evaluation.compare import Difference
    from evaluation.gate import in_words

    table = Table(
        "", found["a"], found["b"], "difference", "95 % interval", "n", box=None, header_style="bold"
    )
    for row in (found["primary"], *found["guards"]):
        cells = in_words(Difference.model_validate(row))
        table.add_row(row["name"], *cells, str(row["n"]))
    console = Console()
    console.print(table)
    console.print(
        f"\nAs challenger against {found['b']}, {found['a']} would be: {found['verdict']}", markup=False
    )
    for reason in found["reasons"]:
        console.print(f"  {reason}", markup=False, highlight=False, soft_wrap=True)


def _evaluation(home: Home, what: str) -> Path:
    if Path(what).is_dir():
        return Path(what)
    name, _, which = what.rpartition("@")
    if "/" in what or not which:
        raise InputError(f"{what} is no directory; name one with an evaluation, or a version such as NAME@3.")
    version = registry.find_version(home, name or registry.newest_model_name(home), which)
    return registry.evaluation_directory(home, version)
