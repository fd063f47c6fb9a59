"""What `retrain` settles on before it trains, and that it keeps to it."""

import pytest

from flows import retrain as retraining
from flows.plan import go_on_from, make_plan
from flows.retrain import RetrainConfig, settle
from fluxmodel.errors import InputError
from tasks.artifacts import ArtifactRef
from tasks.home import Home
from tasks.warm_start import WarmStart


def ref(digest: str) -> ArtifactRef:
    return ArtifactRef(kind="model", uri="", digest=digest, mlflow_run_id="")


@pytest.fixture
def world(monkeypatch, fluxline_home):
    """A home whose registry has a champion; `seeds` is what it would answer."""

    class World:
        home = Home(fluxline_home).make()
        seeds, version = 3, "2"

    monkeypatch.setattr(retraining, "next_seed", lambda *_: World.seeds)
    monkeypatch.setattr(
        retraining,
        "champions_start",
        lambda home, name, job: WarmStart(name, World.version, ref("base"), ref("autoencoder")),
    )
    return World


def test_no_seed_is_the_next_one_and_a_seed_is_that_seed(world):
    assert settle(world.home, RetrainConfig(preset="smoke"), "").seed == 3
    assert settle(world.home, RetrainConfig(preset="smoke", seed=9), "").seed == 9


def test_a_run_that_crashed_and_starts_again_does_what_it_began(world):
    config = RetrainConfig(preset="smoke", start="champion")
    first = settle(world.home, config, "run-1")
    assert (first.seed, first.version) == (3, "2")
    world.seeds, world.version = 4, "3"  # its own version is registered and champion by now
    assert settle(world.home, config, "run-1") == first
    assert settle(world.home, config, "run-2").seed == 4


def test_the_form_says_what_the_pipeline_is_told():
    asked = RetrainConfig(preset="smoke", train_steps=50, needs_approval=True, name="mine").pipeline(5)
    assert (asked.seed, asked.train_steps, asked.model_name) == (5, 50, "mine")
    assert asked.gate.needs_approval
    assert make_plan(asked).flow.steps == 50


def test_a_wrong_value_is_said_before_anything_is_looked_up(world, monkeypatch):
    monkeypatch.setattr(retraining, "next_seed", lambda *_: pytest.fail("asked"))
    with pytest.raises(InputError, match="name is 'a/b'"):
        settle(world.home, RetrainConfig(preset="smoke", name="a/b"), "")


def test_a_warm_start_trains_the_champions_network_in_its_own_latents():
    plan = make_plan(RetrainConfig(preset="smoke").pipeline(1))
    warm = go_on_from(plan, ref("base"), ref("autoencoder"))
    assert warm.start == ref("base")
    assert warm.given == {"prepare-autoencoder": ref("autoencoder")}
    assert warm.flow == plan.flow
