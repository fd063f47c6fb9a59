"""The aliases of a real MLflow registry (SQLite): together or not at all."""

import getpass
import threading
import time
from typing import Any

import pytest

from fluxmodel.errors import InputError
from tasks import promotion, registry, tracking
from tasks.home import Home
from tasks.registry import RegisteredVersion

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"


@pytest.fixture
def versions(tracked: Home) -> list[RegisteredVersion]:
    client = tracking.client(tracked)
    client.create_registered_model(NAME)
    for number in range(1, 5):
        client.create_model_version(NAME, "file:///nowhere", tags={"artifact_digest": str(number)})
    return [registry.find_version(tracked, NAME, str(number)) for number in range(1, 5)]


class Failing:
    """MLflow's client, which fails at the nth alias it is to set."""

    def __init__(self, client: Any, at: int):
        self.client, self.left = client, at

    def __getattr__(self, name: str) -> Any:
        if name == "set_registered_model_alias":
            self.left -= 1
            if self.left == 0:
                raise ConnectionError("connection reset")
        return getattr(self.client, name)


def promote(home: Home, version: RegisteredVersion, **options) -> promotion.Move:
    return promotion.promote(home, version, "gate", "better", **options)


def test_champion_and_previous_move_together(tracked, versions):
    first = promote(tracked, versions[0])
    assert (first.champion, first.previous, first.moved) == ("1", "", True)
    second = promote(tracked, versions[1])
    assert second.said == "The champion of shapes is version 2 now, before it version 1."
    assert registry.aliases(tracked, NAME) == {"champion": "2", "previous": "1"}
    tags = registry.find_version(tracked, NAME, "champion").tags
    assert (tags["promotion.who"], tags["promotion.reason"]) == ("gate", "better")
    again = promote(tracked, versions[1])
    assert (again.moved, again.said) == (False, "shapes version 2 is the champion already.")


@pytest.mark.parametrize("at", [1, 2])
def test_a_failure_between_the_two_writes_leaves_the_old_state(tracked, versions, monkeypatch, at):
    promote(tracked, versions[0])
    promote(tracked, versions[1])
    before = registry.aliases(tracked, NAME)
    failing = Failing(tracking.client(tracked), at)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "client", lambda _: failing)
        with pytest.raises(ConnectionError):
            promote(tracked, versions[2])
    assert registry.aliases(tracked, NAME) == before == {"champion": "2", "previous": "1"}
    assert promote(tracked, versions[2]).moved


def test_a_failure_at_the_first_promotion_leaves_no_alias(tracked, versions, monkeypatch):
    monkeypatch.setattr(registry, "set_tags", lambda *_: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(ConnectionError):
        promote(tracked, versions[0])
    assert registry.aliases(tracked, NAME) == {}


def _promote_in_a_stage_that_fails(home: Home, version: RegisteredVersion, champion_after: str = "") -> None:
    from prefect.transactions import transaction

    with transaction():  # the task's own, as Prefect opens it
        assert promote(home, version).moved
        assert registry.aliases(home, NAME)["champion"] == version.version
        if champion_after:
            tracking.client(home).set_registered_model_alias(NAME, "champion", champion_after)
        raise OSError("disk full")


def test_a_stage_that_fails_after_the_move_puts_the_aliases_back(tracked, versions):
    promote(tracked, versions[0])
    with pytest.raises(OSError, match="disk full"):
        _promote_in_a_stage_that_fails(tracked, versions[1])
    assert registry.aliases(tracked, NAME) == {"champion": "1"}


def test_putting_back_leaves_alone_what_someone_else_moved_meanwhile(tracked, versions):
    promote(tracked, versions[0])
    with pytest.raises(OSError, match="disk full"):
        _promote_in_a_stage_that_fails(tracked, versions[1], champion_after="4")
    assert registry.aliases(tracked, NAME)["champion"] == "4"


def test_after_a_kill_between_the_writes_the_same_command_finishes(tracked, versions):
    promote(tracked, versions[0])
    tracking.client(tracked).set_registered_model_alias(NAME, "previous", "1")  # killed here
    promote(tracked, versions[1])
    assert registry.aliases(tracked, NAME) == {"champion": "2", "previous": "1"}


class Killed(BaseException):
    """The process ended here: nothing after it ran, no hook either."""


class Killing:
    """MLflow's client, whose process is killed before its nth write; says what each write left."""

    def __init__(self, client: Any, at: int, home: Home):
        self.client, self.left, self.home = client, at, home
        self.seen: list[dict[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)
        if not name.startswith(("set_", "delete_")):
            return real

        def write(*arguments):
            self.left -= 1
            if self.left == 0:
                raise Killed
            done = real(*arguments)
            known = self.client.get_registered_model(NAME).aliases
            self.seen.append({alias: str(version) for alias, version in known.items()})
            return done

        return write


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_whichever_write_is_the_last_the_same_command_finishes_and_no_version_is_ever_both(
    tracked, versions, monkeypatch, command
):
    promote(tracked, versions[0])
    promote(tracked, versions[1])
    client = tracking.client(tracked)

    def act() -> promotion.Move:
        return promote(tracked, versions[2]) if command == "promote" else promotion.rollback(tracked, NAME)

    wanted = (
        {"champion": "3", "previous": "2"} if command == "promote" else {"champion": "1", "previous": "2"}
    )
    for at in range(1, 12):
        promotion._write(tracked, NAME, {"champion": "2", "previous": "1"})
        killing = Killing(client, at, tracked)
        with monkeypatch.context() as patch:
            patch.setattr(tracking, "client", lambda _, killing=killing: killing)
            patch.setattr(promotion, "_restore", lambda *_: None)  # a killed process restores nothing
            try:
                act()
                break
            except Killed:
                pass
        assert all(seen.get("champion") != seen.get("previous") for seen in killing.seen)
        assert all("champion" in seen for seen in killing.seen)
        assert act().champion == wanted["champion"], at
        assert registry.aliases(tracked, NAME) == wanted, at
        assert "fluxline.move" not in registry.model_tags(tracked, NAME)
    assert at > 6  # the note, three aliases, three tags


def test_a_cut_off_move_yields_to_the_champion_someone_else_made(tracked, versions, monkeypatch):
    promote(tracked, versions[0])
    killing = Killing(tracking.client(tracked), 2, tracked)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "client", lambda _: killing)
        patch.setattr(promotion, "_restore", lambda *_: None)
        with pytest.raises(Killed):
            promote(tracked, versions[1])
    tracking.client(tracked).set_registered_model_alias(NAME, "champion", "4")
    assert promote(tracked, versions[2]).previous == "4"
    assert registry.aliases(tracked, NAME) == {"champion": "3", "previous": "4"}


def test_what_waits_for_a_person_is_completed_by_hand_and_ended_by_any_move(tracked, versions):
    promote(tracked, versions[0])
    promotion.ask_approval(tracked, versions[1], ["Shown better."])
    promotion.ask_approval(tracked, versions[2], ["Shown better, too."])
    promotion.ask_approval(tracked, versions[0], ["It is the champion."])  # asked again after it was made
    waiting = promotion.pending(tracked, NAME)
    assert [version.version for version in waiting] == ["3", "2"]
    assert waiting[0].tags["approval.reasons"] == "Shown better, too."
    promotion.promote_by_hand(tracked, waiting[1], "looked at it", is_forced=False)
    tags = registry.find_version(tracked, NAME, "2").tags
    assert "approval" not in tags
    assert (tags["approval.reason"], tags["approval.by"]) == ("looked at it", getpass.getuser())
    assert tags["approval.time"] == tags["promotion.time"]
    assert promotion.pending(tracked, NAME) == []  # the other was decided against a champion that is gone
    assert "approval.by" not in registry.find_version(tracked, NAME, "3").tags


def test_promotions_at_once_follow_each_other(tracked, versions, monkeypatch):
    promote(tracked, versions[0])
    inside, most = [], []
    real = promotion._move

    def slow(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.1)
        real(*arguments)
        inside.pop()

    monkeypatch.setattr(promotion, "_move", slow)
    threads = [threading.Thread(target=promote, args=(tracked, version)) for version in versions[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    known = registry.aliases(tracked, NAME)
    assert known["champion"] != known["previous"]
    assert {known["champion"], known["previous"]} <= {"2", "3", "4"}


def test_a_lock_that_is_never_freed_is_one_sentence(tracked, versions, monkeypatch):
    monkeypatch.setattr(promotion, "LOCK_SECONDS", 0.1)
    with promotion.alone(tracked, NAME), pytest.raises(InputError, match="Another command is moving"):
        promote(tracked, versions[0])


def test_a_decision_against_another_champion_moves_nothing(tracked, versions):
    promote(tracked, versions[0], expected="")
    stale = promote(tracked, versions[1], expected="")
    assert not stale.moved
    assert "moved from none to version 1 since the decision" in stale.said
    assert promote(tracked, versions[1], expected="1").moved


def test_the_same_weights_do_not_become_previous(tracked, versions):
    promote(tracked, versions[0])
    promote(tracked, versions[1])
    client = tracking.client(tracked)
    client.create_model_version(NAME, "file:///nowhere", tags={"artifact_digest": "2"})  # evaluated anew
    promote(tracked, registry.find_version(tracked, NAME, "5"))
    assert registry.aliases(tracked, NAME) == {"champion": "5", "previous": "1"}


def test_rollback_goes_back_and_again_forth(tracked, versions):
    with pytest.raises(InputError, match="no registered model 'shapes'"):
        promotion.rollback(tracked, NAME)
    promote(tracked, versions[0])
    with pytest.raises(InputError, match="no champion before version 1"):
        promotion.rollback(tracked, NAME)
    promote(tracked, versions[1])
    back = promotion.rollback(tracked, NAME, "it drew no circles")
    assert back.said == "The champion of shapes is version 1 again; version 2 is `previous`."
    assert registry.find_version(tracked, NAME).tags["promotion.reason"] == "it drew no circles"
    promotion.rollback(tracked, NAME)
    assert registry.aliases(tracked, NAME) == {"champion": "2", "previous": "1"}


def test_what_the_gate_rejected_is_promoted_by_force_only(tracked, versions):
    registry.set_tags(tracked, versions[1], {"gate.verdict": "reject", "gate.reasons": "Shown worse."})
    rejected = registry.find_version(tracked, NAME, "2")
    with pytest.raises(InputError, match=r"The gate rejected shapes version 2 \(Shown worse\); .*--force"):
        promotion.promote_by_hand(tracked, rejected, "", is_forced=False)
    assert promotion.promote_by_hand(tracked, rejected, "a demo", is_forced=True).champion == "2"
    tags = registry.find_version(tracked, NAME).tags
    assert (tags["promotion.who"], tags["promotion.reason"]) == ("manual", "a demo")
    assert tags["promotion.time"].endswith("Z")


def test_a_version_is_found_by_number_alias_or_rank(tracked, versions):
    client = tracking.client(tracked)
    assert registry.find_version(tracked, NAME).version == "4"
    client.set_registered_model_alias(NAME, "challenger", "3")
    assert registry.find_version(tracked, NAME).version == "3"
    client.set_registered_model_alias(NAME, "champion", "1")
    assert registry.find_version(tracked, NAME).version == "1"
    assert registry.find_version(tracked, NAME, "challenger").version == "3"
    for which in ("7", "previous", "latest!"):
        with pytest.raises(InputError, match=f"has no version '{which}'; it has 1, 2, 3, 4 and the aliases"):
            registry.find_version(tracked, NAME, which)
    with pytest.raises(InputError, match="there is no such model"):
        registry.find_version(tracked, "nobody", "1")
