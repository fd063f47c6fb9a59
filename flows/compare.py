"""Comparing two versions: the verb `fluxline compare`, and a Prefect flow for whoever presses *Run*."""

from pathlib import Path
from typing import Any

from prefect import flow

from fluxmodel.errors import IncomparableError
from tasks.compare import FOLDER, Compared
from tasks.compare import compare as compare_versions
from tasks.home import open_home

_PRINTED = ("", "held_out")
"""Blocks of numbers for the terminal; the page has all."""


@flow(name="compare", persist_result=False)
def compare(left: str = "champion", right: str = "challenger", name: str = "") -> dict[str, Any]:
    """Lay two versions side by side: verdict, what changed, every number, the same prompts image by image.

    Args:
        left: A version: its number (7 or v7), an alias, or NAME@7.
        right: Another one; of two versions of a model the later is the challenger, whichever comes first.
        name: Registered model; empty for the newest.
    """
    home = open_home().make()
    found = compare_versions(home, left, right, name, root=home.root / FOLDER)
    show(found)
    if not found.comparison.is_comparable:
        raise IncomparableError(found.comparison.decision.reasons[0])
    return found.as_dict()


def show(found: Compared) -> None:
    """Show the comparison on the flow run's page: the verdict, the numbers as a table, the way to the page."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    told, decision = found.comparison, found.comparison.decision
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    page = f"`{found.files['html']}`"
    more = f", and in [MLflow]({found.mlflow_url})" if found.mlflow_url else ""
    text = f"**{told.title}: {decision.verdict}**\n\n{reasons}\n\nThe page lies at {page}{more}."
    create_markdown_artifact(text, key="comparison", description=told.title)
    if told.numbers:
        rows = [dict(zip(_heads(found), cells, strict=True)) for cells in number_cells(found)]
        create_table_artifact(rows, key="comparison-numbers", description=told.title)
    if found.mlflow_url:
        create_link_artifact(found.mlflow_url, link_text=told.title, key="comparison-mlflow")


def compare_models(left: str, right: str, name: str = "", out: Path | None = None) -> Compared:
    """Compare two versions, or directories with evaluations, of the home we are in.

    Raises:
        InputError: there is no such version or evaluation.
        ArtifactError: an evaluation is lost.
    """
    from flows.versions import open_registry

    return compare_versions(open_registry(), left, right, name, out)


def print_comparison(found: Compared) -> None:
    """Print the compared numbers as a table, the verdict below, and where the page lies."""
    from rich.console import Console
    from rich.table import Table

    from evaluation.versus_numbers import block_of
    from evaluation.versus_words import plain_words

    told, console = found.comparison, Console()
    if told.numbers:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for head in ("number", told.old.label, told.new.label, "difference, 95 %", ""):
            table.add_column(head, no_wrap=head != "number")
        for each, (words, old, new, by, interval, *_, mark) in zip(
            told.numbers, number_cells(found), strict=True
        ):
            if block_of(each.row.name) in _PRINTED:
                table.add_row(
                    words, old, new, f"{by.removesuffix(' points')}, {interval}" if interval else by, mark
                )
        console.print(table)
    decision = told.decision
    console.print(
        f"\nAs challenger against {told.old.label}, {told.new.label} would be: {decision.verdict}",
        markup=False,
    )
    for reason in decision.reasons:
        console.print(f"  {plain_words(reason)}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"\n{found.files['html']}\n{found.files['png']}", markup=False, highlight=False, soft_wrap=True
    )
    if found.mlflow_url:
        console.print(found.mlflow_url, markup=False, highlight=False, soft_wrap=True)


def require_comparable(found: Compared) -> None:
    """Pass if the two were measured alike.

    Raises:
        IncomparableError: they were not; names the fields, and the page that tells what changed.
    """
    if not found.comparison.is_comparable:
        reason = found.comparison.decision.reasons[0]
        raise IncomparableError(f"{reason} What changed is told in {found.files['html']}.")


def number_cells(found: Compared) -> list[tuple[str, ...]]:
    """Return the numbers as cells of a table: name, old, new, difference, interval, p, images, mark."""
    from evaluation.versus_words import (
        difference_words,
        interval_words,
        metric_words,
        p_words,
        value_words,
    )

    rows = []
    for each in found.comparison.numbers:
        row, (words, where) = each.row, metric_words(each.row.name)
        rows.append(
            (
                f"{words}, {where}" if where else words,
                value_words(row.name, row.champion),
                value_words(row.name, row.challenger),
                difference_words(row),
                interval_words(row),
                p_words(each.p_holm),
                f"{row.n:,}",
                each.mark if each.mark in ("better", "worse", "same") else "",
            )
        )
    return rows


def _heads(found: Compared) -> tuple[str, ...]:
    told = found.comparison
    return "number", told.old.label, told.new.label, "difference", "95 % interval", "p, Holm", "n", "verdict"
