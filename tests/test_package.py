"""The package as a whole: what it exports, what it imports, what its texts promise."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier

import sksmooth

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^\| `((?!tests/)[\w/]+)(?:\.py|/)` \|", flags=re.MULTILINE)
ROOMS = [room.rstrip("/").replace("/", ".") for room in TABLE.findall(CONTRIBUTING)]


def modules_of(room):
    """Give the module of a room, or its package and all modules in it."""
    module = importlib.import_module(f"sksmooth.{room}")
    inner = pkgutil.iter_modules(getattr(module, "__path__", []), f"{module.__name__}.")
    return [module, *(importlib.import_module(found.name) for found in inner)]


def test_every_exported_name_exists_and_is_documented():
    for name in sksmooth.__all__:
        assert getattr(sksmooth, name).__doc__, name


def test_versions_agree():
    assert sksmooth.__version__ == version("sksmooth")


def packages_after(statement):
    """Give the names of the packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_no_package_that_those_below_do_not():
    ours = packages_after("import sksmooth, sksmooth.plotting")
    below = packages_after("import torch, skorch, sklearn.neural_network")
    own = {name for name in ours - below if not name.startswith("_")}  # scikit-learn's extensions
    assert own - set(sys.stdlib_module_names) == {"sksmooth"}
    assert "matplotlib" not in ours


def test_import_loads_no_part_of_scikit_learn_that_prediction_does_not_need():
    code = "import sys, sksmooth; print('sklearn.datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def room_of(name):
    """Give the room that a module's name, without the package's, lies in."""
    return next(room for room in ROOMS if name == room or name.startswith(f"{room}."))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_the_list_of_rooms(room):
    below = set(ROOMS[ROOMS.index(room) + 1 :])
    modules = modules_of(room)
    for module in modules:
        source = inspect.getsource(module)
        imported = re.findall(r"^from sksmooth\.([\w.]+) import", source, flags=re.MULTILINE)
        if len(modules) > 1:  # a folder's files import from each other
            imported = [name for name in imported if room_of(name) != room]
        assert set(map(room_of, imported)) <= below


def private_names(module):
    """Give the underscored names that a module defines, and those that it uses."""
    defined, used = set(), set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.id)
        elif isinstance(node, ast.Attribute):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sksmooth"):
            used.update(alias.name for alias in node.names)
    return [
        {name for name in names if name.startswith("_") and not name.startswith("__")}
        for names in (defined, used)
    ]


def test_no_room_uses_an_underscored_name_of_another():
    # Classes in which one of ours derives from another of ours, and what it takes from there.
    inherited = {"sksmooth.classifier": {"_training"}}
    of_libraries = {"_parameter_constraints", *dir(NeuralNetClassifier), *dir(GridSearchCV)}
    names = {
        module.__name__: private_names(module) for room in ROOMS for module in modules_of(room)
    }
    for name, (defined, used) in names.items():
        of_others = set().union(*(own for other, (own, _) in names.items() if other != name))
        used_of_others = (used - defined) & of_others - of_libraries
        assert used_of_others <= inherited.get(name, set()), name


def test_no_room_is_larger_than_one_can_take_in():
    for module in (module for room in ROOMS for module in modules_of(room)):
        assert len(inspect.getsource(module).splitlines()) <= 700, module.__name__


def test_the_list_of_rooms_is_complete():
    names = [
        found.name.removeprefix("sksmooth.")
        for found in pkgutil.walk_packages(sksmooth.__path__, "sksmooth.")
    ]
    assert {room_of(name) for name in names if name != "engine"} == set(ROOMS)


def test_each_room_has_its_test_file_and_all_others_are_listed():
    of_rooms = {f"test_{room.rpartition('.')[2].lstrip('_')}.py" for room in ROOMS}
    others = set(re.findall(r"^\| `tests/(test_\w+\.py)` \|", CONTRIBUTING, re.MULTILINE))
    assert len(of_rooms) == len(ROOMS)
    assert {path.name for path in (ROOT / "tests").glob("test_*.py")} == of_rooms | others
    assert not of_rooms & others


def documented_callables():
    """Give all public functions, classes and methods that the rooms define, by their full names."""
    for module in (module for room in ROOMS for module in modules_of(room)):
        owners = [module, *(own for own in vars(module).values() if inspect.isclass(own))]
        for owner in owners:
            if getattr(owner, "__module__", module.__name__) != module.__name__:
                continue
            for name, value in vars(owner).items():
                value = getattr(value, "__func__", value)  # of a class method
                is_own = getattr(value, "__module__", None) == module.__name__
                is_callable = inspect.isclass(value) or inspect.isfunction(value)
                if is_own and is_callable and value.__doc__ and not name.startswith("_"):
                    yield f"{module.__name__}.{value.__qualname__}", value


CALLABLES = dict(documented_callables())


def documented_parameters(value):
    """Give name and description of each documented parameter."""
    doc = inspect.getdoc(value)
    section = re.search(r"^Parameters\n-+\n((?:.*\n(?!\S.*\n---))*)", doc + "\n", re.MULTILINE)
    lines = re.findall(r"^(\*{0,2}\w.*?) : (.*)$", section[1] if section else "", re.MULTILINE)
    return [(name.strip("*"), text) for names, text in lines for name in names.split(", ")]


def test_the_callables_are_all_there():
    found = {value.__name__ for value in CALLABLES.values()}
    assert set(sksmooth.__all__) <= found
    defaults = [
        d for v in CALLABLES.values() for d in documented_parameters(v) if "default=" in d[1]
    ]
    assert len(defaults) > 100


@pytest.mark.parametrize("name", CALLABLES)
def test_documented_defaults_are_those_of_the_signature(name):
    value = CALLABLES[name]
    documented = documented_parameters(value)
    parameters = inspect.signature(value).parameters if documented else {}  # errors have none
    for parameter, text in documented:
        assert parameter in parameters, f"{parameter} is documented, but unknown"
        if "default=" in text:
            default = text.partition("default=")[2]
            names = {**vars(sys.modules[value.__module__]), "nan": np.nan}
            in_signature = parameters[parameter].default
            in_docstring = eval(default, names)
            assert in_docstring is in_signature or in_docstring == in_signature, parameter


def test_continuous_integration_runs_the_second_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_of_the_readme_runs_by_itself(snippet, monkeypatch, tmp_path):
    defaults = sksmooth.LabelSmoothingClassifier.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "max_epochs", 20)  # a test has no time for 300
    monkeypatch.chdir(tmp_path)  # nothing of the source's folder is needed
    names: dict = {}
    exec(snippet, names)
    if "proba" in names:
        assert names["proba"].shape == (450, 10)
        assert names["model"].score(names["X_test"], names["y_test"]) > 0.9
    else:
        assert names["search"].best_score_ > -0.5
        assert len(names["search"].cv_results_["params"]) == 3


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(SNIPPETS) == 2
    assert len(README.splitlines()) <= 150
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link
