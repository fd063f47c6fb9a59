"""The artifact store: directories named by their content, kept under FLUXLINE_HOME or any fsspec URL.

An artifact is written to a temporary name, its `manifest.json` last, then renamed, so a half-written
one cannot be mistaken for a whole one. Its digest is sha256 over (path, sha256 of content) of each file:
independent of time, machine and place.
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import ArtifactError
from tasks.home import Home

MANIFEST = "manifest.json"
UNDIGESTED = "undigested.json"
"""A file in which an artifact may name others that also tell timings: they are kept and checked, but are no content."""
_CHUNK = 1 << 20


class ArtifactRef(BaseModel):
    """What passes between stages: small JSON that names a directory of files by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="What the directory holds: dataset, autoencoder, model, ...")
    uri: str = Field(description="Where it lies (any fsspec URL).")
    digest: str = Field(description="sha256 over the paths and contents of its files.")
    mlflow_run_id: str = Field(default="", description="The MLflow run that made it.")
    num_bytes: int = Field(default=0, ge=0, description="Total size of its files in bytes.")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return _stream_digest(stream)


def list_files(directory: Path) -> list[dict]:
    """Return {path, sha256, bytes} of each file below `directory`, sorted by path, manifest excluded.

    Those that the directory's `UNDIGESTED` names have `undigested` as well.
    """
    apart = directory / UNDIGESTED
    undigested = json.loads(apart.read_text()) if apart.is_file() else []
    paths = sorted(
        p for p in directory.rglob("*") if p.is_file() and p.relative_to(directory) != Path(MANIFEST)
    )
    files = []
    for path in paths:
        name = path.relative_to(directory).as_posix()
        flag = {"undigested": True} if name in undigested else {}
        files.append({"path": name, "sha256": file_digest(path), "bytes": path.stat().st_size, **flag})
    return files


def content_digest(files: list[dict]) -> str:
    """Return the digest of a file list made by `list_files`."""
    content = sorted((e for e in files if not e.get("undigested")), key=lambda e: e["path"])
    text = "\n".join(f"{entry['path']}\0{entry['sha256']}" for entry in content)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class StoredArtifact:
    """What lies at a place of the store.

    Attributes:
        place: where.
        ref: of a whole artifact; None for what was cut off while it was written or removed.
        num_bytes: of all files.
        written: Unix time of the newest file.
    """

    place: str
    ref: ArtifactRef | None
    num_bytes: int
    written: float


class ArtifactStore:
    """Directories by (kind, digest) under one URL."""

    def __init__(self, home: Home):
        from fsspec.core import url_to_fs

        self.home = home
        self.fs, self.root = url_to_fs(home.artifacts)
        self.is_local = self.fs.protocol in ("file", ("file", "local"))

    def put(self, directory: Path, kind: str, mlflow_run_id: str = "") -> ArtifactRef:
        """Store a copy of `directory` (a move, where it lies on the same disk) and return its reference.

        Raises:
            ArtifactError: the directory is missing or empty.
        """
        files = list_files(directory) if directory.is_dir() else []
        if not files:
            raise ArtifactError(
                f"{directory} holds no files, so there is no {kind} to store; see the stage's log."
            )
        digest = content_digest(files)
        target = self._place(kind, digest)
        ref = ArtifactRef(
            kind=kind,
            uri=self.fs.unstrip_protocol(target),
            digest=digest,
            mlflow_run_id=mlflow_run_id,
            num_bytes=sum(entry["bytes"] for entry in files),
        )
        if self.problems(ref):
            self.discard(ref)
            manifest = {"kind": kind, "digest": digest, "files": files}
            self._write(directory, target, json.dumps(manifest, indent=1, sort_keys=True))
        return ref

    def problems(self, ref: ArtifactRef) -> list[str]:
        """Return what is wrong with the stored artifact, one sentence each; empty when every byte is right."""
        place = self._place(ref.kind, ref.digest)
        try:
            manifest = json.loads(self.fs.cat_file(f"{place}/{MANIFEST}"))
            files = manifest["files"]
            if manifest["digest"] != ref.digest or content_digest(files) != ref.digest:
                return [f"{MANIFEST} does not belong to digest {ref.digest[:12]}"]
        except FileNotFoundError:
            return [f"{MANIFEST} is missing"]
        except (ValueError, KeyError, TypeError):
            return [f"{MANIFEST} cannot be read"]
        return list(self._damages(place, files))

    def path(self, ref: ArtifactRef) -> Path:
        """Return a local directory with the artifact's files; what the store lost comes back from MLflow.

        A remote artifact is fetched once and checked.

        Raises:
            ArtifactError: it is missing or damaged, and MLflow does not have it either.
        """
        place = self._place(ref.kind, ref.digest)
        if not self.fs.exists(f"{place}/{MANIFEST}") and not self.restore(ref):
            raise ArtifactError(
                f"{ref.kind} {ref.digest[:12]} is neither in {self.root} nor in MLflow; run the pipeline again."
            )
        if self.is_local:
            return Path(place)
        local = self.home.root / "fetched" / ref.kind / ref.digest[:16]
        if not local.is_dir() or content_digest(list_files(local)) != ref.digest:
            shutil.rmtree(local, ignore_errors=True)
            partial = local.with_name(f".{local.name}-{uuid.uuid4().hex[:8]}")
            partial.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get(f"{place}/", f"{partial}/", recursive=True)
            if content_digest(list_files(partial)) != ref.digest:
                shutil.rmtree(partial)
                raise ArtifactError(
                    f"{ref.kind} {ref.digest[:12]} at {ref.uri} is damaged; run the pipeline again."
                )
            os.replace(partial, local)
        return local

    def restore(self, ref: ArtifactRef) -> bool:
        """Bring a missing or damaged artifact back from MLflow, whole and checked; return whether that worked."""
        from tasks.restore import download  # MLflow's side of it, loaded where it is needed

        folder = self.home.root / "fetched"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".partial-{uuid.uuid4().hex[:12]}"
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several stages may miss the same artifact at once
            try:
                if not self.problems(ref):
                    return True
                made = download(self.home, ref, partial)
                if made is None:
                    return False
                self.discard(ref)
                self.put(made, ref.kind, ref.mlflow_run_id)
                return True
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def discard(self, ref: ArtifactRef) -> None:
        """Remove the artifact, if it is there; one cut off in the middle is no longer taken for a whole one."""
        place = self._place(ref.kind, ref.digest)
        if not self.fs.exists(place):
            return
        if self.is_local:
            going = Path(place).with_name(f".going-{uuid.uuid4().hex[:12]}")
            os.replace(place, going)
            place = str(going)
        elif self.fs.exists(f"{place}/{MANIFEST}"):
            self.fs.rm_file(f"{place}/{MANIFEST}")
        self.fs.rm(place, recursive=True)

    def listing(self) -> list[StoredArtifact]:
        """Return what lies in the store: whole artifacts, and what writers and removers left behind."""
        found = []
        for kind in self._names(self.root):
            for place in self._names(f"{self.root}/{kind}"):
                found.append(self._stored(kind, place))
        return found

    def sweep(self, stored: StoredArtifact) -> None:
        """Remove something that lies in the store."""
        if stored.ref is not None:
            self.discard(stored.ref)
        else:
            self.fs.rm(stored.place, recursive=True)

    def _names(self, place: str) -> list[str]:
        if not self.fs.isdir(place):
            return []
        return sorted(
            str(each["name"]).rstrip("/").rsplit("/", 1)[-1] for each in self.fs.ls(place, detail=True)
        )

    def _stored(self, kind: str, name: str) -> StoredArtifact:
        place = f"{self.root}/{kind}/{name}"
        entries = self.fs.find(place, detail=True)
        files: list[dict[str, Any]] = list(entries.values())  # type: ignore[union-attr]
        size = sum(int(each.get("size") or 0) for each in files)
        written = max((_written(each) for each in files), default=0.0)
        try:
            manifest = json.loads(self.fs.cat_file(f"{place}/{MANIFEST}"))
            digest = manifest["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return StoredArtifact(place, None, size, written)
        if name != digest[:16]:
            return StoredArtifact(place, None, size, written)
        uri = self.fs.unstrip_protocol(place)
        return StoredArtifact(
            place, ArtifactRef(kind=kind, uri=uri, digest=digest, num_bytes=size), size, written
        )

    def _place(self, kind: str, digest: str) -> str:
        return f"{self.root}/{kind}/{digest[:16]}"

    def _damages(self, place: str, files: list[dict]) -> Iterator[str]:
        for entry in files:
            try:
                with self.fs.open(f"{place}/{entry['path']}", "rb") as stream:
                    if _stream_digest(stream) != entry["sha256"]:
                        yield f"{entry['path']} differs from its digest"
            except FileNotFoundError:
                yield f"{entry['path']} is missing"

    def _write(self, directory: Path, target: str, manifest: str) -> None:
        if not self.is_local:  # a bucket cannot rename: there the manifest alone makes it whole
            self.fs.put(f"{directory}/", f"{target}/", recursive=True)
            self.fs.pipe_file(f"{target}/{MANIFEST}", manifest.encode())
            return
        partial = Path(target).with_name(f".partial-{uuid.uuid4().hex[:12]}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(directory, partial, copy_function=link_or_copy)
        with (partial / MANIFEST).open("w") as stream:
            stream.write(manifest)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)


def link_or_copy(source: str, target: str) -> None:
    """Put a file at `target` too: a second name where the disk allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _written(entry: dict[str, Any]) -> float:
    """When a file was written, by what its file system calls that; 0 where it does not say."""
    names = ("mtime", "LastModified", "updated", "created")
    value: Any = next((entry[name] for name in names if entry.get(name)), 0.0)
    if isinstance(value, int | float):
        return float(value)
    return value.timestamp() if isinstance(value, datetime) else 0.0


def _stream_digest(stream) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
