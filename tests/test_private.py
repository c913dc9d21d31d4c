"""Private names of the libraries stand in one room, which says what each is needed for."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import sksmooth
from sksmooth._private import has_step_hooks

PACKAGE = Path(sksmooth.__file__).parent
OTHER_ROOMS = [path for path in PACKAGE.rglob("*.py") if path.name != "_private.py"]


def is_private(name):
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


@pytest.mark.parametrize("path", OTHER_ROOMS, ids=lambda path: path.stem)
def test_no_other_room_imports_a_private_name_of_a_library(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.module.startswith("sksmooth"):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Attribute) and re.fullmatch(r"torch(\.\w+)+", ast.unparse(node)):
            modules = [ast.unparse(node)]
        assert not any(map(is_private, modules)), ast.unparse(node)


def test_hooks_of_a_step_are_seen_wherever_they_are_set():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    assert not has_step_hooks(optimizer)
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ):
        handle = register(lambda *_: None)
        assert has_step_hooks(optimizer), register.__name__
        handle.remove()
    assert not has_step_hooks(optimizer)
