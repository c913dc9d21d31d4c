"""Settings of Sphinx; ``python -m sphinx -W docs docs/_build`` builds the site."""

import re
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import sksmooth

project = "sksmooth"
copyright = "The sksmooth developers"  # Sphinx's name
version = release = sksmooth.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say the types
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # they are described in full

# What a page describes of a class where that is not all that it defines: what it inherits, and
# nothing that only our rooms call.
CLASSIFIER = (
    "fit, partial_fit, predict, predict_proba, predict_log_proba, decision_function, confidence, "
    "logits, as_module, score, set_params, initialize, save_params, load_params"
)
ALONE = ("partial_fit", "logits", "initialize", "save_params", "load_params")  # of one net
CALIBRATOR = "fit, predict_proba, predict_log_proba"
ENCODING = "learn, forward, n_outputs"
DESCRIBED = {
    "LabelSmoothingClassifier": f"{CLASSIFIER}, classes_, temperature_",
    "LabelSmoothingClassifierCV": ", ".join(
        [name for name in CLASSIFIER.split(", ") if name not in ALONE] + ["history"]
    ),
    "LabelSmoothingLoss": "forward",
    "LiveTrainingDisplay": "",
    "NormTemperatureScaling": CALIBRATOR,
    "Periodic": ENCODING,
    "PiecewiseLinear": ENCODING,
    "TemperatureScaling": CALIBRATOR,
    "CalibrationBins": "",
    "RiskCoverageCurve": "",
}
autosummary_context = {"described": DESCRIBED}

# Every reference leads somewhere, but those into the sites of others, which are not fetched.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(matplotlib|sklearn|skorch|torch)\..*")]
# What is inherited from scikit-learn and skorch links into their own sites.
suppress_warnings = ["ref.term", "ref.ref", "config.cache"]  # the last is of a function below

# The gallery's order: from the first steps to what lies around.
EXAMPLES = [
    "quickstart",
    "tabular_frame",
    "calibrated_cv",
    "grid_search",
    "live_training",
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

# The snippets that draw show what they have drawn.
plot_html_show_formats = plot_html_show_source_link = False
plot_include_source = True
plot_formats = [("png", 120)]

html_math_renderer = "mathml"  # browsers show it by themselves, also offline
html_theme = "pydata_sphinx_theme"
html_title = "sksmooth"
html_static_path = ["_static"]
html_css_files = ["phone.css", "gallery.css"]
html_show_sourcelink = False
SINGLE = ("start", "ecosystem", "benchmarks", "reliability", "versions", "changelog")
html_sidebars = {page: [] for page in SINGLE}  # there are no pages below them to list
html_theme_options = {"secondary_sidebar_items": ["page-toc"], "show_toc_level": 2}


def name_defaults(app, what, name, obj, options, signature, annotation):
    """Write make_batches for a default that is a function or class, and not where it lies."""
    names = r"<(?:function|class) '?(?:\w+\.)*(\w+)[^>]*>"
    return (re.sub(names, r"\1", signature), annotation) if signature else None


def setup(app):
    """Name defaults; write formulas as MathML, which needs no script of another site."""
    app.connect("autodoc-process-signature", name_defaults)

    def write_inline(writer, node):
        writer.body.append(tex2mathml(node.astext()))
        raise SkipNode

    def write_block(writer, node):
        formula = tex2mathml(node.astext(), as_block=True)
        writer.body.append(f'<div class="formula">{formula}</div>')
        raise SkipNode

    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
