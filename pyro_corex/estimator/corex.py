"""CorEx: the estimator."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from torch import Tensor

from pyro_corex.estimator import results
from pyro_corex.estimator.classes import fit_classes
from pyro_corex.estimator.columns import Column, describe
from pyro_corex.estimator.fitted import FittedTable
from pyro_corex.estimator.gaussian import fit_gaussian, make_oblique
from pyro_corex.estimator.gaussian_layer import GaussianLayer
from pyro_corex.estimator.parameters import Parameters, check_parameters
from pyro_corex.estimator.reading import Words, as_tensor, read_anchors, read_kinds
from pyro_corex.estimator.steps import Options

Array = NDArray[Any]

_LARGE = 20_000_000  # entries from which float32 data stay float32
_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50)  # that "auto" tries


class CorEx(FittedTable):
    r"""Total Correlation Explanation of a table: latents that explain why its columns agree.

    Each column has a likelihood of its own kind, missing entries (NaN) are left out of it, and the
    latents are those that make the bound of Eq. 10,

    .. math::

        TC(x) \ge \sum_i [H(x_i) + \langle \ln q(x_i|z) \rangle] - D_{KL}(p(z|x) \| r(z)),

    as large as possible.  All figures are in nats.

    :param n_hidden: the number of latents; a tuple such as ``(10, 3, 1)`` for layers from the data
        upwards, each of which explains the one below; or "auto", by the bound on held-out rows.
    :param latent: "gaussian", where a column may load on all latents, or "categorical", where each
        latent has ``n_states`` states and each column belongs to one latent.
    :param n_states: of categorical latents: a number, or a list with one for each latent.
    :param kinds: "auto", or what the columns are: "binary", "categorical", "ordinal", "counts" or
        "continuous" for all of them, a list, or a mapping from names or indices.  Found by
        themselves: two values are binary; integers with up to 20 levels ordinal; other small
        integers counts; words categorical; an ordered pandas categorical ordinal; the rest
        continuous, which is standardised, and by ranks where it is skewed or heavy-tailed.
    :param anchors: latent -> columns, e.g. ``{0: ["a", "b"], 1: {"c": 10.0}}``, with a strength for
        each where it is a mapping.  Anchored columns load on no other latent, and their likelihood
        counts as often as their strength says while the program is trained.  Results are those of
        the unweighted bound, which strengths above 1 lower.
    :param anchor_strength: that of anchors which are given without one.
    :param hidden: sizes of the hidden layers of networks that are added to linear ones, for
        Gaussian latents; ``()`` is linear.
    :param max_iter: gradient steps at most (at least one pass over the data), or steps of EM.
    :param batch_size: rows to a gradient step.
    :param lr: learning rate of Adam.
    :param tol: convergence of EM, in nats, and of training, relative.
    :param random_state: seed of everything random.

    Attributes, where d is the number of columns and m that of latents, sorted by ``tcs_`` (anchored
    latents stay where they are):

    - ``tc_``, ``tc_stderr_``: the bound for complete rows.  The likelihood of the rows that it was
      trained on is corrected by half a nat for each parameter and the number of rows, the
      asymptotic optimism of maximum likelihood; :meth:`score` needs no such correction.  Where
      entries are missing, it is evaluated on rows completed by draws from the model; that of the
      observed entries alone is ``tc_observed_``.  With several layers, it is the sum of
      ``layer_tcs_`` (Eq. 15).
    - ``tcs_``, ``tcs_stderr_``: what each latent adds, shape ``(m,)``: its shares of the relevance
      of the columns, less its KL.  With ``style_tc_`` they add up to the bound of the first layer.
    - ``style_tc_``: what a style of answering adds.  People agree with all questions more or less
      readily, which may tell more than a trait.  Where all columns are binary or ordinal and the
      data show such a style, it has a latent of its own, which is not among the m; else it is 0.
    - ``mis_``, ``mis_stderr_``: :math:`I(z_j : x_i)`, shape ``(m, d)``.
    - ``clusters_``: for each column the latent that tells most about it, -1 for constant ones.
    - ``labels_``: most probable states ``(N, m)``, for categorical latents.
    - ``history_``: the training, one record an iteration; ``trials_``: what "auto" tried.
    - ``upper_``: the estimator of the layers above, which explains the latents of this one.
    - ``program_``: the Pyro program, whose sites are those that :class:`~pyro_corex.CorExELBO`
      was given; ``columns_``: how each column is read.

    :raises ValueError, TypeError: for parameters and data that do not fit, saying how to mend it.

    >>> from pyro_corex import datasets
    >>> coins = datasets.noisy_coins(500, groups=2, copies=3)
    >>> corex = CorEx(n_hidden=2, latent="categorical", random_state=0).fit(coins.x.numpy())
    >>> corex.clusters_[:3] == corex.clusters_[0]  # the copies of a coin belong together
    array([ True,  True,  True])
    >>> corex.mis_.shape
    (2, 6)
    """

    def __init__(
        self,
        n_hidden: int | tuple[int, ...] | str = 5,
        *,
        latent: str = "gaussian",
        n_states: int | list[int] = 2,
        kinds: Any = "auto",
        anchors: Any = None,
        anchor_strength: float = 1.0,
        hidden: Any = (),
        max_iter: int = 400,
        batch_size: int = 256,
        lr: float = 0.02,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_hidden = n_hidden
        self.latent = latent
        self.n_states = n_states
        self.kinds = kinds
        self.anchors = anchors
        self.anchor_strength = anchor_strength
        self.hidden = hidden
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.lr = lr
        self.tol = tol
        self.random_state = random_state

    # ------------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any = None) -> CorEx:
        """Fits the table ``X``, of shape ``(N, d)``; ``y`` is ignored.

        :raises ValueError, TypeError: for data or parameters that do not fit.
        """
        parameters = check_parameters(self)
        self._words = Words()
        x = self._words.read(self, X, reset=True)
        rng = check_random_state(self.random_state)
        self._seed = int(rng.randint(2**31 - 1))
        names = self._names
        told = read_kinds(self.kinds, names)
        self.columns_ = describe(x, names, told, self._words.labels, self._words.ordered, rng)
        self._active = np.array([c.kind != "constant" for c in self.columns_])
        if not self._active.any():
            raise ValueError(
                f"All {len(self.columns_)} columns are constant: there is no dependence to "
                "explain. Give a table whose columns vary."
            )
        self.trials_: list[dict[str, float]] = []
        layers = parameters.layers or (self._choose(x, parameters, rng),)
        self.n_hidden_ = layers[0]
        anchors = read_anchors(self.anchors, names, layers[0], self.anchor_strength)
        self._check_anchored(anchors)
        self._layer = self._fit_layer(x, layers, parameters, anchors)
        self._read_results(x, anchors, rng)
        self._fit_upper(layers)
        if not self._layer.converged:
            warnings.warn(
                f"CorEx has not converged in {self.n_iter_} iterations: the bound still rises. "
                f"Increase max_iter={self.max_iter}.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _fit_layer(
        self, x: Array, layers: tuple[int, ...], parameters: Parameters, anchors: Any
    ) -> Any:
        columns = self._used
        position = np.cumsum(self._active) - 1
        pulled = {
            latent: {int(position[i]): s for i, s in strengths.items()}
            for latent, strengths in anchors.items()
        }

        def batches() -> Iterator[Tensor]:
            for rows in self._rows(len(x)):
                yield torch.as_tensor(self._code(x[rows]), dtype=torch.float64)

        float32 = x.dtype == np.float32 and x.size > _LARGE
        options = Options(
            layers[0], parameters.hidden, self.max_iter, self.batch_size, self.lr, self.tol,
            self._seed, pulled, torch.float32 if float32 else torch.float64,
        )  # fmt: skip
        if self.latent == "categorical":
            return fit_classes(columns, batches, parameters.n_states, options)

        def transform(batch: Tensor) -> Tensor:
            return torch.as_tensor(self._code(batch.numpy()), dtype=options.dtype)

        fitted = fit_gaussian(columns, batches, as_tensor(x), transform, options)
        if len(layers) > 1:
            make_oblique(fitted)
        fitted.program.to(torch.float64)
        return GaussianLayer(fitted, columns)

    def _choose(self, x: Array, parameters: Parameters, rng: np.random.RandomState) -> int:
        """The fewest latents whose bound on a quarter of the rows, held out, is within a standard
        error of the best, which is that of the difference.
        """
        n, d = x.shape
        if n < 20:
            raise ValueError(
                f"n_hidden='auto' holds out a quarter of the rows and needs at least 20, but got "
                f"{n}. Give a number."
            )
        order = rng.permutation(n)[: 4 * results.MAX_ROWS]
        held, rest = np.sort(order[: len(order) // 4]), np.sort(order[len(order) // 4 :])
        bounds: dict[int, Array] = {}
        best = 1
        for m in [m for m in _SIZES if m <= max(1, d // 2)]:
            trial = self._clone(n_hidden=m, random_state=self._seed, anchors=None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                trial._words, trial.n_features_in_ = self._words, self.n_features_in_
                trial._fit_columns(x[rest], self.columns_, self._seed)
            bounds[m] = trial._row_bounds(x[held])
            score, stderr = _mean(bounds[m])
            self.trials_.append({"n_hidden": m, "score": score, "stderr": stderr})
            if score > bounds[best].mean():
                best = m
            if len(bounds) - list(bounds).index(best) > 2:
                break
        for m, own in bounds.items():  # the fewest that are as good as the best
            lead, stderr = _mean(bounds[best] - own)
            if lead <= stderr:
                return m
        return best

    def _fit_columns(self, x: Array, columns: list[Column], seed: int) -> None:
        """Fits one layer to columns that have been described."""
        parameters = check_parameters(self)
        self.columns_, self._seed = columns, seed
        self._active = np.array([c.kind != "constant" for c in columns])
        self._layer = self._fit_layer(x, parameters.layers, parameters, {})

    def _check_anchored(self, anchors: dict[int, dict[int, float]]) -> None:
        for strengths in anchors.values():
            for i in strengths:
                if not self._active[i]:
                    raise ValueError(
                        f"anchors names column {self.columns_[i].name!r}, which is constant and "
                        "tells nothing of any latent. Leave it out."
                    )

    def _read_results(self, x: Array, anchors: Any, rng: np.random.RandomState) -> None:
        rows: Any = slice(None)
        if len(x) > results.MAX_ROWS:
            rows = np.sort(rng.choice(len(x), results.MAX_ROWS, replace=False))
        code = torch.as_tensor(self._code(x[rows]), dtype=torch.float64)
        found = results.evaluate(self._layer, self._used, code, len(x), self._seed)
        m = self.n_hidden_  # a style of answering comes after these
        order = _order(found.tcs[:m], anchors)
        self._layer.reorder(np.concatenate([order, np.arange(m, self._layer.n_hidden)]))
        d = len(self.columns_)
        self.mis_, self.mis_stderr_ = np.zeros((m, d)), np.zeros((m, d))
        self.mis_[:, self._active] = found.mis[order]
        self.mis_stderr_[:, self._active] = found.mis_stderr[order]
        self.tcs_, self.tcs_stderr_ = found.tcs[order], found.tcs_stderr[order]
        self.style_tc_ = float(found.tcs[m:].sum())
        self.tc_, self.tc_stderr_ = found.tc, found.tc_stderr
        self.tc_observed_, self.optimism_ = found.tc_observed, found.optimism
        self.clusters_ = np.full(d, -1)
        self.clusters_[self._active] = self._layer.clusters(self.mis_[:, self._active])
        self.missing_ = float(np.isnan(x[rows]).mean())
        self._draws = found.draws[:, order]
        self.history_ = self._layer.history
        self.n_iter_ = self._layer.n_iter
        self.n_samples_ = len(x)
        self.program_ = self._layer.program
        if self._layer.discrete:
            self.labels_ = np.concatenate(
                [self._encode(x[rows]).astype(int) for rows in self._rows(len(x))]
            )

    def _fit_upper(self, layers: tuple[int, ...]) -> None:
        self.layer_tcs_ = [self.tc_]
        self.layer_tcs_stderr_ = [self.tc_stderr_]
        if len(layers) == 1:
            self.upper_ = None
            del self._draws
            return
        rest: Any = layers[1:] if len(layers) > 2 else layers[1]
        kinds = "categorical" if self._layer.discrete else "continuous"
        upper = self._clone(n_hidden=rest, kinds=kinds, anchors=None, random_state=self._seed)
        varies = (self._draws.std(0) > 1e-9).any()
        self.upper_ = upper.fit(self._draws) if varies else None
        del self._draws
        if self.upper_ is not None:
            self.layer_tcs_ += self.upper_.layer_tcs_
            self.layer_tcs_stderr_ += self.upper_.layer_tcs_stderr_
            self.tc_ = float(sum(self.layer_tcs_))
            self.tc_stderr_ = float(np.sqrt(np.square(self.layer_tcs_stderr_).sum()))

    def _clone(self, **changes: Any) -> CorEx:
        parameters = self.get_params(deep=False) | changes
        return CorEx(**parameters)


def _mean(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _order(tcs: Array, anchors: Any) -> Array:
    """Sorts the latents, largest first; those with anchors stay."""
    order = np.arange(len(tcs))
    free = np.array([j for j in order if j not in anchors], dtype=int)
    order[free] = free[np.argsort(-tcs[free], kind="stable")]
    return order
