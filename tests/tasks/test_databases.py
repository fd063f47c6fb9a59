import json
import socket
import sqlite3
from contextlib import closing

import pytest

from fluxmodel.errors import InputError
from tasks import tracking
from tasks.databases import (
    MLFLOW_VARIABLE,
    Database,
    known_revisions,
    mlflow_database,
    prefect_database,
    require_database,
    shown_address,
)
from tasks.home import Home

PREFECT = "PREFECT_API_DATABASE_CONNECTION_URL"


@pytest.fixture
def home(fluxline_home):
    return Home(fluxline_home).make()


@pytest.fixture
def dead_port():
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_without_variables_both_databases_are_files_of_the_home(home):
    assert prefect_database(home).file == home.root / "prefect" / "prefect.db"
    assert mlflow_database(home).file == home.root / "mlflow.db"
    assert require_database(mlflow_database(home), home) == ""


def test_the_tools_own_variables_name_other_databases_and_prefect_s_newer_name_wins(home, monkeypatch):
    monkeypatch.setenv(PREFECT, "postgresql+asyncpg://a@h/one")
    assert (prefect_database(home).url, prefect_database(home).variable) == (
        "postgresql+asyncpg://a@h/one",
        PREFECT,
    )
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://a@h/two")
    assert prefect_database(home).url.endswith("/two")
    monkeypatch.setenv(MLFLOW_VARIABLE, "postgresql://a@h/mlflow")
    assert tracking.tracking_uri(home) == "postgresql+psycopg://a@h/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking.tracking_uri(home) == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ann:s3cret@db:5432/mlflow", "postgresql://ann@db:5432/mlflow"),
        ("postgresql+asyncpg://ann:s3@cret@db/p", "postgresql+asyncpg://ann@db/p"),
        ("postgresql://ann@db/p?password=s3cret&sslmode=require", "postgresql://ann@db/p?password=***&sslmode=require"),
        ("at postgresql://ann:s3cret@db/p there", "at postgresql://ann@db/p there"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_password(address, shown):
    assert shown_address(address) == shown
    database = Database("MLflow", address, MLFLOW_VARIABLE)
    assert "s3" not in repr(database) + database.shown


@pytest.mark.parametrize(
    ("owner", "url", "said"),
    [
        ("Prefect", "postgresql://ann:s3cret@db/prefect", "write postgresql+asyncpg://USER@HOST:5432/NAME"),
        ("MLflow", "postgresql+asyncpg://ann:s3cret@db/mlflow", "write postgresql://USER@HOST:5432/NAME"),
        ("MLflow", "mysql://ann:s3cret@db/mlflow", "no address that MLflow can use here"),
        ("MLflow", "./mlruns", "no address that MLflow can use here"),
        ("Prefect", "postgresql+asyncpg://", "no address that Prefect can use here"),
        ("MLflow", "postgresql://ann:s3cret@db:port/mlflow", "cannot be read as an address"),
        ("MLflow", "postgresql+psycopg2://ann:s3cret@db/mlflow", "pip install 'fluxline[postgres]'"),
    ],
)
def test_a_bad_address_is_refused_by_one_sentence_without_its_password(owner, url, said, home):
    with pytest.raises(InputError) as refused:
        require_database(Database(owner, url, "THE_VARIABLE"), home)
    assert said in str(refused.value)
    assert "THE_VARIABLE" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("owner", "scheme"), [("Prefect", "postgresql+asyncpg"), ("MLflow", "postgresql+psycopg")]
)  # fmt: skip
def test_a_server_that_is_not_there_is_one_sentence(owner, scheme, home, dead_port):
    if owner == "MLflow":
        pytest.importorskip("psycopg")
    database = Database(owner, f"{scheme}://ann:s3cret@127.0.0.1:{dead_port}/x", "THE_VARIABLE")
    with pytest.raises(
        InputError, match=r"(?i)does not let us in \(.*refused|connect call failed"
    ) as refused:
        require_database(database, home)
    assert "s3cret" not in str(refused.value)
    assert not (home.root / "databases.json").exists()


def test_one_database_for_both_is_refused(home, monkeypatch):
    monkeypatch.setenv(PREFECT, "postgresql+asyncpg://a:one@db:5432/all")
    monkeypatch.setenv(MLFLOW_VARIABLE, "postgresql://b:two@db:5432/all")
    with pytest.raises(InputError, match="both pointed at the database db:5432/all"):
        require_database(mlflow_database(home), home)


def test_a_home_that_lives_in_postgresql_is_not_begun_anew_where_the_variable_is_missing(home):
    (home.root / "databases.json").write_text(json.dumps({"MLflow": "postgresql://ann@db/mlflow"}))
    with pytest.raises(
        InputError, match=r"postgresql://ann@db/mlflow, but MLFLOW_BACKEND_STORE_URI is not set"
    ):
        require_database(mlflow_database(home), home)
    assert require_database(prefect_database(home), home) == ""


def test_an_older_schema_of_mlflow_is_told_with_the_cure(home):
    database = mlflow_database(home)
    known, head = known_revisions(database)
    older = sorted(known - {head})[0]
    write_revision(database, older)
    with pytest.raises(
        InputError, match=rf"older schema \({older}, wanted is {head}\).*mlflow db upgrade {database.url}"
    ):
        require_database(database, home)


@pytest.mark.parametrize("which", [mlflow_database, prefect_database])
def test_a_schema_of_the_future_is_told(which, home):
    write_revision(which(home), "ffffffffffff")
    with pytest.raises(InputError, match="written by a newer"):
        require_database(which(home), home)


def test_an_older_schema_of_prefect_is_left_to_its_server_which_upgrades_it(home):
    known, head = known_revisions(prefect_database(home))
    older = sorted(known - {head})[0]
    write_revision(prefect_database(home), older)
    assert require_database(prefect_database(home), home) == older


def test_what_is_no_database_is_told(home):
    mlflow_database(home).file.write_text("no database " * 100)
    with pytest.raises(InputError, match=r"mlflow.db is no SQLite database"):
        require_database(mlflow_database(home), home)


def write_revision(database: Database, revision: str) -> None:
    database.file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database.file)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])
