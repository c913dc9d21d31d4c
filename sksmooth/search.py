"""BatchedGridSearchCV: GridSearchCV whose compatible candidates and folds train in lockstep."""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
from joblib import effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags, indexable
from sklearn.utils.parallel import Parallel, delayed
from tqdm import tqdm

from sksmooth import metrics
from sksmooth._callbacks import Evaluation, is_heard
from sksmooth._checks import naming, without_tensor
from sksmooth._fit import MAX_MEMBERS, Job, divide, fit_together, params_key
from sksmooth._folds import Split
from sksmooth._labels import refuse_missing
from sksmooth._params import check_constraints
from sksmooth._private import Interval, count_rows, index_method_params, split_rows
from sksmooth._rows import refuse_dataset
from sksmooth._versions import Stamped
from sksmooth.classifier import LabelSmoothingClassifier

# tqdm's own, in words: fits that stop early leave epochs out.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, at most {remaining} left, {rate_fmt}]"

# How often at most fits are begun anew that a cluster loses with its workers.
MAX_TRIES = 3


class BatchedGridSearchCV(Stamped, GridSearchCV):
    """GridSearchCV, sooner: the nets of compatible candidates and of all folds train in lockstep.

    A drop-in for :class:`sklearn.model_selection.GridSearchCV`: the same arguments, the same
    ``cv_results_``, the same scores where `random_state` is an int.

    - Candidates that differ only in `label_smoothing`, `smoothing`, `random_state` or
      `class_weight` train together, over all folds. Those that differ in anything else form groups,
      each of which trains together.
    - In a Pipeline, the steps before the net are fitted once for each fold and each setting of
      their own parameters, on the training rows only.
    - What cannot train together, such as a net with skorch's callbacks, is fitted by itself, and
      `alone_because_` tells why. An estimator that is neither a
      :class:`~sksmooth.LabelSmoothingClassifier` nor a Pipeline that ends in one is searched as
      GridSearchCV does.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    estimator : LabelSmoothingClassifier, or Pipeline that ends in one
        Copied for each fit. Any other estimator works, too, without lockstep.
    param_grid : dict or list of dicts
        The values to try of each parameter.
    scoring : str, callable, list, tuple or dict, default=None
        As in GridSearchCV.
    n_jobs : int or None, default=None
        Groups that are trained at the same time; a group is divided where there are fewer of them.
        Inside ``joblib.parallel_config("dask")`` groups are spread over the machines of a cluster.
        Steps before the net, and scores, are computed in this process.
    refit : bool, str or callable, default=True
        As in GridSearchCV.
    cv : int, splitter or iterable, default=None
        As in GridSearchCV.
    verbose : int, default=0
        Above 0, show a bar over the epochs of all fits with the time left, at most, and say which
        are fitted by themselves.
    pre_dispatch : int or str, default="2*n_jobs"
        As in GridSearchCV, for groups.
    error_score : "raise" or float, default=nan
        As in GridSearchCV. With "raise", the first failure is raised after all have been trained.
    return_train_score : bool, default=False
        As in GridSearchCV.
    max_members : int, default=64
        The most nets that train in one stack: more take more memory, and no less time each.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        As in GridSearchCV, but `mean_fit_time` and `std_fit_time` hold each fit's share of the
        time: that of its group, divided among the members, and that of the steps before the net,
        divided among the fits that they serve.
    alone_because_ : list of str or None
        Why a candidate's nets were fitted by themselves; None where they trained in lockstep.
    best_estimator_, best_index_, best_params_, best_score_, classes_, feature_names_in_, \
multimetric_, n_features_in_, n_splits_, refit_time_, scorer_
        As in GridSearchCV.

    See Also
    --------
    sksmooth.LabelSmoothingClassifier : The net that is searched over.

    Notes
    -----
    Candidates of which `random_state` is None draw their seeds in another order than in
    GridSearchCV. A step before the net that is random and has no seed is fitted once for all the
    candidates that share it.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sksmooth import LabelSmoothingClassifier, make_tabular
    >>> from sksmooth.search import BatchedGridSearchCV
    >>> X, y = make_tabular(random_state=0)
    >>> net = LabelSmoothingClassifier(max_epochs=5, random_state=0)
    >>> grid = {"labelsmoothingclassifier__label_smoothing": [0, 0.1]}
    >>> search = BatchedGridSearchCV(make_pipeline(StandardScaler(), net), grid, cv=3).fit(X, y)
    >>> len(search.cv_results_["mean_test_score"]), search.alone_because_
    (2, [None, None])
    >>> bool(search.score(X, y) > 0.8)
    True
    """

    _parameter_constraints: dict[str, list] = {  # noqa: RUF012
        **GridSearchCV._parameter_constraints,
        "max_members": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: float | str = np.nan,
        return_train_score: bool = False,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.max_members = max_members

    def fit(self, X: Any, y: Any = None, **params: Any) -> BatchedGridSearchCV:
        """Try all candidates by cross-validation; fit the best one on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,), default=None
            Labels.
        **params : dict of str to object
            Arguments of the estimator's ``fit``, the scorers and the splitter, as in GridSearchCV.

        Returns
        -------
        BatchedGridSearchCV
            Itself.

        Raises
        ------
        ValueError
            If all fits fail; or what a fit raised, with ``error_score="raise"``.
        KeyboardInterrupt
            If interrupted while nets train in lockstep. The search is as it was before, then.
        """
        reason = self._reason_against_lockstep()
        if reason is not None:
            super().fit(X, y, **params)
            self.alone_because_: list[str | None] = [reason] * len(self.cv_results_["params"])
            return self
        refuse_dataset(X, "A search takes folds of the rows")
        if type(X) is dict:
            raise ValueError(
                "X is a dict, of which no rows can be taken: give SliceDict(**X) (skorch.helper)."
            )
        X, y = indexable(without_tensor(X), without_tensor(y))
        params = {name: without_tensor(value) for name, value in params.items()}
        refuse_missing(y, "y")
        twin = copy.copy(self)  # whatever is raised leaves nothing half-fitted behind
        sequential = parallel_config(backend="sequential")  # scores are cheap
        with sequential:
            twin._fitting = _Fitting(self, X, y, sequential.unregister)
            super(BatchedGridSearchCV, twin).fit(X, y, **params)
        self.__dict__.update((k, v) for k, v in vars(twin).items() if k.endswith("_"))
        return self

    def _validate_params(self) -> None:
        metrics.point_to_scorers(self.scoring)
        params = self.get_params(deep=False)
        check_constraints(self._parameter_constraints, params, type(self).__name__)

    _fitting: _Fitting | None = None  # of a copy that is being fitted in lockstep

    def _get_routed_params_for_fit(self, params: Mapping[str, Any]) -> Any:
        routed = super()._get_routed_params_for_fit(params)
        if self._fitting is not None:
            # GridSearchCV has checked the user's arguments; what it reads next is what it does.
            self.estimator, self.cv = self._fitting.prepare(routed)
            self.verbose = 0
        return routed

    def _run_search(self, evaluate_candidates: Callable, *, callback_ctx: Any = None) -> None:
        if self._fitting is not None:
            evaluate_candidates = partial(self._train_and_evaluate, evaluate_candidates)
        # scikit-learn 1.8 has no callbacks
        given = {} if callback_ctx is None else {"callback_ctx": callback_ctx}
        super()._run_search(evaluate_candidates, **given)

    def _train_and_evaluate(
        self, evaluate_candidates: Callable, candidates: Iterable[dict], callback_ctx: Any = None
    ) -> None:
        """Train all candidates in lockstep, and let GridSearchCV score them."""
        fitting: Any = self.__dict__.pop("_fitting")
        # Who watches ``fit``, such as MLflow's autolog or a callback, finds the user's arguments.
        given = fitting.search.get_params(deep=False)
        self.__dict__.update({**given, "verbose": self.verbose})
        candidates = list(candidates)
        fits = fitting.run(candidates, self, callback_ctx)
        self.alone_because_ = [
            next((fit.job.alone_because for fit in row if fit.job.alone_because), None)
            for row in fits
        ]
        results = evaluate_candidates(candidates)
        seconds = [[fit.seconds for fit in row] for row in fits]
        results["mean_fit_time"] = np.mean(seconds, axis=1)
        results["std_fit_time"] = np.std(seconds, axis=1)
        self.verbose = given["verbose"]

    def _reason_against_lockstep(self) -> str | None:
        """Tell why the search is none of nets in lockstep, from the start."""
        net = self.estimator.steps[-1][1] if _is_pipeline(self.estimator) else self.estimator
        if not isinstance(net, LabelSmoothingClassifier):
            return f"{type(net).__name__} is not LabelSmoothingClassifier itself"
        if _is_pipeline(self.estimator):
            steps = [step for _, step in self.estimator.steps[:-1]]
            if any(map(is_heard, [self.estimator, *steps])):
                return "callbacks are set on the pipeline, or on steps before the net"
        return None


class _Fitting:
    """What a search does between GridSearchCV's checks and its scores: all fits but the last.

    `search` has the user's arguments; `resume_backend` makes the user's joblib backend the active
    one again.
    """

    def __init__(
        self, search: BatchedGridSearchCV, X: Any, y: Any, resume_backend: Callable[[], None]
    ) -> None:
        self.search = search
        self.X, self.y = X, y
        self.resume_backend = resume_backend

    def prepare(self, routed: Any) -> tuple[_StandIn, list]:
        """Draw the splits, once; give what GridSearchCV is to take for the estimator and `cv`."""
        search = self.search
        with naming("cv"):
            cv = check_cv(search.cv, self.y, classifier=is_classifier(search.estimator))
            pairs = list(cv.split(self.X, self.y, **routed.splitter.split))
        rows = np.arange(count_rows(self.X))
        self.splits = [tuple(Split.of(pair, rows)) for pair in pairs]
        routed.splitter.split = {}
        self.fit_params = routed.estimator.fit
        self.stand_in = _StandIn(search.estimator)
        return self.stand_in, self.splits

    def run(
        self, candidates: list[dict], twin: BatchedGridSearchCV, callback_ctx: Any
    ) -> list[list[_Fit]]:
        """Fit each candidate on the training rows of each split, for the stand-in to give.

        Callbacks are told of the `twin`, the copy of the search that is being fitted.
        """
        self.resume_backend()
        fits = self._prepare_fits(candidates)
        for number, fit in enumerate(chain.from_iterable(fits)):
            if callback_ctx is not None and (is_heard(twin) or is_heard(fit.job.estimator)):
                task = callback_ctx.subcontext("candidate-split-evaluation", task_id=number)
                fit.job.evaluation = Evaluation(twin, task)
        n_fits = len(candidates) * len(self.splits)
        if self.search.verbose:
            print(
                f"Fitting {len(self.splits)} folds for each of {len(candidates)} candidates, "
                f"totalling {n_fits} fits"
            )
        # Fold by fold, so that a task needs the rows of few folds.
        by_fold = chain.from_iterable(zip(*fits, strict=True))
        self._fit_jobs([fit for fit in by_fold if fit.error is None])
        self.stand_in.trained.extend(fit.give() for fit in chain.from_iterable(fits))
        reasons = Counter(fit.job.alone_because for fit in chain.from_iterable(fits))
        del reasons[None]
        if self.search.verbose and reasons:
            told = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
            print(f"{reasons.total()} of {n_fits} fits one by one: {told}")
        return fits

    def _prepare_fits(self, candidates: list[dict]) -> list[list[_Fit]]:
        """Set the candidates' parameters, and fit the steps before the net where they differ."""
        rows: dict[Any, tuple] = {}
        steps: dict[Any, _FittedSteps] = {}
        fits: list[list[_Fit]] = [[] for _ in candidates]
        for params, own in zip(candidates, fits, strict=True):
            for fold, (train, _) in enumerate(self.splits):
                estimator = clone(self.search.estimator)
                estimator.set_params(**clone(params, safe=False))
                fold_key = (fold, get_tags(estimator).input_tags.pairwise)
                if fold_key not in rows:
                    own_params = index_method_params(self.X, self.fit_params, indices=train)
                    rows[fold_key] = (*split_rows(estimator, self.X, self.y, train), own_params)
                if not _ends_in_net(estimator):
                    own.append(_Fit(Job(estimator, *rows[fold_key])))
                    continue
                last = estimator.steps[-1][0]
                others = {k: v for k, v in params.items() if not k.startswith(f"{last}__")}
                key = (fold, params_key(others))
                if key not in steps:
                    steps[key] = _FittedSteps(clone(estimator), *rows[fold_key])
                own.append(steps[key].serve(estimator.steps[-1][1]))
        return fits

    def _fit_jobs(self, fits: Sequence[_Fit]) -> None:
        """Fit, in as many tasks as run at the same time, or more."""
        search = self.search
        epochs = [_max_epochs(fit.job.estimator) for fit in fits]
        todo = divide([fit.job for fit in fits], effective_n_jobs(search.n_jobs))
        total = sum(epochs)
        is_silent = not search.verbose or sys.stderr is None
        with _Bar(total=total, unit="epoch", bar_format=_BAR, disable=is_silent) as bar:
            n_done = 0
            for tries_left in reversed(range(MAX_TRIES)):
                parts = [[fits[k].job for k in part] for part in todo]
                try:
                    for done in self._run_tasks(parts, bar):
                        part, *todo = todo
                        for k, job in zip(part, done, strict=True):
                            fits[k].job = job
                        n_done += sum(epochs[k] for k in part)
                        bar.update(n_done - bar.n)
                    return
                except CancelledError:
                    # Dask does again what a dead worker did, unless rows were on no other one.
                    if not tries_left:
                        raise

    def _run_tasks(self, parts: Sequence[list[Job]], bar: Any) -> Iterable[list[Job]]:
        """Give the jobs of each part as they are fitted, in order."""
        search = self.search
        backend = get_active_backend()[0]
        kind = type(backend).__module__
        send = partial(_put_in_ray, {}) if kind.startswith("ray.") else lambda rows: rows
        tasks = (_arguments(part, search.max_members, _Advance(bar), send) for part in parts)
        if kind.startswith("joblib.") and effective_n_jobs(search.n_jobs) == 1:
            # A task of scikit-learn's swaps the filters of warnings, for all threads.
            return (_fit_part(*own) for own in tasks)
        # Not all of joblib's backends have a generator.
        generates = backend.supports_return_generator
        parallel = Parallel(
            n_jobs=search.n_jobs,
            pre_dispatch=search.pre_dispatch,
            return_as="generator" if generates else "list",
        )
        return parallel(delayed(_fit_part)(*own) for own in tasks)


def _put_in_ray(getters: dict[int, partial], rows: Any) -> partial:
    """Put rows into Ray's store, once; give what gets them from there.

    Ray's own backend would, but no longer knows joblib's tasks.
    """
    import ray

    if id(rows) not in getters:
        getters[id(rows)] = partial(ray.get, ray.put(rows))
    return getters[id(rows)]


def _arguments(
    jobs: list[Job],
    max_members: int,
    on_epoch: Callable[[int], None],
    send: Callable[[Any], Any],
) -> tuple[Any, ...]:
    """Give the arguments of a task, of which some are the rows, as `send` makes them.

    Dask sends an array that several tasks have for an argument once, not with each.
    """
    rows: dict[int, tuple[int, Any]] = {}
    bare = [job.of_rows(lambda own: rows.setdefault(id(own), (len(rows), own))[0]) for job in jobs]
    sent = [send(own) for _, own in rows.values()]
    return (bare, max_members, on_epoch, *sent)


def _fit_part(
    jobs: list[Job], max_members: int, on_epoch: Callable[[int], None], *rows: Any
) -> list[Job]:
    """Fit some of the jobs, perhaps in another process; leave their rows behind."""
    here = [own() if isinstance(own, partial) else own for own in rows]
    jobs = [job.of_rows(here.__getitem__) for job in jobs]
    fit_together(jobs, max_members=max_members, on_epoch=on_epoch)
    return [replace(job, X=None, y=None, fit_params={}, evaluation=None) for job in jobs]


class _Bar(tqdm):
    """A bar that starts no thread to look after it."""

    monitor_interval = 0


class _Advance:
    """Advances a bar; a copy that was sent to another process does nothing."""

    def __init__(self, bar: Any = None) -> None:
        self.bar = bar

    def __call__(self, n_epochs: int) -> None:
        if self.bar is not None:
            self.bar.update(n_epochs)

    def __reduce__(self) -> tuple:
        return type(self), ()


class _Fit:
    """The fit of a candidate on the training rows of a fold, after the steps before the net."""

    def __init__(self, job: Job, steps: _FittedSteps | None = None) -> None:
        self.job = job
        self.steps = steps

    @property
    def error(self) -> Exception | None:
        return self.job.error if self.steps is None else self.steps.error or self.job.error

    @property
    def seconds(self) -> float:
        shared = 0.0 if self.steps is None else self.steps.seconds / self.steps.n_served
        return self.job.seconds + shared

    def give(self) -> Any:
        """Give the estimator, whose next call of ``fit`` tells how its training went.

        GridSearchCV hands its scorers the very object that it has called ``fit`` of.
        """
        net, error = self.job.estimator, self.error
        estimator: Any = net if self.steps is None else self.steps.before(net)
        traceback = getattr(error, "__traceback__", None)  # raising adds to it, for others, too

        def fit(*args: Any, **kwargs: Any) -> Any:
            del estimator.__dict__["fit"]
            if error is not None:
                raise error.with_traceback(traceback)
            return estimator

        estimator.__dict__["fit"] = fit
        return estimator


class _FittedSteps:
    """A pipeline whose steps are fitted here, on training rows, but for the last."""

    def __init__(self, pipeline: Pipeline, X: Any, y: Any, fit_params: dict[str, Any]) -> None:
        begin = time.perf_counter()
        self.pipeline = pipeline
        self.name, net = pipeline.steps[-1]
        self.received = _Recorder(net)
        self.n_served = 0
        self.error: Exception | None = None
        pipeline.steps = [*pipeline.steps[:-1], (self.name, self.received)]
        try:
            pipeline.fit(X, y, **fit_params)
        except Exception as error:  # raised where the fit is asked for
            self.error = error
        self.seconds = time.perf_counter() - begin

    def serve(self, net: LabelSmoothingClassifier) -> _Fit:
        """Make the fit of a net on what these steps give."""
        self.n_served += 1
        received = self.received
        return _Fit(Job(net, received.X, received.y, received.fit_params), self)

    def before(self, net: LabelSmoothingClassifier) -> Pipeline:
        """Give the pipeline of these steps and a net."""
        pipeline = copy.copy(self.pipeline)
        pipeline.steps = [*pipeline.steps[:-1], (self.name, net)]
        return pipeline


class _Recorder(BaseEstimator):
    """Stands at a pipeline's end while the other steps are fitted; keeps what it is given."""

    def __init__(self, net: LabelSmoothingClassifier) -> None:
        self.net = net
        self.X = self.y = None
        self.fit_params: dict[str, Any] = {}

    def get_metadata_routing(self) -> Any:
        return self.net.get_metadata_routing()

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> _Recorder:
        self.X, self.y, self.fit_params = X, y, fit_params
        return self


class _StandIn(BaseEstimator):
    """What GridSearchCV copies in the estimator's place, and sets the parameters of.

    It has no ``fit``: setting its parameters gives an estimator of the user's own.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.trained: deque[Any] = deque()

    def __sklearn_clone__(self) -> _StandIn:
        return self

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    def set_params(self, **params: Any) -> Any:
        """Give the next of the trained estimators; after the last, a new one for all rows."""
        if self.trained:
            return self.trained.popleft()
        return clone(self.estimator).set_params(**params)


def _max_epochs(estimator: Any) -> int:
    """Give how far a bar is to advance at most; a wrong number is for the fit to refuse."""
    max_epochs = getattr(estimator, "max_epochs", 1)
    return int(max_epochs) if isinstance(max_epochs, Integral) else 1


def _is_pipeline(estimator: Any) -> bool:
    return isinstance(estimator, Pipeline) and bool(estimator.steps)


def _ends_in_net(estimator: Any) -> bool:
    """Tell whether it is a pipeline whose last step is a net."""
    return _is_pipeline(estimator) and isinstance(estimator.steps[-1][1], LabelSmoothingClassifier)
