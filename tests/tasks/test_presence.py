"""Who works in a home can be seen from outside, also right after a kill."""

import json
import os
import subprocess
import sys

from tasks.presence import QUEUED, WORKING, born, left_behind, present, who_is_present

HANG = """
import sys, time
from tasks.home import open_home
from tasks.presence import WORKING, present
with present(open_home(), "train", WORKING, "k" * 64, "pipeline"):
    print("here", flush=True)
    time.sleep(300)
"""


def test_one_is_seen_while_at_work_and_not_afterwards(home):
    with present(home, "train", QUEUED, "key", "pipeline") as note:
        assert [(each.what, each.phase, each.pid) for each in who_is_present(home)] == [
            ("train", QUEUED, os.getpid())
        ]
        note.now(WORKING)
        assert [each.phase for each in who_is_present(home)] == [WORKING]
    assert who_is_present(home) == []
    assert not list((home.root / "present").iterdir())


def test_the_killed_are_not_believed_and_the_next_one_clears_up(home):
    child = subprocess.Popen([sys.executable, "-c", HANG], stdout=subprocess.PIPE, cwd=os.getcwd())
    assert child.stdout is not None
    assert child.stdout.readline() == b"here\n"
    assert [each.pid for each in who_is_present(home)] == [child.pid]
    child.kill()
    child.wait()
    child.stdout.close()
    assert who_is_present(home) == []
    assert len(left_behind(home)) == 1
    with present(home, "curate", WORKING, "other"):
        assert left_behind(home) == []


def test_a_number_taken_over_by_another_process_is_not_believed(home):
    with present(home, "train", WORKING, "key") as note:
        told = json.loads(note.path.read_text())
        note.path.write_text(json.dumps(told | {"born": born(os.getpid()) - 3600}))
        assert who_is_present(home) == []


def test_a_half_written_file_is_passed_over(home):
    with present(home, "train", WORKING, "key"):
        (home.root / "present" / "1-torn.json").write_text('{"what": "tr')
        assert [each.what for each in who_is_present(home)] == ["train"]


def test_nothing_stops_where_it_cannot_be_written(home):
    (home.root / "present").write_text("a file where the folder should be")
    with present(home, "train", WORKING, "key"):
        assert who_is_present(home) == []
