"""What makes a stage's run the same run: run_key = sha256(stage, parameters, upstream digests, seed, code).

The key is Prefect's cache key and the tag under which the MLflow run is found again. Beside each key lies a
record of what went in and what came out, and a record that differs in one thing explains why a stage ran again.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tasks.artifacts import ArtifactRef
from tasks.code_digest import combined
from tasks.home import Home
from tasks.whole_file import write_whole

_Model = TypeVar("_Model", bound=BaseModel)
HISTORY_LENGTH = 50
REUSED = "reused: same parameters, inputs, seed and code"
START = "start"
"""Input of a training: the model whose network it goes on from."""


class StageIdentity(BaseModel):
    """Everything a stage's result depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    parameters: dict[str, Any] = Field(description="Settings that influence the result; no paths.")
    upstream: dict[str, str] = Field(description="Input name -> artifact digest.")
    seed: int
    code: dict[str, str] = Field(description="Module -> digest of its code.")

    @property
    def run_key(self) -> str:
        """The sha256 of it all, in hexadecimal."""
        content = self.model_dump(mode="json") | {"code": combined(self.code)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class RunRecord(BaseModel):
    """What one run key stands for and what came out of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_key: str
    identity: StageIdentity
    artifact: ArtifactRef
    seconds: float = Field(
        description="Wall time of the stage, crashes and resumptions included, in seconds."
    )
    gave: str = Field(default="", description="One line: what the stage gave.")
    changed: str = Field(default="", description="One line: what of its input had to be done anew.")
    metrics: dict[str, float] = Field(default_factory=dict)
    finished: float = Field(default=0.0, description="Unix time.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="What it ran in: package -> version, and the device."
    )


class Decision(BaseModel):
    """Whether a stage ran or was reused, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    run_key: str
    reused: bool
    reason: str
    time: float


class RunBook:
    """The records and decisions under FLUXLINE_HOME/runs."""

    def __init__(self, home: Home):
        self.home = home

    def read(self, run_key: str) -> RunRecord | None:
        """Return the record of a finished run, or None (an unreadable record counts as none)."""
        return _load(self.home.runs / f"{run_key}.json", RunRecord)

    def write(self, record: RunRecord) -> None:
        """Keep the record of a finished run."""
        write_whole(self.home.runs / f"{record.run_key}.json", record.model_dump_json(indent=1))

    def records(self) -> list[RunRecord]:
        """Return the records of all finished runs."""
        return list(filter(None, (_load(path, RunRecord) for path in self.home.runs.glob("*.json"))))

    def lineage(self, digests: list[str]) -> list[RunRecord]:
        """Return the records that made the artifacts with these digests, and all they were made of, oldest first.

        A model that training went on from is named by its digest and not looked into: its data are not these.
        """
        makers = {r.artifact.digest: r for r in sorted(self.records(), key=lambda r: r.finished)}
        found: dict[str, RunRecord] = {}
        waiting = list(digests)
        while waiting:
            record = makers.get(waiting.pop())
            if record is not None and record.run_key not in found:
                found[record.run_key] = record
                waiting += [each for name, each in record.identity.upstream.items() if name != START]
        return sorted(found.values(), key=lambda record: record.finished)

    def forget(self, run_key: str) -> None:
        """Drop the record and Prefect's cached result of a run key, so that the stage runs again."""
        (self.home.runs / f"{run_key}.json").unlink(missing_ok=True)
        (self.home.results / run_key).unlink(missing_ok=True)

    def decide(self, identity: StageIdentity, reused: bool, reason: str = "") -> Decision:
        """Note whether the stage is reused; without a `reason`, find it by comparing with its last run."""
        reason = reason or (REUSED if reused else self.explain(identity))
        decision = Decision(
            stage=identity.stage, run_key=identity.run_key, reused=reused, reason=reason, time=time.time()
        )
        history = [*self.history(identity.stage), decision][-HISTORY_LENGTH:]
        lines = "\n".join(entry.model_dump_json() for entry in history)
        write_whole(self._stage_file(identity.stage), lines + "\n")
        if not reused:
            write_whole(self._identity_file(identity.stage), identity.model_dump_json())
        return decision

    def history(self, stage: str) -> list[Decision]:
        """Return the decisions about a stage, oldest first."""
        try:
            lines = self._stage_file(stage).read_text().splitlines()
            return [Decision.model_validate_json(line) for line in lines if line]
        except (OSError, ValueError):
            return []

    def stages(self) -> list[str]:
        """Return the stages ever decided on, in the order of their latest decision."""
        files = (self.home.runs / "stages").glob("*.jsonl")
        return [f.stem for f in sorted(files, key=lambda f: f.stat().st_mtime)]

    def explain(self, identity: StageIdentity) -> str:
        """Return in one line why `identity` has to run: what differs from the stage's last run."""
        last = self._last_identity(identity.stage)
        if last is None:
            return "ran: first time"
        changes = list(differences(last, identity))
        return "re-ran because " + ", ".join(changes) if changes else "ran: its last run did not finish"

    def reason(self, decision: Decision) -> str:
        """Return a decision's reason, with what of its input a run that finished had to do anew."""
        record = None if decision.reused else self.read(decision.run_key)
        return f"{decision.reason} ({record.changed})" if record and record.changed else decision.reason

    def latest_identity(self, stage: str) -> StageIdentity | None:
        """Return what the stage was last asked for, finished or not."""
        history = self.history(stage)
        record = self.read(history[-1].run_key) if history else None
        return record.identity if record else _load(self._identity_file(stage), StageIdentity)

    def _last_identity(self, stage: str) -> StageIdentity | None:
        history = self.history(stage)
        if history and self.read(history[-1].run_key) is None:  # the last run crashed or was interrupted
            return _load(self._identity_file(stage), StageIdentity)
        for decision in reversed(history):
            if record := self.read(decision.run_key):
                return record.identity
        return _load(self._identity_file(stage), StageIdentity)

    def _stage_file(self, stage: str) -> Path:
        return self.home.runs / "stages" / f"{stage}.jsonl"

    def _identity_file(self, stage: str) -> Path:
        return self.home.runs / "stages" / f"{stage}.json"


def differences(before: StageIdentity, after: StageIdentity, limit: int = 4) -> Iterator[str]:
    """Yield what changed between two identities, at most `limit` parameters by name."""
    old, new = dict(_flat(before.parameters)), dict(_flat(after.parameters))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    for name in changed[:limit]:
        yield f"{name} changed {_show(old, name)} -> {_show(new, name)}"
    if len(changed) > limit:
        yield f"{len(changed) - limit} more parameters changed"
    if before.seed != after.seed:
        yield f"seed changed {before.seed} -> {after.seed}"
    for name in sorted(before.upstream.keys() | after.upstream.keys()):
        if before.upstream.get(name) != after.upstream.get(name):
            yield f"input {name} changed"
    modules = [
        m for m in sorted(before.code.keys() | after.code.keys()) if before.code.get(m) != after.code.get(m)
    ]
    if modules:
        more = f" and {len(modules) - 2} more" if len(modules) > 2 else ""
        yield f"code changed in {', '.join(modules[:2])}{more}"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _show(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return "nothing"
    text = str(values[name])
    return text if len(text) <= 60 else text[:57] + "..."


def _load(path: Path, model: type[_Model]) -> _Model | None:
    try:
        return model.model_validate_json(path.read_text())
    except (OSError, ValueError):
        return None
