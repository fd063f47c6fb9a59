"""A database as one file and back: SQLite by its backup interface, PostgreSQL by its own pg_dump and psql.

Both copies are of one moment, taken while servers read and write.
"""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fluxmodel.errors import InputError, StageError
from tasks.databases import Database

_NEW = "DROP SCHEMA public CASCADE;\nCREATE SCHEMA public;\n"


def copy_database(database: Database, target: Path) -> None:
    """Write a copy of a database, as of one moment, to the file `target`.

    Raises:
        InputError: PostgreSQL's programs are not installed.
        StageError: the database cannot be read.
    """
    if not database.is_sqlite:
        _run_postgres("pg_dump", database, ["--no-owner", "--no-privileges", "--file", str(target)])
        return
    source = f"{database.file.absolute().as_uri()}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(source, uri=True, timeout=60)) as one,
            closing(sqlite3.connect(target)) as other,
        ):
            other.execute("PRAGMA synchronous = OFF")  # whoever keeps the copy forces it to disk
            one.backup(other)
            faults = other.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise StageError(f"{database.file} cannot be copied ({error}); nothing was backed up.") from error
    if faults != ("ok",):
        raise StageError(f"{database.file} is damaged ({faults[0]}); nothing was backed up.")


def is_empty(database: Database) -> bool:
    """Return whether a PostgreSQL database holds no table.

    Raises:
        InputError: PostgreSQL's programs are not installed.
        StageError: it cannot be asked.
    """
    asked = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    return _run_postgres("psql", database, ["--tuples-only", "--command", asked]).strip() == "0"


def load_database(database: Database, dump: Path, is_replaced: bool) -> None:
    """Read a dump back into PostgreSQL, whole or not at all; `is_replaced` drops what the database holds.

    Raises:
        InputError: PostgreSQL's programs are not installed.
        StageError: the database refused it; it is as it was.
    """
    before = dump.with_suffix(".before.sql")
    before.write_text(_NEW if is_replaced else "")
    files = ["--file", str(before), "--file", str(dump)]
    _run_postgres("psql", database, ["--quiet", "--set", "ON_ERROR_STOP=1", "--single-transaction", *files])


def move_addresses(path: Path, old: Path, new: Path) -> None:
    """Rewrite, in a copy of a database, the addresses that lie below `old`, so that they lie below `new`."""
    moved = Mover(old, new)
    with path.open("rb") as stream:
        is_sqlite = stream.read(15) == b"SQLite format 3"
    if is_sqlite:
        _move_in_sqlite(path, moved)
        return
    partial = path.with_suffix(".moved")
    with path.open(encoding="utf-8") as source, partial.open("w", encoding="utf-8") as target:
        for line in source:
            target.write(moved(line))
    os.replace(partial, path)


class Mover:
    """Rewrites a text's paths below one folder to lie below another; a path that only begins alike is left alone."""

    def __init__(self, old: Path, new: Path):
        self.new, self.new_address = str(new), new.as_uri()
        self.quick = tuple({str(old), old.as_uri().removeprefix("file://")})
        path, address = re.escape(str(old)), re.escape(old.as_uri())
        self.pattern = re.compile(rf"(?:({address})|(?<![\w./%~-]){path})(?=$|[^\w.%~-])", re.MULTILINE)

    def __call__(self, text: str) -> str:
        """Return `text` with its paths moved; those in file:// addresses in the form of addresses."""
        if not any(each in text for each in self.quick):
            return text
        return self.pattern.sub(lambda found: self.new_address if found[1] else self.new, text)


def _move_in_sqlite(path: Path, moved: Mover) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("moved", 1, lambda text: moved(text) if isinstance(text, str) else text)
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            " AND sql NOT LIKE 'CREATE VIRTUAL%'"
        )
        for (table,) in tables.fetchall():
            for column in _plain_columns(connection, table):
                where = " OR ".join(f"instr({column}, ?)" for _ in moved.quick)
                statement = f'UPDATE "{table}" SET {column} = moved({column}) WHERE {where}'
                connection.execute(statement, moved.quick)
        connection.commit()
        connection.execute("VACUUM")  # free pages would still tell the old addresses


def _plain_columns(connection: sqlite3.Connection, table: str) -> Iterator[str]:
    """Columns that can be written: no generated ones."""
    for row in connection.execute(f'PRAGMA table_xinfo("{table}")').fetchall():
        if row[6] == 0:
            yield f'"{row[1]}"'


def _run_postgres(program: str, database: Database, arguments: list[str]) -> str:
    if shutil.which(program) is None:
        raise InputError(
            f"{program} is not installed, and {database.shown} is copied by it; install Debian's postgresql-client."
        )
    with _address(database) as (address, environment):
        command = [program, "--no-password", f"--dbname={address}", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StageError(f"{program} failed on {database.shown}: {said}")
    return done.stdout


@contextmanager
def _address(database: Database) -> Iterator[tuple[str, dict[str, str]]]:
    """The address for a command line, which everyone can read, and an environment with the password."""
    parts = urlsplit(database.libpq)
    user, at, where = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    secret = {"PGPASSWORD": unquote(password)} if password else {}
    yield f"postgresql://{name}{at}{where}{parts.path}", os.environ | secret
