"""A stage's work in shards on a Ray cluster, through Prefect's task runner for Ray.

`FLUXLINE_RAY` names the cluster. A shard is a Prefect task with Ray's resources: the cores of one of the stage's
children and, where the stage computes and the cluster has GPUs, one of them. Ray places it; there it is a child
process like any other, and its device is checked (`FLUXLINE_LEASE=external`). FLUXLINE_HOME must be one shared
folder under one path on all machines. A shard that is finished is not done again when the stage goes on.
"""

import json
import os
import socket
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import InputError, InterruptedRun
from tasks.cluster import ADDRESS, FLOW, LOCAL, check_cluster, cluster_address, num_shards
from tasks.devices import placed_devices
from tasks.launch import STOP, grace_seconds, run_child
from tasks.leases import KIND, Asker, Need, lease
from tasks.spool import SpoolReader
from tasks.stage import is_worth_retrying
from tasks.stage_run import FINISHED, StageRun, fresh_call

PLACED = "placed.json"
"""File of a shard's folder that says on which machine and which devices it was done."""
_POLL_SECONDS = 0.5
_AT_WORK: dict[str, tuple[StageRun, str, dict[str, Any]]] = {}
"""What this process maps, by run key: a flow's parameters are shown and stored, and these cannot be."""


class ShardJob(BaseModel):
    """One shard of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="The stage's name.")
    run_key: str = Field(description="The stage's run key.")
    home: str = Field(description="FLUXLINE_HOME, one path on all machines.")
    work: str = Field(description="Folder of the shard.")
    function: str = Field(description="Library function, `module:name`.")
    arguments: dict[str, Any] = Field(description="Its arguments.")
    number: int = Field(ge=0, description="Which shard, from 0.")
    total: int = Field(gt=0, description="Of how many.")
    threads: int = Field(gt=0, description="Compute threads of the child.")
    gpus: int = Field(ge=0, description="Devices that Ray gives it.")
    timeout_seconds: float = Field(gt=0, description="Longest time the child may take.")


def map_shards(run: StageRun, function: str, arguments: dict[str, Any]) -> list[Path]:
    """Return the directories that the shards of `function` filled, in order.

    Raises:
        InputError: FLUXLINE_RAY or FLUXLINE_SHARDS is wrong, or prefect-ray is not installed.
        InterruptedRun: the run was to stop.
        StageError: the cluster is not there, or a shard failed.
    """
    key = run.identity.run_key
    check_cluster()
    mapped = _mapped.with_options(
        flow_run_name=f"{run.identity.stage} in shards", task_runner=_runner(cluster_address())
    )
    _AT_WORK[key] = run, function, arguments
    try:
        return [Path(place) for place in mapped(key)]
    finally:
        del _AT_WORK[key]


@task(
    name="shard",
    task_run_name="{job.stage} shard {job.number} of {job.total}",
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=is_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def shard(job: ShardJob) -> str:
    """Do one shard where Ray has placed it; return the directory it filled."""
    os.environ[KIND] = "external" if job.gpus else "none"
    work = Path(job.work)
    call = fresh_call(work, job.function, job.arguments, again=False)
    if call is None:
        return str(work / "output" / "final")
    asker = Asker(job.stage, job.run_key, job.home)
    with lease(Need(gpus=job.gpus), asker, STOP.is_set) as held:
        placed = {"machine": socket.gethostname(), "devices": placed_devices() if job.gpus else ()}
        (work / PLACED).write_text(json.dumps(placed))
        final = run_child(
            "tasks.call", call, work, threads=job.threads, timeout_seconds=job.timeout_seconds, lease=held
        )
    (work / FINISHED).touch()
    return str(final)


@flow(name=FLOW, validate_parameters=False, persist_result=False)
def _mapped(run_key: str) -> list[str]:
    return _map(run_key)


def _map(run_key: str) -> list[str]:
    """Submit the shards and watch them; a plain function, for Prefect sends the flow along with each of its tasks."""
    remote_options = import_module("prefect_ray.context").remote_options
    run, function, arguments = _AT_WORK[run_key]
    jobs = _jobs(run, function, arguments)
    with remote_options(num_cpus=jobs[0].threads, num_gpus=jobs[0].gpus):
        futures = [shard.submit(job) for job in jobs]
    _watch(run, jobs, futures)
    return [future.result() for future in futures]


def _jobs(run: StageRun, function: str, arguments: dict[str, Any]) -> list[ShardJob]:
    nodes = [node["Resources"] for node in import_module("ray").nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    threads = min(run.threads, max(int(node.get("CPU", 1)) for node in nodes))
    each = 1 if run.resources.gpus and gpus else 0
    room = gpus if each else sum(int(node.get("CPU", 0)) // threads for node in nodes)
    begun = {int(place.name.split("-")[-1]) for place in (run.work / "shards").glob("*-of-*")}
    total = max(
        begun, default=num_shards(room)
    )  # a cluster that has shrunk meanwhile takes up the same shards
    return [
        ShardJob(
            stage=run.identity.stage, run_key=run.identity.run_key, home=str(run.home.root),
            work=str(run.work / "shards" / f"{number}-of-{total}"), function=function,
            arguments=arguments | {"shard": number, "num_shards": total}, number=number, total=total, threads=threads,
            gpus=each, timeout_seconds=run.resources.timeout_seconds,
        )
        for number in range(total)
    ]  # fmt: skip


def _watch(run: StageRun, jobs: Sequence[ShardJob], futures: Sequence[Any]) -> None:
    """Return when all shards are done, showing how far they are together.

    Raises:
        InterruptedRun: the run is to stop; the shards were asked to.
    """
    ray = import_module("ray")
    spools = [SpoolReader(Path(job.work) / "output" / "metrics.jsonl") for job in jobs]
    reached = {job.number: (0, 0) for job in jobs}
    by_ref = {future.wrapped_future: future for future in futures}
    pending = list(by_ref)
    try:
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=_POLL_SECONDS)
            for ref in done:
                by_ref[ref].result()  # what failed is said now, not when the others are done
            if STOP.is_set():
                raise InterruptedRun(
                    "Stopped; the shards that are done stay so, and the same command goes on."
                )
            for job, spool in zip(jobs, spools, strict=True):
                if lines := spool.read():
                    reached[job.number] = lines[-1].step, lines[-1].total
            steps, totals = (sum(each) for each in zip(*reached.values(), strict=True))
            run.progress(steps, totals, f"{len(jobs) - len(pending)} of {len(jobs)} shards done")
    except BaseException:
        for ref in pending:
            ray.cancel(ref)  # as Ctrl-C there: the children are asked to end
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=grace_seconds())
        raise


def _runner(address: str) -> Any:
    """Return Prefect's task runner for the cluster at an address.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        runner = import_module("prefect_ray.task_runners").RayTaskRunner
    except ImportError as error:
        raise InputError(
            f"{ADDRESS} is set, and Ray is not installed; pip install 'fluxline[ray]', or unset {ADDRESS}."
        ) from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        return runner(init_kwargs=quiet | {"include_dashboard": False})
    return runner(address=address, init_kwargs=quiet)
