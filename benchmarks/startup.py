"""How long `fluxline --help` takes beside the commands of the engines it drives.

A command that answers in half a second invites being asked. Run: python -m benchmarks.startup --json
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import faster, median_seconds, publish, show

BIN = Path(sys.executable).parent
GOAL_SECONDS = 0.5


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description="Time `fluxline --help` beside `prefect` and `mlflow`.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count")
    arguments = parser.parse_args()

    seconds = median_seconds(
        {
            "bare python": lambda: _run(sys.executable, "-c", "pass"),
            "fluxline": lambda: _run(str(BIN / "fluxline"), "--help"),
            "prefect": lambda: _run(str(BIN / "prefect"), "--help"),
            "mlflow": lambda: _run(str(BIN / "mlflow"), "--help"),
        },
        arguments.rounds,
    )
    ours = seconds["fluxline"]
    rows = [
        faster("--help against mlflow", ours, seconds["mlflow"]),
        faster("--help against prefect", ours, seconds["prefect"]),
        faster("--help against the goal", ours, GOAL_SECONDS),
    ]
    result = publish(
        "startup", rows, ("fluxline", "prefect", "mlflow", "cyclopts"), bare_python=seconds["bare python"]
    )
    show(result, arguments.json)


def _run(*command: str) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
