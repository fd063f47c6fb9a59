"""Automations on a real Prefect server: there once, left alone while they stand, and as a person switched them."""

from datetime import timedelta

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def on_server(prefect_url):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{prefect_url}/api"}):
        yield


def test_a_second_time_nothing_changes_and_a_change_is_one(on_server):
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    from deployments.automations import automations, ensure

    def standing() -> list:
        with get_client(sync_client=True) as client:
            found = client.request("POST", "/automations/filter", json={}).json()
        return [each for each in found if each["name"] in names]

    names = ensure(automations())
    before = standing()
    assert len(before) == len(names)
    assert ensure(automations()) == names
    assert standing() == before
    (wanted,) = automations()
    longer = wanted.trigger.model_copy(update={"within": timedelta(seconds=300)})
    with get_client(sync_client=True) as client:
        client.pause_automation(before[0]["id"])
    assert ensure([wanted.model_copy(update={"trigger": longer})]) == names
    (changed,) = standing()
    assert (changed["id"], changed["enabled"]) == (before[0]["id"], False)
    assert changed["trigger"]["within"] == 300
    with get_client(sync_client=True) as client:
        double = AutomationCore.model_validate(wanted.model_dump(exclude={"id"}))
        client.create_automation(double)  # as an older program may have left
    assert len(standing()) == 2
    ensure(automations())
    assert [each["trigger"]["within"] for each in standing()] == [before[0]["trigger"]["within"]]


def test_what_is_expected_of_a_living_run_comes_oftener_than_it_is_missed():
    from deployments.automations import SILENT_SECONDS, automations
    from deployments.catalogue import CATALOGUE
    from flows.environment import SURVIVAL

    beat = int(SURVIVAL["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert (
        SILENT_SECONDS + 10 < 180
    )  # Prefect looks every five seconds: a dead run is found within three minutes
    assert 4 * beat <= SILENT_SECONDS
    (silent,) = automations()
    watched = silent.trigger.match_related["prefect.resource.name"]  # type: ignore[union-attr,index]
    assert set(watched) == {each.name for each in CATALOGUE} - {"approve"} | {"shards"}
    assert "approve" not in watched
