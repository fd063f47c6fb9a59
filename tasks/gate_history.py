"""How many gates of a model have tested it already: what is left of the year's budget."""

from evaluation.budget import YEAR_SECONDS, gates_in_year
from tasks import tracking
from tasks.home import Home
from tasks.run_key import RunBook

PRIMARY_DIFFERENCE = "difference"
"""Metric of a gate's run; there only where a primary was compared."""
_MOST = 1000


def gates_spent(home: Home, name: str, run_key: str, now: float) -> int:
    """Return the gates of a model that compared a primary in the 365 days before, this one (by its key) not counted.

    Those of this home and those that MLflow knows of other homes; the same comparison asked again is one.
    """
    times = _here(home, name) | _elsewhere(home, name, now)
    times.pop(run_key, None)
    return gates_in_year(times.values(), now)


def _here(home: Home, name: str) -> dict[str, float]:
    found = {}
    for record in RunBook(home).records():
        identity = record.identity
        is_gate = identity.stage == "gate" and identity.parameters.get("name") == name
        if is_gate and PRIMARY_DIFFERENCE in record.metrics:
            found[record.run_key] = record.finished
    return found


def _elsewhere(home: Home, name: str, now: float) -> dict[str, float]:
    since = int(1000 * (now - YEAR_SECONDS))
    quoted = name.replace("'", "")
    runs = tracking.client(home).search_runs(
        [tracking.experiment_id(home)],
        f"tags.stage = 'gate' and params.name = '{quoted}' and attributes.start_time > {since}",
        max_results=_MOST,
    )
    return {
        run.data.tags.get("run_key", run.info.run_id): run.info.start_time / 1000
        for run in runs
        if PRIMARY_DIFFERENCE in run.data.metrics
    }
