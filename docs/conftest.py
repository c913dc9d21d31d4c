"""Leaves out the pages that need a newer scikit-learn than there is."""

from importlib.util import find_spec

collect_ignore = ["conftest.py"]  # whose doctests there are none of
if not find_spec("sklearn.callback"):
    collect_ignore.append("guide/watching.rst")
