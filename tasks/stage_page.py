"""What a stage's page in Prefect shows of its result: the table and the picture by which a person judges it.

Everything is read from the stage's own files and bounded, as Prefect keeps it in its database.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import tracking
from tasks.cards import read_json
from tasks.home import Home
from tasks.page_picture import MAX_BYTES, embed, loss_curve, sheet
from tasks.pictures import SAMPLES
from tasks.run_key import RunRecord
from tasks.spool import SpoolReader

Rows = list[dict[str, Any]]
MAX_ROWS = 40
_TEXT = 300
_TAIL_BYTES = 4 << 20
_MOST_EXAMPLES = 6


@dataclass(frozen=True)
class StagePage:
    """What is shown of a stage.

    Attributes:
        markdown: text and pictures.
        tables: name -> rows, each an artifact of its own.
        links: words -> address.
    """

    markdown: str = ""
    tables: dict[str, Rows] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def stage_page(home: Home, record: RunRecord, directory: Path, work: Path) -> StagePage:
    """Return what to show of a finished stage.

    Args:
        home: of the run.
        record: of the stage.
        directory: its artifact's files.
        work: its folder, with spool and samples.
    """
    stage = record.identity.stage
    if stage == "curate":
        return _curation(read_json(directory / "curation.json"))
    if stage == "caption":
        return _captions(read_json(directory / "captions.json"))
    if stage == "evaluate":
        return _evaluation(directory)
    if stage == "gate":
        return _decision(read_json(directory / "decision.json"))
    if stage == "register":
        return _registration(home, read_json(directory / "registration.json"))
    return _training(directory, work)


def funnel_rows(curation: dict[str, Any]) -> Rows:
    """Return what curation saw, dropped by which rule, kept, and split into."""
    seen = max(1, int(curation.get("seen") or 0))
    counted = [("seen", curation.get("seen", 0))]
    counted += [(f"dropped: {_plain(name)}", count) for name, count in curation.get("dropped", {}).items()]
    counted.append(("kept", curation.get("kept", 0)))
    counted += [(f"kept, for {name}", count) for name, count in curation.get("splits", {}).items()]
    rows = [
        {"what": name, "images": count, "share": f"{100 * count / seen:.1f} %"} for name, count in counted
    ]
    return rows[:MAX_ROWS]


def rule_funnel_rows(curation: dict[str, Any]) -> Rows:
    """Return what each rule of curation removed in turn, and would remove alone."""
    return [
        {
            "rule": _plain(step["rule"]),
            "removed in turn": step["removed"],
            "would remove alone": step["alone"],
            "no other rule would": step["only"],
            "left": step["left"],
        }
        for step in curation.get("funnel", [])[:MAX_ROWS]
    ]


def sensitivity_rows(curation: dict[str, Any]) -> Rows:
    """Return how many images more or fewer would be kept with each threshold moved."""
    return [
        {"threshold": f"{_plain(each['field'])} {each['value']:g} {each['unit']}"}
        | {f"{100 * (move['factor'] - 1):+.0f} %": _move(move) for move in each["changes"]}
        for each in curation.get("sensitivity", [])[:MAX_ROWS]
    ]


def metric_rows(evaluation: dict[str, Any]) -> Rows:
    """Return an evaluation's numbers with their intervals, those of the LoRA last."""
    from evaluation.report_numbers import number
    from evaluation.versus_words import metric_words

    metrics = evaluation.get("metrics", [])
    lora = [
        {**each, "name": f"lora/{each['name']}"} for each in (evaluation.get("lora") or {}).get("metrics", [])
    ]
    rows = []
    for each in [*metrics, *lora]:
        name, low, high = each["name"], each.get("ci_low"), each.get("ci_high")
        try:
            words, where = metric_words(name)
        except ValueError:  # a name of another shape stands for itself
            words, where = _plain(name), ""
        rows.append({
            "number": f"{words}, {where}" if where else words,
            "value": number(name, each.get("value")),
            "95 % interval": "" if low is None or high is None else f"{number(name, low)} to {number(name, high)}",
            "n": each.get("n"),
        })  # fmt: skip
    return rows[:MAX_ROWS]


def rule_rows(decision: dict[str, Any]) -> Rows:
    """Return the gate's rules, those not kept first."""
    from evaluation.versus_words import plain_words

    order = {"broken": 0, "open": 1, "unmeasured": 2, "kept": 3}
    rules = sorted(decision.get("rules", []), key=lambda rule: order.get(rule["verdict"], 9))
    return [
        {
            "rule": _plain(rule["name"]),
            "verdict": rule["verdict"],
            "asked": plain_words(rule["asked"]),
            "found": plain_words(rule["found"]),
        }
        for rule in rules[:MAX_ROWS]
    ]


def _curation(curation: dict[str, Any]) -> StagePage:
    tables = {
        "funnel": funnel_rows(curation),
        "rules": rule_funnel_rows(curation),
        "thresholds": sensitivity_rows(curation),
    }
    return StagePage(tables={name: rows for name, rows in tables.items() if rows})


def _move(move: dict[str, Any]) -> str:
    return "not allowed" if move["kept"] is None else f"{move['difference']:+,} ({move['kept']:,} kept)"


def _captions(found: dict[str, Any]) -> StagePage:
    lines = ["| image | given | new |", "|---|---|---|"]
    lines += [_example(each) for each in found.get("examples", [])[:_MOST_EXAMPLES]]
    wrong = [_example(each) for each in found.get("mistakes", [])[: _MOST_EXAMPLES // 2]]
    shown = "\n".join(lines) if len(lines) > 2 else ""
    if wrong:
        shown += "\n\nSome that went wrong:\n\n" + "\n".join([*lines[:2], *wrong])
    return StagePage(shown)


def _example(each: dict[str, Any]) -> str:
    image = str(each.get("image", ""))
    picture = f"![]({image})" if len(image) < MAX_BYTES // 4 else ""
    return f"| {picture} | {_cell(each.get('original'))} | {_cell(each.get('new'))} |"


def _evaluation(directory: Path) -> StagePage:
    rows = metric_rows(read_json(directory / "evaluation.json"))
    picture = embed(directory / "grid.png")
    return StagePage(f"![Images of the model]({picture})" if picture else "", {"numbers": rows})


def _decision(decision: dict[str, Any]) -> StagePage:
    champion = decision.get("champion") or {}
    against = f" against version {champion['version']}" if champion.get("version") else ""
    reasons = "\n".join(f"- {_cell(reason)}" for reason in decision.get("reasons", [])[:MAX_ROWS])
    rows = rule_rows(decision)
    return StagePage(
        f"## {decision.get('verdict', '')}{against}\n\n{reasons}", {"rules": rows} if rows else {}
    )


def _registration(home: Home, made: dict[str, Any]) -> StagePage:
    name, version = str(made.get("name", "")), str(made.get("version", ""))
    report = home.root / "reports" / f"{name}-version-{version}.html"
    aliases = ", ".join(made.get("aliases", []))
    url = tracking.version_url(home, name, version)
    text = f"## {name} version {version}\n\naliases: {aliases}\n\nreport: `{report}`"
    return StagePage(text, links={f"{name} version {version} in MLflow": url} if url else {})


def _training(directory: Path, work: Path) -> StagePage:
    curve = loss_curve(_losses(work / "output" / "metrics.jsonl"))
    drawn, given = sheet(work / "output" / SAMPLES), embed(directory / "images.png", 512)
    pictures = [f"![Loss]({curve})"] if curve else []
    pictures += [f"![Samples, from first to last step]({drawn})"] if drawn else []
    pictures += [f"![Images it learned from]({given})"] if given else []
    return StagePage("\n\n".join(pictures))


def _losses(spool: Path) -> list[tuple[int, float]]:
    """Step and loss of a training: of a step that was repeated after a kill, the later."""
    if not spool.is_file():
        return []
    lines = SpoolReader(spool, max(0, spool.stat().st_size - _TAIL_BYTES)).read()
    return sorted({line.step: line.metrics["loss"] for line in lines if "loss" in line.metrics}.items())


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _cell(value: object) -> str:
    return json.dumps(str(value or ""), ensure_ascii=False)[1:-1][:_TEXT].replace("|", "\\|")
