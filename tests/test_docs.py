"""The documentation: it builds without a warning, and the reference names all that is public."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sksmooth

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_names_all_that_is_public():
    entries = re.findall(r"^   (\w+)$", (DOCS / "api.rst").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(sksmooth.__all__)


def test_the_reference_says_since_when():
    for name in sksmooth.__all__:
        text = inspect.getdoc(getattr(sksmooth, name))
        assert re.search(r"^\.\. versionadded:: \d+\.\d+\.\d+$", text, re.MULTILINE), name


def test_every_page_says_something_that_runs():
    pages = [*(DOCS / "guide").glob("*.rst"), DOCS / "start.rst", DOCS / "versions.rst"]
    for page in pages:
        if page.stem not in ("index", "coming_from"):
            assert ">>>" in page.read_text(encoding="utf-8"), page.name


def test_builds_without_a_warning(tmp_path):
    pytest.importorskip("pydata_sphinx_theme")
    pytest.importorskip("myst_parser")
    pytest.importorskip("numpydoc")
    pytest.importorskip("sphinx_gallery")
    one_script = "sphinx_gallery_conf.filename_pattern=quickstart"  # of the gallery is run
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", one_script]
    done = subprocess.run([*command, DOCS, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "generated" / "sksmooth.LabelSmoothingClassifier.html").exists()
    assert (tmp_path / "_images" / "sphx_glr_quickstart_001.png").exists()
