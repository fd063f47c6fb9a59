"""Progress is shown where people look at that moment."""

import io
import sys

from tasks.progress import LineBoard


def test_lines_go_to_the_stderr_of_their_time(monkeypatch):
    board, before, now = LineBoard(), io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", before)
    board.say("one")
    monkeypatch.setattr(sys, "stderr", now)
    before.close()
    board.say("two")
    assert now.getvalue() == "two\n"
