"""Data sets of the hub, streamed from a server on this machine that speaks its API."""

import json

import pytest

from tests.fluxmodel.data.hub_stub import COMMIT, HubStub
from tests.fluxmodel.data.tiny_shards import structs, write_table
from tests.kit import run_python

# In a process of its own: the address of the hub and whether it is offline are read when its client is imported.
CODE = """
import json, sys
from fluxmodel.data.sources import open_source
from fluxmodel.errors import InputError
told = []
for spec in sys.argv[1:]:
    try:
        source = open_source(spec)
        told.append([source.spec, source.fingerprint(), [item.id for item in source]])
    except InputError as error:
        told.append(str(error))
print(json.dumps(told))
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function that opens specifications with a hub of one data set, and one that is gated."""
    table = write_table(tmp_path / "train.parquet", image=structs(), text=["some text"] * 6)
    with open(table, "rb") as file:
        files = {"data/train-00000-of-00001.parquet": file.read()}
    stub = HubStub({"org/open": files, "org/gated": (403, "GatedRepo")})
    monkeypatch.setenv("HF_ENDPOINT", stub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))

    def ask(*specs, offline="0"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        done = run_python("-c", CODE, *specs)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    yield ask
    stub.close()


def test_a_data_set_is_streamed_and_its_commit_recorded(asked):
    spec = f"hf:org/open?split=train&revision={COMMIT}"
    main, pinned, gated, missing, tag, split = asked(
        "hf:org/open",
        spec,
        "hf:org/gated",
        "hf:org/none",
        "hf:org/open?revision=v9",
        "hf:org/open?split=test",
    )
    assert main == pinned, "what main stands for is a commit"
    assert (main[0], len(main[2])) == (spec, 6)
    for said, what in (
        (gated, "gated"),
        (missing, "Not Found"),
        (tag, "Revision Not Found"),
        (split, "split"),
    ):
        assert what in said
        assert "check its name" in said
        assert "\n" not in said


def test_offline_it_is_one_sentence(asked):
    for said in asked("hf:org/open", f"hf:org/open?revision={COMMIT}", offline="1"):
        assert "ffline" in said
        assert "the network and, for a private or gated one, HF_TOKEN" in said
