"""Serves the pipeline as a deployment, so that *Run* in Prefect's interface works: `python -m deployments.serve`.

Each run is a process of its own; ending this one (Ctrl-C, SIGTERM) ends them after saving checkpoints.
"""

from flows.environment import set_environment
from tasks.home import open_home


def main() -> None:
    """Serve the deployment `pipeline` of the flow `pipeline` until stopped."""
    set_environment(open_home().make())
    from flows.pipeline import pipeline

    pipeline.serve(name="pipeline", print_starting_message=False, pause_on_shutdown=False, limit=1)


if __name__ == "__main__":
    main()
