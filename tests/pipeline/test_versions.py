"""The gate, and what people do with versions after it, in the real chain."""

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

    stages, second, _ = again.pipeline("--seed", "1")
    assert ran(stages) == ["train", "rectify", "finetune", "evaluate", "gate", "register"]
    assert second["model_version"] == "2"
    assert second["verdict"] in ("inconclusive", "reject")
    assert second["reasons"]
    assert aliases(again) == {"champion": "1", "challenger": "2"}

    compared, _ = again.run("compare", "2", "1", "--json")
    assert (compared["a"], compared["b"]) == ("2", "1")
    assert compared["verdict"] == second["verdict"]
    assert compared["primary"]["n"] == 64
    elsewhere = write_evaluation(tmp_path / "elsewhere", np.ones(64))
    _, err = again.run("compare", "2", str(elsewhere), "--json", code=3)
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
