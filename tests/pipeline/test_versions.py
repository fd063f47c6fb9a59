"""The gate, and what people do with versions after it, in the real chain."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks import registry
from tasks.home import Home
from tests.kit import write_evaluation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

NAME = "fluxline-smoke"


def test_a_run_that_differs_by_its_seed_moves_no_champion_but_a_person_may(again, finished, ran, tmp_path):
    first = finished[2]
    assert (first["verdict"], first["model_version"]) == ("promote", "1")
    assert aliases(again) == {"champion": "1", "challenger": "1"}

    # Judged on fewer prompts than the champion was, which is therefore evaluated again on the same ones.
    # Its few images tell nothing about contrast or distances, so wide margins leave it to the primary.
    wide = [f"--gate.{name}" for name in ("contrast-margin", "fd-margin", "lora-margin", "memorised-margin")]
    asked = [word for name in wide for word in (name, "9")]
    stages, second, _ = again.pipeline("--seed", "1", "--num-images", "60", *asked)
    assert ran(stages) == ["train", "rectify", "finetune", "evaluate", "gate", "register"]
    assert second["model_version"] == "2"
    assert second["verdict"] in ("inconclusive", "reject")
    assert any(
        "Version 1 was evaluated again on the challenger's terms (" in why for why in second["reasons"]
    )
    assert aliases(again) == {"champion": "1", "challenger": "2"}
    decision = json.loads((again.artifact(stages["gate"]) / "decision.json").read_text())
    assert decision["primary"]["n"] == 60 * decision["num_seeds"]
    if (
        second["verdict"] == "inconclusive"
    ):  # further noise was drawn up to the limit, and both were timed in turn
        assert decision["num_seeds"] == 8
        assert "in turn" in next(rule for rule in decision["rules"] if rule["name"] == "latency")["found"]
        assert (again.artifact(stages["gate"]) / "duel" / "challenger.parquet").is_file()

    compared, _ = again.run("compare", "2", "1", "--json", "--out", str(tmp_path / "compared"))
    assert (compared["a"], compared["b"]) == ("2", "1")
    assert compared["verdict"] in ("inconclusive", "reject")  # on the stored rows, without further noise
    assert compared["primary"]["n"] == 60
    made = compared["changes"]
    assert made["settings"][0] == {
        "stages": ["train", "rectify", "finetune"],
        "name": "seed",
        "old": 0,
        "new": 1,
    }
    assert "settings.num_images" in [each["name"] for each in made["settings"]]
    assert (made["is_known"], made["code"], made["environment"]) == (True, [], [])
    assert compared["data"]["unchanged"] == compared["data"]["num_old"] == compared["data"]["num_new"]
    page = Path(compared["files"]["html"]).read_text()
    assert page.count('class="duo"') >= 24
    assert "It was not recorded" not in page
    elsewhere = write_evaluation(tmp_path / "elsewhere", np.ones(64))
    _, err = again.run("compare", "2", str(elsewhere), "--json", "--out", str(tmp_path / "other"), code=3)
    assert err.startswith("fluxline: ")

    why = ["--version", "2", "--reason", "its circles please me"]
    if second["verdict"] == "reject":
        _, err = again.run("promote", *why, code=2)
        assert "add --force" in err
        why.append("--force")
    moved, _ = again.run("promote", *why, "--json")
    assert (moved["champion"], moved["previous"], moved["moved"]) == ("2", "1", True)
    assert aliases(again) == {"champion": "2", "previous": "1", "challenger": "2"}
    tags = registry.find_version(Home(again.home), NAME, "champion").tags
    assert (tags["promotion.who"], tags["promotion.reason"]) == ("manual", "its circles please me")

    back, _ = again.run("rollback", "--json")
    assert (back["champion"], back["previous"]) == ("1", "2")
    assert aliases(again) == {"champion": "1", "previous": "2", "challenger": "2"}
    stages, outcome, _ = again.pipeline()  # the first run again: its decision stands as its model does
    assert ran(stages) == []
    assert outcome["model_version"] == "1"
    assert aliases(again) == {"champion": "1", "previous": "2", "challenger": "2"}


def aliases(command) -> dict[str, str]:
    return registry.aliases(Home(command.home), NAME)
