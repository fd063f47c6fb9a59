"""Versions opened to be served, and the desk that lets one worker draw for all."""

import asyncio
import json
import shutil
import threading
import time

import pytest

from fluxmodel.drawing_request import RequestError
from fluxmodel.errors import InputError
from tasks import registry, tracking
from tasks.artifacts import ArtifactStore
from tasks.serving import BusyError, Desk, GoneError, Shelf, choose, open_versions
from tests.kit import write_model

NAME = "shapes"
PROMPTS = ["a red circle", "a blue bar"]
opens_registry = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture
def registered(tracked, directory, tmp_path):
    """Three versions: the second is the champion, the third the challenger; the second was evaluated."""
    store, client = ArtifactStore(tracked), tracking.client(tracked)
    model = store.put(shutil.copytree(directory, tmp_path / "model"), "model")
    (tmp_path / "evaluation").mkdir()
    gallery = {"samples": [{"prompt": prompt} for prompt in (*PROMPTS, *PROMPTS, "")]}
    (tmp_path / "evaluation" / "gallery.json").write_text(json.dumps(gallery))
    evaluation = store.put(tmp_path / "evaluation", "evaluation")
    client.create_registered_model(NAME)
    for number in (1, 2, 3):
        tags = {"artifact_uri": model.uri, "artifact_digest": model.digest}
        if number == 2:
            tags |= {"evaluate.uri": evaluation.uri, "evaluate.digest": evaluation.digest}
        client.create_model_version(NAME, "file:///nowhere", tags=tags)
    for alias, number in ((registry.CHAMPION, "2"), (registry.CHALLENGER, "3")):
        client.set_registered_model_alias(NAME, alias, number)
    return tracked


@opens_registry
def test_the_champion_is_served_and_beside_it_the_challenger(registered):
    for asked in ([], [NAME]):
        assert [version.label for version in open_versions(registered, asked)] == ["shapes@2", "shapes@3"]
    (alone,) = open_versions(registered, ["shapes@champion"])
    assert (alone.label, alone.aliases, alone.prompts) == ("shapes@2", ("champion",), tuple(PROMPTS))
    both = open_versions(registered, ["shapes@1", "@champion", "shapes@2"])
    assert [version.label for version in both] == ["shapes@1", "shapes@2"]


@opens_registry
def test_a_promotion_is_followed_and_what_was_read_is_not_read_again(registered):
    shelf = Shelf(registered, [])
    before = {served.label: served.model for served in shelf.versions}
    assert not shelf.follow()
    client = tracking.client(registered)
    client.set_registered_model_alias(NAME, registry.CHAMPION, "3")
    client.set_registered_model_alias(NAME, registry.CHALLENGER, "1")
    assert shelf.follow()
    assert [served.label for served in shelf.versions] == ["shapes@3", "shapes@1"]
    assert shelf.versions[0].aliases == ("champion",)
    assert shelf.versions[0].model is before["shapes@3"]
    assert not shelf.follow()


@opens_registry
def test_a_champion_that_cannot_be_read_leaves_what_was_served(registered):
    shelf = Shelf(registered, [f"{NAME}@champion"])
    client = tracking.client(registered)
    version = client.create_model_version(
        NAME, "file:///nowhere", tags={"artifact_uri": "file:///nowhere/at/all"}
    )
    client.set_registered_model_alias(NAME, registry.CHAMPION, version.version)
    with pytest.raises(InputError):
        shelf.follow()
    assert [served.label for served in shelf.versions] == ["shapes@2"]
    client.set_registered_model_alias(NAME, registry.CHAMPION, "1")
    assert shelf.follow()


@opens_registry
def test_a_request_names_a_version_by_number_alias_or_label(registered, directory):
    versions = [*open_versions(registered, [NAME]), *open_versions(registered, [str(directory)])]
    for name, label in (
        ("", "shapes@2"),
        ("3", "shapes@3"),
        ("challenger", "shapes@3"),
        ("shapes@champion", "shapes@2"),
        (str(directory), str(directory)),
    ):
        assert choose(versions, name).label == label
    with pytest.raises(RequestError, match="model: it is '1'; served here: shapes@2, shapes@3, "):
        choose(versions, "1")


@opens_registry
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nobody@champion", "'nobody' has no version 'champion'"),
        ("shapes@9", "'shapes' has no version '9'"),
        ("no/where", "no/where is no directory"),
    ],
)
def test_what_there_is_not_is_refused(registered, asked, said):
    with pytest.raises(InputError, match=said):
        open_versions(registered, [asked])


@opens_registry
def test_a_version_whose_files_are_gone_is_bad_input(registered):
    shutil.rmtree(registered.root / "artifacts" / "model")
    with pytest.raises(InputError, match="shapes version 2 are neither in the store nor in MLflow"):
        open_versions(registered, [])


def test_a_damaged_variant_is_found_before_anybody_asks(directory, home, tmp_path):
    damaged = shutil.copytree(directory, tmp_path / "damaged")
    (damaged / "transformer_base" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"transformer_base/config\.json"):
        open_versions(home, [str(damaged)])


async def stays() -> None:
    await asyncio.Event().wait()


def test_the_desk_draws_one_at_a_time_and_in_order():
    drawn, running = [], threading.Lock()

    def work(number: int) -> int:
        assert running.acquire(blocking=False)
        time.sleep(0.001)
        drawn.append(number)
        running.release()
        return number

    async def ask() -> list[int]:
        desk = Desk(100)
        return await asyncio.gather(*(desk.draw(lambda i=i: work(i), stays) for i in range(100)))

    assert asyncio.run(ask()) == drawn == list(range(100))


def test_one_too_many_is_told_when_to_ask_again():
    async def ask() -> list[object]:
        desk = Desk(3)
        asked = [desk.draw(lambda: time.sleep(0.01), stays) for _ in range(5)]
        return [
            *(await asyncio.gather(*asked, return_exceptions=True)),
            await desk.draw(lambda: "free", stays),
        ]

    *first, fourth, fifth, after = asyncio.run(ask())
    assert first == [None] * 3
    for busy in (fourth, fifth):
        assert isinstance(busy, BusyError)
        assert (str(busy), busy.retry_seconds) == ("3 requests are waiting; ask again in 1 s", 1)
    assert after == "free"


def test_nobody_is_drawn_for_who_has_left():
    async def leaves() -> None:
        await asyncio.sleep(0.01)

    async def ask() -> list[object]:
        desk = Desk(3)
        asked = [
            desk.draw(lambda: time.sleep(0.1), stays),
            desk.draw(lambda: pytest.fail("it was drawn"), leaves),
            desk.draw(lambda: "next", stays),
        ]
        return [*(await asyncio.gather(*asked, return_exceptions=True)), desk.waiting]

    first, second, *rest = asyncio.run(ask())
    assert first is None
    assert isinstance(second, GoneError)
    assert rest == ["next", 0]


def test_a_failure_frees_the_desk():
    async def ask() -> tuple[object, int, str]:
        desk = Desk(1)
        (failure,) = await asyncio.gather(desk.draw(lambda: 1 // 0, stays), return_exceptions=True)
        return failure, desk.waiting, await desk.draw(lambda: "next", stays)

    failure, waiting, after = asyncio.run(ask())
    assert isinstance(failure, ZeroDivisionError)
    assert (waiting, after) == (0, "next")


def test_a_closing_desk_serves_who_waits_until_its_grace_is_over():
    async def ask(grace: float) -> list[object]:
        desk = Desk(9)
        asked = [asyncio.create_task(desk.draw(lambda: time.sleep(0.05), stays)) for _ in range(3)]
        await asyncio.sleep(0.01)
        desk.close(grace)
        return await asyncio.gather(*asked, return_exceptions=True)

    assert asyncio.run(ask(60.0)) == [None] * 3
    first, *rest = asyncio.run(ask(0.0))
    assert first is None
    assert [str(each) for each in rest] == ["the server is stopping; ask again when it is back"] * 2
