"""The report's chapter on a style learned from a few images: adoption, prompt-following, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .page import bars, note, picture, section, sentence, table
from .report_numbers import cell, lora_samplings, plural

TITLE = "A style from a few images"
_NUM_SHOWN = 6
_ADOPTED = 0.6
"""Share of triggered images in the style from which the LoRA is said to work."""
_TILES = (
    ("plain_off", "without LoRA"),
    ("plain_on", "LoRA"),
    ("triggered_on", "LoRA and trigger"),
)
_ADOPTION = (
    ("triggered_on", "LoRA and trigger"),
    ("plain_on", "LoRA alone"),
    ("triggered_off", "trigger alone"),
    ("plain_off", "neither"),
)


def lora(document: Mapping[str, Any], story: Mapping[str, Any] | None) -> str:
    """The chapter; one sentence where a reason is recorded, nothing where no LoRA was made."""
    measured = document.get("lora")
    if not measured:
        reason = (document.get("skipped") or {}).get("lora")
        return section("lora", "finetune", TITLE, note(sentence(reason))) if reason else ""
    about, metrics = measured["about"], {each["name"]: each for each in measured["metrics"]}
    samplings = [name for name in measured["tiles"] if any(each.startswith(f"{name}/") for each in metrics)]
    words = {name: _sampling(name, measured.get("identity", {})) for name in samplings}
    return section(
        "lora",
        "finetune",
        TITLE,
        note(_told(about)),
        _training_images((story or {}).get("images", [])),
        _pairs(measured["tiles"], words, about["trigger"]),
        _adoption(metrics, words),
        _following(metrics, words),
    )


def _told(about: Mapping[str, Any]) -> str:
    size = f"{plural(int(about['num_images']), 'image')} and " if about.get("num_images") else ""
    return (
        f"{size}{int(about.get('steps', 0)):,} steps taught low-rank adapters of the base the style "
        f'“{escape(str(about["style"]))}”, asked for by the made-up word <b class="trigger">'
        f"{escape(str(about['trigger']))}</b> at the end of a prompt. What prompts without it ask for should stay "
        "as it was."
    )


def _sampling(name: str, identity: Mapping[str, Any]) -> str:
    """`base, 8 steps with guidance 2`, `rectified, 1 step`."""
    if name.startswith("rectified_"):
        return f"rectified, {plural(int(name.removeprefix('rectified_')), 'step')}"
    steps, guidance = identity.get("base_steps"), identity.get("guidance")
    return f"base, {plural(steps, 'step')}, guidance {guidance:g}" if steps and guidance else name


def _training_images(images: Sequence[Mapping[str, str]]) -> str:
    if not images:
        return ""
    tiles = "".join(f'<figure title="{escape(each["prompt"], quote=True)}">{picture(each["png"], each["prompt"])}'
                    "</figure>" for each in images)  # fmt: skip
    return f'<h3>All it was shown</h3><div class="tiles small">{tiles}</div>'


def _pairs(tiles: Mapping[str, Any], words: Mapping[str, str], trigger: str) -> str:
    """A block a prompt: rows the samplings, columns without, with, and with the trigger word."""
    shown = lora_samplings(words)
    if not shown:
        return ""
    style = f"grid-template-columns:5.2rem repeat({len(_TILES)},minmax(0,1fr))"
    top = "".join(f'<span class="top">{said}</span>' for _, said in _TILES)
    blocks = []
    for row, first in enumerate(tiles[shown[0]][:_NUM_SHOWN]):
        cells = [f"<span></span>{top}"]
        for name in shown:
            each = tiles[name][row]
            cells.append(f"<span>{escape(words[name])}</span>")
            cells += [picture(each[how], f"{each['prompt']}; {words[name]}, {said}") for how, said in _TILES]
        asked = f'{escape(first["prompt"])} <span class="note">(in <b class="trigger">{escape(trigger)}</b>)</span>'
        blocks.append(f'<div><p>{asked}</p><div class="matrix" style="{style}">{"".join(cells)}</div></div>')
    said = note("The first prompts, not chosen; all images of a prompt start from the same noise.")
    return f'<h3>Before and after</h3>{said}<div class="matrices three">{"".join(blocks)}</div>'


def _adoption(metrics: Mapping[str, Any], words: Mapping[str, str]) -> str:
    parts = []
    for name, said in words.items():
        rows = [
            (label, found["value"], found["ci_low"], found["ci_high"])
            for how, label in _ADOPTION
            if (found := metrics.get(f"{name}/adoption/{how}"))
        ]
        if rows:
            parts.append(f"<div><h3>{escape(said)}</h3>{bars(rows)}</div>")
    if not parts:
        return ""
    text = "Images that a trained classifier sees in the style; only the first bar of each should be long. "
    carried = note(text + _carried(metrics, words))
    return f'<h3>Is the style there?</h3>{carried}<div class="columns">{"".join(parts)}</div>'


def _carried(metrics: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Whether the LoRA, trained on the base, works on the rectified model too."""
    name = lora_samplings(words)[-1]
    found = metrics.get(f"{name}/adoption/triggered_on") if name.startswith("rectified_") else None
    if not found:
        return ""
    said = (
        "works on the rectified model too"
        if found["value"] >= _ADOPTED
        else "does not work on the rectified model"
    )
    return (
        f"Trained on the base, the LoRA {said}: at {words[name].split(', ')[-1]} {found['value']:.0%} of triggered "
        "images are in the style."
    )


def _following(metrics: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = []
    for name, said in words.items():
        if f"{name}/following/plain_off" not in metrics:
            continue
        cells = [
            _share(metrics, f"{name}/following/{how}") for how in ("plain_off", "plain_on", "triggered_on")
        ]
        changes = [_change(metrics, f"{name}/following_change/{how}") for how in ("plain_on", "triggered_on")]
        rows.append([escape(said), cells[0], cells[1], changes[0], cells[2], changes[1]])
    if not rows:
        return ""
    head = ["attributes right", "without LoRA", "LoRA", "change", "LoRA and trigger", "change"]
    said = note(
        "The same prompts and noise with the LoRA and without, so each change is paired, image by image."
    )
    return f"<h3>Are prompts still followed?</h3>{said}{table(head, rows)}"


def _share(metrics: Mapping[str, Any], name: str) -> str:
    found = metrics.get(name)
    return cell("attr_acc", found["value"], [found["ci_low"], found["ci_high"]]) if found else "–"


def _change(metrics: Mapping[str, Any], name: str) -> str:
    found = metrics.get(name)
    if not found:
        return "–"
    text = f"{100 * found['value']:+.1f} points"
    if found["ci_low"] is None or found["ci_high"] is None:
        return text
    return f'{text}<span class="ci">{100 * found["ci_low"]:+.1f} to {100 * found["ci_high"]:+.1f}</span>'
