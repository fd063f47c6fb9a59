"""What of a home is needed: by whom each artifact is, which scratch folders are, and when what was last used."""

from collections.abc import Iterable, Iterator, Sequence

from tasks.home import Home
from tasks.owed import debts
from tasks.registry import RegisteredVersion
from tasks.run_key import RunBook

_FOLDER = 32  # characters of a run key that name its scratch folder


def needed_digests(home: Home, versions: Sequence[RegisteredVersion]) -> dict[str, str]:
    """Return the digest of every artifact that is needed, with the first of those that need it.

    Whoever needs an artifact needs all that it was made of as well.
    """
    book = RunBook(home)
    need: dict[str, str] = {}
    for who, digests in _roots(home, book, versions):
        wanted = {digest for digest in digests if digest}
        for record in book.lineage(sorted(wanted)):
            wanted |= {record.artifact.digest, *record.identity.upstream.values()}
        for digest in wanted:
            need.setdefault(digest, who)
    return need


def _roots(
    home: Home, book: RunBook, versions: Sequence[RegisteredVersion]
) -> Iterator[tuple[str, Iterable[str]]]:
    for version in versions:
        digests = [value for key, value in version.tags.items() if key.endswith((".digest", "_digest"))]
        record = book.read(version.tags.get("run_key", ""))
        registration = [record.artifact.digest] if record else []
        yield f"{version.name} version {version.version}", [*digests, *registration]
    for stage in book.stages():
        identity = book.latest_identity(stage)
        if identity is not None:
            record = book.read(identity.run_key)
            yield (
                f"the latest run of {stage}",
                [record.artifact.digest if record else "", *identity.upstream.values()],
            )
    for debt in debts(home):
        artifact = [debt.record.artifact.digest] if debt.record else []
        yield "a run that is still to be logged to MLflow", [*artifact, *debt.identity.upstream.values()]


def needed_work(home: Home) -> set[str]:
    """Return the names of scratch folders that a run may go on from, or that MLflow is still owed."""
    book = RunBook(home)
    latest = [book.history(stage)[-1].run_key for stage in book.stages() if book.history(stage)]
    return {key[:_FOLDER] for key in [*latest, *(debt.run_key for debt in debts(home))]}


def used_at(home: Home) -> dict[str, float]:
    """Return, of each artifact's digest, the Unix time at which a run last made, reused or read it."""
    book = RunBook(home)
    used: dict[str, float] = {}
    for stage in book.stages():
        for decision in book.history(stage):
            record = book.read(decision.run_key)
            if record is None:
                continue
            for digest in (record.artifact.digest, *record.identity.upstream.values()):
                used[digest] = max(used.get(digest, 0.0), decision.time, record.finished)
    return used
