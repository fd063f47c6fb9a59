"""A home that is lost comes back from a backup taken while a stage ran: elsewhere, and nothing is trained twice."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tasks import registry
from tasks.backup_pool import Pool
from tasks.home import Home
from tests.kit import wait_until
from tests.pipeline.conftest import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]


def test_a_lost_home_comes_back_elsewhere_and_goes_on(finished, forget, ran, kill_tree, tmp_path):
    digests = {name: stage["digest"] for name, stage in finished[1].items()}
    pool = str(tmp_path / "backups")
    finished[0].run("backup", pool, "--json")
    old = Command(tmp_path / "old", {})  # with a Prefect server of its own, whose database is saved as well
    old.run("restore", pool, "--json")
    old.environment = finished[0].environment
    stages, second, _ = old.pipeline("--seed", "1", "--num-images", "60")
    assert ran(stages) == ["train", "rectify", "finetune", "evaluate", "gate", "register"]
    assert second["model_version"] == "2"
    old.environment = {}
    if aliases(old)["champion"] == "1":
        old.run("promote", "--version", "2", "--force", "--json")
    old.run("rollback", "--json")  # with another champion the gate would rightly decide again
    forget(old, finished[1], "train")

    process = old.start("run", "--preset", "smoke")
    checkpoints = old.work(finished[1]["train"]) / "output" / "checkpoints"
    wait_until(lambda: list(checkpoints.glob("step-*.pt")) or process.poll() is not None, seconds=300)
    saved, _ = old.run("backup", pool, "--json")
    kill_tree(process)
    assert {each["owner"] for each in saved["databases"]} == {"Prefect", "MLflow"}
    assert not (
        old.home / "runs" / f"{finished[1]['train']['run_key']}.json"
    ).exists()  # it was at work, really
    shutil.rmtree(old.home)

    new = Command(tmp_path / "new", {})
    done, _ = new.run("restore", pool, "--json")
    assert done["backup"] == saved["backup"]
    assert names_of_old(new.home, old.home) == []
    resumed = list((new.work(finished[1]["train"]) / "output" / "checkpoints").glob("step-*.pt"))
    assert resumed
    stages, outcome, _ = new.pipeline()
    assert ran(stages) == ["train"]
    assert {name: stage["digest"] for name, stage in stages.items()} == digests
    assert outcome["model_version"] == "1"

    drawn, _ = new.run("generate", "a red circle", "--lora", "wash", "--out", str(tmp_path / "out"), "--json")
    assert len(drawn["images"]) == 1
    compared, _ = new.run("compare", "2", "1", "--json", "--out", str(tmp_path / "compared"))
    assert (compared["a"], compared["b"]) == ("2", "1")
    assert aliases(new) == {"champion": "1", "previous": "2", "challenger": "2"}

    shutil.rmtree(new.home / "artifacts")  # MLflow's own copies are found at the new place, too
    stages, _, _ = new.pipeline()
    assert ran(stages) == []
    new.run("rollback", "--json")
    assert aliases(new) == {"champion": "2", "previous": "1", "challenger": "2"}


def test_a_backup_killed_at_any_moment_is_a_whole_one_or_none(finished, tmp_path):
    command, pool = finished[0], Pool(tmp_path / "backups")
    for files in (1, 40):
        process = command.start("backup", str(pool.root))
        wait_until(lambda n=files, p=process: is_reached(pool, n) or p.poll() is not None, seconds=300)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = pool.manifests()
        code = 0 if found else 2
        other = Command(tmp_path / f"restored-{files}", {})
        _, err = other.run("restore", str(pool.root), "--json", code=code)
        assert found or "no finished backup" in err
        assert other.home.exists() == bool(found)
        for path in found:
            os.unlink(path)
    command.run("backup", str(pool.root), "--json")
    assert len(pool.manifests()) == 1


def is_reached(pool: Pool, files: int) -> bool:
    return sum(1 for _ in (pool.root / "objects").glob("*/*")) >= files


def names_of_old(home: Path, old: Path) -> list[Path]:
    """Files, artifacts aside, that still name the old home."""
    found = [
        path for path in home.rglob("*") if path.is_file() and "artifacts" not in path.parts[len(home.parts)]
    ]
    assert len(found) > 50
    return [path for path in found if f"{old}/".encode() in path.read_bytes() and path.suffix != ".pt"]


def aliases(command: Command) -> dict[str, str]:
    return registry.aliases(Home(command.home), "fluxline-smoke")
