"""Where Prefect's and MLflow's databases are: SQLite files of the home, or what the tools' own variables name.

`PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://USER@HOST/prefect` and
`MLFLOW_BACKEND_STORE_URI=postgresql://USER@HOST/mlflow` put them on PostgreSQL. A password is never shown; best it is
in no address at all: both drivers read `~/.pgpass` and `PGPASSFILE`.
"""

import json
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fluxmodel.errors import InputError
from tasks.home import Home
from tasks.whole_file import write_whole

PREFECT_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Both are Prefect's names of one setting; where both are set, Prefect takes the first."""
MLFLOW_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
CONNECT_SECONDS = 10
_DRIVERS = {"Prefect": "postgresql+asyncpg", "MLflow": "postgresql"}
_SCRIPTS = {
    "Prefect": "prefect/server/database/_migrations/versions/{dialect}/*.py",
    "MLflow": "mlflow/store/db_migrations/versions/*.py",
}
_CREDENTIALS = re.compile(r"(://[^\s:/@]*):[^\s/]*@")
_QUERY_PASSWORD = re.compile(r"(?i)([?&](?:password|sslpassword)=)[^\s&]*")


@dataclass(frozen=True)
class Database:
    """One server's database.

    Attributes:
        owner: `Prefect` or `MLflow`.
        url: its address, in SQLAlchemy's form; it may hold a password, so it is never shown as it is.
        variable: environment variable that names it, or would.
    """

    owner: str
    url: str = field(repr=False)
    variable: str

    @property
    def dialect(self) -> str:
        """`sqlite`, `postgresql` or whatever else the address begins with."""
        return self.url.partition(":")[0].partition("+")[0]

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.dialect == "sqlite"

    @property
    def file(self) -> Path:
        """File of an SQLite database."""
        return Path(self.url.partition(":///")[2].partition("?")[0])

    @property
    def shown(self) -> str:
        """The address without its password."""
        return shown_address(self.url)

    @property
    def libpq(self) -> str:
        """The address as PostgreSQL's own programs take it."""
        return f"postgresql{self.url[self.url.index('://') :]}"


def prefect_database(home: Home) -> Database:
    """Return the database of the Prefect server that works for this home."""
    for variable in PREFECT_VARIABLES:
        if url := os.environ.get(variable):
            return Database("Prefect", url, variable)
    url = f"sqlite+aiosqlite:///{home.root / 'prefect' / 'prefect.db'}"
    return Database("Prefect", url, PREFECT_VARIABLES[-1])


def mlflow_database(home: Home) -> Database:
    """Return the database of MLflow's server, and of whoever writes to MLflow without one.

    An address that names no driver means psycopg 3, which we install; SQLAlchemy 2.0 would look for psycopg2.
    """
    url = os.environ.get(MLFLOW_VARIABLE) or f"sqlite:///{home.root / 'mlflow.db'}"
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return Database("MLflow", url, MLFLOW_VARIABLE)


def mlflow_artifact_root(home: Home) -> str:
    """Return where MLflow keeps files: MLFLOW_DEFAULT_ARTIFACT_ROOT, else a folder of the home."""
    return os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or (home.root / "mlartifacts").as_uri()


def shown_address(url: str) -> str:
    """Return an address, or a text that quotes one, without a password."""
    return _QUERY_PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r"\1@", url))


def require_database(database: Database, home: Home, is_any_schema: bool = False) -> str:
    """Return the schema revision of a database that answers, empty for a new one; `is_any_schema` takes any revision.

    Raises:
        InputError: its address is none that we know, it does not answer, it is not the one this home was used with, or
            its schema is not that of the installed tool.
    """
    require_form(database)
    _require_the_known_one(database, home)
    if database.is_sqlite:
        revision = _sqlite_revision(database)
    else:
        _require_two(home)
        revision = _postgres_revision(database)
    if not is_any_schema:
        require_schema(database, revision)
    if not database.is_sqlite:
        remember(database, home)
    return revision


def require_form(database: Database) -> None:
    """Refuse an address of a database or a driver that its owner cannot use here.

    Raises:
        InputError: it is one.
    """
    wanted = _DRIVERS[database.owner]
    drivers = {"Prefect": ("sqlite+aiosqlite", "postgresql+asyncpg")}.get(
        database.owner, ("sqlite", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")
    )
    scheme, separator, rest = database.url.partition("://")
    if scheme not in drivers or not separator or not rest.strip("/"):
        raise InputError(
            f"{database.variable}={database.shown} is no address that {database.owner} can use here; write "
            f"{wanted}://USER@HOST:5432/NAME, or unset it for an SQLite file in FLUXLINE_HOME."
        )


def _require_the_known_one(database: Database, home: Home) -> None:
    """Two homes would begin to differ unseen if one night's shell lacked the variable."""
    known = _remembered(home).get(database.owner, "")
    if known and not os.environ.get(database.variable):
        raise InputError(
            f"This home keeps what {database.owner} knows in {known}, but {database.variable} is not set; set it, or "
            f"remove {_note(home)} to begin anew in an SQLite file."
        )


def _require_two(home: Home) -> None:
    """Both tools keep their revision in a table of the same name."""
    both = prefect_database(home), mlflow_database(home)
    if all(each.dialect == "postgresql" for each in both):
        places = {
            each.libpq.partition("?")[0].rpartition("@")[2].removeprefix("postgresql://") for each in both
        }
        if len(places) == 1:
            raise InputError(
                f"Prefect and MLflow are both pointed at the database {places.pop()}, and their tables would clash; "
                f"make one for each (`createdb mlflow`) and correct {both[0].variable} or {MLFLOW_VARIABLE}."
            )


def _sqlite_revision(database: Database) -> str:
    if not database.file.is_file():
        return ""
    try:
        with closing(sqlite3.connect(f"{database.file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error) or "locked" in str(error):
            return ""
        raise InputError(
            f"{database.file} is no SQLite database ({error}); restore it from a backup (`fluxline restore`)."
        ) from error
    return row[0] if row else ""


def _postgres_revision(database: Database) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(database.url)
        driver = url.get_dialect().driver
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"{database.variable}={database.shown} cannot be read as an address; a password's special characters are "
            "written as %40 and the like."
        ) from error
    if find_spec(driver) is None:
        raise InputError(
            f"{database.variable} asks for the driver {driver}, which is not installed: "
            f"`pip install 'fluxline[postgres]'` and write {_DRIVERS[database.owner]}+psycopg://."
        )
    try:
        return _ask_async(url) if driver == "asyncpg" else _ask(url)
    except (
        Exception
    ) as error:  # whatever the driver raises: refused, unknown host, wrong password, no such database
        reason = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{database.variable}={database.shown} does not let us in ({_without(reason[0], url.password)}); start "
            "that PostgreSQL, or correct the address."
        ) from None  # the driver's own text may hold the password


def _ask(url: Any) -> str:
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_SECONDS})
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""


def _ask_async(url: Any) -> str:
    import asyncio

    from sqlalchemy import inspect, text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def ask() -> str:
        engine = create_async_engine(url, poolclass=NullPool, connect_args={"timeout": CONNECT_SECONDS})
        async with engine.connect() as connection:
            has = await connection.run_sync(lambda each: inspect(each).has_table("alembic_version"))
            return (
                (await connection.scalar(text("SELECT version_num FROM alembic_version")) or "")
                if has
                else ""
            )

    return asyncio.run(ask())


def _without(text: str, password: Any) -> str:
    for secret in filter(None, {str(password or ""), unquote(str(password or ""))}):
        text = text.replace(secret, "***")
    return shown_address(text)


def require_schema(database: Database, revision: str) -> None:
    """Refuse a schema that the installed tool cannot use; Prefect's server upgrades an older one when it starts.

    Raises:
        InputError: it is newer than the tool, or MLflow's and older.
    """
    known, head = known_revisions(database)
    if not revision or not head or revision == head:
        return
    if revision not in known:
        raise InputError(
            f"The database of {database.owner} ({database.shown}) was written by a newer {database.owner} than the one "
            f"installed: its schema is {revision}, which this one does not know; install the newer one again."
        )
    if database.owner == "MLflow":
        address = database.url if database.is_sqlite else f'"${MLFLOW_VARIABLE}"'
        raise InputError(
            f"The MLflow database {database.shown} has an older schema ({revision}, wanted is {head}); make a backup "
            f"(`fluxline backup FOLDER`), then `mlflow db upgrade {address}` and run the same command again."
        )


def known_revisions(database: Database) -> tuple[set[str], str]:
    """Return the schema revisions that the installed tool knows, and the newest; both empty if they cannot be told."""
    package, _, pattern = _SCRIPTS[database.owner].format(dialect=database.dialect).partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return set(), ""
    before: dict[str, str] = {}
    for path in Path(spec.submodule_search_locations[0]).glob(pattern):
        text = path.read_text(encoding="utf-8")
        made = re.search(r"""^revision(?:\s*:[^=]+)?\s*=\s*["'](\w+)["']""", text, re.MULTILINE)
        after = re.search(r"""^down_revision(?:\s*:[^=]+)?\s*=\s*["'](\w+)["']""", text, re.MULTILINE)
        if made:
            before[made[1]] = after[1] if after else ""
    heads = set(before) - set(before.values())
    return set(before), heads.pop() if len(heads) == 1 else ""


def _note(home: Home) -> Path:
    return home.root / "databases.json"


def _remembered(home: Home) -> dict[str, str]:
    try:
        found = json.loads(_note(home).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(database: Database, home: Home) -> None:
    """Note in a home that stands which PostgreSQL database it lives in."""
    known = _remembered(home)
    if home.root.is_dir() and known.get(database.owner) != database.shown:
        noted = {**known, database.owner: database.shown}
        write_whole(_note(home), json.dumps(noted, indent=1, sort_keys=True))
