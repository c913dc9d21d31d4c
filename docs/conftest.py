"""Leaves out the pages that need a newer scikit-learn than there is."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("sklearn.callback") else ["guide/watching.rst"]
