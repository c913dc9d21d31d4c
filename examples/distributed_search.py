"""A grid search on the machines of a Dask cluster
===============================================

BatchedGridSearchCV parts the nets into groups that train in lockstep, and hands them to joblib;
inside ``joblib.parallel_config("dask")`` joblib spreads them over a cluster. The table is the same
as without, also when a worker dies on the way: its groups start again on another one. Here the
candidates differ in learning rate and width, too, so that there are many groups.

Run it on two processes of this machine (under a minute; needs the extra ``dask``)::

    python examples/distributed_search.py

or on a cluster of which the workers have sksmooth installed::

    python examples/distributed_search.py --scheduler tcp://192.168.1.10:8786
"""

import argparse
import time
from contextlib import contextmanager

import pandas as pd
from dask.distributed import Client, LocalCluster
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import LabelSmoothingClassifier
from sksmooth.search import BatchedGridSearchCV

NET = "labelsmoothingclassifier__"  # make_pipeline names a step by its class


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scheduler", help="address of a scheduler; none starts workers here")
    parser.add_argument("--workers", type=int, default=2, help="processes to start here")
    parser.add_argument("--label-smoothing", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.001, 0.003, 0.01])
    parser.add_argument("--width", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    X, y = load_digits(return_X_y=True)
    search = make_search(options)
    with connect(options) as client, parallel_config("dask"):
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        begin = time.perf_counter()
        search.fit(X, y)
        seconds = time.perf_counter() - begin

    table = make_table(search)
    print(
        f"\n{len(table)} candidates, {options.folds} folds, {n_workers} workers: {seconds:.1f} s\n"
    )
    print(table.head(10).to_string(index=False, float_format="{:.4f}".format))
    return table


@contextmanager
def connect(options):
    """Connect to the scheduler, or to one that is started here and stopped at the end."""
    if options.scheduler:
        with Client(options.scheduler) as client:
            yield client
    else:
        # One thread each: nets as small as these keep one busy, not more.
        with (
            LocalCluster(
                n_workers=options.workers, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def make_search(options):
    pipe = make_pipeline(
        StandardScaler(),
        LabelSmoothingClassifier(max_epochs=options.epochs, random_state=options.seed),
    )
    grid = {
        f"{NET}label_smoothing": options.label_smoothing,
        f"{NET}lr": options.lr,
        f"{NET}module__hidden_layer_sizes": [(width, width) for width in options.width],
    }
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed)
    return BatchedGridSearchCV(
        pipe, grid, scoring=["neg_log_loss", "accuracy"], refit="neg_log_loss", cv=folds, verbose=1
    )


def make_table(search):
    """Read the scores out of `cv_results_`, the best candidate first."""
    results = pd.DataFrame(search.cv_results_).sort_values("rank_test_neg_log_loss")
    columns = {name: name.removeprefix(f"param_{NET}") for name in results if NET in name}
    columns["mean_test_neg_log_loss"] = "neg_log_loss"
    columns["mean_test_accuracy"] = "accuracy"
    return results[list(columns)].rename(columns=columns)


if __name__ == "__main__":  # workers are new processes, which import this file
    main()
