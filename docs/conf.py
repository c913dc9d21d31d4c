"""Settings of Sphinx; ``python -m sphinx -W docs docs/_build`` builds the site."""

from pathlib import Path

import sksmooth

project = "sksmooth"
copyright = "The sksmooth developers"  # Sphinx's name
version = release = sksmooth.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say the types
autodoc_preserve_defaults = True  # make_batches, and not where it lies in memory
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # they are described in full

# What is inherited from scikit-learn and skorch links into their own sites.
suppress_warnings = ["ref.term", "ref.ref", "config.cache"]  # the last is of a function below

# The gallery's order: from the first steps to what lies around.
EXAMPLES = [
    "quickstart",
    "tabular_frame",
    "calibrated_cv",
    "grid_search",
    "batched_grid_search",
    "distributed_search",
    "conformal_sets",
    "pytorch_loop",
    "fashion_mnist",
    "serve",
]


def place(script):
    """Give a script's place in the gallery."""
    return EXAMPLES.index(script.removesuffix(".py"))


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # All are run but those that want data, a cluster, a server or MAPIE; by `-D plot_gallery=0`
    # none.
    "filename_pattern": r"^(?!.*(fashion_mnist|distributed_search|conformal_sets|serve)\.py)",
    "within_subsection_order": place,
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sksmooth",),
    "default_thumb_file": str(Path(__file__).parent / "_static" / "prints.png"),
    "remove_config_comments": True,
    "notebook_extensions": set(),  # they are programs
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": float("inf"),
}

html_theme = "pydata_sphinx_theme"
html_title = "sksmooth"
html_static_path = ["_static"]
html_css_files = ["phone.css", "gallery.css"]
html_show_sourcelink = False
ALONE = ("start", "ecosystem", "benchmarks", "reliability", "versions", "changelog")
html_sidebars = {page: [] for page in ALONE}  # there are no pages below them to list
html_theme_options = {"secondary_sidebar_items": ["page-toc"], "show_toc_level": 2}
