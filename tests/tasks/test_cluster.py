import socket

import pytest

from flows.config import PipelineConfig
from flows.plan import make_plan
from fluxmodel.errors import InputError, StageError
from tasks.cluster import ADDRESS, COUNT, check_cluster, num_shards


@pytest.mark.parametrize(("said", "room", "expected"), [("", 4, 4), ("", 0, 1), (" 3 ", 8, 3)])
def test_as_many_shards_as_there_is_room_or_as_somebody_said(monkeypatch, said, room, expected):
    monkeypatch.setenv(COUNT, said)
    assert num_shards(room) == expected


@pytest.mark.parametrize("said", ["0", "-1", "two", "1e9"])
def test_what_is_no_number_of_shards_is_refused(monkeypatch, said):
    monkeypatch.setenv(COUNT, said)
    with pytest.raises(InputError, match=f"FLUXLINE_SHARDS is '{said}'; give a number"):
        num_shards(1)


@pytest.mark.parametrize("address", ["head", "auto", "ray://head", "head:port"])
def test_what_is_no_address_is_refused_when_the_run_is_planned(monkeypatch, address):
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(InputError, match=r"FLUXLINE_RAY is .* give host:port"):
        make_plan(PipelineConfig(preset="smoke"))


def test_where_nobody_listens_is_said_at_once_and_where_somebody_does_is_not(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for told in (address, f"ray://{address}", "local", ""):
            monkeypatch.setenv(ADDRESS, told)
            check_cluster()
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(StageError, match=f"The Ray cluster at {address} cannot be reached"):
        check_cluster()
