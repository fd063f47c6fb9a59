"""The catalogue as prefect.yaml, for those who use `prefect deploy`: `python -m deployments.manifest` writes it."""

from pathlib import Path
from typing import Any

import yaml

from deployments.catalogue import CATALOGUE, POOL, Deployed
from flows.environment import SURVIVAL

FILE = Path(__file__).with_name("prefect.yaml")
_HEAD = """\
# Written by `python -m deployments.manifest` from deployments/catalogue.py; a test compares the two. `fluxline deploy`
# does the same and more: work pool, automations, and schedules as people have changed them.
# From the repository's root: prefect deploy --all --prefect-file deployments/prefect.yaml
"""


def manifest() -> str:
    """Return the text of prefect.yaml."""
    listed = {"name": "fluxline", "deployments": [_entry(each) for each in CATALOGUE]}
    return _HEAD + yaml.safe_dump(listed, sort_keys=False, width=110, allow_unicode=True)


def _entry(deployed: Deployed) -> dict[str, Any]:
    module, _, name = deployed.place.rpartition(".")
    entry: dict[str, Any] = {
        "name": deployed.name,
        "entrypoint": f"{module.replace('.', '/')}.py:{name}",
        "description": deployed.said,
        "tags": list(deployed.tags),
        "enforce_parameter_schema": True,
        "work_pool": {"name": POOL, "job_variables": {"env": dict(SURVIVAL)}},
    }
    if deployed.limit:
        entry["concurrency_limit"] = {"limit": deployed.limit, "collision_strategy": "ENQUEUE"}
    if deployed.timetables:
        entry["schedules"] = [
            {
                "slug": each.slug,
                "cron": each.cron,
                "timezone": "UTC",
                "active": False,
                "parameters": each.parameters,
            }
            for each in deployed.timetables
        ]
    return entry


if __name__ == "__main__":
    FILE.write_text(manifest())
