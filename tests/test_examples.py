"""The examples: each runs, with small settings, and prints, saves and returns what it promises."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import dedent

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import needs_sklearn
from scipy.stats import entropy

from sksmooth import load, make_tabular
from sksmooth.datasets import FASHION_MNIST_CLASSES

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
PNG_MAGIC = b"\x89PNG"


def _run(script, *options):
    """Run an example's main; give what it returned and what it printed."""
    main = runpy.run_path(str(EXAMPLES / script))["main"]
    with redirect_stdout(io.StringIO()) as printed:
        returned = main([str(option) for option in options])
    plt.close("all")
    return returned, printed.getvalue()


def _row(printed, name):
    """Give the numbers of the one line that holds `name` and numbers, nothing else."""
    (numbers,) = re.findall(rf"^{re.escape(name)}((?: +-?[0-9.]+)+)$", printed, re.MULTILINE)
    return [float(number) for number in numbers.split()]


# Starts the scripts that it is given, one after the other, as `python script --help` would.
STARTER = """
import io, json, os, runpy, sys
from contextlib import redirect_stdout

printed = {}
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    sys.path[0] = os.path.dirname(path)
    with redirect_stdout(io.StringIO()) as own:
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            assert not end.code, path
    printed[os.path.basename(path)] = own.getvalue()
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def helps():
    """Start all scripts in one process, which imports what they need only once."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", STARTER, *(EXAMPLES / script for script in SCRIPTS)],
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_started_as_a_script_explains_its_options(script, helps):
    assert helps[script].startswith(f"usage: {script}")
    assert "--seed" in helps[script]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    return _run("quickstart.py", "--output", tmp_path_factory.mktemp("run") / "output")


class TestQuickstart:
    def test_prints_the_shape_of_every_stage(self, quickstart):
        _, printed = quickstart
        for line in (
            "all        X (1000, 10)   y (1000,)",
            "training   X (800, 10)    y (800,)",
            "test       X (200, 10)    y (200,)",
            "input            (32, 10)",
            "hidden layer 1   (32, 64)",
            "hidden layer 2   (32, 32)",
            "logits           (32, 3)",
            "smoothed labels  (32, 3)",
        ):
            assert f"\n{line}\n" in printed

    def test_prints_a_label_in_both_conventions(self, quickstart):
        _, printed = quickstart
        assert sorted(_row(printed, "one-hot")) == [0, 0, 1]
        assert sorted(_row(printed, "off_target")) == [0.05, 0.05, 0.9]
        assert sorted(_row(printed, "uniform")) == [0.0333, 0.0333, 0.9333]

    def test_prints_the_epochs_that_it_returns(self, quickstart):
        returned, printed = quickstart
        history = returned["history"]
        for epoch, loss, accuracy in history.itertuples(index=False):
            assert f"{epoch:>6}  {loss:.2f}      {accuracy:.2f}\n" in printed

    def test_the_loss_falls_and_the_accuracy_rises_within_five_epochs(self, quickstart):
        history = quickstart[0]["history"]
        assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
        assert history["loss"].is_monotonic_decreasing
        assert history["loss"].iloc[0] > 0.9
        assert history["loss"].iloc[-1] < 0.75
        assert history["accuracy"].iloc[-1] > history["accuracy"].iloc[0] + 0.1
        assert history["accuracy"].iloc[-1] > 0.75

    def test_follows_a_row_to_probabilities_that_sum_to_one(self, quickstart):
        _, printed = quickstart
        logits = np.array(_row(printed, "logits          ( 3)"))
        softmax = _row(printed, "softmax         ( 3)")
        calibrated = _row(printed, "calibrated      ( 3)")
        np.testing.assert_allclose(softmax, np.exp(logits) / np.exp(logits).sum(), atol=0.002)
        assert sum(calibrated) == pytest.approx(1, abs=0.002)
        assert np.argmax(calibrated) == np.argmax(softmax)
        assert sorted(_row(printed, "smoothed label  ( 3)")) == [0.05, 0.05, 0.9]

    def test_calibration_mends_log_loss_and_ece_and_leaves_the_accuracy(self, quickstart):
        returned, printed = quickstart
        raw, calibrated = returned["scores"].loc["softmax"], returned["scores"].loc["calibrated"]
        assert calibrated["accuracy"] == raw["accuracy"] > 0.75
        assert calibrated["log-loss"] < raw["log-loss"]
        assert calibrated["ECE"] < raw["ECE"]
        assert _row(printed, "softmax") == raw.round(3).tolist()

    def test_saves_the_reliability_plot(self, quickstart):
        returned, printed = quickstart
        assert returned["picture"].read_bytes().startswith(PNG_MAGIC)
        assert f"Saved {returned['picture']}" in printed


def test_the_walkthrough_shows_what_quickstart_prints(quickstart):
    page = (EXAMPLES.parent / "docs" / "walkthroughs" / "trace.rst").read_text("utf-8")
    shown = page.partition(".. code-block:: text\n\n")[2].partition("\nThe script is")[0]
    printed = re.sub(r"\S+quickstart_reliability", "output/quickstart_reliability", quickstart[1])
    # Numbers may differ in their last digit from machine to machine.
    shown, printed = (re.sub(r"-?\d\.\d+", "#", dedent(text)).split() for text in (shown, printed))
    assert shown == printed


def test_live_training_draws_stills(tmp_path):
    returned, printed = _run("live_training.py", "--epochs", 5, "--output", tmp_path)
    assert returned["net"].trained_by_ == "by hand"
    assert f"5 epochs; kept are the parameters of epoch {returned['net'].best_epoch_}." in printed
    assert returned["picture"].read_bytes().startswith(PNG_MAGIC)
    assert f"Saved {returned['picture']}" in printed


def test_grid_search_tabulates_and_draws_both_data_sets(tmp_path):
    returned, printed = _run(
        *("grid_search.py", "--label-smoothing", 0, 0.1, "--folds", 2, "--epochs", 5),
        *("--output", tmp_path),
    )
    tables = returned["tables"]
    for picture in returned["pictures"].values():
        assert picture.read_bytes().startswith(PNG_MAGIC)
        assert f"Saved {picture}" in printed
    assert list(returned["pictures"]) == list(tables) == ["breast cancer", "digits"]
    for name, table in tables.items():
        assert f"== {name}: " in printed
        assert table.to_string(index=False, float_format="{:.4f}".format) in printed
        assert table["label_smoothing"].tolist() == [0, 0.1]
        assert table["log-loss"].between(0, 1).all()
        assert table["accuracy"].iloc[0] > 0.8
        best = table.loc[table["log-loss"].idxmin(), "label_smoothing"]
        assert f"best label_smoothing: {best:g}; on the test rows: log-loss 0." in printed


@pytest.fixture(scope="module")
def tabular_frame(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "output"
    return _run(
        *("tabular_frame.py", "--rows", 1600, "--folds", 2, "--epochs", 20, "--output", output)
    )


class TestTabularFrame:
    def test_the_table_is_mixed_and_has_holes_in_every_column(self, tabular_frame):
        X = tabular_frame[0]["X"]
        assert X.shape == (1600, 5)
        assert X.select_dtypes("number").columns.tolist() == ["age", "income", "household"]
        assert X.dtypes["region"] == "category"
        assert X.isna().mean().between(0.05, 0.15).all()

    def test_prints_the_columns(self, tabular_frame):
        returned, printed = tabular_frame
        for name, column in returned["X"].items():
            row = f"{column.dtype} +{column.isna().mean():.1%} +{column.nunique()}"
            assert re.search(rf"^{name} +{row}$", printed, re.MULTILINE)

    def test_calibration_mends_log_loss_and_ece_and_leaves_the_accuracy(self, tabular_frame):
        returned, printed = tabular_frame
        scores = returned["scores"]
        raw, calibrated = scores.loc["uncalibrated"], scores.loc["calibrated"]
        assert calibrated["accuracy"] == raw["accuracy"] > 0.7
        assert calibrated["log-loss"] < raw["log-loss"] - 0.01
        assert calibrated["ECE"] < raw["ECE"] - 0.02
        assert "== 2. Cross-validation on 800 rows, 2 folds ==" in printed
        assert _row(printed, "calibrated") == calibrated.round(4).tolist()

    def test_predicts_plans_by_their_names(self, tabular_frame):
        returned, printed = tabular_frame
        predictions = returned["predictions"]
        plans = {"basic", "family", "business"}
        assert len(predictions) == 5
        assert set(predictions["plan"]) | set(predictions["predicted"]) <= plans
        assert predictions[["uncalibrated", "calibrated"]].gt(1 / 3).all(axis=None)
        assert predictions.to_string(float_format="{:.3f}".format) in printed

    @pytest.mark.parametrize("picture", ["picture", "rejection"])
    def test_saves_the_plots(self, tabular_frame, picture):
        returned, printed = tabular_frame
        assert returned[picture].read_bytes().startswith(PNG_MAGIC)
        assert f"Saved {returned[picture]}" in printed


@pytest.fixture(scope="module")
def pytorch_loop(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "output"
    return _run("pytorch_loop.py", "--epochs", 4, "--output", output)


class TestPytorchLoop:
    def test_the_two_losses_differ_by_the_entropy_of_the_smoothed_labels(self, pytorch_loop):
        returned, printed = pytorch_loop
        uniform = entropy([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
        np.testing.assert_allclose(returned["epochs"]["difference"], uniform, atol=1e-5)
        assert f"Entropy of the smoothed labels: {uniform:.4f}" in printed

    def test_the_two_losses_train_equal_nets(self, pytorch_loop):
        assert pytorch_loop[0]["largest_difference"] < 1e-5

    def test_saves_the_reliability_plot(self, pytorch_loop):
        returned, printed = pytorch_loop
        assert returned["picture"].read_bytes().startswith(PNG_MAGIC)
        assert f"Saved {returned['picture']}" in printed

    def test_the_loss_falls(self, pytorch_loop):
        epochs = pytorch_loop[0]["epochs"]
        assert epochs["epoch"].tolist() == [1, 2, 3, 4]
        assert epochs["kl"].is_monotonic_decreasing

    def test_the_temperature_mends_the_probabilities(self, pytorch_loop):
        raw, calibrated = (
            pytorch_loop[0]["scores"].loc["softmax"],
            pytorch_loop[0]["scores"].loc["calibrated"],
        )
        assert calibrated["accuracy"] == raw["accuracy"] > 0.75
        assert calibrated["log-loss"] < raw["log-loss"]
        assert calibrated["ECE"] < raw["ECE"]


def _write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


def _write_images(folder):
    """Write IDX files of images that are one of ten patterns, blurred by noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, size=(10, 28, 28))
    for part, n_rows in (("train", 1320), ("t10k", 300)):
        labels = rng.permutation(np.arange(n_rows) % 10)
        images = patterns[labels] + rng.normal(scale=250, size=(n_rows, 28, 28))
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", images.clip(0, 255).astype(np.uint8))
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels.astype(np.uint8))


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    _write_images(folder)
    report, printed = _run(
        *("fashion_mnist.py", "--data", folder, "--epochs", 3, "--train-rows", 1200),
        *("--output", folder / "output", "--json", folder / "figures.json"),
    )
    return report, printed, folder


class TestFashionMNIST:
    def test_trains_both_nets_for_all_epochs(self, fashion_mnist):
        report, printed, _ = fashion_mnist
        assert report["train_rows"] == 1200
        assert "1,200 training images (of which 8.3% held out for calibration)" in printed
        assert [result["label_smoothing"] for result in report["results"]] == [0.0, 0.2]
        for result in report["results"]:
            assert len(result["held_out_accuracy_per_epoch"]) == report["epochs"] == 3
            for accuracy in result["held_out_accuracy_per_epoch"]:
                assert f"{accuracy:.4f}" in printed

    def test_smoothing_lowers_the_confidence_and_calibration_restores_it(self, fashion_mnist):
        hard, smoothed = fashion_mnist[0]["results"]
        assert smoothed["temperature"] < min(1, hard["temperature"])
        image = smoothed["last_test_image"]
        assert max(image["calibrated"]) > max(image["raw"]) + 0.05

    def test_calibration_mends_the_probabilities_of_the_smoothed_net(self, fashion_mnist):
        scores = fashion_mnist[0]["results"][1]["test_scores"]
        assert scores["calibrated"]["accuracy"] == scores["raw"]["accuracy"] > 0.8
        assert scores["calibrated"]["log_loss"] < scores["raw"]["log_loss"]
        assert scores["calibrated"]["ece"] < scores["raw"]["ece"]

    def test_prints_the_last_image_and_the_scores(self, fashion_mnist):
        report, printed, _ = fashion_mnist
        results = report["results"]
        for k, name in enumerate(FASHION_MNIST_CLASSES):
            columns = [
                result["last_test_image"][reading][k]
                for result in results
                for reading in ("raw", "calibrated")
            ]
            assert _row(printed, name) == [float(f"{value:.4f}") for value in columns]
        assert f"of the last test image ({report['last_test_label']})" in printed
        for result in results:
            for reading, scores in result["test_scores"].items():
                (line,) = [
                    line
                    for line in printed.splitlines()
                    if line.startswith(f"ε={result['label_smoothing']}, {reading} ")
                ]
                assert f"{scores['accuracy']:.2%}" in line
                assert f"{scores['log_loss']:.4f}" in line
                assert f"{scores['ece']:.2%}" in line
                assert f"{scores['aurc']:.4f}" in line

    def test_saves_the_picture_and_the_figures(self, fashion_mnist):
        report, printed, folder = fashion_mnist
        picture = folder / "output" / "fashion_mnist_reliability.png"
        assert picture.read_bytes().startswith(PNG_MAGIC)
        assert f"Saved {picture}" in printed
        assert json.loads((folder / "figures.json").read_text()) == report


@pytest.fixture(scope="module")
def batched_grid_search(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "output"
    return _run(
        *("batched_grid_search.py", "--label-smoothing", 0, 0.1, "--folds", 3, "--epochs", 5),
        *("--output", output),
    )


class TestBatchedGridSearch:
    def test_both_searches_give_the_same_table(self, batched_grid_search):
        returned, printed = batched_grid_search
        first, second = returned["tables"].values()
        assert len(first) == 4
        assert first.iloc[:, :2].equals(second.iloc[:, :2])
        assert first["mean_test_accuracy"].gt(0.9).all()
        assert returned["largest_difference"] < 1e-4
        assert f"largest difference between the scores: {returned['largest_difference']:.1e}" in (
            printed
        )

    def test_saves_the_plot(self, batched_grid_search):
        returned, printed = batched_grid_search
        assert returned["picture"].read_bytes().startswith(PNG_MAGIC)
        assert f"Saved {returned['picture']}" in printed

    def test_both_times_are_shown(self, batched_grid_search):
        returned, printed = batched_grid_search
        seconds = returned["seconds"]
        assert set(seconds) == {"GridSearchCV", "BatchedGridSearchCV"}
        for name in seconds:
            assert f"== {name}: {seconds[name]:.2f} s ==" in printed


class TestDistributedSearch:
    def test_prints_the_best_candidates_of_the_cluster(self):
        pytest.importorskip("distributed")
        table, printed = _run(
            *("distributed_search.py", "--workers", 1, "--folds", 2, "--epochs", 4),
            *("--label-smoothing", 0, 0.1, "--lr", 0.003, 0.01, "--width", 16),
        )
        assert len(table) == 4
        assert table["neg_log_loss"].is_monotonic_decreasing
        assert table["accuracy"].iloc[0] > 0.8
        assert "4 candidates, 2 folds, 1 workers" in printed
        assert table.to_string(index=False, float_format="{:.4f}".format) in printed


@pytest.fixture(scope="module")
def calibrated_cv(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "output"
    return _run("calibrated_cv.py", "--epochs", 12, "--folds", 3, "--output", output)


@needs_sklearn("1.8", "temperature scaling")
class TestCalibratedCV:
    def test_prints_the_scores_that_it_returns(self, calibrated_cv):
        returned, printed = calibrated_cv
        assert list(returned["scores"]) == ["digits", "breast cancer"]
        for scores in returned["scores"].values():
            assert scores.to_string(float_format="{:.4f}".format) in printed
            assert (scores["accuracy"] > 0.9).all()

    def test_the_probabilities_beat_those_of_the_other_nets(self, calibrated_cv):
        for scores in calibrated_cv[0]["scores"].values():
            assert scores["log-loss"].idxmin() == "LabelSmoothingClassifierCV"

    def test_tells_the_choice(self, calibrated_cv):
        returned, printed = calibrated_cv
        for choice in returned["choices"].values():
            assert (
                f"Chosen: ε={choice['label_smoothing']:g}, epoch {choice['epoch']}, "
                f"temperature {choice['temperature']:.3f}"
            ) in printed
            assert choice["epoch"] <= 12

    def test_saves_the_plots(self, calibrated_cv):
        returned, printed = calibrated_cv
        for picture in returned["pictures"].values():
            assert picture.read_bytes().startswith(PNG_MAGIC)
            assert f"Saved {picture}" in printed


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient")
    path = tmp_path_factory.mktemp("serve") / "net.sksmooth"
    app, _ = _run("serve.py", "--file", path, "--port", 0)
    with testclient.TestClient(app) as client:
        yield client, load(path)


class TestServe:
    def test_gives_labels_and_probabilities(self, service):
        client, classifier = service
        rows = make_tabular(20, random_state=1)[0]
        answer = client.post("/predict", json={"rows": rows.tolist()})
        assert answer.status_code == 200
        np.testing.assert_array_equal(answer.json()["labels"], classifier.predict(rows))
        np.testing.assert_array_equal(
            answer.json()["probabilities"], classifier.predict_proba(rows)
        )

    def test_is_healthy(self, service):
        answer = service[0].get("/health").json()
        assert answer == {"status": "ok", "n_features": 10, "classes": [0, 1, 2]}

    def test_says_what_is_wrong_in_which_row(self, service):
        good = [0.0] * 10
        client = service[0]
        answer = client.post("/predict", json={"rows": [good, good[:-1]]})
        assert answer.status_code == 422
        assert answer.json()["detail"] == "row 1 has 9 columns, but 10 are expected"
        for bad in ("text", None, "NaN", "1", True):
            answer = client.post("/predict", json={"rows": [good, [*good[:3], bad, *good[4:]]]})
            assert answer.status_code == 422
            assert answer.json()["detail"][0]["loc"] == ["body", "rows", 1, 3]
        assert client.post("/predict", json={"rows": []}).status_code == 422

    @pytest.mark.parametrize("bad", ["NaN", "Infinity", "1e400", "1e39", "9" * 40])
    def test_refuses_numbers_that_are_none_to_a_net(self, service, bad):
        json = {"content-type": "application/json"}
        row = ", ".join(["0", bad, *["0"] * 8])
        answer = service[0].post("/predict", content=f'{{"rows": [[{row}]]}}', headers=json)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "rows", 0, 1]

    def test_refuses_rows_of_which_a_net_makes_no_numbers(self, service):
        answer = service[0].post("/predict", json={"rows": [[3e38, -3e38] * 5]})
        assert answer.status_code == 422
        assert "for 1 of 1 rows" in answer.json()["detail"]


@pytest.fixture(scope="module")
def conformal_sets(tmp_path_factory):
    pytest.importorskip("mapie")
    folder = tmp_path_factory.mktemp("conformal_sets")
    return _run("conformal_sets.py", "--repeats", 2, "--epochs", 30, "--output", folder)[0]


class TestConformalSets:
    def test_the_promise_is_kept(self, conformal_sets):
        assert conformal_sets["table"]["covered"].between(0.85, 0.99).all()

    def test_smoothing_makes_sets_larger_and_calibration_smaller(self, conformal_sets):
        size = conformal_sets["table"]["mean size"]["aps"]
        assert size["ε=0.2"] > size["ε=0.2, calibrated"] + 0.1

    def test_saves_the_picture(self, conformal_sets):
        assert conformal_sets["picture"].read_bytes().startswith(PNG_MAGIC)
