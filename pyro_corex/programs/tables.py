r"""Tables with columns of several kinds: one observed site for each kind, and gaussian latents.

A table is a tensor of shape ``(B, d)``, NaN where a value is missing:

========== ======================================== ==========================================
kind       entries                                  likelihood
========== ======================================== ==========================================
continuous real numbers, about standardised         normal, with a learned scale
ordinal    levels coded 0, 1, ... (binary: 0 and 1) cumulative logit, with learned thresholds
nominal    states coded 0, 1, ...                   softmax
counts     0, 1, 2, ...                             negative binomial, with a learned dispersion
========== ======================================== ==========================================

Every column but the nominal ones sees the latents through one number, its predictor
:math:`\eta_i = b_i + w_i^T z`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import argument, check_count
from pyro_corex.programs.base import CorExProgram
from pyro_corex.programs.checks import warn_of_units
from pyro_corex.programs.networks import mlp
from pyro_corex.programs.ordered_logit import FAR, OrderedLogit
from pyro_corex.programs.plates import data_plate, latent_plate
from pyro_corex.programs.points import normal_points, simplex

KINDS = ("continuous", "ordinal", "nominal", "counts")
_SCALAR = ("continuous", "ordinal", "counts")  # kinds with one predictor
_N_POINTS = 32  # at which what is no quadratic form is averaged


@dataclass(frozen=True)
class TableSpec:
    """The kind of each column, and its number of levels or states (0 for the others)."""

    kinds: tuple[str, ...]
    n_levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.kinds) != len(self.n_levels):
            raise ValueError(
                f"n_levels must be a number for each of the {len(self.kinds)} kinds, 0 where there "
                f"are no levels, but got {len(self.n_levels)}"
            )
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise ValueError(f"kinds must be some of {KINDS}, but got {unknown or 'none'}")
        for i, (kind, n) in enumerate(zip(self.kinds, self.n_levels, strict=True)):
            if kind in ("ordinal", "nominal") and n < 2:
                raise ValueError(f"Column {i} is {kind} and needs at least 2 levels, but has {n}")

    def columns(self, kind: str) -> list[int]:
        """The indices of the columns of a kind."""
        return [i for i, own in enumerate(self.kinds) if own == kind]

    def check(self, x: Tensor) -> None:
        """Raises unless ``x`` is a table of these columns, ``(B, d)``, whose entries can occur."""
        self.check_shape(x)
        for i, (kind, n) in enumerate(zip(self.kinds, self.n_levels, strict=True)):
            seen = x[:, i][~x[:, i].isnan()]
            valid = seen.isfinite()
            if kind != "continuous":
                valid &= (seen >= 0) & (seen == seen.floor()) & (seen < (n or math.inf))
            if not bool(valid.all()):
                wanted = "finite numbers" if kind == "continuous" else "0, 1, 2, ..."
                wanted = f"codes from 0 to {n - 1}" if n else wanted
                raise ValueError(
                    f"Column {i} is {kind} and must hold {wanted}, or NaN where a value is "
                    f"missing, but holds {float(seen[~valid][0]):g}"
                )

    def check_shape(self, x: Tensor) -> None:
        """Raises unless ``x`` is a batch of these columns, ``(B, d)``."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor of shape (B, d), but got {type(x).__name__}")
        if x.dim() != 2 or x.shape[1] != len(self.kinds) or not len(x):
            raise ValueError(
                f"x must be a non-empty batch of shape (B, {len(self.kinds)}), one column for "
                f"each of the kinds, but got {tuple(x.shape)}"
            )


def observe(site: str, fn: Distribution, value: Tensor | None, complete: bool) -> Tensor:
    """Observes columns ``(B, k)`` in a plate of their own, but for what is missing, or draws them.

    :returns: what was observed, with its gaps, or drawn.
    """
    found: Tensor
    with latent_plate(f"{site}_columns", fn.batch_shape[-1]):
        if complete or value is None:
            found = pyro.sample(site, fn, obs=value)
            return found
        filled = value.nan_to_num()
        with poutine.mask(mask=~value.isnan()):
            found = pyro.sample(site, fn, obs=filled)
        return value if found is filled else found


def as_table(parts: Sequence[tuple[list[int], Tensor]], dtype: torch.dtype) -> Tensor:
    """Columns and their values ``(..., B, k)``, put in order: ``(..., B, d)``."""
    if len(parts) == 1:
        return parts[0][1].to(dtype)
    order = torch.tensor([i for columns, _ in parts for i in columns]).argsort()
    return torch.cat([values.to(dtype) for _, values in parts], -1)[..., order]


class _NormalAtPoints(dist.Normal):
    """A normal that is drawn at given standard normal values."""

    def __init__(self, q: dist.Normal, points: Tensor) -> None:
        super().__init__(q.loc, q.scale, validate_args=False)
        self.points = points

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc + self.scale * self.points


class TableVAE(CorExProgram):
    r"""Gaussian latents, and a likelihood of its own for each column (Eq. 10).

    Missing entries are masked in the likelihood, and no input of the encoder.  The encoder is tied
    to the decoder: an observed entry says where its predictor may be, :math:`y_i(x_i)`, and how
    precisely, :math:`\lambda_i(x_i)`, so that the latents given a row have the precision matrix

    .. math::

        \Lambda = \Phi^{-1} + \sum_{i \text{ observed}} \lambda_i w_i w_i^T

    and the mean :math:`\Lambda^{-1} \sum \lambda_i (y_i - b_i) w_i`.  The factorised normal nearest
    to that in KL has the same mean and the variances :math:`1 / \Lambda_{jj}`: that is the encoder.
    For continuous columns, :math:`y_i` is the entry, :math:`\lambda_i` the inverse variance of its
    noise, and nothing is lost where :math:`\Lambda` is diagonal.  For levels both are learned.

    Sites: ``"z"`` in the plate ``"latents"``, and one of the names of the kinds for each kind that
    occurs, in a plate of its columns.  In evaluation mode also ``"point"``: which of so many
    equally likely values z takes, to be summed over exactly, so that the terms of the bound have no
    noise, and a row's do not depend on the other rows.  The likelihood of continuous columns is
    exact for a linear program, where z is summed over like that.

    :param spec: the kinds of the columns.
    :param latent_dim: the number of latents, m.
    :param hidden: sizes of hidden layers of two networks that add to the linear decoder and
        encoder; none for a linear program.
    :param oblique: whether ``axes`` are trained: directions of z, each the latent of a row of
        ``allowed``, which need not be orthogonal.
    """

    allowed: Tensor
    axes: Tensor
    column_weight: Tensor
    prior_precision: Tensor

    def __init__(
        self, spec: TableSpec, latent_dim: int, hidden: Sequence[int] = (), oblique: bool = False
    ) -> None:
        super().__init__("normal")
        self.spec = spec
        self.latent_dim = check_count("latent_dim", latent_dim)
        self._by_kind = {kind: spec.columns(kind) for kind in KINDS}
        self._widths = [len(self._by_kind[kind]) for kind in _SCALAR]
        self.scalar = [i for kind in _SCALAR for i in self._by_kind[kind]]  # as ``weight`` has them
        whole = len(spec.kinds)  # of which no copy is made
        own = self._by_kind.items()
        self._index: Any = {k: slice(None) if len(c) == whole else c for k, c in own}
        m, n = latent_dim, len(self.scalar)
        states = [spec.n_levels[i] for i in self._by_kind["nominal"]]
        levels = [spec.n_levels[i] for i in self._by_kind["ordinal"]]
        k, c = max(levels, default=2), max(states, default=2)
        self.weight = nn.Parameter(torch.zeros(n, m))
        self.bias = nn.Parameter(torch.zeros(n))
        self.log_scale = nn.Parameter(torch.zeros(self._widths[0]))
        self.log_size = nn.Parameter(torch.full((self._widths[2],), 2.0))
        self.first_threshold = nn.Parameter(torch.zeros(len(levels)))
        self.log_gap = nn.Parameter(torch.zeros(len(levels), k - 2))
        self.site_loc = nn.Parameter(torch.zeros(len(levels), k))
        self.site_log_precision = nn.Parameter(torch.zeros(len(levels), k))
        self.count_log_precision = nn.Parameter(torch.zeros(self._widths[2]))
        self.state_weight = nn.Parameter(torch.zeros(len(states), c, m))
        self.state_bias = nn.Parameter(torch.zeros(len(states), c))
        in_use = torch.arange(k - 2) < torch.tensor(levels, dtype=torch.long)[:, None] - 2
        self.register_buffer("_gap_in_use", in_use)
        no_state = torch.arange(c) >= torch.tensor(states, dtype=torch.long)[:, None]
        self.register_buffer("_no_state", torch.where(no_state, -FAR, 0.0))
        self.oblique = oblique
        if oblique:
            self.axes = nn.Parameter(torch.eye(m))
        else:
            self.register_buffer("axes", torch.eye(m))
        self.register_buffer("allowed", torch.ones(len(spec.kinds), m))
        self.register_buffer("column_weight", torch.ones(len(spec.kinds)))
        self.register_buffer("prior_precision", torch.eye(m))
        self.hidden = tuple(hidden)
        self._all_continuous = self._widths[0] == len(spec.kinds)
        self.quadratic = not self.hidden and self._all_continuous  # as its log-likelihood is
        self._points = simplex(m) if self.quadratic else normal_points(m, _N_POINTS)
        self.decoder_net = self.encoder_net = None
        if self.hidden:
            self.decoder_net = mlp([m, *self.hidden, n])
            self.encoder_net = mlp([2 * len(spec.kinds), *self.hidden, 2 * m])
            for parameter in (
                *self.decoder_net[-1].parameters(),
                *self.encoder_net[-1].parameters(),
            ):
                nn.init.zeros_(parameter)

    def loadings(self) -> Tensor:
        """The weights of the columns with one predictor, along the axes that anchors allow."""
        in_order = len(self.spec.kinds) in self._widths
        allowed = self.allowed if in_order else self.allowed[self.scalar]
        return self.weight * allowed @ self.unit_axes()

    def state_loadings(self) -> Tensor:
        """The weights of the nominal columns, likewise: columns, states, latents."""
        allowed = self.allowed[self._by_kind["nominal"]][:, None]
        return self.state_weight * allowed @ self.unit_axes()

    def unit_axes(self) -> Tensor:
        """The axes ``(m, m)``, rows of length 1."""
        return nn.functional.normalize(self.axes, dim=1)

    def thresholds(self) -> Tensor:
        """The thresholds of the ordinal columns; those not in use are far up."""
        first = self.first_threshold[:, None]
        gaps = torch.where(self._gap_in_use, self.log_gap.exp(), 2 * FAR)
        return torch.cat([first, first + gaps.cumsum(-1)], -1)

    def predictor(self, z: Tensor) -> Tensor:
        """The columns' predictors, without the biases of the continuous ones and counts."""
        eta = z @ self.loadings().T
        return eta if self.decoder_net is None else eta + self.decoder_net(z)

    def column_distributions(self, z: Tensor) -> Iterator[tuple[str, list[int], Distribution]]:
        """Kind, columns and q(x|z), of batch shape ``(..., number of columns)``, by kind."""
        eta = dict(zip(_SCALAR, self.predictor(z).split(self._widths, -1), strict=True))
        bias = dict(zip(_SCALAR, self.bias.split(self._widths), strict=True))
        fn: Distribution
        for kind, columns in self.site_columns.items():
            if kind == "continuous":
                loc = eta[kind] + bias[kind]
                fn = dist.Normal(loc, self.log_scale.exp(), validate_args=False)
            elif kind == "ordinal":
                fn = OrderedLogit(eta[kind], self.thresholds())
            elif kind == "counts":
                logits = (eta[kind] + bias[kind]).clamp(max=FAR / 2) - self.log_size
                fn = dist.NegativeBinomial(self.log_size.exp(), logits=logits, validate_args=False)
            else:
                logits = torch.einsum("...m,dkm->...dk", z, self.state_loadings())
                logits = logits + self.state_bias + self._no_state
                fn = dist.Categorical(logits=logits, validate_args=False)
            yield kind, columns, fn

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """Draws the latents from N(0, 1) and observes the table, of shape ``(B, d)``, or draws it.

        :param n: without ``x``, the number of rows to draw.
        :returns: the table.
        """
        n = self._start(x, n)
        complete = x is None or not bool(x.isnan().any())
        parts: list[tuple[list[int], Tensor]] = []
        with data_plate(n):
            self._point(n)
            with latent_plate("latents", self.latent_dim):
                zero = self.weight.new_zeros(self.latent_dim)
                z = pyro.sample("z", dist.Normal(zero, zero + 1.0, validate_args=False))
            for kind, columns, fn in self.column_distributions(z):
                weighted = self.training and bool((self.column_weight != 1).any())
                with poutine.scale(scale=self.column_weight[columns] if weighted else 1.0):
                    own = None if x is None else x[:, self._index[kind]]
                    parts.append((columns, observe(kind, fn, own, complete)))
        return as_table(parts, self.weight.dtype)

    # ------------------------------------------------------------------ the encoder

    def guide(self, x: Tensor) -> Tensor:
        """Draws the latents given the observed entries: shape ``(B, latent_dim)``."""
        self._check_batch(x)
        self._register()
        with data_plate(len(x)):
            point, q = self._point(len(x)), self.encode(x)
            if point is not None:
                q = _NormalAtPoints(q, self._points.to(self.weight)[point[..., 0]])
            with latent_plate("latents", self.latent_dim):
                return pyro.sample("z", q)

    def _point(self, n: int) -> Tensor | None:
        """Which of the points is taken; ``None`` where they are not summed over."""
        if self.training:
            return None
        logits = self.weight.new_zeros(n, 1, self.n_points)
        uniform = dist.Categorical(logits=logits, validate_args=False)
        point: Tensor = pyro.sample("point", uniform, infer={"enumerate": "parallel"})
        enumerated = point.dim() > 2 and point.shape[-2] == 1  # in a dimension left of the data's
        return point if enumerated else None

    def evidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the entries say: the precision matrices, ``(B, m, m)`` or ``(m, m)``, and the
        right-hand side ``(B, m)`` of the equation for the mean.
        """
        m, loadings = self.latent_dim, self.loadings()
        parts: list[tuple[Tensor, Tensor]] = []
        bias = dict(zip(_SCALAR, self.bias.split(self._widths), strict=True))
        observed = ~x.isnan()
        complete = bool(observed.all())
        if complete and self._all_continuous:  # the same precision in each row
            weighted = loadings * (-2 * self.log_scale).exp()[:, None]
            return self.prior_precision + weighted.T @ loadings, (x - self.bias) @ weighted
        filled = x if complete else x.nan_to_num()
        for kind, columns in self.site_columns.items():
            value = filled[:, self._index[kind]]
            if kind == "nominal":
                continue
            if kind == "continuous":
                precision = (-2 * self.log_scale).exp().expand_as(value)
                y = value - bias[kind]
            elif kind == "ordinal":
                at = torch.arange(len(columns), device=x.device), value.long()
                y, precision = self.site_loc[at], self.site_log_precision[at].exp()
            else:
                noise = 1 / (value + 0.5) + (-self.log_size).exp()
                precision = self.count_log_precision.exp() / noise
                y = (value + 0.5).log() - bias[kind]
            if not complete:
                precision = precision * observed[:, self._index[kind]]
            parts.append((y, precision))
        right = x.new_zeros(len(x), m)
        gram = self.prior_precision
        if parts:
            y, precision = (torch.cat(list(part), -1) for part in zip(*parts, strict=True))
            right = (precision * y) @ loadings
            outer = (loadings[:, :, None] * loadings[:, None, :]).flatten(1)
            gram = gram + (precision @ outer).unflatten(-1, (m, m))
        if self._by_kind["nominal"]:
            columns = self._by_kind["nominal"]
            v, p = self.state_loadings(), (self.state_bias + self._no_state).softmax(-1)
            centred = v - (p[..., None] * v).sum(1, keepdim=True)
            seen = observed[:, columns].to(x.dtype)
            index = filled[:, columns].long()
            picked = centred[torch.arange(len(columns), device=x.device), index]
            right = right + (seen[..., None] * picked).sum(1)
            curvature = torch.einsum("dk,dkm,dkl->dml", p, centred, centred).flatten(1)
            gram = gram + (seen @ curvature).unflatten(-1, (m, m))
        return gram, right

    def encode(self, x: Tensor) -> dist.Normal:
        """q(z|x): a normal of batch shape ``(B, latent_dim)``."""
        x = argument(x, self)
        gram, right = self.evidence(x)
        if gram.dim() == 2 or len(gram) == 1:
            gram = gram.reshape(self.latent_dim, self.latent_dim)
            loc = torch.linalg.solve(gram, right.T).T
        else:
            loc = torch.linalg.solve(gram, right.unsqueeze(-1)).squeeze(-1)
        scale = gram.diagonal(dim1=-2, dim2=-1).rsqrt().expand_as(loc)
        if self.encoder_net is not None:
            seen = (~x.isnan()).to(x.dtype)
            shift, log_ratio = self.encoder_net(torch.cat([x.nan_to_num(), seen], -1)).chunk(2, -1)
            loc, scale = loc + scale * shift, scale * log_ratio.clamp(-5.0, 3.0).exp()
        return dist.Normal(loc, scale, validate_args=False)

    @property
    def n_points(self) -> int:
        """How many values of z are summed over."""
        return len(self._points)

    @property
    def site_columns(self) -> dict[str, list[int]]:
        """Observed site -> its columns."""
        return {kind: columns for kind, columns in self._by_kind.items() if columns}

    def check_data(self, x: Tensor) -> None:
        """Raises unless ``x`` is a table of these columns; NaN is what is missing."""
        self.spec.check(x)

    def check_units(self, x: Tensor) -> None:
        """Warns of continuous columns that are far from standardised."""
        warn_of_units(x, self.site_columns.get("continuous", []))

    def _check_batch(self, x: Tensor) -> None:
        self.spec.check_shape(x)
        if x.dtype != self.weight.dtype:
            raise TypeError(
                f"x has the dtype {x.dtype}, but the program has {self.weight.dtype}: convert one "
                "of them with .to(...)"
            )
