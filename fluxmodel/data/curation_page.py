"""The page of curation: what came in, what each rule dropped, and the pictures to judge the rules by.

One file without a script or a request, below 3 MB whatever the number of images: pictures are small, few and chosen
by `fluxmodel.data.curation_examples`, lists are cut.
"""

from __future__ import annotations

from pathlib import Path

from fluxmodel.data.curation_examples import ReadImages
from fluxmodel.data.curation_sections import (
    Curated,
    choose,
    duplicate_section,
    histogram_section,
    kept_section,
    threshold_section,
)
from fluxmodel.data.curation_tables import (
    diversity_section,
    funnel_section,
    headline,
    refused_section,
    rules_section,
    sensitivity_section,
)
from fluxmodel.data.page_markup import Pictures, contents, note, page

PAGE = "report.html"


def write_page(output: Path, curated: Curated, read_images: ReadImages) -> None:
    """Write report.html beside the shards; see `document`."""
    (output / PAGE).write_text(document(curated, read_images), encoding="utf-8")


def document(curated: Curated, read_images: ReadImages) -> str:
    """Return the page as one HTML document of bounded size, whatever the number of images.

    Args:
        curated: record, measurements and decisions.
        read_images: yields the encoded images of chosen rows with their rows, in any order; called once.
    """
    record, shown, pictures = curated.record, choose(curated), Pictures()
    rows = shown.rows()
    pictures.add(read_images(rows), rows)
    chapters = [
        ("funnel", "Funnel", funnel_section(record)),
        ("sensitivity", "If a threshold were moved", sensitivity_section(record)),
        ("numbers", "Numbers", histogram_section(curated)),
        ("diversity", "How varied", diversity_section(record)),
        ("thresholds", "At the thresholds", threshold_section(curated, shown, pictures)),
        ("duplicates", "Duplicates", duplicate_section(curated, shown, pictures)),
        ("kept", "Kept", kept_section(curated, shown, pictures)),
        ("refused", "Refused", refused_section(record)),
        ("rules", "Rules", rules_section(record)),
    ]
    there = [(anchor, words) for anchor, words, text in chapters if text]
    left_out = f"{pictures.num_left_out} pictures were left out to keep the page small."
    return page(
        f"Curation of {record['data']}",
        "\n".join([
            headline(record),
            contents(there),
            *[text for _, _, text in chapters],
            note(left_out if pictures.num_left_out else ""),
        ]),
    )  # fmt: skip
