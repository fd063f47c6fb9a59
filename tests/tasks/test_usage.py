"""What a child takes of the machine: real processes, measured beside them."""

import json
import subprocess
import sys
import time

import pytest

from tasks import usage
from tasks.spool import SpoolReader
from tasks.usage import UsageSpool

BUSY = "import time\nwhile True: sum(range(10000))"
PARENT = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {BUSY!r}])\nchild.wait()"


@pytest.fixture
def family():
    """A process that does nothing but have a busy child."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    yield process
    import psutil

    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        member.kill()
    process.wait()


def test_what_the_whole_family_takes_is_counted(family, tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "EVERY_SECONDS", 0.3)
    monkeypatch.setattr(usage, "FIRST_SECONDS", 0.3)
    spool, deadline = UsageSpool(family.pid, tmp_path / usage.FILE), time.monotonic() + 30
    before = time.time()
    while len(lines := SpoolReader(tmp_path / usage.FILE).read()) < 4 and time.monotonic() < deadline:
        spool.poll()
        time.sleep(0.02)
    assert [line.step for line in lines] == [1, 2, 3, 4]
    assert before < lines[0].time < lines[-1].time <= time.time()
    assert 0.0 < lines[-1].metrics["system/stage_cpu_cores"] < 1.5  # the child's: its parent only waits
    assert lines[-1].metrics["system/stage_memory_megabytes"] > 8
    assert set(lines[0].metrics) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_percentage",
    }


def test_a_resumed_stage_goes_on_counting_and_a_dead_child_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "FIRST_SECONDS", 0.0)
    (tmp_path / usage.FILE).write_text(json.dumps({"step": 7, "metrics": {}}) + "\n")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        UsageSpool(process.pid, tmp_path / usage.FILE).poll()
        assert [line.step for line in SpoolReader(tmp_path / usage.FILE).read()] == [7, 8]
        spool = UsageSpool(process.pid, tmp_path / usage.FILE)
    finally:
        process.kill()
        process.wait()
    spool.poll()
    assert len(SpoolReader(tmp_path / usage.FILE).read()) <= 3
