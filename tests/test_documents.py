"""What README, CONTRIBUTING and CHANGELOG say is true: commands, flags, files and links exist."""

import re
import subprocess

from tests.kit import ROOT, run_python

PACKAGES = ("fluxmodel", "evaluation", "tasks", "flows", "deployments", "benchmarks")


def fluxline(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", "from flows.cli import main; main()", *arguments)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shell_commands(document: str) -> list[str]:
    """The lines of the console blocks of a document, without comments."""
    blocks = re.findall(
        r"^```(?:bash|sh|console)\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL
    )
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def inline_code(document: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def test_every_make_target_in_the_documents_exists():
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(
            re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(inline_code(document) + shell_commands(document)))
        )
        assert named - make_targets() == set(), document


def test_make_alone_lists_every_target():
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE))
    assert listed == make_targets()


def test_make_works_from_another_directory(tmp_path):
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_every_verb_in_the_documents_exists():
    done = fluxline("--help")
    assert done.returncode == 0, done.stderr
    for document in ("README.md", "CONTRIBUTING.md"):
        text = "\n".join(inline_code(document) + shell_commands(document))
        verbs = set(re.findall(r"\bfluxline ([a-z]+)", text))
        missing = {verb for verb in verbs if not re.search(rf"\b{verb}\b", done.stdout)}
        assert missing == set(), document


def test_every_flag_in_the_documents_exists():
    wanted: dict[str, set[str]] = {}
    for document in ("README.md", "CONTRIBUTING.md"):
        for line in inline_code(document) + shell_commands(document):
            if match := re.search(r"\bfluxline ([a-z]+)(.*)", line):
                wanted.setdefault(match[1], set()).update(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", match[2]))
    for verb, flags in wanted.items():
        done = fluxline(verb, "--help")
        assert done.returncode == 0, done.stderr
        assert {flag for flag in flags - {"--help"} if flag not in done.stdout} == set(), verb


def test_every_file_of_the_tree_exists():
    tree = re.search(
        r"^## The tree\n.*?^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert tree, "README.md has no section 'The tree' with a block"
    folders: list[str] = []
    told = set()
    for line in tree[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.rstrip("/")]
        told.add("/".join(folders))
    assert {path for path in told if not (ROOT / path).exists()} == set()
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    standing = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    assert standing - told == set()


def test_every_link_in_the_documents_leads_somewhere():
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / document).read_text())
        local = [link for link in links if "://" not in link]
        assert [link for link in local if not (ROOT / link).exists()] == [], document
