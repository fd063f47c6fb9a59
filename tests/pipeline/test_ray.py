"""Captioning in shards on a real Ray cluster that believes it has two GPUs: the same captions, device by device."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.kit import require_external, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

HOST = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's address in the network."""
SHARDS = 3
"""The smoke preset has three batches."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of one machine with two cores and two GPUs, which nobody has ever seen."""
    found = importlib.util.find_spec("prefect_ray")
    require_external(Path(found.origin) if found and found.origin else None, "prefect-ray (the extra `ray`)")
    port, folder = free_port(), tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--node-ip-address={HOST}",
        f"--port={port}", "--num-cpus=2", "--num-gpus=2", "--include-dashboard=false", "--disable-usage-stats",
        f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000", f"--temp-dir={folder}",
    ]  # fmt: skip
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    head = subprocess.Popen(command, start_new_session=True, **out)
    try:
        wait_until(lambda: is_open(port) or head.poll() is not None, "Ray starts", 120)
        assert head.poll() is None, head.communicate()[0]
        yield f"{HOST}:{port}"
    finally:
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        head.communicate(timeout=60)
        for left in psutil.wait_procs(family, timeout=30)[1]:
            left.kill()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.fixture
def there(again, forget, finished, cluster):
    """A copy of the finished run's home that has forgotten its captions, and a cluster to make them on."""
    forget(again, finished[1], "caption")
    again.environment = again.environment | {"FLUXLINE_RAY": cluster, "FLUXLINE_SHARDS": str(SHARDS)}
    return again


def test_on_ray_the_captions_are_those_of_one_machine(there, finished, ran, prefect_url):
    stages, _, _ = there.pipeline()
    assert ran(stages) == ["caption"]
    assert stages["caption"]["digest"] == finished[1]["caption"]["digest"]
    shards = there.work(stages["caption"]) / "shards"
    placed = [json.loads(path.read_text()) for path in sorted(shards.glob("*/placed.json"))]
    assert len(placed) == SHARDS
    assert {len(each["devices"]) for each in placed} == {1}  # Ray gave each one device, and it saw no other
    assert {each["devices"][0] for each in placed} == {"0", "1"}
    with httpx.Client(base_url=f"{prefect_url}/api", trust_env=False) as prefect:
        runs = prefect.post(
            "/task_runs/filter", json={"task_runs": {"name": {"like_": "caption shard"}}}
        ).json()
        flows = prefect.post(
            "/flow_runs/filter", json={"flow_runs": {"name": {"like_": "caption in shards"}}}
        ).json()
    assert sorted(run["name"] for run in runs) == [
        f"caption shard {number} of {SHARDS}" for number in range(SHARDS)
    ]
    assert {run["state_name"] for run in [*runs, *flows]} == {"Completed"}
    assert flows[0]["parent_task_run_id"]  # shown below the run it belongs to


def test_a_shard_that_is_killed_is_done_again_and_no_other(there, finished):
    process = there.start("run", "--preset", "smoke", "--json")
    shards = there.work(finished[1]["caption"]) / "shards"
    wait_until(lambda: [*shards.glob("*/finished")] or process.poll() is not None, seconds=300)
    (done,) = list(shards.glob("*/finished"))[:1]
    before = done.stat().st_mtime_ns
    for child in children_of(shards):
        os.kill(child, signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    outcome = json.loads(out.splitlines()[-1])
    digests = {stage["name"]: stage["digest"] for stage in outcome["stages"]}
    assert digests["caption"] == finished[1]["caption"]["digest"]
    assert done.stat().st_mtime_ns == before


def test_stopped_it_leaves_no_child_on_the_cluster_and_goes_on(there, finished, ran):
    process = there.start("run", "--preset", "smoke", "--json")
    shards = there.work(finished[1]["caption"]) / "shards"
    wait_until(lambda: children_of(shards) or process.poll() is not None, seconds=300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    wait_until(lambda: not children_of(shards), "no child is left", 60)
    stages, _, _ = there.pipeline()
    assert ran(stages) == ["caption"]
    assert stages["caption"]["digest"] == finished[1]["caption"]["digest"]


def test_a_cluster_that_is_not_there_is_said(again, forget, finished):
    forget(again, finished[1], "caption")
    again.environment = again.environment | {"FLUXLINE_RAY": "127.0.0.1:9"}
    _, said = again.run("run", "--preset", "smoke", code=1)
    assert "The Ray cluster at 127.0.0.1:9 cannot be reached" in said


def children_of(shards: Path) -> list[int]:
    """Processes that work on a shard."""
    found = []
    for each in psutil.process_iter(["pid", "cmdline", "status"]):
        line = " ".join(each.info["cmdline"] or [])
        if str(shards) in line and "tasks.call" in line and each.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(each.info["pid"])
    return found
