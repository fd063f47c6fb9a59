import shutil
from pathlib import Path

import pytest

from tasks import tracking
from tasks.home import Home
from tasks.launch import STOP


@pytest.fixture
def home(fluxline_home: Path) -> Home:
    return Home(fluxline_home).make()


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, copying them does not."""
    home = Home(tmp_path_factory.mktemp("mlflow"))
    tracking.client(home).search_experiments()
    return home.root / "mlflow.db"


@pytest.fixture
def tracked(home: Home, fresh_database: Path) -> Home:
    shutil.copy(fresh_database, home.root / "mlflow.db")
    return home


@pytest.fixture(autouse=True)
def fake_child_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_is_stopped():
    STOP.clear()
    yield
    STOP.clear()
