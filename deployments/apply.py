"""Makes a Prefect server have what the catalogue lists, and says what changed: `python -m deployments.apply`.

A second time changes nothing. What a person changed about a schedule in Prefect stays: its time, its parameters, and
whether it is on. Prefect's own way of applying replaces all schedules where one was made by hand, so schedules are
left out of it.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.settings import get_current_settings

from deployments import automations, triggers
from deployments.catalogue import CATALOGUE, POOL, Deployed, Timetable
from flows.environment import SURVIVAL
from tasks.databases import shown_address


@dataclass(frozen=True)
class Applied:
    """A deployment as it stands now.

    Attributes:
        name: its own.
        id: its id on the server.
        changes: what was done to it, in a few words each; none where it stood as it should.
    """

    name: str
    id: UUID
    changes: tuple[str, ...] = ()


def apply_catalogue(pool: str, switch_on: bool = False) -> list[Applied]:
    """Apply every deployment of the catalogue.

    Args:
        pool: work pool whose workers run them; empty where `fluxline up` serves them.
        switch_on: whether to switch the catalogue's schedules on.
    """
    with get_client(sync_client=True) as client:
        if pool:
            _ensure_pool(client, pool)
        return [apply_one(client, deployed, pool, switch_on) for deployed in CATALOGUE]


def apply_one(client: SyncPrefectClient, deployed: Deployed, pool: str, switch_on: bool) -> Applied:
    """Apply one deployment."""
    wanted = runner_deployment(deployed)
    wanted.work_pool_name = pool or None
    try:
        known = client.read_deployment_by_name(f"{deployed.name}/{deployed.name}")
    except ObjectNotFound:
        wanted.job_variables = job_variables(pool, {})
        number = wanted.apply(work_pool_name=pool or None)
        assert isinstance(number, UUID)
        changes = ["created"]
    else:
        wanted.job_variables = job_variables(pool, known.job_variables or {})
        number, changes = known.id, list(_differences(wanted, known))
        if changes:
            wanted.model_fields_set.discard("schedules")
            wanted.apply(work_pool_name=pool or None)
    changes += _apply_timetables(client, number, deployed.timetables, switch_on)
    return Applied(deployed.name, number, tuple(changes))


def runner_deployment(deployed: Deployed) -> RunnerDeployment:
    """Return a deployment of the catalogue as Prefect wants it, but for its schedules.

    Further runs than the limit wait in line: to cancel them would lose what somebody asked for.
    """
    limit = ConcurrencyLimitConfig(limit=deployed.limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    return RunnerDeployment.from_flow(
        deployed.flow,
        deployed.name,
        description=deployed.said,
        tags=list(deployed.tags),
        concurrency_limit=limit if deployed.limit else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def job_variables(pool: str, known: dict[str, Any]) -> dict[str, Any]:
    """Return what a deployment tells its work pool: what a worker's runs need to live, and what a person set.

    Args:
        pool: work pool; empty where `fluxline up` serves it, whose runs have its own environment.
        known: as the deployment has them now; of two values of one variable a person's stays.
    """
    return {**known, "env": {**SURVIVAL, **(known.get("env") or {})}} if pool else known


def _differences(wanted: RunnerDeployment, known: Any) -> Iterator[str]:
    limit = known.global_concurrency_limit
    options = known.concurrency_options
    schema = wanted._parameter_openapi_schema.model_dump(exclude_unset=True)
    pairs = {
        "description": (wanted.description, known.description),
        "tags": (sorted(wanted.tags), sorted(known.tags)),
        "flow": (wanted.entrypoint, known.entrypoint),
        "form": (
            json.dumps(schema, sort_keys=True),
            json.dumps(known.parameter_openapi_schema, sort_keys=True),
        ),
        "checks of its form": (True, known.enforce_parameter_schema),
        "limit": (wanted.concurrency_limit, limit.limit if limit else None),
        "what waits": (wanted.concurrency_options, options),
        "work pool": (wanted.work_pool_name, known.work_pool_name),
        "job variables": (wanted.job_variables, known.job_variables or {}),
    }
    for what, (asked, found) in pairs.items():
        if asked != found:
            yield f"{what} changed"


def _apply_timetables(
    client: SyncPrefectClient, deployment: UUID, timetables: tuple[Timetable, ...], switch_on: bool
) -> list[str]:
    if not timetables:
        return []
    changes = []
    known = {each.slug: each for each in client.read_deployment_schedules(deployment) if each.slug}
    for each in timetables:
        if each.slug not in known:
            _create_schedule(client, deployment, each, switch_on)
            changes.append(f"schedule {each.slug} made, {'on' if switch_on else 'off'}")
        elif switch_on and not known[each.slug].active:
            client.update_deployment_schedule(deployment, known[each.slug].id, active=True)
            changes.append(f"schedule {each.slug} switched on")
    return changes


def _create_schedule(client: SyncPrefectClient, deployment: UUID, timetable: Timetable, active: bool) -> None:
    schedule = DeploymentScheduleCreate(
        schedule=CronSchedule(cron=timetable.cron, timezone="UTC"),
        active=active,
        slug=timetable.slug,
        parameters=timetable.parameters,
    )
    client.create_deployment_schedules(deployment, [schedule])


def _ensure_pool(client: SyncPrefectClient, pool: str) -> None:
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        print(f"work pool {pool}: created; `prefect worker start --pool {pool}` runs what it is given")
    except ObjectAlreadyExists:
        pass


def apply_automations() -> list[str]:
    """Apply the automations of keeping runs alive and of triggers; return what changed, a line each."""
    wanted = [*automations.automations(), *triggers.automations()]
    before = _automations_now()
    automations.ensure(wanted)
    now = _automations_now()
    return [
        f"automation {name}: {'changed' if name in before else 'created'}"
        for name in sorted(now)
        if before.get(name) != now[name]
    ]


def _automations_now() -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/automations/filter", json={}).json()
    return {each["name"]: each["updated"] for each in found}


def main(arguments: list[str]) -> int:
    """Apply everything and print what changed, a line each; return the exit code."""
    pool = "" if "--served" in arguments else POOL
    try:
        changes = _apply_all(pool, switch_on="--schedule" in arguments)
    except (httpx.HTTPError, PrefectException) as error:
        url = get_current_settings().api.url
        said = (
            f"fluxline: Prefect at {url} did not do as it was asked ({type(error).__name__}: {error}); start it, or "
            "correct PREFECT_API_URL, and run the same command again."
        )
        print(shown_address(said), file=sys.stderr)
        return 1
    for line in changes:
        print(line)
    print(f"{len(CATALOGUE)} deployments stand; {'that changed' if changes else 'nothing changed'}.")
    return 0


def _apply_all(pool: str, switch_on: bool) -> list[str]:
    applied = apply_catalogue(pool, switch_on)
    changes = [f"{each.name}: {', '.join(each.changes)}" for each in applied if each.changes]
    return [*changes, *apply_automations()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
