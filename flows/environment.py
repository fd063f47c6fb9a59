"""The environment of a run, set before Prefect is imported (it reads its settings then)."""

import logging
import os
import traceback
import warnings

from tasks.home import Home, open_home

SURVIVAL = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_CLIENT_MAX_RETRIES": "6",
}
"""How a run lives through trouble; whatever starts flows elsewhere (a worker, a container) needs it, too.

A run without a heartbeat for `deployments.automations.SILENT_SECONDS` counts as crashed, so heartbeats come every 30
seconds, the least Prefect takes (its default is 180). Six retries wait 2, 4, ... 64 seconds: two minutes without a
Prefect server, which takes ten seconds to start again, end no run (Prefect's five wait one).
"""


def set_environment(home: Home) -> None:
    """Make Prefect and MLflow quiet, private and at home in FLUXLINE_HOME; what the user set stays."""
    defaults = {
        "FLUXLINE_HOME": str(home.root),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home.results),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.results),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the console is ours; Prefect keeps the full log
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # a server that is away: the run goes on
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        **SURVIVAL,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    if not os.environ.get("PREFECT_API_URL"):
        defaults["PREFECT_HOME"] = str(home.root / "prefect")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")  # for users; tests run with warnings as errors


def keep_log(home: Home) -> str:
    """Keep the full log of Prefect and of ours in a file; return its path."""
    home.logs.mkdir(parents=True, exist_ok=True)
    path = home.logs / "fluxline.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("prefect", "fluxline", "mlflow"):
        logging.getLogger(name).addHandler(handler)
    return str(path)


def keep_fault() -> str:
    """Write the traceback of the exception being handled to the log file; return its path."""
    logs = open_home().logs
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "fluxline.log").open("a") as log:
        log.write(traceback.format_exc())
    return str(logs / "fluxline.log")
