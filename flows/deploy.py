"""`fluxline deploy`: finds the Prefect server, and lets `deployments` apply what the catalogue lists."""

import os
import subprocess
import sys

from flows.environment import set_environment
from flows.servers import use_running
from fluxmodel.errors import InputError
from tasks.home import open_home


def apply_deployments(schedule: bool, notify: str = "") -> int:
    """Apply the catalogue to PREFECT_API_URL's server, else to that of `fluxline up`; return the exit code.

    Args:
        schedule: whether to switch the schedules on.
        notify: notification block that is told of failed runs, questions and drift; empty for none.

    Raises:
        InputError: there is no server to apply them to.
    """
    home = open_home().make()
    running = use_running(home)
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise InputError(
            "There is no Prefect server to deploy to; start `fluxline up`, or set PREFECT_API_URL to yours."
        )
    set_environment(home)
    asked = ["--schedule"] if schedule else []
    if running is not None and running.prefect_api == url.rstrip("/"):
        asked.append(
            "--served"
        )  # it runs the deployments itself: in a work pool they would wait for a worker
    command = [sys.executable, "-m", "deployments.apply", *asked]
    code = subprocess.run(command, check=False).returncode
    if code or not notify:
        return code
    return subprocess.run([sys.executable, "-m", "deployments.notifications", notify], check=False).returncode
