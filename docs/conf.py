"""Settings of Sphinx; ``python -m sphinx -W docs docs/_build`` builds the site."""

import sksmooth

project = "sksmooth"
copyright = "The sksmooth developers"  # Sphinx's name
version = release = sksmooth.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say the types
autodoc_preserve_defaults = True  # make_batches, and not where it lies in memory
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # they are described in full

# What is inherited from scikit-learn and skorch links into their own sites.
suppress_warnings = ["ref.term", "ref.ref"]

html_theme = "pydata_sphinx_theme"
html_title = "sksmooth"
html_static_path = ["_static"]
html_css_files = ["phone.css"]
html_show_sourcelink = False
html_theme_options = {"secondary_sidebar_items": ["page-toc"], "show_toc_level": 2}
