"""`fluxline deploy`: finds the Prefect server, and lets `deployments` apply what the catalogue lists."""

import os
import subprocess
import sys

from flows.environment import set_environment
from flows.servers import use_running
from fluxmodel.errors import InputError
from tasks.home import open_home


def apply_deployments(schedule: bool) -> int:
    """Apply the catalogue to PREFECT_API_URL's server, else to that of `fluxline up`; return the exit code.

    Args:
        schedule: whether to switch the schedules on.

    Raises:
        InputError: there is no server to apply them to.
    """
    home = open_home().make()
    if not os.environ.get("PREFECT_API_URL") and use_running(home) is None:
        raise InputError(
            "There is no Prefect server to deploy to; start `fluxline up`, or set PREFECT_API_URL to yours."
        )
    set_environment(home)
    command = [sys.executable, "-m", "deployments.apply", *(["--schedule"] if schedule else [])]
    return subprocess.run(command, check=False).returncode
