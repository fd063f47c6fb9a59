"""Pruning: whatever the rules, nothing that is needed goes, and what was cut off leaves whole artifacts only."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxmodel.data.content_cache import ContentCache
from fluxmodel.errors import ArtifactError, InputError, StageError
from tasks import owed, registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home
from tasks.in_use import in_use, unused
from tasks.prune import DAY, GIGABYTE, _old_caches, plan, prune
from tasks.prune_rules import PruneRules
from tasks.registry import StoredVersion
from tasks.run_key import RunBook, RunRecord, StageIdentity

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NOW = time.time()
STAGES = ("curate", "train", "evaluate")


@dataclass
class World:
    """A home with a run book, and a registry that answers what it is told."""

    home: Home
    refs: list[ArtifactRef] = field(default_factory=list)
    records: list[RunRecord] = field(default_factory=list)
    versions: list[StoredVersion] = field(default_factory=list)

    def make(self, stage: str, upstream: list[ArtifactRef], days: float, num_bytes: int = 100) -> ArtifactRef:
        """Finish a stage `days` ago."""
        number = len(self.refs)
        made = self.home.root / "made"
        made.mkdir(parents=True)
        (made / "data.bin").write_bytes(number.to_bytes(4, "big") * (num_bytes // 4))
        ref = ArtifactStore(self.home).put(made, stage)
        shutil.rmtree(made)
        for path in ArtifactStore(self.home).path(ref).iterdir():
            os.utime(path, (NOW - days * DAY, NOW - days * DAY))
        inputs = {f"input{i}": each.digest for i, each in enumerate(upstream)}
        identity = StageIdentity(stage=stage, parameters={"number": number}, upstream=inputs, seed=0, code={})
        record = RunRecord(
            run_key=identity.run_key, identity=identity, artifact=ref, seconds=1.0, finished=NOW - days * DAY
        )
        book = RunBook(self.home)
        book.decide(identity, reused=False)
        lines = book._stage_file(stage).read_text().splitlines()
        history = [
            *lines[:-1],
            book.history(stage)[-1].model_copy(update={"time": NOW - days * DAY}).model_dump_json(),
        ]
        book._stage_file(stage).write_text("\n".join(history) + "\n")
        book.write(record)
        self.refs.append(ref)
        self.records.append(record)
        return ref

    def register(self, ref: ArtifactRef, *aliases: str, days: float = 100.0) -> None:
        """Make a version of an artifact."""
        number = str(len(self.versions) + 1)
        tags = {"artifact_digest": ref.digest, "model.digest": ref.digest}
        self.versions.append(StoredVersion("shapes", number, tags, tuple(aliases), NOW - days * DAY, ""))

    def lineage(self, ref: ArtifactRef) -> set[str]:
        """The digests an artifact needs, itself included: an independent walk over the records."""
        makers = {record.artifact.digest: record for record in self.records}
        found, waiting = set(), [ref.digest]
        while waiting:
            digest = waiting.pop()
            found.add(digest)
            waiting += [d for d in makers[digest].identity.upstream.values() if d not in found]
        return found

    def ages(self) -> dict[str, float]:
        """Days since a run made each artifact, or made something of it."""
        days = {r.artifact.digest: (NOW - r.finished) / DAY for r in self.records}
        reads = [(d, days[r.artifact.digest]) for r in self.records for d in r.identity.upstream.values()]
        return {digest: min([own, *(age for d, age in reads if d == digest)]) for digest, own in days.items()}

    def standing(self) -> set[str]:
        """The digests of artifacts that are whole."""
        store = ArtifactStore(self.home)
        return {ref.digest for ref in self.refs if store.problems(ref) == []}


@pytest.fixture
def world(home, monkeypatch) -> World:
    return answering_world(home, monkeypatch)


def answering_world(home: Home, monkeypatch) -> World:
    made = World(home)

    def drop(_, version):
        made.versions.remove(version)

    monkeypatch.setattr(
        registry, "all_versions", lambda _: sorted(made.versions, key=lambda v: -int(v.version))
    )
    monkeypatch.setattr(registry, "drop_version", drop)
    monkeypatch.setattr(tracking, "runs_with_artifact", lambda *_, **__: [])
    return made


@st.composite
def histories(draw):
    """A few runs: each stage made anew or not, of earlier artifacts, at some age; versions of some; aliases of some."""
    runs = draw(
        st.lists(
            st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 40)),
            min_size=1,
            max_size=5,
        )
    )
    versions = draw(
        st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from([(), ("champion",), ("previous",)])), max_size=4
        )
    )
    rules = PruneRules(
        keep_versions=draw(st.integers(0, 2)),
        older_than=draw(st.sampled_from([0.0, 7.0, 30.0])),
        quota=draw(st.sampled_from([0.0, 1e-6, 4e-7, 1e-9])),
    )
    return runs, versions, rules


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_nothing_that_is_needed_ever_goes(tmp_path_factory, history):
    runs, versions, rules = history
    with pytest.MonkeyPatch.context() as patch:
        world = answering_world(Home(tmp_path_factory.mktemp("home")).make(), patch)
        latest: dict[str, ArtifactRef] = {}
        models = []
        for anew, days in runs:
            for stage, is_new in zip(STAGES, anew, strict=True):
                if is_new or stage not in latest:
                    latest[stage] = world.make(stage, list(latest.values())[: STAGES.index(stage)], days)
            models.append(latest["train"])
        for number, aliases in versions:
            world.register(models[number % len(models)], *aliases)
        before, ages = world.standing(), world.ages()
        found, troubles = prune(world.home, rules)
        assert troubles == []
        after = world.standing()
        store = ArtifactStore(world.home)
        for record in (r for r in world.records if r.artifact.digest not in after):
            with pytest.raises(
                ArtifactError, match=r"is neither in .* nor in MLflow; run the pipeline again"
            ):
                store.path(record.artifact)
        need = set().union(*(world.lineage(ref) for ref in latest.values()))
        for version in world.versions:
            need |= world.lineage(next(r for r in world.refs if r.digest == version.tags["model.digest"]))
        assert need <= after
        kept = [v for v in world.versions if v.aliases]
        assert len(kept) == sum(1 for _, aliases in versions if aliases)
        gone = before - after
        assert all(ages[digest] >= rules.older_than - 0.01 for digest in gone)
        size = sum(each.num_bytes for each in store.listing())
        assert size == found.store_bytes - found.freed_bytes
        if rules.quota and size > rules.quota * GIGABYTE:
            assert "is not met" in found.said
            free = {d for d in before if d not in need and ages[d] >= rules.older_than}
            assert free <= gone  # it stopped because nothing more may go
        elif not rules.quota:
            assert gone == {d for d in before if d not in need and ages[d] >= rules.older_than}


def test_a_plan_removes_nothing_and_says_why(world):
    old = world.make("curate", [], days=30)
    new = world.make("curate", [], days=20)
    found = plan(world.home, PruneRules())
    assert [(each.kind, each.name) for each in found.going] == [("artifact", f"curate {old.digest[:12]}")]
    assert found.going[0].age_days == pytest.approx(30, abs=0.1)
    assert found.going[0].why == "no version, latest run or unfinished work needs it"
    assert list(found.kept) == ["needed by the latest run of curate"]
    assert world.standing() == {old.digest, new.digest}


def test_no_more_goes_than_the_quota_asks_for_and_the_oldest_first(world):
    refs = [world.make("curate", [], days=days, num_bytes=1000) for days in (50, 40, 30, 20)]
    total = sum(each.num_bytes for each in ArtifactStore(world.home).listing())
    found, _ = prune(world.home, PruneRules(quota=(total - 1) / GIGABYTE))
    assert [each.name.split()[1] for each in found.going] == [refs[0].digest[:12]]
    assert found.said.startswith("The quota of")
    assert "is met" in found.said


def test_what_is_owed_to_mlflow_and_what_is_unfinished_stays(world):
    data = world.make("curate", [], days=30)
    owing = world.make("train", [data], days=30)
    debt = owed.Debt(
        run_key="k", pipeline_key="", spool="", state="", identity=world.records[1].identity, tags={}
    )
    (world.home.root / "owed").mkdir()
    (world.home.root / "owed" / "k.json").write_text(
        debt.model_copy(update={"record": world.records[1]}).model_dump_json()
    )
    other = world.make("curate", [], days=25)
    world.make("train", [other], days=25)
    crashed = StageIdentity(
        stage="evaluate", parameters={}, upstream={"model": owing.digest}, seed=0, code={}
    )
    RunBook(world.home).decide(crashed, reused=False)
    prune(world.home, PruneRules(older_than=0))
    assert len(world.standing()) == 4
    (world.home.root / "owed" / "k.json").unlink()
    prune(world.home, PruneRules(older_than=0))
    assert len(world.standing()) == 4  # the evaluation that did not finish goes on from that model
    RunBook(world.home).decide(crashed.model_copy(update={"upstream": {}}), reused=False)
    prune(world.home, PruneRules(older_than=0))
    assert world.standing() == {other.digest, world.refs[-1].digest}


def test_nobody_prunes_beside_a_run_and_nobody_runs_beside_a_prune(world):
    with in_use(world.home), pytest.raises(InputError, match="A run works in"):
        prune(world.home, PruneRules())
    with unused(world.home), pytest.raises(InputError), unused(world.home):
        pass


def test_without_an_answer_from_mlflow_nothing_goes(world, monkeypatch):
    world.make("curate", [], days=30)
    world.make("curate", [], days=20)
    monkeypatch.setattr(registry, "all_versions", lambda _: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(StageError, match="did not answer"):
        prune(world.home, PruneRules(older_than=0))
    assert len(world.standing()) == 2


KILLED = """
import os, shutil, sys
from tasks import registry, tracking
from tasks.home import Home
from tasks.prune import prune
from tasks.prune_rules import PruneRules
registry.all_versions = lambda home: []
tracking.runs_with_artifact = lambda *a, **k: []
allowed, unlink = [int(sys.argv[2])], os.unlink
def counted(*a, **k):
    allowed[0] -= 1
    if allowed[0] < 0:
        os._exit(9)
    return unlink(*a, **k)
os.unlink = os.remove = counted
prune(Home(__import__("pathlib").Path(sys.argv[1])), PruneRules(older_than=0))
"""


@pytest.mark.parametrize("num_unlinks", [0, 1, 3])
def test_killed_in_the_middle_it_leaves_whole_artifacts_only(world, num_unlinks):
    for days in (50, 40, 30):
        world.make("curate", [], days=days)
    command = [sys.executable, "-c", KILLED, str(world.home.root), str(num_unlinks)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 9
    store = ArtifactStore(world.home)
    assert all(store.problems(ref) in ([], ["manifest.json is missing"]) for ref in world.refs)
    leftovers = [each for each in store.listing() if each.ref is None]
    for each in leftovers:
        for path in Path(each.place).rglob("*"):
            os.utime(path, (NOW - DAY, NOW - DAY))
    prune(world.home, PruneRules(older_than=0))
    assert world.standing() == {world.refs[-1].digest}
    assert [
        each.place for each in store.listing() if each.ref is None and list(Path(each.place).rglob("*"))
    ] == []


def test_scratch_folders_go_when_their_run_is_over(world):
    world.make("curate", [], days=30)
    world.make("curate", [], days=20)
    for record, days in zip(world.records, (30, 20), strict=True):
        folder = world.home.work(record.run_key)
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("x")
        os.utime(folder / "log.txt", (NOW - days * DAY, NOW - days * DAY))
    prune(world.home, PruneRules())
    assert [each.name for each in (world.home.root / "work").iterdir()] == [world.records[1].run_key[:32]]


def test_a_dropped_version_takes_its_files_from_mlflow_and_an_alias_holds_the_others(tracked, tmp_path):
    client, store = tracking.client(tracked), ArtifactStore(tracked)
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "weights.bin").write_text(str(number))
        ref = store.put(tmp_path / str(number), "model")
        run = tracking.open_run(tracked, f"key{number}", "register", {})
        registry.register_version(tracked, "shapes", run, store.path(ref), ref, {"n": str(number)}, "# card")
    client.set_registered_model_alias("shapes", "champion", "1")
    found, troubles = prune(tracked, PruneRules(keep_versions=2, older_than=0))
    assert troubles == []
    assert [each.name for each in found.going if each.kind == "version"] == ["shapes 2"]
    left = registry.all_versions(tracked)
    assert [version.version for version in left] == ["4", "3", "1"]
    assert all((registry.model_directory(tracked, version) / "weights.bin").is_file() for version in left)
    runs = [tracking.find_run(tracked, key) for key in ("key1", "key2")]
    files = [client.list_artifacts(run.info.run_id, "model") for run in runs if run is not None]
    assert [bool(each) for each in files] == [False, True]


def test_captions_do_not_grow_old_and_go_when_all_shall_go(home):
    for name in ("captions", "pixels"):
        with ContentCache(home.cache, {"name": name}) as cache:
            cache.put("0" * 64, b"x" * 1000)

    def going(older_than: float) -> list[str]:
        rules = PruneRules(older_than=older_than)
        return [each.name.split()[0] for each in _old_caches(home, rules, time.time() + 30 * DAY)]

    assert going(7) == ["pixels"]
    assert sorted(going(0)) == ["captions", "pixels"]
