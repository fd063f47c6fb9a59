import sys
from pathlib import Path

import pytest

from tasks import code_digest
from tasks.code_digest import code_digests, combined


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "sciencelib"
    (root / "inner").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "inner" / "__init__.py").write_text("")
    (root / "top.py").write_text(
        '"""Doc."""\nfrom sciencelib.inner import leaf\nimport numpy\n\n\ndef f():\n    from . import late\n'
    )
    (root / "inner" / "leaf.py").write_text("from ..late import x\nVALUE = 1\n")
    (root / "late.py").write_text("x = 1  # a comment\n")
    (root / "alone.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code_digest, "FOLLOWED", ("sciencelib",))
    yield root
    sys.modules.pop("sciencelib", None)


def digests_now() -> dict[str, str]:
    code_digest._read.cache_clear()
    code_digest._source.cache_clear()
    return code_digests(["sciencelib.top"])


def test_imports_are_followed_also_late_and_relative_ones(package):
    assert set(digests_now()) == {
        "sciencelib", "sciencelib.top", "sciencelib.inner", "sciencelib.inner.leaf", "sciencelib.late"
    }  # fmt: skip


def test_comments_docstrings_and_layout_do_not_count(package):
    before = combined(digests_now())
    (package / "late.py").write_text("# another comment\n\nx   =   1\n")
    (package / "top.py").write_text((package / "top.py").read_text().replace("Doc.", "Another."))
    assert combined(digests_now()) == before


def test_a_change_of_code_counts_where_it_is_imported(package):
    before = digests_now()
    (package / "alone.py").write_text("y = 2\n")
    assert digests_now() == before
    (package / "late.py").write_text("x = 2\n")
    after = digests_now()
    assert [name for name in after if after[name] != before[name]] == ["sciencelib.late"]


def test_science_is_digested_without_importing_it():
    import subprocess

    code = (
        "import sys; from tasks.code_digest import code_digests;"
        "d = code_digests(['fluxmodel.training.__main__']); assert 'fluxmodel.training.loop' in d, d;"
        "assert 'torch' not in sys.modules and 'fluxmodel.training' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(code_digest.__file__).parent.parent)


def test_one_kind_of_training_does_not_depend_on_the_objectives_of_others():
    autoencoder = code_digests(["fluxmodel.training.__main__", "fluxmodel.training.objectives.autoencoder"])
    assert "fluxmodel.training.objectives.autoencoder" in autoencoder
    assert "fluxmodel.training.objectives.flow" not in autoencoder
