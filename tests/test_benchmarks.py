"""The benchmarks: figures are right, and a run of the long one goes on where it was cut off."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers import needs_sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from sksmooth import make_tabular

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
WHO = ["LogisticRegression", "HistGradientBoostingClassifier"]


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("quality")


@pytest.fixture
def folder(tmp_path):
    """Give a folder with a table of numbers, words and truth values, with gaps."""
    rng = np.random.default_rng(0)
    word = rng.choice(["ash", "birch", "cedar"], 90)
    frame = pd.DataFrame(
        {"number": rng.normal(size=90), "word": word, "flag": rng.random(90) > 0.5}
    )
    frame["target"] = np.where(word == "ash", "soft", "hard")
    frame.loc[::9, "number"] = np.nan
    frame.loc[::10, "word"] = None
    frame.to_csv(tmp_path / "Trees.csv.gz", index=False)
    return tmp_path


@pytest.fixture
def table(quality, folder):
    return next(table for table in quality.load_tables(folder) if table.name == "Trees")


def test_tables_as_they_come_lose_no_column_and_have_no_gap_where_none_may_be(quality, table):
    by_skrub = quality.make_preprocessing("anything, by skrub").fit_transform(table.X)
    assert not np.isnan(by_skrub).any(axis=None)
    raw = quality.make_preprocessing("anything, raw").fit_transform(table.X)
    assert raw.columns.tolist() == table.X.columns.tolist()
    assert set(raw["word"]) == {"ash", "birch", "cedar", "missing"}
    pd.testing.assert_series_equal(raw["number"], table.X["number"])


def tasks_of(quality, names):
    return [quality.Task("Trees", flipped, 0, who) for flipped in (False, True) for who in names]


@needs_sklearn("1.7", "the Brier score of several classes")
def test_a_run_goes_on_where_it_was_cut_off(quality, table, tmp_path):
    path = tmp_path / "results.jsonl"
    quality.run({"Trees": table}, tasks_of(quality, WHO[:1]), path, n_jobs=1)
    before = path.read_text()
    quality.run({"Trees": table}, tasks_of(quality, WHO), path, n_jobs=1)
    assert path.read_text().startswith(before)
    lines = quality.read_results(path)
    assert [line["who"] for line in lines] == [WHO[0], WHO[0], WHO[1], WHO[1]]
    json.dumps(quality.report(pd.DataFrame(lines).assign(set=lambda r: quality.name_data(r))))


@needs_sklearn("1.7", "the Brier score of several classes")
def test_scores_are_those_of_a_plain_fit(quality, table):
    (task, _) = tasks_of(quality, WHO[:1])
    line = quality.measure(task, table)
    split = quality.Split.of(table, 0, flipped=False)
    model = quality.make_pipeline(
        quality.make_preprocessing(), quality.LogisticRegression(max_iter=1000)
    ).fit(split.X_train, split.y_train)
    assert line["accuracy"] == model.score(split.X_test, split.y_test) > 0.8
    assert line["log_loss"] == log_loss(split.y_test, model.predict_proba(split.X_test))


def test_a_fifth_of_the_training_labels_is_flipped_and_no_other(quality, table):
    plain, flipped = (quality.Split.of(table, 3, flag) for flag in (False, True))
    assert np.mean(plain.y_train != flipped.y_train) == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(plain.y_test, flipped.y_test)
    pd.testing.assert_frame_equal(plain.X_train, flipped.X_train)


def test_ranks_are_among_contestants_of_a_split(quality):
    results = pd.DataFrame(
        [
            {"set": "a", "split": split, "who": who, "log_loss": loss, "accuracy": 1 - loss}
            for split, losses in enumerate([(0.1, 0.2, 0.3), (0.3, 0.2, 0.4)])
            for who, loss in zip("xyz", losses, strict=True)
        ]
    )
    for metric in ("log_loss", "accuracy"):
        assert quality.rank(results, metric).loc["a"].to_dict() == {"x": 1.5, "y": 1.5, "z": 3}


def test_the_table_of_faults_counts_what_was_injected(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    faults = importlib.import_module("faults")
    report = ElementTree.fromstring(
        """<testsuite>
        <testcase classname="tests.test_save" name="test_every_damage_is_refused">
        <properties><property name="injected" value="1325"/></properties></testcase>
        <testcase classname="tests.test_shared_rows" name="test_a_memory_map_is_not_copied[r]"/>
        <testcase classname="tests.test_shared_rows" name="test_a_memory_map_is_not_copied[c]">
        <failure/></testcase>
        </testsuite>"""
    )
    rows = faults.table(list(report.iter("testcase"))).splitlines()[2:]
    assert len(rows) == len(faults.TRIALS)
    held = {row.split(" | ")[0]: row.split(" | ")[1::2] for row in rows}
    assert held["| one bit of a saved file flipped, or its end cut off"] == ["1,325", "yes |"]
    assert held["| a read-only memory map"] == ["2", "no: 1 of 2 tests fail |"]
    assert held["| a full disk while saving"] == ["0", "not run |"]


def test_a_service_is_asked_by_each_of_its_clients(monkeypatch):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    monkeypatch.syspath_prepend(BENCHMARKS)
    service = importlib.import_module("service")
    X, y = make_tabular(100, random_state=0)
    net = LogisticRegression().fit(X, y)
    with service.serving(net) as port:
        (row,) = service.measure({"net": port}, n_rows=2, n_threads=2, rounds=2, seconds=0.2)
        with pytest.raises(RuntimeError, match=r"422.*row 0 has 1 columns"):
            service.ask(port, b'{"rows": [[0]]}', seconds=0.2)
    assert 0 < row["median_ms"] <= row["percentile_99_ms"]
    assert row["requests_a_second"] >= 2 * 2 / 0.4  # one at least by each client in each round


def test_costs_of_a_cluster_are_those_that_explain_its_timings(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    cluster = importlib.import_module("cluster")
    cost = cluster.Cost(search=0.5, fit=0.01, group=0.03)
    timings = [
        cluster.Timing(n_fits, n_groups, cost.of(n_fits, n_groups) + 6.0 / 2, training=6.0)
        for n_fits, n_groups in [(60, 2), (240, 2), (240, 24)]
    ]
    assert cluster.solve(timings, n_workers=2) == pytest.approx(cost)
    told = cluster.estimate(cost, seconds_per_fit=0.2, n_candidates=1000, n_workers=100)
    assert "63.5 s, 10.0 s of it training and 53.5 s the rest" in told
