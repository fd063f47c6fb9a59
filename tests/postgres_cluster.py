"""A PostgreSQL of its own for a test: Debian's programs, a free port of 127.0.0.1, a password, gone afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kit import require_external

USER, PASSWORD = "ann", "s3cret-pa55"


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL.

    Attributes:
        programs: folder of its programs.
        port: of 127.0.0.1.
        log: its log file.
    """

    programs: Path
    port: int
    log: Path

    def create(self, *names: str) -> None:
        """Create databases."""
        for name in names:
            self._run("createdb", name)

    def dump(self, name: str) -> str:
        """Return all that a database holds."""
        return self._run("pg_dump", f"--dbname={name}")

    def environment(self, prefect: str, mlflow: str, password: str = PASSWORD) -> dict[str, str]:
        """Return the variables that put both servers on these databases."""
        where = f"{USER}:{password}@127.0.0.1:{self.port}"
        return {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{where}/{prefect}",
            "MLFLOW_BACKEND_STORE_URI": f"postgresql://{where}/{mlflow}",
        }

    def _run(self, program: str, *arguments: str) -> str:
        command = [
            str(self.programs / program), "--host=127.0.0.1", f"--port={self.port}", f"--username={USER}", *arguments,
        ]  # fmt: skip
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Run a cluster; skip the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    programs = require_external(found[-1].parent if found else None, "PostgreSQL (Debian package postgresql)")
    # PostgreSQL refuses to run as root, and nobody else may enter pytest's own folders.
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    root = Path(tempfile.mkdtemp(prefix="fluxline-postgres-"))
    if who:
        shutil.chown(root, "postgres", "postgres")
    (root / "password").write_text(PASSWORD)
    (root / "password").chmod(0o644)
    data, log = root / "data", root / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), f"--pgdata={data}", *arguments]
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, timeout=300, **who)

    try:
        call("initdb", f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={root / 'password'}",
             "--encoding=UTF8", "--no-locale", "--no-sync")  # fmt: skip
        call("pg_ctl", "start", "--wait", "--timeout=120", "--silent", f"--log={log}", f"--options={options}")
        try:
            yield Cluster(programs, port, log)
        finally:
            call("pg_ctl", "stop", "--mode=immediate", "--wait", "--silent")
    finally:
        shutil.rmtree(root, ignore_errors=True)
