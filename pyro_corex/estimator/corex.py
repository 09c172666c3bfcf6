"""CorEx: the estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from pyro_corex.estimator.categorical import fit_categorical
from pyro_corex.estimator.columns import Array, Coding
from pyro_corex.estimator.cross_fit import cross_fit, n_folds
from pyro_corex.estimator.description import Description, read_columns
from pyro_corex.estimator.fitted import FittedTable
from pyro_corex.estimator.gaussian import GaussianLayer, fit_gaussian
from pyro_corex.estimator.layer import Layer
from pyro_corex.estimator.loadings import factor_figures
from pyro_corex.estimator.parameters import Options, check_parameters
from pyro_corex.estimator.results import MAX_ROWS, by_tcs, evaluate, mean_and_error, row_terms
from pyro_corex.estimator.suspects import rows_with
from pyro_corex.estimator.table import Words, column_names
from pyro_corex.estimator.told import read_anchors
from pyro_corex.threads import alone

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
        Words in a known order, such as "agree" and "strongly agree", are ordinal.  Identifiers,
        running numbers, dates and e-mails are left out, with a warning, unless told a kind.
    :param missing: codes that stand for missing entries, such as ``[-99, "refused"]``, or a mapping
        from columns to such.  Values far from all others are pointed out in a warning.
    :param levels: words from least to most, ``["low", "high"]``, for all columns that hold no
        others, or a mapping from columns to such lists: they are ordinal.
    :param anchors: latent -> columns, e.g. ``{0: ["a", "b"], 1: {"c": 10.0}}``, with a strength for
        each where it is a mapping.  Anchored columns load on no other latent, and their likelihood
        counts as often as their strength says while the program is trained.  Results are those of
        the unweighted bound, which strengths above 1 lower.
    :param anchor_strength: that of anchors which are given without one.
    :param hidden: sizes of the hidden layers of networks that are added to linear ones, for
        Gaussian latents; ``()`` is linear.
    :param rotation: of Gaussian latents, to simple structure.  With "oblimin" they may correlate,
        as far as that leaves each column to few of them; uncorrelated ones stay nearly so.
        "varimax" keeps them uncorrelated; ``None`` leaves them as they were fitted.
    :param style: whether people agree more or less readily with all questions (acquiescence), which
        then has a latent of its own, not among the ``n_hidden``.  "auto" looks for it where all
        columns are binary or ordinal; True and False say so.
    :param max_iter: gradient steps at most (at least one pass over the data), or steps of EM.
    :param batch_size: rows to a gradient step.
    :param lr: learning rate of Adam.
    :param tol: convergence of EM, in nats, and of training, relative.
    :param cv: how what was learned of noise is taken off the figures.  With a number of folds, at
        least 2, they are cross-fitted: for each fold the columns are described, and the latents
        fitted, without it, and the terms are those of its rows.  ``None`` subtracts the asymptotic
        optimism, which is too little where parameters rival rows.  "auto" cross-fits in 5 folds
        where that optimism exceeds the standard error (categorical latents: a quarter of it); of
        fewer than 10 rows it then says nothing.
        The model is fitted to all rows in any case.
    :param random_state: seed of everything random.

    Attributes, where d is the number of columns and m that of latents, sorted by ``tcs_`` (anchored
    latents stay where they are):

    - ``tc_``, ``tc_stderr_``: the bound for complete rows: ``bound_.estimate`` plus the sum of
      ``corrections_``.  Below 0, or within two errors of it, nothing was found: TC(x) is never
      negative.
    - ``n_folds_``: the folds of cross-fitting; 0 where the asymptotic optimism was subtracted, and
      1 where there are too few rows for either, so that ``tc_`` is 0 with an infinite error.
    - ``bound_``: the :class:`~pyro_corex.TCBound` of ``program_`` by :func:`~pyro_corex.tc_bound`
      on the rows (of more than 20,000 a random subset) as :meth:`coded` gives them: missing entries
      are filled with draws from the model.  They are the rows that it was fitted to, for which it
      is too high; ``tc_`` is not.
    - ``corrections_``: what is added to it, in nats, by name.  "optimism" is minus half a nat for
      each parameter of the dependence and the number of rows, the asymptotic optimism of maximum
      likelihood (Akaike 1973); where ``n_folds_`` is not 0, "held-out rows" is there in its place,
      what rows held out have less.  "marginals" puts the cross-entropies under N(0, 1),
      frequencies, or what the program has for the column alone, where that is likelier,
      in place of entropies that are estimated from the rows; it is large only for a continuous
      column that repeats few values, or is far from both.  "completion" is the mean
      over several draws of what is missing, less the first; "layers above" their share (Eq. 15).
    - ``optimism_``: what "optimism" or "held-out rows" takes off, in nats: how much more was found
      in the rows than there is.
    - ``tc_observed_``: the bound for the observed entries alone, corrected likewise.
    - ``layer_tcs_``, ``layer_tcs_stderr_``: what each layer adds to ``tc_``.
    - ``tcs_``, ``tcs_stderr_``: what each latent adds, shape ``(m,)``: its shares of the relevance
      of the columns, less its KL; ``tcs_ / tc_`` are shares of the whole.  With ``style_tc_`` they
      add up to the bound of the first layer.
    - ``style_tc_``: what a style of answering adds; 0 where there is none.
    - ``loadings_``: of Gaussian latents the standardised pattern loadings, ``(d, m)``, with signs
      such that most of a latent are positive: by how many standard deviations a column rises with
      its latent, the others held.  Of levels and counts it is what lies behind them that rises, on
      the logistic or log scale, noise included; of states a Cramér's V, without a sign.
    - ``factor_correlations_``: the correlations of the latents in the model, ``(m, m)``.  Those of
      ``transform``'s scores, which are uncertain, differ.
      ``tc_``, ``bound_`` and the scores of rows depend on no rotation; all that is said of single
      latents is of the rotated ones, as ``transform`` gives and ``inverse_transform`` takes them.
      The latents of ``program_`` are turned otherwise.
    - ``communalities_``: the shares of the columns' variances that the latents explain, ``(d,)``;
      ``explained_variance_ratio_``: the shares of the latents in their mean, ``(m,)``.
    - ``mis_``, ``mis_stderr_``: :math:`I(z_j : x_i)`, shape ``(m, d)``; where cross-fitted, times
      the share of what the latent adds that held-out rows confirm.
    - ``clusters_``: for each column the latent that tells most about it, -1 for constant ones.
    - ``labels_``: most probable states ``(N, m)``, for categorical latents.
    - ``history_``: the training, one record an iteration; ``trials_``: what "auto" tried.
    - ``upper_``: the estimator of the layers above, which explains the latents of this one.
    - ``program_``: the Pyro program, whose sites are those that :class:`~pyro_corex.CorExELBO`
      was given; ``columns_``: how each column is read; ``description_``: the same as a table.

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
        missing: Any = None,
        levels: Any = None,
        anchors: Any = None,
        anchor_strength: float = 1.0,
        hidden: Any = (),
        rotation: str | None = "oblimin",
        style: Any = "auto",
        max_iter: int = 400,
        batch_size: int = 256,
        lr: float = 0.02,
        tol: float = 1e-4,
        cv: Any = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_hidden = n_hidden
        self.latent = latent
        self.n_states = n_states
        self.kinds = kinds
        self.missing = missing
        self.levels = levels
        self.anchors = anchors
        self.anchor_strength = anchor_strength
        self.hidden = hidden
        self.rotation = rotation
        self.style = style
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.lr = lr
        self.tol = tol
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, n_rows: int | None = None) -> CorEx:
        """Fits the table ``X``, of shape ``(N, d)``; ``y`` is ignored.

        What may be misread is warned of, as :meth:`describe` says it.

        A fit that fails or is interrupted leaves the estimator as it was.  Fits in several threads
        wait for each other, because Pyro's state is that of the process.

        :param n_rows: where ``X`` holds correlations or covariances ``(d, d)`` in place of rows,
            the number of rows behind them, more than d; for Gaussian latents.
        :raises ValueError, TypeError: for data or parameters that do not fit.
        """
        with alone(), self._all_or_nothing():
            options = check_parameters(self)
            rng = check_random_state(self.random_state)
            self._seed = int(rng.randint(2**31 - 1))
            if n_rows is not None:
                if self.latent != "gaussian":
                    raise ValueError(f"n_rows is for Gaussian latents, but got {self.latent!r}")
                X = rows_with(X, n_rows)
            x, described = self._read_columns(X, rng)
            for note in described.notes:
                warnings.warn(note, stacklevel=2)
            most = max(np.atleast_1d(options.n_states))
            if self.latent == "categorical" and most > len(x):
                raise ValueError(
                    f"n_states must be at most the number of rows, {len(x)}, but got "
                    f"{self.n_states!r}"
                )
            names = column_names(self)
            self.columns_, self.description_ = described.columns, described
            self._coding = Coding(self.columns_)
            if not self._coding.used:
                raise ValueError(
                    f"All {len(self.columns_)} columns are constant or left out: there is no "
                    f"dependence to explain. Give a table whose columns vary.\n{described}"
                )
            float32 = x.dtype == np.float32 and x.size > _LARGE
            dtype = torch.float32 if float32 else torch.float64
            options = replace(options, seed=self._seed, dtype=dtype)
            self.trials_: list[dict[str, float]] = []
            if not options.layers:
                options = replace(options, layers=(self._choose(x, options, rng),))
            self.n_hidden_ = options.n_hidden
            anchors = read_anchors(
                self.anchors, names, self._coding.varies, self.n_hidden_, self.anchor_strength
            )
            options = replace(options, anchors=anchors)
            self._layer = self._fit_by(self._coding, x, options)
            draws = self._read_results(x, options, rng)
            self._fit_upper(options.layers, draws)
            if not self._layer.training.converged:
                warnings.warn(
                    f"CorEx has not converged in {self.n_iter_} iterations: the bound still rises. "
                    f"Increase max_iter={self.max_iter}.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        return self

    def describe(self, X: Any) -> Description:
        """How ``fit`` would read each column of a table ``(N, d)``, without fitting it.

        :returns: a table when it is printed; its ``columns`` are as ``columns_``, and its ``notes``
            are what ``fit`` would warn of.
        :raises ValueError, TypeError: for tables that ``fit`` would refuse.
        """
        return clone(self)._read_columns(X, check_random_state(0))[1]

    def _read_columns(self, X: Any, rng: np.random.RandomState) -> tuple[Array, Description]:
        self._words = Words()
        x = self._words.read(self, X, reset=True)
        return x, read_columns(x, column_names(self), self._words, rng)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Puts everything back as it was where the fit fails or is interrupted."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    @property
    def _fit_by(self) -> Callable[[Coding, Array, Options], Layer]:
        return fit_categorical if self.latent == "categorical" else fit_gaussian

    def _choose(self, x: Array, options: Options, rng: np.random.RandomState) -> int:
        """The fewest latents whose bound on a quarter of the rows, held out, is within a standard
        error of the best, which is that of the difference.
        """
        n, d = x.shape
        if n < 20:
            raise ValueError(
                f"n_hidden='auto' holds out a quarter of the rows and needs at least 20, but got "
                f"{n}. Give a number."
            )
        order = rng.permutation(n)[: 4 * MAX_ROWS]
        held, rest = np.sort(order[: len(order) // 4]), np.sort(order[len(order) // 4 :])
        code = self._coding.encode(x[held])
        bounds: dict[int, Array] = {}
        best = 1
        for m in [m for m in _SIZES if m <= max(1, d // 2)]:
            layer = self._fit_by(self._coding, x[rest], replace(options, layers=(m,)))
            bounds[m] = row_terms(layer, code).bound
            score, stderr = mean_and_error(bounds[m])
            self.trials_.append({"n_hidden": m, "score": score, "stderr": stderr})
            if score > bounds[best].mean():
                best = m
            if len(bounds) - list(bounds).index(best) > 2:
                break
        for m, own in bounds.items():  # the fewest that are as good as the best
            lead, stderr = mean_and_error(bounds[best] - own)
            if lead <= stderr:
                return m
        return best

    def _read_results(self, x: Array, options: Options, rng: np.random.RandomState) -> Array:
        """Sets the attributes; gives the latents drawn for the rows that were looked at."""
        rows: Any = slice(None)
        if len(x) > MAX_ROWS:
            rows = np.sort(rng.choice(len(x), MAX_ROWS, replace=False))
        layer, coding, m = self._layer, self._coding, self.n_hidden_
        found = evaluate(layer, coding.encode(x[rows]), len(x), self._seed)
        told = found.mis
        self.n_folds_ = n_folds(self.cv, found, layer, len(x))
        if self.n_folds_:
            found = cross_fit(x, self.columns_, self._fit_by, options, self.n_folds_, found)
        order = by_tcs(found.tcs, options.anchors)
        layer.reorder(np.concatenate([order, np.arange(m, layer.n_hidden)]))
        self.mis_, self.mis_stderr_ = (
            coding.widen(values[order]) for values in (found.mis, found.mis_stderr)
        )
        self.tcs_, self.tcs_stderr_ = found.tcs[order], found.tcs_stderr[order]
        self.style_tc_ = found.extra
        self.bound_, self.corrections_ = found.bound, found.corrections
        self.tc_ = self.bound_.estimate + sum(self.corrections_.values())
        self.tc_stderr_, self.tc_observed_ = found.tc_stderr, found.tc_observed
        taken = (found.corrections.get(name, 0.0) for name in ("optimism", "held-out rows"))
        self.optimism_ = -float(sum(taken))
        self.clusters_ = np.full(len(self.columns_), -1)
        self.clusters_[coding.varies] = layer.clusters(told[order])
        self.missing_ = float(np.isnan(x[rows]).mean())
        self.history_, self.n_iter_ = layer.training.history, layer.training.n_iter
        self.n_samples_ = len(x)
        self.program_ = layer.program
        if isinstance(layer, GaussianLayer):
            for name, value in factor_figures(layer, coding).items():
                setattr(self, name, value)
        if self.latent == "categorical":
            states = [layer.encode(code) for code in coding.batches(x)]
            self.labels_ = np.concatenate(states).astype(int)
        self._above = found.above
        return found.draws[:, order]

    def _fit_upper(self, layers: tuple[int, ...], draws: Array) -> None:
        self.layer_tcs_ = [self.tc_]
        self.layer_tcs_stderr_ = [self.tc_stderr_]
        self.upper_ = None
        if len(layers) == 1 or not (draws.std(0) > 1e-9).any():
            return
        rest: Any = layers[1:] if len(layers) > 2 else layers[1]
        changes = {"n_hidden": rest, "kinds": "continuous"}
        changes |= dict.fromkeys(("anchors", "missing", "levels"))
        parameters = self.get_params(deep=False) | changes | {"random_state": self._seed}
        self.upper_ = CorEx(**parameters).fit(draws)
        above = self._above or list(
            zip(self.upper_.layer_tcs_, self.upper_.layer_tcs_stderr_, strict=True)
        )
        self.layer_tcs_ += [tc for tc, _ in above]
        self.layer_tcs_stderr_ += [stderr for _, stderr in above]
        self.corrections_["layers above"] = sum(self.layer_tcs_[1:])
        self.tc_ = sum(self.layer_tcs_)
        self.tc_stderr_ = float(np.sqrt(np.square(self.layer_tcs_stderr_).sum()))
