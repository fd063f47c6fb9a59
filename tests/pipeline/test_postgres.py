"""Both servers on PostgreSQL: the same results as on SQLite, no password anywhere, and backup and restore."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks import registry, tracking
from tasks.gate_history import gates_spent
from tasks.home import Home
from tests.kit import wait_until
from tests.pipeline.conftest import Command
from tests.postgres_cluster import PASSWORD, Cluster, running_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

NAME = "fluxline-smoke"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("psycopg")
    before = set(_servers())
    with running_cluster() as made:
        yield made
    wait_until(lambda: set(_servers()) <= before, "PostgreSQL's processes end", 30)


def _servers() -> list[psutil.Process]:
    """Every process of PostgreSQL; one that ended and only waits for its parent to ask is none."""
    ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    found = psutil.process_iter(["name", "status"])
    return [each for each in found if each.info["name"] == "postgres" and each.info["status"] not in ended]


@pytest.fixture(scope="module")
def ran_there(cluster, tmp_path_factory) -> tuple[Command, dict[str, dict]]:
    """A home whose runs and versions are in PostgreSQL, and the stages of its first run; a second made version 2."""
    cluster.create("prefect", "mlflow")
    command = Command(tmp_path_factory.mktemp("postgres"), cluster.environment("prefect", "mlflow"))
    stages, _, err = command.pipeline()
    assert PASSWORD not in err
    _, second, _ = command.pipeline("--seed", "1", "--num-images", "60")
    assert second["model_version"] == "2"
    return command, stages


@pytest.fixture
def there(ran_there, monkeypatch) -> Home:
    """The home, with this process pointed at its databases too."""
    for name, value in ran_there[0].environment.items():
        monkeypatch.setenv(name, value)
    return Home(ran_there[0].home)


def test_the_run_gives_what_it_gives_on_sqlite(ran_there, finished):
    stages = ran_there[1]
    assert {name: stage["digest"] for name, stage in stages.items()} == {
        name: stage["digest"] for name, stage in finished[1].items()
    }
    assert not (ran_there[0].home / "mlflow.db").exists()
    assert not (ran_there[0].home / "prefect" / "prefect.db").exists()


def test_numbers_aliases_rollback_and_the_gate_s_history_work(ran_there, there):
    command, stages = ran_there
    run = tracking.find_run(there, stages["train"]["run_key"])
    assert run is not None
    points = tracking.client(there).get_metric_history(run.info.run_id, "loss")
    assert [p.step for p in points] == sorted({p.step for p in points}) != []
    stranger = Home(there.root.with_name("stranger"))  # a home that knows of the gates by MLflow alone
    assert gates_spent(stranger, NAME, "", time.time()) == gates_spent(there, NAME, "", time.time()) == 1
    if registry.aliases(there, NAME)["champion"] != "2":
        command.run("promote", "--version", "2", "--force", "--reason", "to try it", "--json")
    assert registry.aliases(there, NAME) == {"champion": "2", "previous": "1", "challenger": "2"}
    back, _ = command.run("rollback", "--json")
    assert (back["champion"], back["previous"]) == ("1", "2")
    assert registry.find_version(there, NAME, "champion").version == "1"


def test_a_shell_without_the_variables_begins_nothing_anew(ran_there):
    bare = Command(ran_there[0].home, {})
    _, err = bare.run("rollback", code=2)
    assert "MLFLOW_BACKEND_STORE_URI is not set" in err
    assert PASSWORD not in err


@pytest.mark.parametrize(("verb", "wrong"), [("run", "password"), ("up", "password"), ("run", "name")])
def test_a_wrong_address_is_one_sentence(verb, wrong, cluster, tmp_path):
    environment = cluster.environment(
        "prefect", "mlflow", **({"password": "wr0ng"} if wrong == "password" else {})
    )
    if wrong == "name":
        environment["MLFLOW_BACKEND_STORE_URI"] += "-nowhere"
    arguments = ["--preset", "smoke"] if verb == "run" else []
    _, err = Command(tmp_path / "home", environment).run(verb, *arguments, code=2)
    assert err.startswith("fluxline: ")
    assert len(err.splitlines()) == 1
    assert ("password authentication failed" if wrong == "password" else '-nowhere" does not exist') in err
    assert "wr0ng" not in err
    assert PASSWORD not in err


def test_up_serves_from_postgresql_and_a_backup_comes_back_into_other_databases(cluster, ran_there, tmp_path):
    command, stages = ran_there
    process = command.start("up")
    try:
        wait_until(
            lambda: (command.home / "servers.json").exists() or process.poll() is not None, seconds=300
        )
        assert process.poll() is None
        for member in [*psutil.Process(process.pid).children(recursive=True)]:
            assert PASSWORD not in " ".join(member.cmdline())
        saved, _ = command.run("backup", str(tmp_path / "backups"), "--json")
        checks, _ = command.run("doctor", "--json", code=0)
        assert PASSWORD not in str(checks)
    finally:
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert PASSWORD not in out + err
    assert [(each["owner"], each["dialect"]) for each in saved["databases"]] == [
        ("Prefect", "postgresql"),
        ("MLflow", "postgresql"),
    ]
    cluster.create("prefect2", "mlflow2")
    other = Command(tmp_path / "elsewhere", cluster.environment("prefect2", "mlflow2"))
    done, _ = other.run("restore", str(tmp_path / "backups"), "--json")
    assert (done["home"], done["kept"]) == (str(other.home), "")
    again, _, _ = other.pipeline()
    assert [name for name, stage in again.items() if not stage["reused"]] == []
    assert {n: s["digest"] for n, s in again.items()} == {n: s["digest"] for n, s in stages.items()}
    assert str(command.home) not in cluster.dump("mlflow2")
    _, err = other.run("restore", str(tmp_path / "backups"), "--home", str(tmp_path / "third"), code=2)
    assert "is not empty" in err
    no_password_below(command.home, other.home, tmp_path / "backups")
    for name in ("prefect", "mlflow", "prefect2", "mlflow2"):
        assert PASSWORD not in cluster.dump(name)


def no_password_below(*roots: Path) -> None:
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
