"""What a fitted estimator does with tables: latents, bounds, filled entries, samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_corex.estimator import results
from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.reading import Words
from pyro_corex.estimator.summary import summarise

Array = NDArray[Any]

_CELLS = 1 << 21  # entries that are coded at once


class FittedTable(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The part of :class:`~pyro_corex.CorEx` that needs nothing but what ``fit`` has set."""

    columns_: list[Column]
    n_hidden_: int
    upper_: Any
    program_: Any
    _layer: Any
    _words: Words
    _active: Array

    def transform(self, X: Any) -> Array:
        """The latents of each row, ``(N, d)`` to ``(N, m)``: means, or most probable states."""
        x = self._read(X)
        return np.concatenate([self._encode(x[rows]) for rows in self._rows(len(x))])

    def posterior(self, X: Any) -> Array:
        """Of categorical latents the states' probabilities, ``(N, d)`` to ``(N, m, n_states)``.

        :raises ValueError: for Gaussian latents.
        """
        x = self._read(X)
        if not self._layer.discrete:
            raise ValueError(
                "posterior gives the probabilities of states, which Gaussian latents have not. "
                "Use transform for their means, or latent='categorical'."
            )
        parts = [self._layer.posterior(self._tensor(x[rows])) for rows in self._rows(len(x))]
        return np.concatenate(parts)

    def score(self, X: Any, y: Any = None) -> float:
        """The bound on the TC that the first layer explains, in nats, on these rows, ``(N, d)``.

        The entropies are the cross-entropies under the marginals that were fitted, so that it is
        defined for a single row.  Missing entries are left out.
        """
        return float(self._row_bounds(self._read(X)).mean())

    def score_samples(self, X: Any) -> Array:
        """A lower bound on ln p of each row's coded entries, in nats: ``(N, d)`` to ``(N,)``."""
        x = self._read(X)
        parts = []
        for rows in self._rows(len(x)):
            terms = self._layer.terms(self._tensor(x[rows]))
            parts.append(terms.log_prob.sum(1) - terms.kl)
        return np.concatenate(parts)

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
        return self._to_user(self._complete(self._layer.predict(None, z), "best", None, len(z)))

    def impute(self, X: Any, how: str = "best", random_state: Any = 0) -> Any:
        """The table with its missing entries filled from the model, given the observed ones.

        :param X: shape ``(N, d)``.
        :param how: "mean" takes expected values wherever levels are numbers; "best" takes the
            median of ordinal levels and the most probable binary values, so that filled entries
            are levels; both take the most probable state of categorical columns and the mean of
            counts and continuous ones.  "draw" draws from the model.
        :returns: shape ``(N, d)``: a data frame where one was fitted and given, else an array.
        :raises ValueError: for another ``how``.
        """
        if how not in ("best", "mean", "draw"):
            raise ValueError(f"how must be 'best', 'mean' or 'draw', but got {how!r}")
        x = self._read(X)
        rng = check_random_state(random_state)
        out = np.array(x, dtype=np.float64)
        for rows in self._rows(len(x)):
            missing = np.isnan(out[rows])
            if missing.any():
                predicted = self._layer.predict(self._tensor(x[rows]))
                filled = self._complete(predicted, how, rng, len(missing))
                out[rows] = np.where(missing, filled, out[rows])
        return self._to_user(out)

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
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        code = self._layer.sample(int(n_samples), generator, latents).numpy()
        out = np.empty((int(n_samples), len(self.columns_)))
        used = iter(range(code.shape[1]))
        for i, column in enumerate(self.columns_):
            source = code[:, next(used)] if self._active[i] else np.zeros(len(code))
            out[:, i] = column.decode(source)
        return self._to_user(out)

    def get_covariance(self) -> Array:
        """The covariance of the columns, ``(d, d)``, for linear Gaussian programs.

        :raises ValueError: where columns are not all continuous, or ``hidden`` is not empty.
        """
        check_is_fitted(self)
        kinds = {c.kind for c in self._used}
        if self._layer.discrete or kinds != {"continuous"} or self.program_.hidden:
            raise ValueError(
                "get_covariance is for linear programs with Gaussian latents and continuous "
                f"columns, but this one has latent={self.latent!r}, hidden={self.hidden!r} and the "
                f"kinds {sorted(kinds)}. sample(n) gives rows to compute it from."
            )
        d = len(self.columns_)
        scale = np.array([c.scale for c in self._used])
        out = np.zeros((d, d))
        out[np.ix_(self._active, self._active)] = self._layer.covariance() * np.outer(scale, scale)
        return out

    def summary(self, n_columns: int = 5) -> str:
        """A text to paste into a letter: how much is explained, and what each latent is about."""
        check_is_fitted(self)
        return summarise(self, n_columns)

    # ------------------------------------------------------------------ inside

    @property
    def _n_features_out(self) -> int:
        return self.n_hidden_

    @property
    def _names(self) -> list[Any]:
        names = getattr(self, "feature_names_in_", None)
        return [f"x{i}" for i in range(self.n_features_in_)] if names is None else list(names)

    @property
    def _used(self) -> list[Column]:
        return [c for c in self.columns_ if c.kind != "constant"]

    def _read(self, X: Any) -> Array:
        check_is_fitted(self)
        return self._words.read(self, X, reset=False)

    def _rows(self, n: int) -> Iterator[slice]:
        step = max(1, _CELLS // len(self.columns_))
        return (slice(start, min(start + step, n)) for start in range(0, n, step))

    def _code(self, x: Array) -> Array:
        """The codes of the columns that vary."""
        used = np.flatnonzero(self._active)
        code = np.empty((len(x), len(used)))
        for at, i in enumerate(used):
            code[:, at] = self.columns_[i].encode(x[:, i].astype(np.float64))
        return code

    def _tensor(self, x: Array) -> Tensor:
        return torch.as_tensor(self._code(x), dtype=torch.float64)

    def _encode(self, x: Array) -> Array:
        return self._layer.encode(self._tensor(x))

    def _row_bounds(self, x: Array) -> Array:
        parts = [
            results.row_bounds(self._layer, self._used, self._tensor(x[rows]))
            for rows in self._rows(len(x))
        ]
        return np.concatenate(parts)

    def _complete(self, predicted: list[Array], how: str, rng: Any, n: int) -> Array:
        """Predictions for the columns that vary, with the constant ones among them."""
        rest = iter(predicted)
        every = [next(rest) if on else np.zeros((n, 1)) for on in self._active]
        return results.complete(self.columns_, every, how, rng)

    def _to_user(self, x: Array) -> Any:
        labels = self._words.labels
        if not labels:
            return x
        import pandas  # only where words were fitted, as a data frame or an array of objects

        frame = pandas.DataFrame(x, columns=self._names)
        for i, words in labels.items():
            codes = x[:, i]
            frame[self._names[i]] = [
                None if np.isnan(c) else words[int(np.clip(round(c), 0, len(words) - 1))]
                for c in codes
            ]
        return frame

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
