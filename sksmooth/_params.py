"""A net's parameters: unknown names and their nearest, and how parameters are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import BaseEstimator
from skorch import NeuralNetClassifier

from sksmooth._private import InvalidParameterError, validate_parameter_constraints
from sksmooth.smoothing import check_label_smoothing

if TYPE_CHECKING:
    from typing_extensions import Self

# What other libraries call a parameter of ours.
SYNONYMS = {
    "alpha": "optimizer__weight_decay",
    "activation": "module__activation",
    "dropout": "module__dropout",
    "eps": "label_smoothing",
    "epsilon": "label_smoothing",
    "epochs": "max_epochs",
    "hidden_layer_sizes": "module__hidden_layer_sizes",
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "ls_eps": "label_smoothing",
    "max_iter": "max_epochs",
    "n_epochs": "max_epochs",
    "n_iter_no_change": "patience",
    "seed": "random_state",
    "smoothing_eps": "label_smoothing",
    "validation_fraction": "train_split",
    "weight_decay": "optimizer__weight_decay",
}

# The parts of a net, whose parameters begin with their names and two underscores.
PARTS = ("callbacks", "criterion", "iterator_train", "iterator_valid", "module", "optimizer")

# What skorch keeps for itself under names of fitted attributes.
BOOKKEEPING = {
    "classes_inferred_",
    "cuda_dependent_attributes_",
    "init_context_",
    "initialized_",
    "learned_",
    "n_inputs_",
    "prefixes_",
    "virtual_params_",
}


class NamedParams(NeuralNetClassifier):
    """A skorch net that knows the names of its parameters and of its parts'."""

    def _refuse_unknown(self, params: Mapping[str, Any]) -> None:
        """Refuse names that neither a parameter nor a part's parameter has; suggest the nearest."""
        own_class: Any = type(self)
        known = _named_params(own_class)
        for name, value in params.items():
            if "__" not in name and name not in known:
                nearest = SYNONYMS.get(name) or _nearest_name(name, sorted(known))
                raise InvalidParameterError(
                    f"{type(self).__name__} has no parameter {name!r} (got {name}={value!r})"
                    + (f"; did you mean {nearest}?" if nearest else ".")
                )

    def _get_param_names(self) -> list[str]:
        return sorted(
            name
            for name in self.__dict__
            if not name.startswith("_") and not name.endswith("_") and not hasattr(type(self), name)
        )

    @property
    def _params_to_validate(self) -> set[str]:
        own_class: Any = type(self)
        return set(self._get_param_names()) - _named_params(own_class)

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator and of its parts.

        On a trained net, `lr`, ``optimizer__...`` and ``criterion__...`` take effect at once, and
        so does a module's dropout, whose parameters stay. `module` and other ``module__...`` leave
        it unfitted. All else holds from the next call of ``fit`` or ``partial_fit`` on.

        Parameters
        ----------
        **params : dict
            Parameters by name, parts' parameters by prefix, such as ``module__dropout=0.1``.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        InvalidParameterError
            For an unknown name; a ValueError and a TypeError at once, as scikit-learn has it.
        """
        self._refuse_unknown({k: v for k, v in params.items() if k not in self.__dict__})
        own = {}
        for name, value in params.items():
            part, _, rest = name.partition("__")
            nested = None if part in self.prefixes_ or not rest else getattr(self, part, None)
            if nested is not None and hasattr(nested, "set_params"):
                nested.set_params(**{rest: value})
            else:
                own[name] = value
        if self.initialized_ and self._stays_trained(own):
            state = {name: getattr(self, f"{name}_").state_dict() for name in self._modules}
            super().set_params(**own)
            if any(name.startswith("module__") for name in own) and self.history:
                for name, parameters in state.items():
                    getattr(self, f"{name}_").load_state_dict(parameters)
            return self
        if self.initialized_:  # what was learned is of another module
            learned = set(vars(self)) - set(self.get_params(deep=False))
            for name in learned:
                del self.__dict__[name]
        for name, value in own.items():
            setattr(self, name, value)
        return self

    def _stays_trained(self, params: Mapping[str, Any]) -> bool:
        """Tell whether a net whose parameters are set is trained as before, or has never been."""
        of_module = [name for name in params if name == "module" or name.startswith("module__")]
        return not self.history or all("dropout" in name for name in of_module)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return BaseEstimator.__repr__(self, N_CHAR_MAX=N_CHAR_MAX)

    def _get_params_html(self, deep: bool = True, *doc_link: str, **options: Any) -> Any:
        # Deep parameters are those of skorch's default callbacks, which would all be shown as if
        # the user had set them; those that are set are the estimator's own.
        return super()._get_params_html(False, *doc_link, **options)

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        table = super()._get_fitted_attr_html(doc_link)
        for name in BOOKKEEPING & table.keys():
            del table[name]
        return table

    def check_parameters(self) -> None:
        """Refuse parameters that cannot be trained with.

        Raises
        ------
        ValueError, TypeError
            That name the parameter.
        """
        params = self.get_params(deep=False)
        self._refuse_unknown(params)
        check_label_smoothing(self.label_smoothing)
        if isinstance(self.calibration, type):
            raise InvalidParameterError(
                f"calibration={self.calibration.__name__} is a class; give an object of it, "
                f"calibration={self.calibration.__name__}()."
            )
        validate_parameter_constraints(self._parameter_constraints, params, type(self).__name__)
        for name in ("label_smoothing", "smoothing"):
            if hasattr(self, f"criterion__{name}"):
                raise InvalidParameterError(
                    f"criterion__{name}={getattr(self, f'criterion__{name}')!r} would override "
                    f"{name}={getattr(self, name)!r}; set {name} itself."
                )
        _check_device(self.device)


@cache
def _named_params(estimator: Any) -> frozenset[str]:
    """Give the names of the parameters that a class, or one it derives from, spells out."""
    return frozenset(
        name
        for parent in estimator.__mro__[:-1]
        for name, parameter in signature(parent).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    )


def _nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Find the known name nearest to `name`, whatever the order of its words."""
    for part in PARTS:
        if name.startswith(part):
            return f"{part}__{name.removeprefix(part).lstrip('_')}"
    in_order = {"_".join(sorted(candidate.split("_"))): candidate for candidate in known}
    sought = "_".join(sorted(name.split("_")))
    for candidates, word in ((in_order, sought), ({k: k for k in known}, name)):
        nearest = get_close_matches(word, candidates, n=1)
        if nearest:
            return candidates[nearest[0]]
    return None


def _check_device(device: Any) -> None:
    """Refuse a device that is not there, before torch does so in the middle of a fit."""
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        has_cuda = torch.cuda.is_available()
        there = f"{torch.cuda.device_count()} CUDA device(s)" if has_cuda else "no CUDA device"
        raise ValueError(
            f"device={device!r} cannot be used here: {error}. PyTorch sees {there} on this "
            "machine; device='cpu' always works."
        ) from error
