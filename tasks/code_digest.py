"""The digest of the first-party code a stage runs: its sources and what they import, followed statically.

Comments, docstrings and layout do not count, so rewording a docstring trains nothing again.
"""

import ast
import hashlib
import importlib.util
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

FOLLOWED = ("fluxmodel", "evaluation")
CHOSEN = ("fluxmodel.training.objectives",)  # of these only what a stage names itself: one job, one objective
_parsing = (
    threading.Lock()
)  # parsing in two threads at once fails now and then (CPython 3.11: "recursion depth mismatch")


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """Return {module: digest of its code} of `modules` and of all they import from the science packages.

    A module outside `FOLLOWED` (a task file) counts itself, but what it imports counts only inside them:
    how a stage is launched or logged does not change what comes out.
    """
    digests: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name, *waiting = waiting
        if name in digests:
            continue
        path = _source(name)
        if path is None:
            continue
        digests[name], imported = _read(path, name)
        waiting = waiting + [n for n in imported if _counts(n) and n not in digests]
    return dict(sorted(digests.items()))


def combined(digests: dict[str, str]) -> str:
    """Return one digest of a mapping made by `code_digests`."""
    return hashlib.sha256("\n".join(f"{k} {v}" for k, v in sorted(digests.items())).encode()).hexdigest()


def _counts(name: str) -> bool:
    return name.split(".")[0] in FOLLOWED and not name.startswith(tuple(f"{chosen}." for chosen in CHOSEN))


@cache
def _source(name: str) -> Path | None:
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)  # imports nothing for a top-level name
    if spec is None or not spec.submodule_search_locations:
        return (
            Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") and not rest else None
        )
    for folder in spec.submodule_search_locations:
        base = Path(folder, *rest)
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
    return None


@cache
def _read(path: Path, name: str) -> tuple[str, tuple[str, ...]]:
    with _parsing:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = tuple(sorted(set(_imports(tree, package))))
    for node in ast.walk(tree):
        _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield from _with_parents(base)
            for alias in node.names:  # `from package import module`
                yield f"{base}.{alias.name}"


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list) or not body:
        return
    first = body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        first.value.value = ""
