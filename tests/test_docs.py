"""The documentation: it builds without a warning, and the reference names all that is public."""

import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import sksmooth
from sksmooth import metrics, plotting

DOCS = Path(__file__).parents[1] / "docs"
SCORERS = {name for name in metrics.__all__ if name.startswith("neg_")}
MORE_METRICS = sorted({*metrics.__all__} - {*sksmooth.__all__} - SCORERS)


def test_the_reference_names_all_that_is_public():
    entries = re.findall(r"^   (\w+)$", (DOCS / "api.rst").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted([*sksmooth.__all__, *MORE_METRICS])
    for name in SCORERS:
        assert f"``{name}``" in metrics.__doc__


def test_the_reference_says_since_when():
    for name in [*sksmooth.__all__, *MORE_METRICS]:
        text = inspect.getdoc(getattr(sksmooth, name, None) or getattr(metrics, name))
        assert re.search(r"^\.\. versionadded:: \d+\.\d+\.\d+$", text, re.MULTILINE), name


def test_the_reference_describes_what_there_is():
    pytest.importorskip("sphinx")
    for name, members in runpy.run_path(DOCS / "conf.py")["DESCRIBED"].items():
        described = getattr(sksmooth, name, None) or getattr(metrics, name)
        for member in filter(None, members.split(", ")):
            assert inspect.getdoc(getattr(described, member)), f"{name}.{member}"


def test_every_display_is_in_the_gallery():
    scripts = "".join(path.read_text("utf-8") for path in (DOCS.parent / "examples").glob("*.py"))
    for name in plotting.__all__:
        assert re.search(rf"\b{name}[(.]", scripts), name


def test_every_page_says_something_that_runs():
    pages = [*(DOCS / "guide").glob("*.rst"), DOCS / "start.rst", DOCS / "versions.rst"]
    for page in pages:
        if page.stem != "index":
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
    page = (tmp_path / "generated" / "sksmooth.LabelSmoothingClassifier.html").read_text("utf-8")
    assert 'id="sksmooth.LabelSmoothingClassifier.predict"' in page  # inherited
    assert "iterator_train=make_batches" in re.sub("<.*?>", "", page)
    assert "refuse_overflow" not in page  # what only rooms call
    assert "<math" in (tmp_path / "generated" / "sksmooth.LabelSmoothingLoss.html").read_text()
    assert (tmp_path / "_images" / "sphx_glr_quickstart_001.png").exists()
