"""The rules of the house, as far as a machine can see them (see CONTRIBUTING.md)."""

import ast
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.kit import ROOT, OutsideNetworkError, loaded_after, require_external, run_python

PACKAGES = ("fluxmodel", "evaluation", "tasks", "flows", "deployments", "benchmarks")
HEAVY = ("torch", "mlflow", "prefect", "transformers", "torchmetrics", "datasets", "peft", "diffusers")
MLFLOW_HOMES = {"tasks/tracking.py", "tasks/served_model.py"}
NAMES_WITHOUT_A_NOUN = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
MOST_LINES_A_FILE = 400
MOST_LINES_A_FUNCTION = 60
# Written in pieces, or this file would find itself.
PATHS_OF_ONE_MACHINE = ("/" + "work/", "/" + "root/", "/" + "farm/", "/" + "home/")
REGISTRY_HOSTS = ("py" + "pi.org", "python" + "hosted", "registry." + "npm", "deb." + "debian")
LEFT_FOR_LATER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK|NotImplemented" + r"Error)\b")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_text() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return texts


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


# Imports


def test_imports_go_downward_only():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mlflow_is_imported_in_two_files_only():
    found = {name_of(path) for path in sources(*PACKAGES) if "mlflow" in imports_of(path)}
    assert found <= MLFLOW_HOMES


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package):
    assert loaded_after(f"import {package}", HEAVY) == []


@pytest.mark.parametrize(
    "module", ["fluxmodel.presets", "fluxmodel.training_job", "evaluation.settings", "flows.config"]
)
def test_configuration_needs_no_torch(module):
    assert loaded_after(f"import {module}", HEAVY) == []


def test_help_loads_nothing_heavy():
    code = """
import sys
from flows.cli import main
sys.argv = ["fluxline", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    assert loaded_after(code, HEAVY) == []


def test_importing_everything_writes_nothing(tmp_path):
    light = [path for path in sources(*PACKAGES) if not imports_of(path) & set(HEAVY)]
    names = [name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in light]
    names = [name for name in names if not name.endswith("__main__")]
    code = f"import os, importlib\nos.chdir({str(tmp_path)!r})\nfor name in {names!r}: importlib.import_module(name)"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


# Shape of the code


def test_every_file_has_a_noun_for_a_name():
    assert [name_of(path) for path in sources(*PACKAGES, "tests") if path.name in NAMES_WITHOUT_A_NOUN] == []


def test_tests_are_no_packages():
    assert [name_of(path) for path in sources("tests") if path.name == "__init__.py"] == []


def test_no_file_outgrows_its_noun():
    lengths = {name_of(path): path.read_text().count("\n") for path in sources(*PACKAGES)}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_A_FILE} == {}


def test_no_function_outgrows_a_screen():
    long = {}
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_LINES_A_FUNCTION:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert long == {}


def test_every_module_says_its_purpose():
    assert [
        name_of(path) for path in sources(*PACKAGES) if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


def test_nothing_is_left_for_later():
    found = [
        name for name, text in tracked_text().items() if name.endswith(".py") and LEFT_FOR_LATER.search(text)
    ]
    assert found == []


def test_no_file_speaks_of_one_machine():
    forbidden = PATHS_OF_ONE_MACHINE + REGISTRY_HOSTS
    found = {name: [word for word in forbidden if word in text] for name, text in tracked_text().items()}
    assert {name: words for name, words in found.items() if words} == {}


# The house's own machinery


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().split()
    }
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in wanted}
    assert names - pinned == set()


def test_every_accepted_warning_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^filterwarnings = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    lines = [line.strip() for line in block[1].splitlines() if line.strip() != '"error",']
    assert [line for line in lines if "#" not in line] == []


def test_every_hook_is_local():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in config["repos"]} == {"local"}


def test_the_network_guard_refuses_other_hosts():
    with pytest.raises(OutsideNetworkError, match="tests talk to this machine only"):
        socket.create_connection(("203.0.113.1", 80), timeout=1)
    with pytest.raises(OutsideNetworkError):
        socket.getaddrinfo("example.com", 443)


def test_the_network_guard_lets_this_machine_through():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()


def test_a_missing_external_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv("FLUXLINE_REQUIRE_EXTERNALS", raising=False)
    with pytest.raises(pytest.skip.Exception):
        require_external(None, "a browser")
    monkeypatch.setenv("FLUXLINE_REQUIRE_EXTERNALS", "1")
    with pytest.raises(pytest.fail.Exception, match="a browser"):
        require_external(None, "a browser")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_ci_script_parses():
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=False).returncode == 0
