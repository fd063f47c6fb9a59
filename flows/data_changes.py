"""What differs between the dataset just curated and one before it, said and shown on a page."""

from pathlib import Path
from typing import Any

from fluxmodel.errors import ArtifactError, InputError


def check_dataset(directory: Path) -> None:
    """See that a directory holds a curated dataset that can be compared, before anything is started.

    Raises:
        InputError: it does not, or a file of it is damaged.
    """
    from fluxmodel.data.dataset_diff import require_readable

    try:
        require_readable(directory)
    except ArtifactError as error:
        raise InputError(f"--against {error}") from None


def show_changes(old: Path, new: Path) -> dict[str, Any]:
    """Write the page of what differs, say the counts, and return them with the page's path."""
    from flows.summary import print_lines
    from fluxmodel.data.dataset_diff import diff_datasets
    from fluxmodel.data.dataset_diff_page import document
    from tasks.home import open_home

    diff = diff_datasets(old, new)
    page = open_home().root / "reports" / f"dataset-{new.name}-against-{old.name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(document(diff, str(old), str(new)), encoding="utf-8")
    counts = diff.counts | {"same": diff.same}
    print_lines(
        [("against", ", ".join(f"{num:,} {kind}" for kind, num in counts.items())), ("changes", str(page))]
    )
    return counts | {"report": str(page)}
