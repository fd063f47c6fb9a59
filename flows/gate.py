"""What `fluxline gate A B --dry-run` does: the gate's answer on stored evaluations; nothing is written or moved."""

from evaluation.gate import GateDecision, decide
from evaluation.gate_settings import GateSettings
from fluxmodel.errors import IncomparableError, InputError
from tasks import registry


def try_gate(challenger: str, champion: str, name: str, preset: str, settings: GateSettings) -> GateDecision:
    """Return what the gate would say of two evaluations by these rules, on what is stored of them.

    Args:
        challenger: a version (`7`, an alias, `NAME@7`), or a directory with an evaluation.
        champion: likewise.
        name: registered model where a version does not say; empty for the newest.
        preset: whose thresholds are asked besides those in `settings`; empty for none.
        settings: what each rule asks.

    Raises:
        InputError: there is no such version, evaluation or preset.
        IncomparableError: they were measured differently; names the fields.
    """
    from flows.versions import open_registry
    from fluxmodel.presets import PRESETS
    from tasks.compare import find_side

    if preset:
        if preset not in PRESETS:
            raise InputError(f"--preset is {preset!r}; choose one of {', '.join(PRESETS)}.")
        asked = PRESETS[preset].evaluation.get("thresholds", {})
        settings = settings.model_copy(update={"thresholds": asked | settings.thresholds})
    home = open_registry()
    with registry.answering(home):
        one, other = (find_side(home, each, name).evaluation for each in (challenger, champion))
    decision = decide(one, other, settings)
    if decision.verdict == "incomparable":
        raise IncomparableError(decision.reasons[0], decision.differing)
    return decision


def print_decision(decision: GateDecision) -> None:
    """Print every rule as a table, and the verdict with its reasons below."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("rule", "asked", "found", "", box=None, header_style="bold", pad_edge=False)
    for rule in decision.rules:
        table.add_row(rule.name, rule.asked, rule.found, rule.verdict)
    console.print(table)
    console.print(f"\nThe gate would say: {decision.verdict}", markup=False)
    for reason in decision.reasons:
        console.print(f"  {reason}", markup=False, highlight=False, soft_wrap=True)
