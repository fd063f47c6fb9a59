"""What a registered version was made of, stage by stage: from the run book of this home, else from MLflow."""

import json
import logging
import tempfile
from pathlib import Path

from evaluation.versus_changes import StageAccount, VersionAccount
from tasks import registry, tracking
from tasks.home import Home
from tasks.run_key import RunBook, RunRecord

FILE = "record.json"
"""What a stage's run in MLflow keeps of it: settings, inputs, seed, code, environment."""
_KEY = ".run_key"
_NO_SETTINGS = ("champion", "name")
"""Parameters that name what a stage is about, and set nothing."""


def log_record(home: Home, run_id: str, record: RunRecord) -> None:
    """Log all a stage's result depends on, so that MLflow alone can tell two versions apart."""
    tracking.client(home).log_dict(run_id, record.model_dump(mode="json"), FILE)


def account_of(home: Home, version: registry.RegisteredVersion) -> VersionAccount:
    """Return all that is known of a version; a stage of which nothing is left has its artifact's digest alone."""
    tags = version.tags
    stages = {
        key.removesuffix(_KEY): _stage(home, tags, key.removesuffix(_KEY))
        for key in tags
        if key.endswith(_KEY)
    }
    aliases = registry.aliases(home, version.name)
    return VersionAccount(
        label=f"version {version.version}",
        name=version.name,
        version=version.version,
        aliases=sorted(alias for alias, number in aliases.items() if number == version.version),
        verdict=tags.get("gate.verdict", ""),
        commit=tags.get("git_commit", ""),
        data=tags.get("dataset", ""),
        url=tracking.version_url(home, version.name, version.version),
        stages=stages,
    )


def _stage(home: Home, tags: dict[str, str], stage: str) -> StageAccount:
    run_id = tags.get(f"{stage}.mlflow_run_id", "")
    url = tracking.run_url(home, run_id)
    record = RunBook(home).read(tags[f"{stage}{_KEY}"]) or _logged(home, run_id)
    if record is None:
        return StageAccount(digest=tags.get(f"{stage}.digest", ""), url=url)
    known = record.identity
    return StageAccount(
        parameters={name: each for name, each in known.parameters.items() if name not in _NO_SETTINGS},
        upstream=known.upstream,
        seed=known.seed,
        code=known.code,
        digest=record.artifact.digest,
        environment=record.environment,
        seconds=record.seconds,
        url=url,
    )


def _logged(home: Home, run_id: str) -> RunRecord | None:
    """The record a stage's run in MLflow keeps; None where it has none, as runs of earlier code have."""
    if not run_id:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = tracking.download_files(home, run_id, FILE, Path(folder))
            return RunRecord.model_validate(json.loads(path.read_text()))
        except Exception as error:  # whatever MLflow raises for a missing file, pydantic for another form
            logging.getLogger("fluxline").info("run %s has no %s", run_id, FILE, exc_info=error)
    return None
