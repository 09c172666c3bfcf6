"""What a fitted estimator does with tables: latents, bounds, filled entries, samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_corex.batches import check_count
from pyro_corex.estimator.blocks import fingerprint
from pyro_corex.estimator.bootstrap import standard_errors
from pyro_corex.estimator.categorical import CategoricalLayer
from pyro_corex.estimator.columns import Array, Coding, Column
from pyro_corex.estimator.gaussian import GaussianLayer
from pyro_corex.estimator.layer import Layer, dependence, predict, sample
from pyro_corex.estimator.results import completed, row_terms
from pyro_corex.estimator.saving import load_estimator, save_estimator
from pyro_corex.estimator.sparse import Table, check_size, dense, map_columns
from pyro_corex.estimator.summary import summarise
from pyro_corex.estimator.table import Words, column_names
from pyro_corex.estimator.weights import Weights
from pyro_corex.information import Bracket
from pyro_corex.threads import alone

_FEWER = "Give it fewer rows at once."


class FittedTable(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The part of :class:`~pyro_corex.CorEx` that needs nothing but what ``fit`` has set."""

    columns_: list[Column]
    n_hidden_: int
    n_samples_: int
    tc_: float
    tc_stderr_: float
    upper_: Any
    program_: Any
    _layer: Layer
    _words: Words
    _coding: Coding
    _seed: int
    _fitted: str
    _encoded: list[Array]
    _tc_z: Bracket | None = None

    @property
    def tc_z_(self) -> Bracket:
        r"""TC(z): how much the latents that are shown, and a style, tell of each other, in nats.

        An interval that contains the total correlation of their aggregate posterior (Eq. 4; see
        :func:`~pyro_corex.information.aggregate_total_correlation`), of the rotated latents: for
        normal ones it is :math:`-\frac12 \ln \det` of their correlations.  Near 0 each can be
        read without the others; a layer above explains no more than this.  It is computed from the
        rows that the bound was evaluated on when it is first asked for.
        """
        check_is_fitted(self)
        if self._tc_z is None:
            with alone():
                self._tc_z = dependence(self._layer, self._encoded)
        return self._tc_z

    def bootstrap(self, X: Any, n_draws: int = 50, *, sample_weight: Any = None) -> Any:
        r"""Adds standard errors to what is shown of the latents, in as many fits as ``n_draws``.

        Each of ``loadings_``, ``communalities_``, ``factor_correlations_``,
        ``explained_variance_ratio_``, ``omega_``, ``alpha_``, ``style_tc_``, ``class_sizes_`` and
        ``class_profiles_`` that there is gets one, in its shape: ``loadings_stderr_`` and so on.
        So does ``tcs_``, of Gaussian latents, which has one of rows alone before.
        They are the standard deviations over fits to rows drawn with replacement (Efron and
        Tibshirani 1993), with the latents in one order and with the same signs.  Columns keep the
        classes that they belong to.  The number of latents is taken as known.

        :param X: the table that was fitted, ``(N, d)``.
        :param n_draws: at least 2; the error of an error is one part in :math:`\sqrt{2 n}`.
        :param sample_weight: as ``fit`` was given it, ``(N,)``.
        :returns: the estimator.
        :raises ValueError: for fewer draws, and for another table.
        """
        check_count("n_draws", n_draws, 2)
        check_is_fitted(self)
        weights = Weights.read(sample_weight, X)
        x = self._read(weights.keep(X))
        if len(x) != self.n_samples_ or fingerprint(x) != self._fitted:
            raise ValueError(
                f"X must be the table that was fitted, of {self.n_samples_} rows, but got another, "
                f"of {len(x)}: its values or the order of its rows differ. Call fit with it first."
            )
        with alone():
            found = standard_errors(self, weights.repeat(x), weights.survey, n_draws)
        for name, value in found.items():
            setattr(self, f"{name}stderr_", value)
        return self

    def transform(self, X: Any) -> Array:
        """The latents of each row, ``(N, d)`` to ``(N, m)``: means, or most probable states."""
        return self._by_rows(X, lambda rows: self._layer.encode(rows))

    def posterior(self, X: Any) -> Array:
        """Of categorical latents the states' probabilities, ``(N, d)`` to ``(N, m, n_states)``.

        :raises ValueError: for Gaussian latents.
        """
        check_is_fitted(self)
        if not isinstance(self._layer, CategoricalLayer):
            raise ValueError(
                "posterior gives the probabilities of states, which Gaussian latents have not. "
                "Use transform for their means, or latent='categorical'."
            )
        return self._by_rows(X, self._layer.posterior)

    def coded(self, X: Any) -> Tensor:
        """The rows as the bound is evaluated on them.

        On the table that was fitted, of at most 20,000 rows, ``bound_`` is
        ``pyro_corex.tc_bound(corex.program_, corex.coded(X))``.

        :param X: shape ``(N, d)``.
        :raises ValueError: for a sparse table with too many entries, as the tensor is dense.
        :returns: a float64 tensor of shape ``(N, k)`` for k columns that vary, coded as
            ``columns_`` say.  Gaps are filled with draws from the model that follow
            ``random_state``, and values of continuous columns that repeat are spread evenly
            half-way to their neighbours, by which TC(x) does not change.
        """
        x = self._read(X)
        check_size(x, x.size, "coded", _FEWER)
        with alone():
            return completed(self._layer, self._coding.encode(x), self._seed)

    def score(self, X: Any, y: Any = None) -> float:
        """The bound on the TC that the first layer explains, in nats, on these rows, ``(N, d)``.

        The entropies are the cross-entropies under the marginals that were fitted, so that it is
        defined for a single row.  Missing entries are left out.
        """
        return float(self._by_rows(X, lambda rows: row_terms(self._layer, rows).bound).mean())

    def score_samples(self, X: Any) -> Array:
        """A lower bound on ln p of each row's coded entries, in nats: ``(N, d)`` to ``(N,)``."""

        def bound(rows: Tensor) -> Array:
            terms = row_terms(self._layer, rows)
            return terms.reconstruction.sum(1) - terms.kl

        return self._by_rows(X, bound)

    def surprise(self, X: Any) -> Array:
        """How surprising each row is, in nats: an upper bound on -ln p, ``(N, d)`` to ``(N,)``.

        Of continuous columns it is the density of the standardised values that counts.
        """
        return -self.score_samples(X)

    def inverse_transform(self, Z: Any) -> Any:
        """Rows for latents ``(N, m)``: means, and the most probable levels and states.

        :raises ValueError: for another number of latents.
        """
        check_is_fitted(self)
        z = np.asarray(Z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != self.n_hidden_:
            raise ValueError(
                f"Z must have the shape (N, {self.n_hidden_}), as transform gives it, but got "
                f"{z.shape}"
            )
        point = [(torch.ones(1, 1, dtype=torch.float64), self._layer.latents(z))]
        with alone():
            filled = self._coding.fill(predict(self._layer, point), "best", None)
        return self._to_user(filled)

    def impute(self, X: Any, how: str = "best", random_state: Any = 0) -> Any:
        """The table with its missing entries filled from the model, given the observed ones.

        :param X: shape ``(N, d)``.
        :param how: "mean" takes expected values wherever levels are numbers; "best" takes the
            median of ordinal levels and the most probable binary values, so that filled entries
            are levels; both take the most probable state of categorical columns and the mean of
            counts and continuous ones.  "draw" draws from the model.
        :returns: shape ``(N, d)``: a data frame where one was fitted and given, else an array.
        :raises ValueError: for another ``how``, and for too large a sparse table.
        """
        if how not in ("best", "mean", "draw"):
            raise ValueError(f"how must be 'best', 'mean' or 'draw', but got {how!r}")
        x = self._read(X)
        check_size(x, x.size, "impute", _FEWER)
        rng = check_random_state(random_state)
        out = np.array(dense(x), dtype=np.float64)
        for rows in self._coding.parts(x):
            missing = np.isnan(out[rows])
            if missing.any():
                with alone():
                    points = self._layer.points(self._coding.encode(x[rows]))
                    filled = self._coding.fill(predict(self._layer, points), how, rng)
                out[rows] = np.where(missing, filled, out[rows])
        return self._to_user(out, X)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Rows from the model, ``(n_samples, d)``: latents from the prior of the top, then columns.

        :raises ValueError: for fewer than one.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ValueError(f"n_samples must be an integer >= 1, but got {n_samples!r}")
        rng = check_random_state(random_state)
        latents = None
        if self.upper_ is not None:
            latents = self.upper_.sample(int(n_samples), rng)
        with alone():
            code = sample(self._layer, int(n_samples), int(rng.randint(2**31 - 1)), latents)
        return self._to_user(self._coding.decode(code.numpy()))

    def get_covariance(self) -> Array:
        """The covariance of the columns, ``(d, d)``, for linear Gaussian programs.

        :raises ValueError: where columns are not all continuous, or ``hidden`` is not empty.
        """
        check_is_fitted(self)
        layer, used = self._layer, self._coding.used
        kinds = {c.kind for c in used}
        linear = isinstance(layer, GaussianLayer) and not layer.program.hidden
        if not isinstance(layer, GaussianLayer) or not linear or kinds != {"continuous"}:
            raise ValueError(
                "get_covariance is for linear programs with Gaussian latents and continuous "
                f"columns, but this one has latent={self.latent!r}, hidden={self.hidden!r} and the "
                f"kinds {sorted(kinds)}. sample(n) gives rows to compute it from."
            )
        scale = np.array([c.scale for c in used])
        own = layer.covariance() * np.outer(scale, scale)
        return self._coding.widen(self._coding.widen(own).T)

    def summary(self, n_columns: int = 5) -> str:
        """A text to paste into a letter: how much is explained, and what each latent is about.

        :param n_columns: how many columns of a latent to name, at least one.
        :raises ValueError: for fewer.
        """
        check_count("n_columns", n_columns)
        check_is_fitted(self)
        return summarise(self, n_columns)

    def save(self, path: str | Path) -> None:
        """Saves the fitted estimator as data: nothing in the file can run code.

        All but ``bound_`` is in it; that is ``tc_bound(program_, coded(X))``.

        :param path: the file; its folder has to exist.
        :raises OSError: where it cannot be written; a file that was there is then as it was.
        :raises TypeError: for parameters, and states of columns, that are no numbers or text.
        """
        check_is_fitted(self)
        _ = self.tc_z_  # from rows, which are in no file
        save_estimator(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """The estimator that :meth:`save` wrote.

        :raises FileNotFoundError: if there is no file.
        :raises CheckpointError: (a ``ValueError``) for a file that is foreign, cut short or
            changed.
        """
        return load_estimator(cls, path)

    def _fit_upper(self, layers: tuple[int, ...], draws: Array, often: Array | None) -> None:
        self.layer_tcs_ = [self.tc_]
        self.layer_tcs_stderr_ = [self.tc_stderr_]
        self.upper_ = None
        if len(layers) == 1 or not (draws.std(0) > 1e-9).any():
            return
        rest: Any = layers[1:] if len(layers) > 2 else layers[1]
        changes = {"n_hidden": rest, "kinds": "continuous"}
        changes |= dict.fromkeys(("anchors", "missing", "levels"))
        parameters = self.get_params(deep=False) | changes | {"random_state": self._seed}
        upper: Any = type(self)(**parameters)
        self.upper_ = upper.fit(draws, sample_weight=often)
        above = self._above or list(
            zip(self.upper_.layer_tcs_, self.upper_.layer_tcs_stderr_, strict=True)
        )
        self.layer_tcs_ += [tc for tc, _ in above]
        self.layer_tcs_stderr_ += [stderr for _, stderr in above]
        self.corrections_["layers above"] = sum(self.layer_tcs_[1:])
        self.tc_ = sum(self.layer_tcs_)
        self.tc_stderr_ = float(np.sqrt(np.square(self.layer_tcs_stderr_).sum()))

    @property
    def _n_features_out(self) -> int:  # what scikit-learn names
        return self.n_hidden_

    def _read(self, X: Any) -> Table:
        check_is_fitted(self)
        x = self._words.read(self, X, reset=False)
        return map_columns(x, lambda i, values, often: self.columns_[i].known(values, often))

    def _by_rows(self, X: Any, function: Callable[[Tensor], Array]) -> Array:
        """A function of coded rows, of all rows of a table."""
        x = self._read(X)
        with alone():
            return np.concatenate([function(code) for code in self._coding.batches(x)])

    def _to_user(self, x: Array, like: Any = None) -> Any:
        """A table of numbers as the user has it, with what ``like`` has besides."""
        labels = self._words.labels
        framed = hasattr(like, "iloc") or hasattr(like, "with_columns")
        if not (labels or framed):
            return x
        import pandas  # only where words were fitted, or a frame was given

        frame = pandas.DataFrame(x, columns=column_names(self))
        for i, words in labels.items():
            if self.columns_[i].kind != "left out":
                level = np.clip(np.round(x[:, i]), 0, len(words) - 1).astype(int)
                frame.isetitem(i, [words[k] for k in level])
        if hasattr(like, "with_columns"):  # polars
            held = {c.name: frame[c.name].to_list() for c in self.columns_ if c.kind != "left out"}
            return like.with_columns(type(like)(held).get_columns())
        if not framed:
            return frame
        out = like.copy()
        for i, column in enumerate(self.columns_):
            if column.kind != "left out":
                own = like.iloc[:, i]
                filled = frame.iloc[:, i].set_axis(like.index)
                same = filled.dtype.kind == "f" and (filled == filled.round()).all()
                same = i in labels or (same and i not in self._words.numerals)
                out.isetitem(i, _as_before(filled, own.dtype) if same else filled)
        return out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags


def _as_before(filled: Any, dtype: Any) -> Any:
    """A column of the type that it had, where that can hold what it was filled with."""
    if hasattr(dtype, "categories") and not filled.isin(dtype.categories).all():
        return filled
    try:
        return filled.astype(dtype)
    except (TypeError, ValueError):  # words in a column of NaN
        return filled
