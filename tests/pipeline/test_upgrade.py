"""Homes whose databases an older MLflow or Prefect wrote: the one is told with its cure, the other upgraded."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows.servers import start_prefect
from tasks.databases import known_revisions, mlflow_database, prefect_database, require_database
from tasks.home import Home
from tests.pipeline.conftest import Command

pytestmark = pytest.mark.slow

OLDER_MLFLOW = """
import sys, sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
url = sys.argv[1]
engine, config = sqlalchemy.create_engine(url), _get_alembic_config(url)
Base.metadata.create_all(engine)
scripts = ScriptDirectory.from_config(config)
[older] = [scripts.get_revision(scripts.get_current_head()).down_revision]
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, older)
print("older:", older)
"""


def call(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_older_mlflow_database_is_told_and_the_cure_works_as_written(tmp_path):
    home = Home(tmp_path / "home").make()
    older = call("-c", OLDER_MLFLOW, mlflow_database(home).url).rpartition("older: ")[2].strip()
    command = Command(home.root, {})
    _, err = command.run("rollback", code=2)
    _, head = known_revisions(mlflow_database(home))
    assert f"older schema ({older}, wanted is {head})" in err
    assert len(err.splitlines()) == 1
    saved, _ = command.run("backup", str(tmp_path / "backups"), "--json")  # the first thing it advises
    assert saved["databases"][0]["revision"] == older
    cure = re.findall(r"`(mlflow db upgrade [^`]*)`", err)
    call("-m", *shlex.split(cure[0]))
    _, err = command.run("rollback", code=2)
    assert "No model is registered yet" in err


def test_prefect_s_server_upgrades_an_older_database_when_it_starts(tmp_path):
    home = Home(tmp_path / "home").make()
    database = prefect_database(home)
    database.file.parent.mkdir()
    known, head = known_revisions(database)
    where = {"PREFECT_API_DATABASE_CONNECTION_URL": database.url, "PREFECT_HOME": str(tmp_path / "prefect")}
    scripts = Path(find_package("prefect")) / "server" / "database" / "_migrations" / "versions" / "sqlite"
    [newest] = [
        p for p in scripts.glob("*.py") if re.search(rf'^revision.*"{head}"', p.read_text(), re.MULTILINE)
    ]
    older = re.findall(r'^down_revision.*"(\w+)"', newest.read_text(), re.MULTILINE)[0]
    assert older in known
    call("-m", "prefect", "server", "database", "upgrade", "--yes", "--revision", older, **where)
    assert require_database(database, home) == older
    server = start_prefect(home)
    try:
        server.wait()
    finally:
        server.stop()
    assert require_database(database, home) == head


def find_package(name: str) -> str:
    from importlib.util import find_spec

    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return spec.submodule_search_locations[0]
