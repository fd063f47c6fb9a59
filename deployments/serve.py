"""Serves the catalogue, so that *Run* in Prefect works: `python -m deployments.serve`.

Each run is a process of its own; ending this one (Ctrl-C, SIGTERM) ends them after saving checkpoints.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.environment import set_environment
from tasks.home import open_home


@dataclass(frozen=True)
class _Standing:
    """A deployment that was applied already, in the form in which a runner takes one: it is not applied again."""

    name: str
    id: UUID
    storage: None = None

    async def aapply(self) -> UUID:
        return self.id


def main() -> None:
    """Apply the catalogue and serve it until stopped."""
    home = open_home().make()
    set_environment(home)
    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner

    from deployments.apply import apply_automations, apply_catalogue
    from flows.runner import note_served

    applied = apply_catalogue(pool="")
    runner = Runner(pause_on_shutdown=False, limit=len(applied))
    for each in applied:
        standing: Any = _Standing(each.name, each.id)
        runner.add_deployment(standing)
    apply_automations()
    note_served(home, [each.name for each in applied])
    with suppress(
        KeyboardInterrupt, TerminationSignal
    ):  # asked to stop: the runs have saved their checkpoints
        asyncio.run(runner.start())


if __name__ == "__main__":
    main()
