from pathlib import Path

import pytest

from tasks.home import Home
from tasks.launch import STOP


@pytest.fixture
def home(fluxline_home: Path) -> Home:
    return Home(fluxline_home).make()


@pytest.fixture(autouse=True)
def fake_child_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_is_stopped():
    STOP.clear()
    yield
    STOP.clear()
