"""The gate: does the challenger take the champion's place?

    promote       shown better on the one primary metric, and no guarded number beyond its margin
    reject        shown worse on the primary, or a guarded number shown beyond its margin, or a threshold clearly missed
    inconclusive  no evidence either way; the interval is shown, and how many prompts would settle it
    incomparable  the two were measured differently; the fields are named

The primary is `all_correct` at each side's headline point where there is a judge, else `retrieval`. "Shown" means that
the 95 % interval of the paired difference excludes zero, that the sign-flip test agrees (p <= 0.05), and that
the difference is at least `min_effect`: trainings with other seeds differ more than prompts do, and no interval
over prompts knows that. The rule is its own mirror image: what promotes A over B rejects B against A.

A guard must be shown to lie above minus its margin. Only the Frechet distance cannot show that: at n = 1000 its
interval was 12.3 [2.2, 22.4]; so it passes unless it is worse by more than its relative margin, and rejects only
where the combined interval shows as much. The LoRA's numbers are figures without pairs and are treated alike.
"""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import IncomparableError

from .compare import Difference, Side, compare_evaluations, read_side

Verdict = Literal["promote", "reject", "inconclusive", "incomparable"]
FILE = "decision.json"


class GateSettings(BaseModel):
    """What the gate asks; shares are of 1, so 0.005 is half a point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_effect: float = Field(
        default=0.005,
        ge=0,
        description="Least difference of the primary that counts; below it nothing is promoted.",
    )
    attr_acc_margin: float = Field(
        default=0.01, ge=0, description="Loss of attribute accuracy that is borne."
    )
    held_out_margin: float = Field(
        default=0.05, ge=0, description="Loss of held-out images all correct that is borne."
    )
    clip_margin: float = Field(default=1.0, ge=0, description="Loss of CLIP score (of 100) that is borne.")
    fd_margin: float = Field(
        default=0.5,
        ge=0,
        description="Rise of the Frechet distance that is borne, as a share of the champion's.",
    )
    lora_margin: float = Field(default=0.1, ge=0, description="Loss of a LoRA's figures that is borne.")
    thresholds: dict[str, float] = Field(
        default={},
        description="Least value of a metric by name (most, where lower is better), champion or not.",
    )

    def margin(self, name: str, champion: float) -> float:
        """Margin of a guarded number."""
        if name == "fd":
            return self.fd_margin * champion
        if name.startswith("lora/"):
            return self.lora_margin
        return {
            "attr_acc": self.attr_acc_margin,
            "held_out/all_correct": self.held_out_margin,
            "clip": self.clip_margin,
        }[name]


class Champion(BaseModel):
    """The version that a challenger was compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str


class GateDecision(BaseModel):
    """What `decision.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", description="Registered model it is about.")
    evaluation: str = Field(default="", description="Digest of the challenger's evaluation.")
    verdict: Verdict
    reasons: list[str] = Field(description="Plain sentences.")
    primary: Difference | None = Field(default=None, description="None where there was nothing to compare.")
    guards: list[Difference] = []
    champion: Champion | None = None
    settings: GateSettings


def decide(
    challenger: Path, champion: Path | None, settings: GateSettings, who: Champion | None = None
) -> GateDecision:
    """Return the verdict on the challenger's evaluation directory against the champion's.

    Args:
        challenger: directory of its evaluation.
        champion: directory of the champion's; None where there is no champion yet.
        settings: margins and thresholds.
        who: the champion's name and version, for the record.

    Raises:
        InputError: a directory holds no whole evaluation.
    """
    side = read_side(challenger)
    missed, clear = _thresholds(side.metrics, settings.thresholds)
    if champion is None:
        return _first(side, settings, missed)
    try:
        rows = compare_evaluations(challenger, champion)
    except IncomparableError as error:
        reasons = [str(error), "The champion stays; to replace it by hand, use `fluxline promote`."]
        return GateDecision(verdict="incomparable", reasons=reasons, champion=who, settings=settings)
    name = next((name for name in ("all_correct", "retrieval") if name in rows), "")
    if not name:
        reasons = ["Neither all_correct nor retrieval was measured on both sides, so nothing can be decided."]
        return GateDecision(verdict="incomparable", reasons=reasons, champion=who, settings=settings)
    guarded = [
        each for each in ("attr_acc", "held_out/all_correct", "clip", "fd") if each in rows and each != name
    ]
    guarded += [each for each in rows if each.startswith("lora/")]
    guards = [_guard(rows[each], settings) for each in guarded]
    verdict, reasons = _verdict(rows[name], guards, settings, clear)
    reasons += [each for each in missed if each not in clear]
    return GateDecision(
        verdict=verdict,
        reasons=reasons,
        primary=rows[name],
        guards=guards,
        champion=who,
        settings=settings,
    )


def headline(decision: GateDecision) -> str:
    """Return the decision in one line."""
    against = f" against version {decision.champion.version}" if decision.champion else ""
    row = decision.primary
    if row is None:
        return f"{decision.verdict}: {decision.reasons[0]}"
    return f"{decision.verdict}: {row.name} {_signed(row, row.difference)} {interval_of(row)}{against}"


def _verdict(
    row: Difference, guards: list[Difference], settings: GateSettings, clear: list[str]
) -> tuple[Verdict, list[str]]:
    said = f"{told(row)}, {row.n} pairs, p = {row.p_value:.3g}"
    worse = [guard for guard in guards if is_shown_worse(guard)]
    if clear or worse or is_shown(row, settings, -1):
        reasons = list(clear)
        if is_shown(row, settings, -1):
            reasons.append(f"Shown worse on the primary metric: {said}.")
        reasons += [f"{_told(guard)}: shown worse than its margin." for guard in worse]
        return "reject", reasons
    unsure = [f"{_told(guard)}: not shown to keep within its margin." for guard in guards if not guard.passed]
    if is_shown(row, settings, 1) and not unsure:
        return "promote", [
            f"Shown better on the primary metric: {said}.",
            *([f"Within their margins: {', '.join(guard.name for guard in guards)}."] if guards else []),
            "The interval covers prompts and noise; another training seed may move the number by more.",
        ]
    if is_shown(row, settings, 1):
        return "inconclusive", [f"Better on the primary metric: {said}.", *unsure]
    return "inconclusive", [f"No evidence either way: {said}.", _needed(row, settings), *unsure]


def is_shown(row: Difference, settings: GateSettings, sign: int) -> bool:
    """Return whether the primary is shown better (sign 1) or worse (sign -1)."""
    if row.ci_low is None or row.ci_high is None or row.p_value is None:
        return False
    near = row.ci_low if sign > 0 else -row.ci_high
    return near > 0 and sign * row.difference >= settings.min_effect - 1e-12 and row.p_value <= 0.05


def is_shown_worse(guard: Difference) -> bool:
    """Return whether a guarded number lies beyond its margin with its whole interval."""
    return guard.ci_high is not None and guard.margin is not None and guard.ci_high < -guard.margin


def pairs_needed(row: Difference, least: float) -> int:
    """Return how many pairs would bring the interval to the observed difference (at least to `least`); 0: unknown."""
    target = max(abs(row.difference), least)
    if not target or not math.isfinite(row.half_width):
        return 0
    return math.ceil(row.n * (row.half_width / target) ** 2)


def _guard(row: Difference, settings: GateSettings) -> Difference:
    margin = settings.margin(row.name, row.champion)
    is_figure = row.p_value is None  # no pairs: its interval is too wide to show anything small
    least = row.difference if is_figure else row.ci_low
    return row.model_copy(update={"margin": margin, "passed": least is not None and least >= -margin})


def _needed(row: Difference, settings: GateSettings) -> str:
    pairs = pairs_needed(row, settings.min_effect)
    if not pairs:
        return "Not one image differs, so nothing tells how many pairs would settle it."
    if abs(row.difference) >= settings.min_effect:
        return f"To resolve a difference of this size would take about {pairs} pairs."
    least = f"{100 * settings.min_effect:g} points"
    return f"The difference is below the least that counts, {least}; to resolve that would take about {pairs} pairs."


def _first(side: Side, settings: GateSettings, missed: list[str]) -> GateDecision:
    judged = [each for each in settings.thresholds if each in side.metrics]
    asked = f"meets the {len(judged)} thresholds asked" if judged else "has no threshold to meet"
    reasons = ["There is no champion yet.", *(missed or [f"The model {asked}."])]
    verdict: Verdict = "reject" if missed else "promote"
    return GateDecision(verdict=verdict, reasons=reasons, settings=settings)


def _thresholds(metrics: dict[str, Any], thresholds: dict[str, float]) -> tuple[list[str], list[str]]:
    """Sentences on thresholds missed by the value, and of these the ones missed by the whole interval."""
    missed, clear = [], []
    for name, asked in thresholds.items():
        measured = metrics.get(name)
        if measured is None or measured.value is None:
            continue  # a folder has no judge
        is_lower = measured.direction == "lower"
        sign, best = (-1, measured.ci_low) if is_lower else (1, measured.ci_high)
        if sign * (measured.value - asked) >= 0:
            continue
        is_clear = best is not None and sign * (best - asked) < 0
        how = "with its whole interval" if is_clear else "by less than its interval"
        limit = "at most" if is_lower else "at least"
        missed.append(f"{name} is {measured.value:.4g}, asked {limit} {asked:.4g}: missed {how}.")
        if is_clear:
            clear.append(missed[-1])
    return missed, clear


def _told(guard: Difference) -> str:
    return f"{told(guard)}, margin {_number(guard, guard.margin)}"


def told(row: Difference) -> str:
    """Return a compared number in words: from, to, difference and interval."""
    value = f"{_number(row, row.champion)} -> {_number(row, row.challenger)}"
    return f"{row.name} {value}, difference {_signed(row, row.difference)} {interval_of(row)}"


def is_share(name: str) -> bool:
    """Return whether a number is a share of 1, told in per cent."""
    return name not in ("clip", "fd")


def _number(row: Difference, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{100 * value:.1f} %" if is_share(row.name) else f"{value:.2f}"


def _signed(row: Difference, value: float) -> str:
    return f"{100 * value:+.1f} points" if is_share(row.name) else f"{value:+.2f}"


def in_words(row: Difference) -> tuple[str, str, str, str]:
    """Return a compared number as the cells of a table: challenger, champion, difference, interval."""
    values = _number(row, row.challenger), _number(row, row.champion)
    return *values, _signed(row, row.difference), interval_of(row)


def interval_of(row: Difference) -> str:
    """Return the interval of a difference in words, shares in points."""
    if row.ci_low is None or row.ci_high is None:
        return "(no interval)"
    scale = 100 if is_share(row.name) else 1
    return f"[{scale * row.ci_low:+.1f}, {scale * row.ci_high:+.1f}]"
