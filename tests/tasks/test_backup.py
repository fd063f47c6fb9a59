import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fluxmodel.errors import ArtifactError, InputError
from tasks.backup import back_up
from tasks.backup_pool import Pool, read_manifest
from tasks.database_copies import Mover, copy_database
from tasks.databases import known_revisions, mlflow_database, prefect_database
from tasks.home import Home
from tasks.recovery import restore_home


@pytest.fixture
def home(tmp_path):
    """A home with a bit of everything, and things that no backup should hold."""
    made = Home(tmp_path / "old").make()
    old = made.root
    texts = {
        "artifacts/model/0123456789abcdef/manifest.json": '{"digest": "0123456789abcdef"}',
        "artifacts/model/0123456789abcdef/.hidden": f"content that names {old}/artifacts stays",
        "artifacts/model/.partial-1/weights": "half",
        "artifacts/model/fedcba9876543210/weights": "no manifest: cut off",
        "mlartifacts/run/artifacts/model/weights": "weights",
        "runs/key.json": json.dumps({"artifact": {"uri": f"file://{old}/artifacts/model/0123456789abcdef"}}),
        "runs/.key.json-1": "half",
        "results/key": json.dumps({"result": json.dumps({"uri": f"file://{old}/artifacts/x"})}),
        "work/key/job.json": json.dumps(
            {"output": str(old / "work" / "key" / "output"), "other": f"{old}er/x"}
        ),
        "work/key/lock": "",
        "work/key/output/metrics.jsonl": '{"step": 1}\n',
        "work/key/output/checkpoints/step-00000001.tmp": "half",
        "approvals/anything.json": "what others keep",
        "logs/fluxline.log": "log",
        "locks/in-use": "",
        "servers.json": "{}",
        "features/x": "cache",
        "present/run-1.json": "{}",
        "databases.json": "{}",
    }
    for name, text in texts.items():
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text(text)
    (old / "work/key/output/checkpoints/step-00000001.pt").write_bytes(b"\xff\xfe\x00" + str(old).encode())
    write_database(mlflow_database(made).file, old)
    write_database(prefect_database(made).file, old)
    return made


def write_database(path: Path, home: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE runs (uri TEXT PRIMARY KEY, twin TEXT AS (uri), size REAL, raw BLOB)"
        )
        connection.execute("INSERT INTO runs (uri, size) VALUES (?, 1.5)", [f"file://{home}/mlartifacts/run"])
        connection.execute("INSERT INTO runs (uri, raw) VALUES ('elsewhere', x'ff00')")


def test_a_home_comes_back_elsewhere_whole_and_with_its_addresses_moved(home, tmp_path):
    made = back_up(home, tmp_path / "backups")
    there = Home(tmp_path / "a new place" / "home")
    done = restore_home(there, tmp_path / "backups")
    assert done.manifest == made.manifest
    assert files_of(there.root) == {
        "approvals/anything.json",
        "artifacts/model/0123456789abcdef/.hidden",
        "artifacts/model/0123456789abcdef/manifest.json",
        "mlartifacts/run/artifacts/model/weights",
        "mlflow.db",
        "prefect/prefect.db",
        "results/key",
        "runs/key.json",
        "work/key/job.json",
        "work/key/output/checkpoints/step-00000001.pt",
        "work/key/output/metrics.jsonl",
    }
    uri = json.loads((there.root / "runs/key.json").read_text())["artifact"]["uri"]
    assert uri == f"{(there.root / 'artifacts').as_uri()}/model/0123456789abcdef"
    assert "%20" in uri  # MLflow reads addresses, not paths
    job = json.loads((there.root / "work/key/job.json").read_text())
    assert job == {"output": str(there.root / "work" / "key" / "output"), "other": f"{home.root}er/x"}
    for name in ("artifacts/model/0123456789abcdef/.hidden", "work/key/output/checkpoints/step-00000001.pt"):
        assert (there.root / name).read_bytes() == (home.root / name).read_bytes()
        assert (there.root / name).stat().st_mtime_ns == (home.root / name).stat().st_mtime_ns
    for database in (mlflow_database(there), prefect_database(there)):
        with closing(sqlite3.connect(database.file)) as connection:
            rows = connection.execute("SELECT uri, twin, size, raw FROM runs ORDER BY size").fetchall()
        moved = f"{(there.root / 'mlartifacts').as_uri()}/run"
        assert rows == [("elsewhere", "elsewhere", None, b"\xff\x00"), (moved, moved, 1.5, None)]


def test_a_second_backup_holds_the_same_and_copies_only_what_changed(home, tmp_path):
    first = back_up(home, tmp_path / "backups")
    second = back_up(home, tmp_path / "backups")
    assert (first.new_bytes > 0, second.new_bytes, first.path != second.path) == (True, 0, True)
    assert second.manifest.files == first.manifest.files
    (home.root / "runs" / "other.json").write_text("{}")
    third = back_up(home, tmp_path / "backups")
    assert third.new_bytes == 2
    assert len(third.manifest.files) == len(first.manifest.files) + 1


def test_older_backups_go_with_what_only_they_held(home, tmp_path):
    backups = tmp_path / "backups"
    (home.root / "runs" / "gone.json").write_text("only in the first")
    first = back_up(home, backups)
    [gone] = [each for each in first.manifest.files if each.path == "runs/gone.json"]
    (home.root / "runs" / "gone.json").unlink()
    back_up(home, backups, keep=2)
    assert Pool(backups).place(gone.sha256).is_file()
    last = back_up(home, backups, keep=2)
    assert len(Pool(backups).manifests()) == 2
    assert not first.path.exists()
    assert not Pool(backups).place(gone.sha256).exists()
    assert restore_home(Home(tmp_path / "new"), backups).manifest == last.manifest


def test_a_backup_cut_off_before_its_manifest_is_none(home, tmp_path, monkeypatch):
    backups = tmp_path / "backups"

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(Pool, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            back_up(home, backups)
    (backups / "backups" / "20990101-000000-12345678.partial").write_text("{")
    (backups / "objects" / ".partial-1").write_text("half")
    with pytest.raises(InputError, match="no finished backup"):
        restore_home(Home(tmp_path / "new"), backups)
    assert not (tmp_path / "new").exists()
    made = back_up(home, backups)  # what the other copied is there
    assert made.new_bytes == 0
    assert not (backups / "objects" / ".partial-1").exists()


@pytest.mark.parametrize("damage", ["manifest", "file", "lost"])
def test_a_damaged_backup_is_refused_and_nothing_appears(damage, home, tmp_path):
    made = back_up(home, tmp_path / "backups")
    place = Pool(tmp_path / "backups").place(made.manifest.files[0].sha256)
    if damage == "manifest":
        made.path.write_text(made.path.read_text().replace("runs/key.json", "runs/kez.json"))
    elif damage == "file":
        place.write_bytes(b"!" + place.read_bytes()[1:])
    else:
        place.unlink()
    with pytest.raises(ArtifactError, match=r"damaged|lacks"):
        restore_home(Home(tmp_path / "new"), tmp_path / "backups")
    assert [p.name for p in tmp_path.iterdir() if "new" in p.name] == []


def test_a_home_that_is_not_empty_is_kept(home, tmp_path):
    back_up(home, tmp_path / "backups")
    (home.root / "runs" / "later.json").write_text("later")
    with pytest.raises(InputError, match="is not empty"):
        restore_home(home, tmp_path / "backups")
    done = restore_home(home, tmp_path / "backups", is_forced=True)
    assert not (home.root / "runs" / "later.json").exists()
    assert done.kept is not None
    assert (done.kept / "runs" / "later.json").read_text() == "later"


def test_a_manifest_that_points_out_of_the_home_writes_nothing_there(home, tmp_path):
    made = back_up(home, tmp_path / "backups")
    entry = made.manifest.files[0].model_copy(update={"path": "../outside"})
    evil = Pool(tmp_path / "backups").write(made.manifest.model_copy(update={"files": [entry]}))
    with pytest.raises(ArtifactError, match="outside of the home"):
        restore_home(Home(tmp_path / "new"), evil)
    assert not (tmp_path / "outside").exists()


def test_one_backup_may_be_named_by_its_file(home, tmp_path):
    first = back_up(home, tmp_path / "backups")
    (home.root / "runs" / "later.json").write_text("later")
    back_up(home, tmp_path / "backups")
    done = restore_home(Home(tmp_path / "new"), first.path)
    assert not (done.home.root / "runs" / "later.json").exists()
    assert read_manifest(first.path) == first.manifest


def test_what_cannot_be_backed_up_is_told(home, tmp_path):
    with pytest.raises(InputError, match="lies in the home"):
        back_up(home, home.root / "backups")
    with pytest.raises(InputError, match="There is no home"):
        back_up(Home(tmp_path / "nowhere"), tmp_path / "backups")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        back_up(home, tmp_path / "file")
    with Pool(tmp_path / "backups").locked(), pytest.raises(InputError, match="Another backup"):
        back_up(home, tmp_path / "backups")


def test_a_newer_tool_s_database_is_refused_and_an_older_one_noted(home, tmp_path):
    known, head = known_revisions(mlflow_database(home))
    for revision, refused in (("ffffffffffff", True), (sorted(known - {head})[0], False)):
        with closing(sqlite3.connect(mlflow_database(home).file)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
            connection.execute("DELETE FROM alembic_version")
            connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        back_up(home, tmp_path / "backups")
        if refused:
            with pytest.raises(
                InputError, match="schema ffffffffffff, which the installed MLflow does not know"
            ):
                restore_home(Home(tmp_path / "new"), tmp_path / "backups")
            os.unlink(Pool(tmp_path / "backups").manifests()[-1])
        else:
            assert "older schema" in restore_home(Home(tmp_path / "new"), tmp_path / "backups").notes[0]


def test_a_database_is_copied_as_of_one_moment_while_it_is_written_to(tmp_path):
    home = Home(tmp_path / "home").make()
    database = mlflow_database(home)
    with closing(sqlite3.connect(database.file)) as connection, connection:
        connection.execute("CREATE TABLE accounts (name TEXT, value INTEGER)")
        connection.executemany("INSERT INTO accounts VALUES (?, 0)", [("a",), ("b",)])
        connection.execute(
            "CREATE TABLE weight AS SELECT zeroblob(1000) FROM pragma_function_list, pragma_module_list"
        )
    stop, moves = threading.Event(), []

    def move() -> None:
        with closing(sqlite3.connect(database.file, timeout=60)) as writer:
            writer.execute("PRAGMA synchronous = OFF")
            while not stop.is_set():
                with writer:
                    writer.execute("UPDATE accounts SET value = value + 1 WHERE name = 'a'")
                    writer.execute("UPDATE accounts SET value = value - 1 WHERE name = 'b'")
                moves.append(1)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        found = []
        for number in range(5):
            seen = len(moves)
            while len(moves) <= seen:  # a copy between two writes at least
                stop.wait(0.001)
            copy_database(database, tmp_path / f"copy-{number}")
            with closing(sqlite3.connect(tmp_path / f"copy-{number}")) as copy:
                found.append(copy.execute("SELECT sum(value), max(value) FROM accounts").fetchone())
    finally:
        stop.set()
        thread.join()
    assert [total for total, _ in found] == [0] * 5
    assert len({most for _, most in found}) == 5


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("/a/place", "/b/c d"),
        ("/a/place/x", "/b/c d/x"),
        ("file:///a/place/x", "file:///b/c%20d/x"),
        ('{"x": "/a/place/x", "y": "file:///a/place"}', '{"x": "/b/c d/x", "y": "file:///b/c%20d"}'),
        (r'"{\"uri\": \"file:///a/place/x\"}"', r'"{\"uri\": \"file:///b/c%20d/x\"}"'),
        ("1\t/a/place/x\tfile:///a/place/y\n", "1\t/b/c d/x\tfile:///b/c%20d/y\n"),
        ("| `file:///a/place/x` |", "| `file:///b/c%20d/x` |"),
        ("/a/place2/x", None),
        ("/a/place-2", None),
        ("/a/place.before/x", None),
        ("/srv/a/place/x", None),
        ("s3://bucket/a/place/x", None),
    ],
)
def test_only_paths_below_the_old_home_move(text, moved):
    assert Mover(Path("/a/place"), Path("/b/c d"))(text) == (text if moved is None else moved)


def files_of(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
