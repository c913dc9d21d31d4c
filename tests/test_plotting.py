"""The displays: what is drawn, not how it looks."""

from __future__ import annotations

import io
import pickle
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_cv, needs_sklearn, short
from matplotlib import pyplot as plt
from scipy.stats import binomtest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint, LoadInitState
from torch.nn import CrossEntropyLoss

from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.datasets import make_tabular
from sksmooth.metrics import (
    area_under_risk_coverage,
    calibration_bins,
    expected_calibration_error,
    risk_coverage_curve,
)
from sksmooth.modules import SimpleNet
from sksmooth.plotting import (
    LiveTrainingDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    SelectiveConfusionMatrixDisplay,
    SmoothingCurveDisplay,
    TrainingDisplay,
    live,
)

DIAGONAL = "Perfectly calibrated"
ANIMALS = np.array(["cat", "dog", "owl"])


@pytest.fixture(autouse=True)
def _agg_and_no_figure_left_open():
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture(scope="module")
def data():
    X, y = make_tabular(600, random_state=0)
    return X[:300], ANIMALS[y[:300]], X[300:], ANIMALS[y[300:]]


@pytest.fixture(scope="module")
def classifiers(data):
    X, y, _, _ = data
    models = [LogisticRegression(), GaussianNB(), KNeighborsClassifier(15)]
    return [model.fit(X, y) for model in models]


def _legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def _assert_draws(display, bins):
    filled = bins.weight > 0
    np.testing.assert_array_equal(display.line_.get_xdata(), bins.confidence[filled])
    np.testing.assert_array_equal(display.line_.get_ydata(), bins.accuracy[filled])
    np.testing.assert_array_equal(display.prob_pred, bins.confidence)
    np.testing.assert_array_equal(display.prob_true, bins.accuracy)
    if display.ax_counts_.patches:
        counts = display.ax_counts_.patches[-1].get_data()
        np.testing.assert_array_equal(counts.values, bins.weight)
        np.testing.assert_array_equal(counts.edges, bins.edges)
    else:
        x, count = bins.confidence[filled], bins.weight[filled]
        segments = display.ax_counts_.collections[-1].get_segments()
        drawn = np.stack([np.c_[x, 0 * x], np.c_[x, count]], axis=1)
        np.testing.assert_array_equal(segments, drawn)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("weighted", [False, True])
def test_top_label_curve_and_counts_are_the_calibration_bins(data, classifiers, strategy, weighted):
    _, _, X, y = data
    weight = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else None
    options = {"n_bins": 7, "strategy": strategy, "sample_weight": weight}
    display = ReliabilityDisplay.from_estimator(classifiers[0], X, y, **options)
    proba = classifiers[0].predict_proba(X)
    correct = classifiers[0].predict(X) == y
    _assert_draws(display, calibration_bins(proba.max(axis=1), correct, **options))
    error = expected_calibration_error(y, proba, **options)
    assert display.calibration_error == pytest.approx(error, rel=1e-12)
    assert display.ax_counts_.get_ylabel() == ("Weight" if weighted else "Samples")
    assert (display.ax_.get_ylabel(), display.ax_counts_.get_xlabel()) == (
        "Accuracy",
        "Confidence",
    )


@pytest.mark.parametrize("pos_label", ANIMALS)
def test_one_class_shows_its_probability_against_its_frequency(data, classifiers, pos_label):
    _, _, X, y = data
    display = ReliabilityDisplay.from_estimator(classifiers[1], X, y, pos_label=pos_label)
    column = list(ANIMALS).index(pos_label)
    _assert_draws(
        display, calibration_bins(classifiers[1].predict_proba(X)[:, column], y == pos_label)
    )
    assert display.ax_.get_ylabel() == f"Frequency of class {pos_label}"
    assert display.ax_counts_.get_xlabel() == f"Probability of class {pos_label}"


def test_predictions_and_estimator_draw_the_same(data, classifiers):
    _, _, X, y = data
    of_estimator = ReliabilityDisplay.from_estimator(classifiers[0], X, y)
    of_predictions = ReliabilityDisplay.from_predictions(y, classifiers[0].predict_proba(X))
    _assert_draws(of_predictions, of_estimator.bins)


def test_labels_give_the_order_of_the_columns(data, classifiers):
    _, _, X, y = data
    proba = classifiers[0].predict_proba(X)
    for pos_label in (None, "dog"):
        straight = ReliabilityDisplay.from_predictions(y, proba, pos_label=pos_label)
        turned = ReliabilityDisplay.from_predictions(
            y, proba[:, ::-1], labels=ANIMALS[::-1], pos_label=pos_label
        )
        _assert_draws(turned, straight.bins)


def test_class_missing_from_the_test_rows_is_no_hindrance(data, classifiers):
    _, _, X, y = data
    rows = y != "owl"
    display = ReliabilityDisplay.from_estimator(classifiers[0], X[rows], y[rows])
    assert display.bins.weight.sum() == np.count_nonzero(rows)


def test_probability_of_the_second_of_two_classes_is_enough():
    y, proba = [0, 1, 1, 0], np.array([0.1, 0.8, 0.4, 0.2])
    display = ReliabilityDisplay.from_predictions(y, proba, n_bins=5)
    _assert_draws(
        display, calibration_bins([0.9, 0.8, 0.6, 0.8], [True, True, False, True], n_bins=5)
    )


def test_legend_gives_name_and_error_in_percent():
    y, proba = [0, 1], [[0.9, 0.1], [0.16, 0.84]]
    named = ReliabilityDisplay.from_predictions(y, proba, name="ε=0.2, calibrated")
    assert _legend_texts(named.ax_) == [DIAGONAL, "ε=0.2, calibrated (ECE 13.0 %)"]
    assert _legend_texts(ReliabilityDisplay.from_predictions(y, proba).ax_)[1] == "ECE 13.0 %"
    again = ReliabilityDisplay(named.bins, name="old").plot(name="new")
    assert _legend_texts(again.ax_)[1] == "new (ECE 13.0 %)"


def test_name_is_that_of_the_classifier_also_in_a_pipeline(data):
    X, y, X_test, y_test = data
    pipe = make_pipeline(StandardScaler(), GaussianNB()).fit(X, y)
    display = ReliabilityDisplay.from_estimator(pipe, X_test, y_test)
    assert _legend_texts(display.ax_)[1].startswith("GaussianNB (ECE ")


def test_three_estimators_share_one_picture(data, classifiers):
    _, _, X, y = data
    first = ReliabilityDisplay.from_estimator(classifiers[0], X, y)
    others = [
        ReliabilityDisplay.from_estimator(model, X, y, ax=first.ax_) for model in classifiers[1:]
    ]
    displays = [first, *others]
    assert first.figure_.axes == [first.ax_, first.ax_counts_]
    for display, model in zip(displays, classifiers, strict=True):
        assert display.ax_ is first.ax_
        assert display.ax_counts_ is first.ax_counts_
        assert display.line_.get_label().startswith(type(model).__name__)
    assert len({display.line_.get_color() for display in displays}) == 3
    assert len({display.line_.get_marker() for display in displays}) == 3
    assert len(first.ax_counts_.patches) == 3
    assert _legend_texts(first.ax_).count(DIAGONAL) == 1
    assert len(_legend_texts(first.ax_)) == 4


def test_bins_of_equal_weight_have_lines_that_lie_close_where_the_samples_do(data, classifiers):
    _, _, X, y = data
    displays = [ReliabilityDisplay.from_estimator(classifiers[0], X, y, strategy="quantile")]
    for model in classifiers[1:]:
        displays.append(
            ReliabilityDisplay.from_estimator(model, X, y, strategy="quantile", ax=displays[0].ax_)
        )
    ax_counts = displays[0].ax_counts_
    assert not ax_counts.patches
    for display, lines in zip(displays, ax_counts.collections, strict=True):
        heads = [head[0] for _, head in lines.get_segments()]
        np.testing.assert_array_equal(heads, display.line_.get_xdata())
        assert matplotlib.colors.same_color(lines.get_color(), display.line_.get_color())
    assert len({display.line_.get_color() for display in displays}) == 3
    assert ax_counts.get_ylim()[0] == 0


def test_certain_predictions_fill_a_bin_without_width():
    y, proba = np.ones(20, dtype=int), np.ones(20)
    y[0] = 0
    display = ReliabilityDisplay.from_predictions(y, proba, strategy="quantile", n_bins=4)
    assert display.line_.get_xdata() == [1]
    assert display.line_.get_ydata() == [0.95]
    ((foot, head),) = display.ax_counts_.collections[0].get_segments()
    assert (foot.tolist(), head.tolist()) == ([1, 0], [1, 20])
    display.figure_.savefig(io.BytesIO())


def test_more_curves_than_colours_still_draw():
    first = ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7])
    for _ in range(9):
        ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], ax=first.ax_)
    assert len(first.ax_counts_.patches) == 10


@pytest.mark.parametrize("share", [False, True])
def test_neighbouring_panels_keep_their_own_counts(data, classifiers, share):
    _, _, X, y = data
    figure, axes = plt.subplots(1, 2, layout="constrained", sharex=share, sharey=share)
    displays = [
        ReliabilityDisplay.from_estimator(model, X, y, ax=ax)
        for model, ax in zip(classifiers, axes, strict=False)
    ]
    assert [display.ax_ for display in displays] == list(axes)
    assert displays[0].ax_counts_ is not displays[1].ax_counts_
    assert len(figure.axes) == 4
    figure.canvas.draw()
    for display in displays:
        upper, lower = display.ax_.get_position(), display.ax_counts_.get_position()
        assert lower.y1 < upper.y0
        assert (lower.x0, lower.x1) == pytest.approx((upper.x0, upper.x1), abs=1e-6)


def test_axes_placed_by_hand_are_split_too():
    figure = plt.figure()
    ax = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    first = ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], ax=ax)
    second = ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], ax=ax)
    assert second.ax_counts_ is first.ax_counts_
    figure.canvas.draw()
    for axes in figure.axes:
        box = axes.get_position()
        assert min(box.x0, box.y0) > 0.199
        assert max(box.x1, box.y1) < 0.801


def test_limits_are_the_unit_square_and_x_is_shared(data, classifiers):
    _, _, X, y = data
    display = ReliabilityDisplay.from_estimator(classifiers[0], X, y)
    display.figure_.savefig(io.BytesIO())
    assert display.ax_.get_xlim() == display.ax_.get_ylim() == (0, 1)
    assert display.ax_counts_.get_xlim() == (0, 1)
    box = display.ax_.get_window_extent()
    assert box.width == pytest.approx(box.height, rel=1e-3)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_band_is_wilsons_interval_of_each_bin(data, classifiers, level):
    _, _, X, y = data
    display = ReliabilityDisplay.from_estimator(
        classifiers[0], X, y, n_bins=40, confidence_level=level
    )
    interval = display.prob_true_interval(level)
    empty = 0
    for low, high, share, size in zip(
        *interval, display.prob_true, display.bins.weight, strict=True
    ):
        if size == 0:
            empty += 1
            assert np.isnan([low, high]).all()
        else:
            test = binomtest(round(share * size), int(size))
            expected = test.proportion_ci(confidence_level=level, method="wilson")
            assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert empty > 0
    drawn = {tuple(point) for point in display.band_.get_paths()[0].vertices}
    filled = display.bins.weight > 0
    for end in interval[:, filled]:
        assert set(zip(display.prob_pred[filled], end, strict=True)) <= drawn
    title = display.ax_.get_legend().get_title().get_text()
    assert title == f"bands: {100 * level:g} % intervals"


def test_band_widens_with_unequal_weights_but_not_with_their_scale(data, classifiers):
    _, _, X, y = data
    proba = classifiers[0].predict_proba(X)
    uneven = np.random.default_rng(0).exponential(size=len(y))
    widths = {}
    for name, weight in {"none": None, "same": np.full(len(y), 9), "uneven": uneven}.items():
        bins = calibration_bins(proba[:, 0], y == "cat", n_bins=2, sample_weight=weight)
        widths[name] = np.ptp(ReliabilityDisplay(bins).prob_true_interval(), axis=0)
    np.testing.assert_allclose(widths["same"], widths["none"])
    assert (widths["uneven"] > 1.2 * widths["none"]).all()


def test_band_has_the_curves_colour_and_can_be_left_out():
    first = ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], color="red")
    assert first.band_.get_facecolor()[0, :3].tolist() == [1, 0, 0]
    second = ReliabilityDisplay.from_predictions(
        [0, 1], [0.2, 0.7], confidence_level=None, ax=first.ax_
    )
    assert second.band_ is None
    assert len(first.ax_.collections) == 1
    assert first.ax_.get_legend().get_title().get_text() == "bands: 95 % intervals"
    alone = ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], confidence_level=None)
    assert alone.ax_.get_legend().get_title().get_text() == ""


@pytest.mark.parametrize("keyword", ["color", "c"])
def test_style_reaches_the_curve_and_its_colour_the_counts(keyword):
    style = {keyword: "red", "lw": 3, "marker": "*"}
    display = ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], **style)
    assert display.line_.get_color() == "red"
    assert display.line_.get_linewidth() == 3
    assert display.line_.get_marker() == "*"
    assert display.ax_counts_.patches[0].get_edgecolor() == (1, 0, 0, 1)


@pytest.mark.parametrize(
    "display",
    [
        ReliabilityDisplay(calibration_bins([0.2], [True])),
        RiskCoverageDisplay(risk_coverage_curve([0.2], [True])),
        SelectiveConfusionMatrixDisplay([[1]], [[0]], threshold=0.5),
        SmoothingCurveDisplay({"label_smoothing": [0.0], "epoch": [1], "refined_loss": [1.0]}),
        TrainingDisplay([1], {"training": [1.0]}),
    ],
)
@pytest.mark.parametrize("wrong", ["ax", plt.figure, lambda: plt.subplots(1, 2)[1]])
def test_axes_that_are_none_are_refused(display, wrong):
    with pytest.raises(TypeError, match=r"ax must be one matplotlib Axes, got .* of type"):
        display.plot(ax=wrong() if callable(wrong) else wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pos_label": "dogg"}, "pos_label must be one of .*'dogg'. Did you mean 'dog'"),
        ({"strategy": "quantiles"}, "strategy must be one of .* Did you mean 'quantile'"),
        ({"n_bins": 0}, "n_bins must be a positive integer, got 0"),
        ({"sample_weight": [1.0]}, "sample_weight must have shape"),
        ({"confidence_level": 95}, r"confidence_level must be in \[0, 1\), got 95"),
    ],
)
def test_bad_arguments_are_named_and_leave_no_figure(data, classifiers, options, message):
    _, _, X, y = data
    with pytest.raises(ValueError, match=message):
        ReliabilityDisplay.from_estimator(classifiers[0], X, y, **options)
    assert plt.get_fignums() == []


def test_the_best_estimator_of_a_search_is_drawn(data):
    X, y, *_ = data
    pipe = make_pipeline(StandardScaler(), short(max_epochs=3))
    grid = {"labelsmoothingclassifier__lr": [0.02, 0.04]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    best = search.best_estimator_
    for draw in (
        TrainingDisplay.from_estimator,
        lambda model: RiskCoverageDisplay.from_estimator(model, X, y, order_by="confidence"),
    ):
        expected, drawn = (
            [list(line.get_ydata()) for line in draw(model).ax_.lines] for model in (best, search)
        )
        assert drawn == expected


def test_estimator_that_is_not_fitted_or_has_no_probabilities_is_refused(data):
    X, y, _, _ = data
    for unfitted in (GaussianNB(), make_pipeline(StandardScaler(), GaussianNB())):
        with pytest.raises(NotFittedError):
            ReliabilityDisplay.from_estimator(unfitted, X, y)
    with pytest.raises(AttributeError, match="predict_proba"):
        ReliabilityDisplay.from_estimator(RidgeClassifier().fit(X, y), X, y)


@pytest.fixture(scope="module")
def net():
    X, y = make_tabular(200, random_state=0)
    pipe = make_pipeline(
        StandardScaler(),
        NeuralNetClassifier(SimpleNet, criterion=CrossEntropyLoss, max_epochs=4, verbose=0),
    )
    return pipe.fit(X.astype(np.float32), y)


@pytest.mark.parametrize("as_pipeline", [False, True])
def test_training_of_a_skorch_net_is_its_history(net, as_pipeline):
    history = net[-1].history
    display = TrainingDisplay.from_estimator(net if as_pipeline else net[-1])
    assert len(display.lines_) == 3
    for line, key in zip(display.lines_, ["train_loss", "valid_loss", "valid_acc"], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
        np.testing.assert_array_equal(line.get_ydata(), history[:, key])
    assert display.lines_[2].axes is display.ax_accuracy_
    assert _legend_texts(display.ax_) == ["training", "held out"]
    assert _legend_texts(display.ax_accuracy_) == ["held out"]
    assert display.lines_[1].get_color() == display.lines_[2].get_color()
    assert (display.ax_.get_ylabel(), display.ax_accuracy_.get_ylabel()) == ("Loss", "Accuracy")
    assert display.ax_accuracy_.get_xlabel() == "Epoch"
    assert display.ax_.get_xlim() == display.ax_accuracy_.get_xlim() == (0.5, 4.5)
    assert display.best_epoch is None


def _recorded(**columns):
    n_epochs = len(next(iter(columns.values())))
    rows = [{"epoch": i + 1} | {k: v[i] for k, v in columns.items()} for i in range(n_epochs)]
    return rows


def test_refined_loss_is_drawn_and_the_epoch_kept_marked_on_both_axes():
    history = _recorded(
        train_loss=[1.0, 0.8, 0.7],
        valid_loss=[1.0, 0.9, 0.95],
        refined_loss=[0.9, 0.7, 0.8],
        valid_acc=[0.5, 0.7, 0.6],
    )
    display = TrainingDisplay.from_estimator(SimpleNamespace(history=history, best_epoch_=2))
    assert _legend_texts(display.ax_) == [
        "training",
        "held out",
        "held out, refined",
        "epoch kept: 2",
    ]
    assert display.lines_[2].get_ydata().tolist() == [0.9, 0.7, 0.8]
    for axes in (display.ax_, display.ax_accuracy_):
        markers = [line for line in axes.lines if line not in display.lines_]
        assert [list(line.get_xdata()) for line in markers] == [[2, 2]]
    display.figure_.savefig(io.BytesIO())


def test_training_without_held_out_rows_has_one_axes_and_one_curve():
    history = _recorded(train_loss=[1.0])
    display = TrainingDisplay.from_estimator(SimpleNamespace(history=history, best_epoch_=1))
    assert [line.get_label() for line in display.lines_] == ["training"]
    assert display.ax_accuracy_ is None
    assert display.figure_.axes == [display.ax_]
    assert display.ax_.get_xlabel() == "Epoch"
    assert _legend_texts(display.ax_) == ["training", "epoch kept: 1"]
    display.figure_.savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("n_epochs", "ticks", "n_markers"), [(1, [1], 1), (8, [2, 4, 6, 8], 8), (100, [50, 100], 20)]
)
def test_epochs_have_round_ticks_and_markers_with_room_between(n_epochs, ticks, n_markers):
    display = TrainingDisplay(range(1, n_epochs + 1), {"training": np.zeros(n_epochs)}).plot()
    display.figure_.savefig(io.BytesIO())
    low, high = display.ax_.get_xlim()
    drawn = [tick for tick in display.ax_.get_xticks() if low <= tick <= high]
    assert set(ticks) <= set(drawn)
    assert all(tick == round(tick) for tick in drawn)
    (line,) = display.lines_
    assert len(line.get_xdata()[:: line.get_markevery()]) == n_markers


def test_early_stopping_marks_the_epoch_kept_not_the_last(data):
    X, y, _, _ = data
    net = LabelSmoothingClassifier(lr=0.03, patience=3, max_epochs=60, random_state=0)
    pipe = make_pipeline(StandardScaler(), net).fit(X, y)
    kept, last = pipe[-1].best_epoch_, len(pipe[-1].history)
    assert last == kept + 3
    display = TrainingDisplay.from_estimator(pipe)
    assert _legend_texts(display.ax_) == [
        *("training", "held out", "held out, refined"),
        f"epoch kept: {kept}",
    ]
    refined = display.lines_[2]
    assert refined.get_xdata()[np.argmin(refined.get_ydata())] == kept
    assert display.ax_.get_xlim() == (0.5, last + 0.5)


def test_epoch_that_lacks_a_value_leaves_a_gap():
    history = _recorded(train_loss=[1.0, 0.8, 0.7], valid_loss=[1.0, 0.9, 0.8])
    del history[1]["valid_loss"]
    display = TrainingDisplay.from_estimator(SimpleNamespace(history=history))
    np.testing.assert_array_equal(display.lines_[1].get_ydata(), [1.0, np.nan, 0.8])


def test_training_draws_into_given_axes(net):
    figure, axes = plt.subplots(1, 2)
    display = TrainingDisplay.from_estimator(net, ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert len(figure.axes) == 3


@pytest.mark.parametrize(
    "unfitted", [NeuralNetClassifier(SimpleNet), LogisticRegression(), SimpleNamespace(history=[])]
)
def test_training_of_an_unfitted_estimator_is_refused(unfitted):
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(unfitted)
    assert plt.get_fignums() == []


def test_training_of_an_estimator_without_history_is_refused(classifiers):
    with pytest.raises(TypeError, match="LogisticRegression has no history"):
        TrainingDisplay.from_estimator(classifiers[0])


@pytest.mark.parametrize(
    ("draw", "caller"),
    [
        (
            lambda: ReliabilityDisplay.from_estimator(GaussianNB(), [[0.0]], [0]),
            "ReliabilityDisplay",
        ),
        (lambda: ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7]), "ReliabilityDisplay"),
        (
            lambda: ReliabilityDisplay(calibration_bins([0.2], [True])).plot(),
            "ReliabilityDisplay",
        ),
        (
            lambda: RiskCoverageDisplay.from_estimator(GaussianNB(), [[0.0]], [0]),
            "RiskCoverageDisplay",
        ),
        (
            lambda: RiskCoverageDisplay.from_predictions([0, 1], [0, 1], [0.8, 0.7]),
            "RiskCoverageDisplay",
        ),
        (
            lambda: RiskCoverageDisplay(risk_coverage_curve([0.2], [True])).plot(),
            "RiskCoverageDisplay",
        ),
        (
            lambda: SelectiveConfusionMatrixDisplay.from_estimator(
                GaussianNB(), [[0.0]], [0], threshold=0.5
            ),
            "SelectiveConfusionMatrixDisplay",
        ),
        (
            lambda: SelectiveConfusionMatrixDisplay.from_predictions(
                [0, 1], [0, 1], [0.8, 0.7], threshold=0.5
            ),
            "SelectiveConfusionMatrixDisplay",
        ),
        (
            lambda: SelectiveConfusionMatrixDisplay([[1]], [[0]], threshold=0.5).plot(),
            "SelectiveConfusionMatrixDisplay",
        ),
        (lambda: SmoothingCurveDisplay.from_estimator(GaussianNB()), "SmoothingCurveDisplay"),
        (lambda: TrainingDisplay.from_estimator(GaussianNB()), "TrainingDisplay"),
        (lambda: TrainingDisplay([1], {"training": [1.0]}).plot(), "TrainingDisplay"),
    ],
)
def test_missing_matplotlib_is_said_with_the_command_that_installs_it(monkeypatch, draw, caller):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=rf'{caller} needs .*pip install "sksmooth\[plot\]"'):
        draw()


def _area_drawn(line):
    """Give the area under a line that is drawn as steps, each as high as its right end."""
    assert line.get_drawstyle() == "steps-pre"
    return np.diff(line.get_xdata()) @ line.get_ydata()[1:]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_area_drawn_under_the_risk_is_the_metric(data, classifiers, nth, weighted):
    _, _, X, y = data
    weight = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else None
    display = RiskCoverageDisplay.from_estimator(classifiers[nth], X, y, sample_weight=weight)
    proba = classifiers[nth].predict_proba(X)
    area = area_under_risk_coverage(y, proba, sample_weight=weight)
    assert display.area == pytest.approx(area, rel=1e-12)
    assert _area_drawn(display.line_) == pytest.approx(area, rel=1e-12)
    name = type(classifiers[nth]).__name__
    assert _legend_texts(display.ax_) == [f"{name} (AURC {area:.3g})"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Coverage", "Risk")


def test_risk_of_a_small_case_by_hand():
    y_true, y_pred = ["cat", "dog", "owl", "owl"], ["cat", "owl", "dog", "owl"]
    display = RiskCoverageDisplay.from_predictions(y_true, y_pred, [4, 1, 3, 2])
    np.testing.assert_allclose(display.coverage, [1 / 4, 1 / 2, 3 / 4, 1])
    np.testing.assert_allclose(display.risk, [0, 1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(display.line_.get_xdata(), [0, 1 / 4, 1 / 2, 3 / 4, 1])
    np.testing.assert_allclose(display.line_.get_ydata(), [0, 0, 1 / 2, 1 / 3, 1 / 2])
    assert _legend_texts(display.ax_) == ["AURC 0.333"]


def test_weights_of_the_risk_equal_repeated_rows(data, classifiers):
    _, _, X, y = data
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    predicted = classifiers[0].predict(X)
    confidence = classifiers[0].predict_proba(X).max(axis=1)
    weighted = RiskCoverageDisplay.from_predictions(y, predicted, confidence, sample_weight=weight)
    repeated = RiskCoverageDisplay.from_predictions(
        y.repeat(weight), predicted.repeat(weight), confidence.repeat(weight)
    )
    np.testing.assert_allclose(weighted.coverage, repeated.coverage)
    np.testing.assert_allclose(weighted.risk, repeated.risk)


@pytest.mark.parametrize("steps", [[], [StandardScaler()], ["passthrough", StandardScaler()]])
def test_own_confidence_orders_the_rows_also_behind_the_steps_of_a_pipeline(data, steps):
    X, y, X_test, y_test = data
    pipe = make_pipeline(*steps, LabelSmoothingClassifier(max_epochs=5, random_state=0))
    pipe.fit(X, y)
    scaled = StandardScaler().fit(X).transform(X_test) if steps else X_test
    predicted, proba = pipe.predict(X_test), pipe.predict_proba(X_test)
    confidences = {"confidence": pipe[-1].confidence(scaled), "proba": proba.max(axis=1)}
    for kind, confidence in confidences.items():
        drawn = RiskCoverageDisplay.from_estimator(pipe, X_test, y_test, order_by=kind)
        expected = risk_coverage_curve(confidence, predicted == y_test)
        np.testing.assert_array_equal(drawn.coverage, expected.coverage)
        np.testing.assert_array_equal(drawn.risk, expected.risk)
        assert drawn.line_.get_label().startswith("LabelSmoothingClassifier (")
    assert not np.array_equal(*confidences.values())


def test_curves_of_several_classifiers_share_one_picture(data, classifiers):
    _, _, X, y = data
    low = RiskCoverageDisplay.from_predictions(y, y, np.arange(len(y)), name="perfect")
    high = RiskCoverageDisplay.from_predictions(y, np.roll(y, 1), np.arange(len(y)), ax=low.ax_)
    assert high.figure_ is low.figure_
    assert low.line_.get_color() != high.line_.get_color()
    high.figure_.savefig(io.BytesIO())
    bottom, top = high.ax_.get_ylim()
    assert bottom == 0
    assert top >= high.risk.max()
    styled = RiskCoverageDisplay.from_estimator(classifiers[0], X, y, c="red", lw=3, name="mine")
    assert styled.line_.get_color() == "red"
    assert styled.line_.get_linewidth() == 3
    assert styled.line_.get_label().startswith("mine (AURC")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order_by": "probe"}, "order_by must be one of .*'probe'. Did you mean 'proba'"),
        ({"sample_weight": [1.0]}, "sample_weight must have shape"),
        ({"y": [0]}, "inconsistent numbers of samples"),
        ({"y": range(300)}, "Mix of label input types"),
    ],
)
def test_bad_arguments_of_the_risk_are_named_and_leave_no_figure(
    data, classifiers, options, message
):
    _, _, X, y = data
    with pytest.raises(ValueError, match=message):
        RiskCoverageDisplay.from_estimator(classifiers[0], X, **({"y": y} | options))
    with pytest.raises(NotFittedError):
        RiskCoverageDisplay.from_estimator(GaussianNB(), X, y)
    with pytest.raises(ValueError, match=r"method confidence, but GaussianNB has none"):
        RiskCoverageDisplay.from_estimator(GaussianNB().fit(X, y), X, y, order_by="confidence")
    with pytest.raises(AttributeError, match="predict_proba"):
        RiskCoverageDisplay.from_estimator(RidgeClassifier().fit(X, y), X, y)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([None, None], ValueError, "contains NaN or None"),
        (np.array(["a", np.nan], dtype=object), ValueError, "contains NaN or None"),
        (pd.Series(["a", pd.NA], dtype="string"), ValueError, "contains NaN or None"),
        (np.array(["a", 1], dtype=object), TypeError, "holds labels of several types, int, str"),
    ],
)
def test_labels_that_have_no_order_are_named(labels, error, message):
    fine = ["a", "b"]
    for given, name in (((labels, fine), "y_true"), ((fine, labels), "y_pred")):
        with pytest.raises(error, match=f"{name} {message}"):
            RiskCoverageDisplay.from_predictions(*given, [0.5, 0.9])
        with pytest.raises(error, match=f"{name} {message}"):
            SelectiveConfusionMatrixDisplay.from_predictions(*given, [0.5, 0.9], threshold=0.5)


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_accepted_or_rejected_by_their_probability(data, classifiers, threshold, weighted):
    _, _, X, y = data
    weight = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else None
    display = SelectiveConfusionMatrixDisplay.from_estimator(
        classifiers[0], X, y, threshold=threshold, sample_weight=weight
    )
    predicted = classifiers[0].predict(X)
    accepted = classifiers[0].predict_proba(X).max(axis=1) >= threshold
    for matrix, rows in ((display.accepted, accepted), (display.rejected, ~accepted)):
        expected = np.zeros((3, 3))
        if rows.any():
            own_weight = weight[rows] if weighted else None
            expected = confusion_matrix(
                y[rows], predicted[rows], labels=ANIMALS, sample_weight=own_weight
            )
        np.testing.assert_allclose(matrix, expected, atol=1e-12)
        assert matrix.dtype.kind == ("f" if weighted else "i")
    for side in (display.display_accepted_, display.display_rejected_):
        assert [text.get_text() for text in side.ax_.get_xticklabels()] == ANIMALS.tolist()
    display.figure_.savefig(io.BytesIO())


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_coverage_and_risk_are_a_point_of_the_risk_coverage_curve(data, classifiers, threshold):
    _, _, X, y = data
    curve = RiskCoverageDisplay.from_estimator(classifiers[1], X, y)
    display = SelectiveConfusionMatrixDisplay.from_estimator(
        classifiers[1], X, y, threshold=threshold
    )
    step = np.argmin(np.abs(curve.coverage - display.coverage))
    assert display.coverage == pytest.approx(curve.coverage[step])
    assert display.risk == pytest.approx(curve.risk[step])


def test_matrices_of_a_small_case_by_hand():
    y_true, y_pred = ["cat", "dog", "owl", "owl"], ["cat", "owl", "dog", "owl"]
    display = SelectiveConfusionMatrixDisplay.from_predictions(
        y_true, y_pred, [4, 1, 3, 2], threshold=2, labels=["owl", "dog", "cat"]
    )
    assert display.accepted.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert display.rejected.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert display.coverage == 0.75
    assert display.risk == pytest.approx(1 / 3)
    assert display.ax_.get_title() == "Accepted: 75.0 %\nconfidence ≥ 2\nerror rate 33.3 %"
    assert display.ax_rejected_.get_title() == (
        "Rejected: 25.0 %\nconfidence < 2\nerror rate 100.0 %"
    )


def test_matrix_without_rows_has_no_error_rate():
    display = SelectiveConfusionMatrixDisplay.from_predictions([0, 1], [0, 1], [1, 1], threshold=2)
    assert display.coverage == 0
    assert np.isnan(display.risk)
    assert display.ax_.get_title() == "Accepted: 0.0 %\nconfidence ≥ 2"


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor])
def test_confidence_equal_to_the_threshold_is_accepted(kind):
    display = SelectiveConfusionMatrixDisplay.from_predictions(
        [0, 1], [0, 1], kind([0.7, 0.2]), threshold=np.float64(0.7)
    )
    assert display.coverage == 0.5


def test_matrices_draw_into_given_axes_side_by_side():
    figure, axes = plt.subplots(1, 2, layout="constrained")
    display = SelectiveConfusionMatrixDisplay.from_predictions(
        [0, 1], [0, 1], [0.9, 0.2], threshold=0.7, ax=axes[1], cmap="Reds", values_format=".2f"
    )
    assert display.figure_ is figure
    assert figure.axes == [*axes, display.ax_rejected_]
    figure.canvas.draw()
    left, right = display.ax_.get_position(), display.ax_rejected_.get_position()
    assert left.x1 < right.x0
    assert (left.y0, left.y1) == pytest.approx((right.y0, right.y1))
    for side in (display.display_accepted_, display.display_rejected_):
        assert side.im_.get_cmap().name == "Reds"
        assert side.text_[0, 1].get_text() == "0.00"


def test_own_confidence_is_held_against_the_threshold(data):
    X, y, X_test, y_test = data
    pipe = make_pipeline(
        StandardScaler(), LabelSmoothingClassifier(max_epochs=5, random_state=0)
    ).fit(X, y)
    confidence = pipe[-1].confidence(pipe[:-1].transform(X_test))
    threshold = float(np.median(confidence))
    display = SelectiveConfusionMatrixDisplay.from_estimator(
        pipe, X_test, y_test, threshold=threshold, order_by="confidence"
    )
    assert display.accepted.sum() == np.count_nonzero(confidence >= threshold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order_by": "probe"}, "order_by must be one of .*'probe'. Did you mean 'proba'"),
        ({"sample_weight": [1.0]}, "sample_weight must have shape"),
        ({"threshold": np.nan}, "threshold contains NaN"),
        ({"y": ["lynx"] * 300}, r"labels that labels=\['cat', 'dog', 'owl'\] lacks: \['lynx'\]"),
        ({"y": range(300)}, "Mix of label input types"),
    ],
)
def test_bad_arguments_of_the_matrices_are_named_and_leave_no_figure(
    data, classifiers, options, message
):
    _, _, X, y = data
    with pytest.raises(ValueError, match=message):
        SelectiveConfusionMatrixDisplay.from_estimator(
            classifiers[0], X, **({"y": y, "threshold": 0.5} | options)
        )
    with pytest.raises(ValueError, match="labels must not repeat"):
        SelectiveConfusionMatrixDisplay.from_predictions(
            [0, 1], [0, 1], [0.9, 0.2], threshold=0.5, labels=[0, 1, 1]
        )
    assert plt.get_fignums() == []


class TestSmoothingCurveDisplay:
    def test_draws_the_losses_of_each_smoothing(self, fitted):
        pipe = make_pipeline(StandardScaler(), fitted)  # the last step is what counts
        display = SmoothingCurveDisplay.from_estimator(pipe)
        assert [line.get_label() for line in display.lines_] == ["ε = 0", "ε = 0.2"]
        results = pd.DataFrame(fitted.cv_results_)
        for line, (_, own) in zip(display.lines_, results.groupby("label_smoothing"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), own["epoch"])
            np.testing.assert_array_equal(line.get_ydata(), own["refined_loss"])
        assert display.figure_ is display.ax_.figure
        plt.close(display.figure_)

    def test_draws_the_scores_where_these_choose(self):
        X, y = make_tabular(300, random_state=0)
        model = make_cv(short(max_epochs=9), scoring="f1_macro").fit(X, y)
        display = SmoothingCurveDisplay.from_estimator(model)
        drawn = np.concatenate([line.get_ydata() for line in display.lines_])
        np.testing.assert_array_equal(drawn, model.cv_results_["score"])
        assert display.ax_.get_ylabel() == "Out-of-fold score"
        assert display.ax_.get_yscale() == "linear"
        (chosen,) = display.choice_.get_ydata()
        own = model.cv_results_["label_smoothing"] == model.label_smoothing_
        assert chosen == model.cv_results_["score"][own].max()

    def test_marks_the_choice(self, fitted):
        _, ax = plt.subplots()
        display = SmoothingCurveDisplay.from_estimator(fitted, ax=ax)
        assert display.ax_ is ax
        assert display.choice_.get_xdata() == [fitted.best_epoch_]
        assert display.choice_.get_ydata() == [fitted.cv_results_["refined_loss"].min()]
        assert f"epoch {fitted.best_epoch_}" in display.choice_.get_label()
        plt.close(ax.figure)

    def test_refuses_what_makes_no_choice(self):
        with pytest.raises(TypeError, match="LogisticRegression does not choose"):
            SmoothingCurveDisplay.from_estimator(LogisticRegression())
        with pytest.raises(NotFittedError):
            SmoothingCurveDisplay.from_estimator(make_cv())


class Cell:
    """The output of a notebook's cell, as IPython's kernel keeps it."""

    def __init__(self, **shell):
        self.shell = SimpleNamespace(**shell)
        self.pictures = {}
        self.n_drawn = 0

    def display(self, picture, *, display_id, update):
        assert update == (display_id in self.pictures)
        self.pictures[display_id] = picture
        self.n_drawn += 1

    def open(self, monkeypatch):
        monkeypatch.setitem(
            sys.modules,
            "IPython",
            SimpleNamespace(get_ipython=lambda: self.shell, version_info=(9, 0)),
        )
        inside = SimpleNamespace(display=self.display, Image=bytes)
        monkeypatch.setitem(sys.modules, "IPython.display", inside)
        return self


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr("sksmooth.plotting.live._PAUSE", 0)  # draw every epoch
    return Cell(kernel=None).open(monkeypatch)


@pytest.fixture
def drawn(monkeypatch):
    """The displays of which the live one has made pictures."""
    displays = []
    draw = live._draw

    def keep(display):
        picture = draw(display)
        displays.append(display)
        return picture

    monkeypatch.setattr(live, "_draw", keep)
    return displays


class TestLive:
    def test_the_picture_grows_with_the_epochs(self, data, notebook, drawn):
        X, y, *_ = data
        net = short(max_epochs=3, callbacks=[LiveTrainingDisplay()]).fit(X, y)
        assert [len(display.epochs) for display in drawn] == [1, 2, 3, 3]
        assert [display.best_epoch for display in drawn] == [None] * 3 + [net.best_epoch_]
        last = TrainingDisplay.from_estimator(net)
        assert last.best_epoch == drawn[-1].best_epoch
        for seen, line in zip(drawn[-1].lines_, last.lines_, strict=True):
            np.testing.assert_array_equal(seen.get_ydata(), line.get_ydata())
        ((picture,), plt_figures) = notebook.pictures.values(), plt.get_fignums()
        assert picture.startswith(b"\x89PNG")
        assert len(plt_figures) == 1  # from_estimator's, above

    def test_a_fit_begins_a_picture_and_partial_fit_goes_on_with_it(self, data, notebook, drawn):
        X, y, *_ = data
        net = short(max_epochs=2, callbacks=[LiveTrainingDisplay()])
        net.fit(X, y).partial_fit(X, y)
        assert len(notebook.pictures) == 1
        assert len(drawn[-1].epochs) == 3
        net.fit(X, y)
        assert len(notebook.pictures) == 2
        assert [len(display.epochs) for display in drawn[-3:]] == [1, 2, 2]
        assert drawn[-2].best_epoch is None  # and not that of the fit before

    def test_changes_neither_the_result_nor_the_training(self, data, notebook):
        X, y, *_ = data
        watched = short(max_epochs=2, random_state=0, callbacks=[LiveTrainingDisplay()]).fit(X, y)
        alone = short(max_epochs=2, random_state=0).fit(X, y)
        assert (watched.trained_by_, watched.trained_by_reason_) == (
            alone.trained_by_,
            alone.trained_by_reason_,
        )
        np.testing.assert_array_equal(watched.predict_proba(X), alone.predict_proba(X))
        assert notebook.n_drawn > 1

    def test_draws_no_sooner_than_the_pause_is_over_but_at_the_end(self, data, monkeypatch):
        X, y, *_ = data
        notebook = Cell(kernel=None).open(monkeypatch)
        monkeypatch.setattr("sksmooth.plotting.live._PAUSE", 1e6)
        short(max_epochs=5, callbacks=[LiveTrainingDisplay()]).fit(X, y)
        assert notebook.n_drawn == 2

    @pytest.mark.parametrize("where", ["script", "terminal"])
    def test_shows_nothing_outside_of_a_notebook(self, data, monkeypatch, where):
        X, y, *_ = data
        cell = Cell()
        if where == "terminal":
            cell.open(monkeypatch)
        else:
            monkeypatch.delitem(sys.modules, "IPython", raising=False)
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # nor needs matplotlib there
        short(callbacks=[LiveTrainingDisplay()]).fit(X, y)
        assert cell.n_drawn == 0

    def test_a_training_that_goes_on_has_a_picture_of_its_own(self, data, monkeypatch, tmp_path):
        X, y, *_ = data
        for max_epochs in (2, 4):  # the second in another notebook
            notebook = Cell(kernel=None).open(monkeypatch)
            checkpoint = Checkpoint(monitor=None, dirname=tmp_path, f_training="training.pt")
            callbacks = [LiveTrainingDisplay(), checkpoint, LoadInitState(checkpoint)]
            net = short(max_epochs=max_epochs, random_state=0, callbacks=callbacks).fit(X, y)
            assert len(notebook.pictures) == 1
        assert len(net.history) == 4

    def test_without_matplotlib_it_says_how_to_install_it(self, data, notebook, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(ImportError, match=r"LiveTrainingDisplay needs matplotlib: pip install"):
            short(callbacks=[LiveTrainingDisplay()]).fit(*data[:2])

    def test_a_fitted_net_that_was_watched_is_cloned_and_pickled(self, data, notebook):
        X, y, *_ = data
        net = short(max_epochs=2, callbacks=[LiveTrainingDisplay()]).fit(X, y)
        again = pickle.loads(pickle.dumps(net))
        np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
        clone(again).fit(X, y)
        assert len(notebook.pictures) == 2

    @needs_sklearn("1.9", "callbacks")
    def test_the_choice_of_a_cross_validated_classifier(self, data, notebook, drawn):
        X, y, *_ = data
        model = make_cv(short(max_epochs=3)).set_callbacks(LiveTrainingDisplay()).fit(X, y)
        assert model.alone_because_ is None
        assert len(notebook.pictures) == 1
        assert [len(display.lines_) for display in drawn] == [2] * 4
        assert [line.get_xdata()[-1] for line in drawn[1].lines_] == [2, 2]
        assert drawn[-1].best_epoch == model.best_epoch_
        unwatched = make_cv(short(max_epochs=3)).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), unwatched.predict_proba(X))

    @needs_sklearn("1.9", "callbacks")
    def test_is_no_callback_of_scikit_learn_for_others(self, data):
        net = short().set_callbacks(LiveTrainingDisplay())
        with pytest.raises(TypeError, match=r"callbacks=\[LiveTrainingDisplay\(\)\]"):
            net.fit(*data[:2])
