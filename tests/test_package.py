"""The package as a whole: what it exports, what it imports, what its texts promise."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sksmooth

ROOT = Path(__file__).parent.parent
ROOMS = (
    "search",
    "classifier_cv",
    "together",
    "classifier",
    "lockstep",
    "plotting",
    "datasets",
    "metrics",
    "calibration",
    "batches",
    "losses",
    "modules",
    "smoothing",
    "_checks",
)


def test_every_exported_name_exists_and_is_documented():
    for name in sksmooth.__all__:
        assert getattr(sksmooth, name).__doc__, name


def test_versions_agree():
    assert sksmooth.__version__ == version("sksmooth")


def test_import_loads_no_matplotlib():
    code = "import sys, sksmooth; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_the_list_of_rooms(room):
    source = (ROOT / "sksmooth" / f"{room}.py").read_text()
    imported = set(re.findall(r"^from sksmooth\.(\w+) import", source, flags=re.MULTILINE))
    assert imported <= set(ROOMS[ROOMS.index(room) + 1 :])


def test_the_list_of_rooms_is_complete():
    files = {path.stem for path in (ROOT / "sksmooth").glob("*.py")}
    assert files - {"__init__"} == set(ROOMS)


def test_continuous_integration_runs_the_second_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["clf"].score(names["X_test"], names["y_test"]) > 0.9
    proba = names["search"].predict_proba(names["X_test"])
    assert proba.shape == (450, 10)
    assert names["search"].score(names["X_test"], names["y_test"]) > -0.2
