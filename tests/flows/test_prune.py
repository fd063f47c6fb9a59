"""The verb `prune` as a user types it, over a real registry (SQLite) and a real store."""

import json
import os
import time
from pathlib import Path

import pytest

from flows.cli import run_command
from fluxmodel.data.content_cache import ContentCache
from tasks import registry, tracking
from tasks.artifacts import ArtifactStore
from tasks.home import Home
from tasks.in_use import in_use

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations


@pytest.fixture
def home(fluxline_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A store with an artifact that a version needs, and two old ones that nothing needs."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    home = Home(fluxline_home).make()
    store, refs = ArtifactStore(home), []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "data.bin").write_bytes(bytes([number]) * 2_000_000)
        refs.append(store.put(tmp_path / str(number), "model"))
        for path in store.path(refs[-1]).iterdir():
            then = time.time() - (40 - number) * 86_400
            os.utime(path, (then, then))
    client = tracking.client(home)
    client.create_registered_model("shapes")
    client.create_model_version("shapes", "file:///nowhere", tags={"artifact_digest": refs[0].digest})
    return home


def test_it_says_what_would_go_and_removes_it_only_if_told_to(home, capfd):
    assert run_command(["prune"]) == 0
    said = capfd.readouterr().out
    assert said.count("goes:") == 2
    assert "needed by shapes version 1" in said
    assert (
        "2 things would go, 4.0 MB of the store's 6.0 MB, and their copies in MLflow; nothing is removed"
        in said
    )
    assert len(ArtifactStore(home).listing()) == 3

    assert run_command(["prune", "--quota", "0.005", "--yes", "--json"]) == 0
    done = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (done["removed"], [each["kind"] for each in done["going"]]) == (True, ["artifact"])
    assert done["quota"] == "The quota of 0.005 GB is met: the store then holds 0.004 GB."

    assert run_command(["prune", "--quota", "0.001", "--yes"]) == 0
    said = capfd.readouterr().out
    assert (
        "The quota of 0.001 GB is not met: 0.002 GB must stay (0.002 GB needed by shapes version 1)" in said
    )
    assert run_command(["prune"]) == 0
    assert "There is nothing to prune by these rules." in capfd.readouterr().out
    assert registry.has_version(home, "shapes", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--older-than", "-1"], "--older-than is -1; give a number greater than or equal to 0."),
        (["--keep-versions", "some"], "--keep-versions is some; give a whole number."),
    ],
)
def test_bad_usage_is_one_sentence(home, capfd, arguments, said):
    assert run_command(["prune", *arguments]) == 2
    printed = capfd.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_beside_a_run_it_only_looks(home, capfd):
    with in_use(home):
        assert run_command(["prune"]) == 0
        assert run_command(["prune", "--yes"]) == 2
    assert "A run works in" in capfd.readouterr().err
    assert len(ArtifactStore(home).listing()) == 3


def test_caches_are_shown_and_emptied(home, capfd):
    with ContentCache(home.cache, {"name": "latents"}) as cache:
        cache.put("00" * 32, bytes(5_000_000))
    assert run_command(["status"]) == 0
    assert "caches    latents 5 MB; at most" in capfd.readouterr().out
    assert run_command(["prune", "--older-than", "1"]) == 0
    assert "cache latents" not in capfd.readouterr().out, "it was used just now"
    then = time.time() - 9 * 86_400
    for path in cache.folder.iterdir():
        os.utime(path, (then, then))
    assert run_command(["prune"]) == 0
    said = capfd.readouterr().out
    assert "5.0 MB  cache latents" in said
    assert "9 days  not used for 7 days" in said
    assert cache.folder.is_dir()
    assert run_command(["prune", "--yes"]) == 0
    assert not cache.folder.exists()
    assert run_command(["status"]) == 0
    assert "at most" not in capfd.readouterr().out


def test_caches_beyond_their_quota_go_however_young(home, monkeypatch):
    with ContentCache(home.cache, {"name": "latents"}) as cache:
        cache.put("00" * 32, bytes(5_000_000))
    monkeypatch.setenv("FLUXLINE_CACHE_LIMIT", "1e6")
    assert run_command(["prune", "--yes"]) == 0
    assert not cache.folder.exists()
    monkeypatch.setenv("FLUXLINE_CACHE_LIMIT", "much")
    assert run_command(["prune"]) == 2
