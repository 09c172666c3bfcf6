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

from pyro_corex.estimator.blocks import fingerprint, some_rows
from pyro_corex.estimator.categorical import fit_categorical
from pyro_corex.estimator.columns import Array, Coding
from pyro_corex.estimator.cross_fit import cross_fit, n_folds
from pyro_corex.estimator.description import Description, read_columns
from pyro_corex.estimator.fitted import FittedTable
from pyro_corex.estimator.gaussian import GaussianLayer, fit_gaussian
from pyro_corex.estimator.goodness import choose_states, fit_figures
from pyro_corex.estimator.layer import Layer, encodings
from pyro_corex.estimator.loadings import factor_figures
from pyro_corex.estimator.number import choose_number, normal_scores, scree
from pyro_corex.estimator.parameters import Options, check_parameters
from pyro_corex.estimator.results import assign, evaluate, order_of
from pyro_corex.estimator.sparse import Table, dense
from pyro_corex.estimator.suspects import rows_with
from pyro_corex.estimator.table import Words, column_names
from pyro_corex.estimator.told import read_anchors
from pyro_corex.estimator.weights import Weights, in_proportion
from pyro_corex.threads import alone

_LARGE = 20_000_000  # entries from which float32 data stay float32


class CorEx(FittedTable):
    r"""Total Correlation Explanation of a table: latents that explain why its columns agree.

    Each column has a likelihood of its own kind, missing entries (NaN) are left out of it, and the
    latents are those that make the bound of Eq. 10,

    .. math::

        TC(x) \ge \sum_i [H(x_i) + \langle \ln q(x_i|z) \rangle] - D_{KL}(p(z|x) \| r(z)),

    as large as possible.  All figures are in nats.

    :param n_hidden: the number of latents; a tuple such as ``(10, 3, 1)`` for layers from the data
        upwards, each of which explains the one below; or "auto", the fewest that are as good as
        the best for rows held out.  If it finds none, there is one latent without columns.
    :param latent: "gaussian", where a column may load on all latents, or "categorical", where each
        latent has ``n_states`` states and each column belongs to one latent.
    :param n_states: of categorical latents: a number; a list with one for each latent; or "auto",
        the number for all of them that has the lowest BIC.
    :param kinds: "auto", or what the columns are: "binary", "categorical", "ordinal", "counts" or
        "continuous" for all of them, a list, or a mapping from names or indices.  Found by
        themselves: two values are binary; numbers with up to 20 levels ordinal; other small
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
        optimism, which is wrong where parameters rival rows: it warns where columns exceed rows.
        "auto" cross-fits in 5 folds
        where that optimism exceeds the standard error (categorical latents: a quarter of it); of
        fewer than 10 rows it then says nothing.
        The model is fitted to all rows in any case.
    :param random_state: seed of everything random.

    Attributes, where d is the number of columns and m that of latents, sorted by ``tcs_`` (anchored
    latents stay where they are):

    - ``tc_``, ``tc_stderr_``: the bound for complete rows: ``bound_.estimate`` plus the sum of
      ``corrections_``.  Below 0, or within two errors of it, nothing was found: TC(x) is never
      negative.
    - ``n_samples_``: the rows of the table; ``n_effective_``: how many they count as, which
      differs where ``fit`` was given ``sample_weight``.
    - ``n_folds_``: the folds of cross-fitting; 0 where the asymptotic optimism was subtracted, and
      1 where there are too few rows for either, so that ``tc_`` is 0 with an infinite error.
    - ``bound_``: the :class:`~pyro_corex.TCBound` of ``program_`` by :func:`~pyro_corex.tc_bound`
      on the rows (of more than 20,000, or 8 million entries, a random subset) as :meth:`coded`
      gives them: missing entries are filled with draws from the model.  They are the rows that it
      was fitted to, for which it is too high; ``tc_`` is not.
    - ``corrections_``: what is added to it, in nats, by name.  "optimism" is minus half a nat for
      each parameter of the dependence and the number of rows, the asymptotic optimism of maximum
      likelihood (Akaike 1973); where ``n_folds_`` is not 0, "held-out rows" is there in its place,
      what rows held out have less.  A fold whose latents the other folds do not confirm, by a mean
      above 0, counts as 0, as if its columns were independent; the errors are those with it.
      "marginals" puts the cross-entropies under N(0, 1),
      frequencies, or what the program has for the column alone, where that is likelier,
      in place of entropies that are estimated from the rows; it is large only for a continuous
      column that repeats few values, or is far from both.  "completion" is the mean
      over several draws of what is missing, less the first; "layers above" their share (Eq. 15);
      "sample weights" what rows have by their weights more than alike.
    - ``optimism_``: what "optimism" or "held-out rows" takes off, in nats: how much more was found
      in the rows than there is.
    - ``tc_observed_``: the bound for the observed entries alone, corrected likewise.
    - ``layer_tcs_``, ``layer_tcs_stderr_``: what each layer adds to ``tc_``.
    - ``tcs_``, ``tcs_stderr_``: what each latent adds, shape ``(m,)``: its shares of the relevance
      of the columns, less its KL; ``tcs_ / tc_`` are shares of the whole.  With ``style_tc_`` they
      add up to the bound of the first layer.  The errors are those of rows; what loadings are
      uncertain by, :meth:`bootstrap` has, too.
    - ``style_tc_``: what a style of answering adds; 0 where there is none.
    - ``tc_z_``: TC(z), how much the latents tell of each other, a
      :class:`~pyro_corex.information.Bracket`.
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
    - ``clusters_``: for each column the latent that tells most about it.  It is -1 for constant
      ones, and where that may well be chance: of the columns that have a latent, 1 in 20 at most
      is expected to depend on none (Benjamini and Hochberg 1995).  Anchored columns stay, and with
      fewer than 10 rows all do, unless "auto" found nothing.
    - ``labels_``: most probable states ``(N, m)``, for categorical latents.  States are numbered by
      their size, the largest first, whatever the seed.
    - ``class_sizes_``: for categorical latents the probability of each state, an array for each
      latent; ``class_profiles_``: for each latent a mapping from its columns to arrays with a row
      for each state: the probabilities of the column's levels, in the order of ``columns_``, or
      of numbers their mean and standard deviation.
    - ``fit_``: how well the first layer fits, a :class:`~pyro_corex.estimator.GoodnessOfFit`:
      log-likelihood, BIC, RMSEA, and the correlations that the latents leave; ``bic_``: its BIC.
    - ``omega_``, ``alpha_``: for Gaussian latents the reliability of the sum of each latent's
      columns, standardised, and turned where they load negatively: McDonald's omega, the share
      of the sum's variance that is the latent's, and Cronbach's alpha; shape ``(m,)``.
    - ``loadings_stderr_``, ``style_tc_stderr_`` and so on: after :meth:`bootstrap`.  The
      likelihood and residuals in ``fit_`` have none, as they are of this table alone.
    - ``history_``: the training, one record an iteration.
    - ``trials_``: what "auto" tried, one record a number: "n_hidden", "score" and "stderr", in nats
      for each row held out.  For Gaussian latents and continuous columns, scores are those of
      factor models of normal scores; else those of the bound.
    - ``scree_``: parallel analysis (Horn 1965).  ``scree_.eigenvalues`` are those of the
      correlations of the columns' normal scores, ``scree_.reference`` those that 1 in 20 tables of
      permuted columns exceeds, shape ``(k,)`` each, largest first, with k the number of scores
      (a nominal column has one for each state) or of rows less one, if that is smaller.
      ``scree_.n_above`` says how many are above it.
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
        n_states: int | list[int] | str = 2,
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

    def fit(
        self, X: Any, y: Any = None, *, n_rows: int | None = None, sample_weight: Any = None
    ) -> CorEx:
        r"""Fits the table ``X``, of shape ``(N, d)``; ``y`` is ignored.

        What may be misread is warned of, as :meth:`describe` says it.

        A fit that fails or is interrupted leaves the estimator as it was.  Fits in several threads
        wait for each other, because Pyro's state is that of the process.

        :param n_rows: where ``X`` holds correlations or covariances ``(d, d)`` in place of rows,
            the number of rows behind them, more than d; for Gaussian latents.
        :param sample_weight: how much each row counts, shape ``(N,)``, at least 0.  Whole numbers
            say how often a row is there: the result is that of the table with its rows repeated.
            Others are weights of a survey, whose scale does not matter: the rows count as
            :math:`(\sum w)^2 / \sum w^2` in all (Kish 1965), so that errors are larger.
            ``n_hidden="auto"`` and ``scree_`` look at so many of them, drawn in proportion.
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
            weights = Weights.read(sample_weight, X, n_rows)
            x, described = self._read_columns(weights.keep(X), rng, weights.described)
            for note in described.notes:
                warnings.warn(note, stacklevel=2)
            self.n_samples_, self.n_effective_ = n_rows or len(x), weights.total(len(x))
            self._fitted = fingerprint(x)
            x = weights.repeat(x)
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
            options = replace(options, seed=self._seed, dtype=dtype, weight=weights.survey)
            options = self._choose(x, options, rng)
            self.n_hidden_ = options.n_hidden
            anchors = read_anchors(
                self.anchors, names, self._coding.varies, self.n_hidden_, self.anchor_strength
            )
            options = replace(options, anchors=anchors)
            if self.latent == "categorical" and self.n_states == "auto":
                s, trials = choose_states(x, self._coding, options, self.n_effective_)
                self.trials_ += trials
                options = replace(options, n_states=s)
            self._layer = self._fit_by(self._coding, x, options)
            drawn = self._read_results(x, options, rng)
            if self.latent == "categorical":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what only rows without a weight hold
                    rows = x if sample_weight is None else self._read(X)
                    states = [self._layer.encode(code) for code in self._coding.batches(rows)]
                self.labels_ = np.concatenate(states).astype(int)
            self._fit_upper(options.layers, *drawn)
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

    def _read_columns(
        self, X: Any, rng: np.random.RandomState, weight: Array | None = None
    ) -> tuple[Table, Description]:
        self._words = Words()
        x = self._words.read(self, X, reset=True)
        return x, read_columns(x, column_names(self), self._words, rng, weight)

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
    def _fit_by(self) -> Callable[[Coding, Table, Options], Layer]:
        return fit_categorical if self.latent == "categorical" else fit_gaussian

    def _in_proportion(self, weight: Array) -> Array:
        """As many of weighted rows as they count."""
        total = int(self.n_effective_ * len(weight) / self.n_samples_)
        return in_proportion(weight, np.random.default_rng(self._seed), max(total, 1))

    def _choose(self, x: Table, options: Options, rng: np.random.RandomState) -> Options:
        """The options with the number of latents; and what says that it is right."""
        if options.weight is not None:  # as many rows as they count, in proportion
            x = x[self._in_proportion(options.weight)]
        scores = normal_scores(self._coding, x[some_rows(x, rng)])
        self.scree_ = scree(scores, np.random.default_rng(self._seed))
        self.trials_: list[dict[str, float]] = []
        self._nothing = False
        if options.layers:
            return options
        alike = replace(options, weight=None)
        m, self.trials_ = choose_number(x, self._coding, scores, self.scree_, self._fit_by, alike)
        self._nothing = m == 0
        return replace(options, layers=(max(m, 1),))

    def _read_results(
        self, x: Table, options: Options, rng: np.random.RandomState
    ) -> tuple[Array, Array | None]:
        """Sets the attributes; gives the latents drawn for the rows that were looked at, and the
        weights of these.
        """
        rows = some_rows(x, rng)
        layer, coding, m, n = self._layer, self._coding, self.n_hidden_, self.n_effective_
        often = None if options.weight is None else options.weight[rows]
        code = coding.encode(x[rows])
        found = evaluate(layer, code, n, self._seed, often)
        told, doubts = found.mis, found.doubts
        self.n_folds_ = n_folds(self.cv, found, layer, len(x))
        if self.n_folds_:
            found = cross_fit(x, self.columns_, self._fit_by, options, self.n_folds_, found)
        order = order_of(found.tcs, options.anchors)
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
        if not self._nothing:
            alive = found.alive[order]
            own = assign(layer, told[order], doubts[order], alive, options.anchors)
            self.clusters_[coding.varies] = own
        self.missing_ = float(np.isnan(dense(x[rows])).mean())
        self.history_, self.n_iter_ = layer.training.history, layer.training.n_iter
        self.program_ = layer.program
        whole, some, own = (x, options.weight), (code, often), self.clusters_[coding.varies]
        figures = fit_figures(layer, coding, whole, some, n, found.elbo, own)
        figures |= factor_figures(layer, coding) if isinstance(layer, GaussianLayer) else {}
        for name, value in figures.items():
            setattr(self, name, value)
        for name in (*figures, "style_tc_"):  # of an earlier table
            self.__dict__.pop(f"{name}stderr_", None)
        alike = slice(None) if often is None else self._in_proportion(often)
        self._tc_z, self._encoded = None, encodings(layer, code[alike])
        self._above = found.above
        return found.draws[:, order], often
