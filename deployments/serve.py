"""Serves pipeline and comparison as deployments, so that *Run* in Prefect works: `python -m deployments.serve`.

Each run is a process of its own; ending this one (Ctrl-C, SIGTERM) ends them after saving checkpoints.
"""

from typing import Any

from flows.environment import set_environment
from tasks.home import open_home


def main() -> None:
    """Serve the deployments `pipeline` and `compare` until stopped; each runs once at a time."""
    set_environment(open_home().make())
    from prefect import serve

    from flows.compare import compare
    from flows.pipeline import pipeline

    deployments: list[Any] = [
        each.to_deployment(each.name, concurrency_limit=1) for each in (pipeline, compare)
    ]
    serve(*deployments, print_starting_message=False, pause_on_shutdown=False, limit=len(deployments))


if __name__ == "__main__":
    main()
