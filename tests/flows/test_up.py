"""What `fluxline up` does before and around its servers; the servers themselves are in test_servers.py."""

import os

import pytest

from flows import up
from fluxmodel.errors import InputError, StageError
from tasks.home import Home


@pytest.fixture
def quiet(monkeypatch, fluxline_home):
    """`fluxline up` without its signals and its environment, which would be this process's."""
    monkeypatch.setattr(up.signal, "signal", lambda *_: None)
    monkeypatch.setattr(up, "set_environment", lambda _: None)
    return Home(fluxline_home).make()


class Stopped:
    """A server that says whether it was stopped."""

    is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True


def test_of_two_at_once_the_second_is_refused_before_anything_starts(fluxline_home, monkeypatch):
    home = Home(fluxline_home).make()
    monkeypatch.setattr(up, "_start_and_serve", lambda _: pytest.fail("it started"))
    with up.only_one_up(home), pytest.raises(InputError, match=r"It is up already, or starting\."):
        up.serve_until_stopped()
    with up.only_one_up(home):  # and is free again
        assert not home.servers.exists()


def test_where_the_second_server_does_not_start_the_first_is_stopped(quiet, monkeypatch):
    first = Stopped()

    def fail(_: Home) -> None:
        raise StageError("no MLflow")

    monkeypatch.setattr(up, "start_prefect", lambda home, is_short_lived: first)
    monkeypatch.setattr(up, "start_mlflow", fail)
    with pytest.raises(StageError, match="no MLflow"):
        up.serve_until_stopped()
    assert first.is_stopped


def test_a_server_that_a_variable_names_is_not_used_and_that_is_said(quiet, monkeypatch, capsys):
    named = []

    def fail(*_: object, **__: object) -> None:
        named.extend({"PREFECT_API_URL", "MLFLOW_TRACKING_URI"} & set(os.environ))
        raise StageError("no Prefect")

    monkeypatch.setattr(up, "start_prefect", fail)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StageError):
        up.serve_until_stopped()
    said = "PREFECT_API_URL is set and not used: `fluxline up` runs servers of its own.\n"
    assert (capsys.readouterr().out, named) == (said, [])
