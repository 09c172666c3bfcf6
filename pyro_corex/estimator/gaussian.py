"""Gaussian latents: from coded data to a trained :class:`~pyro_corex.programs.TableVAE`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.factors import (
    FLOOR,
    constrained_factors,
    factor_analysis,
    nearest_correlation,
    promax,
    varimax,
)
from pyro_corex.programs.tables import TableSpec, TableVAE
from pyro_corex.training import fit as train

Array = NDArray[Any]
Batches = Callable[[], Iterator[Tensor]]  # coded data, batch by batch

_LOGIT = 1.702  # a logistic of this scale is as good as a normal of scale 1


@dataclass
class Moments:
    """Correlations of normal scores; a nominal column has one score for each of its states."""

    corr: Array
    column: Array
    """The column of each score."""
    state: Array
    """Its state, -1 where the column has one score."""
    complete: bool
    n: int


@dataclass
class Fitted:
    """A trained program, and how its latents are reported."""

    program: TableVAE
    rotation: Array
    """Reported latents are the program's times this matrix, ``(m, m)``."""
    history: list[dict[str, float]] = field(default_factory=list)
    n_iter: int = 0
    converged: bool = True


def score_tables(columns: Sequence[Column]) -> list[Array | None]:
    """Normal scores of levels, counts and states: (levels, scores), None for continuous ones."""
    tables: list[Array | None] = []
    for column in columns:
        if column.kind == "continuous":
            tables.append(None)
            continue
        p = np.exp(column.marginal)
        if column.kind == "categorical":
            tables.append((np.eye(len(p)) - p) / np.sqrt(p * (1 - p)))
            continue
        edges = ndtri(np.clip(np.concatenate([[0], np.cumsum(p)]), 1e-12, 1 - 1e-12))
        score = -np.diff(norm.pdf(edges)) / p
        variance = (p * score**2).sum()  # attenuates a correlation: divide by it
        tables.append((score / max(variance, 0.05))[:, None])
    return tables


def moments(columns: Sequence[Column], batches: Batches) -> Moments:
    """Correlations from all pairs of observed entries, in one pass over the data."""
    tables = score_tables(columns)
    widths = [1 if t is None else t.shape[1] for t in tables]
    column = np.repeat(np.arange(len(columns)), widths)
    starts = np.concatenate([[0], np.cumsum(widths)])
    products: Any = 0.0
    counts: Any = 0.0
    sums: Any = 0.0
    n, complete = 0, True
    for batch in batches():
        x = batch.numpy()
        seen = ~np.isnan(x)
        whole = bool(seen.all())
        s = np.empty((len(x), len(column)))
        for i, table in enumerate(tables):
            if table is None:
                s[:, starts[i]] = x[:, i]
            else:
                at = np.clip(np.nan_to_num(x[:, i]), 0, len(table) - 1).astype(int)
                s[:, starts[i] : starts[i + 1]] = table[at]
        if not whole:
            s[~seen[:, column]] = 0.0
        complete = complete and whole
        n += len(x)
        products = products + s.T @ s
        sums = sums + s.sum(0)
        counts = counts + (len(x) if whole else seen[:, column].T.astype(float) @ seen[:, column])
    counts = np.maximum(counts * np.ones_like(products), 1.0)
    mean = sums / np.diag(counts)
    corr = products / counts - np.outer(mean, mean)
    has_table = np.array([tables[i] is not None and widths[i] == 1 for i in column])
    sd = np.where(has_table, 1.0, np.sqrt(np.maximum(np.diag(corr), 1e-12)))
    corr = corr / sd / sd[:, None]
    state = np.concatenate([np.arange(w) if w > 1 else [-1] for w in widths])
    return Moments(nearest_correlation(corr), column, state, complete, n)


@dataclass
class Options:
    """What the estimator's parameters amount to for a Gaussian fit."""

    n_hidden: int
    hidden: tuple[int, ...] = ()
    max_iter: int = 400
    batch_size: int = 256
    lr: float = 0.02
    tol: float = 1e-4
    seed: int = 0
    anchors: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """Latent -> column -> strength."""
    dtype: torch.dtype = torch.float64


def fit_gaussian(
    columns: Sequence[Column],
    batches: Batches,
    data: Any,
    transform: Callable[[Tensor], Tensor],
    options: Options,
) -> Fitted:
    """Starts from factor analysis and trains with the bound what that leaves open.

    :param data: what :func:`pyro_corex.fit` gets, whose batches ``transform`` codes.
    """
    m = options.n_hidden
    found = moments(columns, batches)
    floor = np.full(len(found.column), FLOOR)
    for u, i in enumerate(found.column):
        floor[u] = max(FLOOR, columns[i].resolution ** 2 / 12)
    loadings, psi, n_iter = factor_analysis(found.corr, m, floor)
    spec = TableSpec(tuple(c.program_kind for c in columns), tuple(c.n_levels for c in columns))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        program = TableVAE(spec, m, options.hidden).to(options.dtype)
    if options.anchors:
        loadings, psi = _anchored(found, loadings, psi, program, options)
    _initialise(program, columns, found, loadings, psi)
    linear_gaussian = set(spec.kinds) == {"continuous"} and not options.hidden
    history: list[dict[str, float]] = []
    converged = True
    if linear_gaussian and (not found.complete or options.anchors):
        history, converged = expectation_maximisation(program, batches, options)
    elif not linear_gaussian:
        history, converged = _polish(program, data, transform, options, found.n)
    rotation = np.eye(m)
    if not options.anchors:
        if linear_gaussian:
            _to_principal(program)
        rotation = reported_rotation(program)
    return Fitted(program, rotation, history, n_iter + len(history), converged)


def _anchored(
    found: Moments, loadings: Array, psi: Array, program: TableVAE, options: Options
) -> tuple[Array, Array]:
    """Turns the factors so that each anchored latent points at its columns, and lets these columns
    load on nothing else.
    """
    m = options.n_hidden
    allowed = np.ones((len(program.spec.kinds), m))
    weight = np.ones(len(program.spec.kinds))
    for latent, strengths in options.anchors.items():
        for i, strength in strengths.items():
            if allowed[i].all():
                allowed[i] = 0.0
            allowed[i, latent] = 1.0
            weight[i] = max(weight[i], strength)
    axes = np.zeros((m, 0))
    for strengths in options.anchors.values():
        units = np.flatnonzero(np.isin(found.column, list(strengths)))
        v = loadings[units]
        _, s, vt = np.linalg.svd(v, full_matrices=False)
        axis = vt[0] if s[0] > 1e-9 else np.eye(m)[0]
        axis = axis - axes @ (axes.T @ axis)
        size = float(np.linalg.norm(axis))
        if size < 1e-6:
            rest = np.linalg.svd(np.eye(m) - axes @ axes.T)[0][:, 0]
            axis, size = rest, 1.0
        axes = np.concatenate([axes, (axis / size)[:, None]], 1)
    basis = np.linalg.qr(np.concatenate([axes, np.eye(m)], 1))[0][:, :m]
    free = [j for j in range(m) if j not in options.anchors]
    order = [*options.anchors, *free]
    turned = loadings @ basis
    k = axes.shape[1]
    turned[:, k:] = turned[:, k:] @ varimax(turned[:, k:]) if k < m else turned[:, k:]
    placed = np.empty_like(turned)
    placed[:, order] = turned
    w, psi = constrained_factors(
        found.corr, placed, psi, allowed[found.column], weight[found.column]
    )
    program.allowed.copy_(torch.as_tensor(allowed))
    program.column_weight.copy_(torch.as_tensor(weight))
    return w, psi


@torch.no_grad()
def _initialise(
    program: TableVAE, columns: Sequence[Column], found: Moments, loadings: Array, psi: Array
) -> None:
    """Writes a factor model of normal scores into the program."""
    slot = {column: row for row, column in enumerate(program.scalar)}
    first = {int(c): u for u, c in reversed(list(enumerate(found.column)))}
    place = dict.fromkeys(("continuous", "ordinal", "counts", "nominal"), 0)

    def put(parameter: Tensor, index: Any, value: Any) -> None:
        parameter[index] = torch.as_tensor(np.asarray(value), dtype=parameter.dtype)

    for i, column in enumerate(columns):
        kind, u = column.program_kind, first[i]
        at = place[kind]
        place[kind] += 1
        w, noise = loadings[u], max(psi[u], FLOOR)
        if kind == "continuous":
            put(program.weight, slot[i], w)
            put(program.log_scale, at, 0.5 * math.log(noise))
        elif kind == "ordinal":
            _initialise_ordinal(program, column, slot[i], at, w, max(noise, 0.02), put)
        elif kind == "counts":
            p = np.exp(column.marginal)
            mean = (p * np.arange(len(p))).sum()
            variance = (p * np.arange(len(p)) ** 2).sum() - mean**2
            spread = math.log1p(max(variance - mean, 0.02 * mean) / mean**2)
            common = 1 - noise
            put(program.weight, slot[i], w * math.sqrt(spread))
            put(program.bias, slot[i], math.log(mean) - 0.5 * common * spread)
            size = 1 / max(math.expm1(noise * spread), 1e-3)
            put(program.log_size, at, math.log(size))
        else:
            k = column.n_levels
            p = np.exp(column.marginal)
            slope = loadings[u : u + k] / np.sqrt(p * (1 - p))[:, None]
            put(program.state_weight, (at, slice(k)), np.clip(slope - p @ slope, -4, 4))
            put(program.state_bias, (at, slice(k)), column.marginal)


def _initialise_ordinal(
    program: TableVAE, column: Column, row: int, at: int, w: Array, noise: float, put: Any
) -> None:
    p = np.exp(column.marginal)
    edges = ndtri(np.clip(np.concatenate([[0], np.cumsum(p)]), 1e-9, 1 - 1e-9))
    unit = _LOGIT / math.sqrt(noise)
    thresholds = edges[1:-1] * unit
    score = -np.diff(norm.pdf(edges)) / p
    within = 1 - np.diff(edges * norm.pdf(edges)) / p - score**2
    common = np.clip(1 - noise, 1e-3, 0.98)
    # the moments of the predictor given a level, as if one normal observation had given them
    variance = common - common**2 * np.clip(1 - within, 0, 1)
    precision = np.maximum(1 / variance - 1 / common, 1e-4)
    y = common * score / variance / precision
    k = len(p)
    put(program.weight, row, w * unit)
    put(program.first_threshold, at, thresholds[0])
    put(program.log_gap, (at, slice(k - 2)), np.log(np.maximum(np.diff(thresholds), 1e-3)))
    put(program.site_loc, (at, slice(k)), y * unit)
    put(program.site_log_precision, (at, slice(k)), np.log(precision) - 2 * math.log(unit))


@torch.no_grad()
def expectation_maximisation(
    program: TableVAE, batches: Batches, options: Options
) -> tuple[list[dict[str, float]], bool]:
    """EM for continuous columns with missing entries: closed-form steps up the same bound.

    The expectations are those of the full posterior, of which the encoder keeps the diagonal.
    """
    m = program.latent_dim
    eye = torch.eye(m, dtype=program.weight.dtype)
    history: list[dict[str, float]] = []
    allowed = program.allowed[program.scalar]
    gated = (~allowed.bool().all(1)).nonzero().flatten().tolist()
    last = -math.inf
    for _ in range(min(options.max_iter, 200)):
        gram = program.weight.new_zeros(len(allowed), (m + 1) ** 2)
        cross = program.weight.new_zeros(len(allowed), m + 1)
        square = program.weight.new_zeros(len(allowed))
        count = program.weight.new_zeros(len(allowed))
        log_likelihood, n = 0.0, 0
        w = program.loadings()
        for x in batches():
            seen = (~x.isnan()).to(x.dtype)
            value = (x.nan_to_num() - program.bias) * seen
            noise = (-2 * program.log_scale).exp()
            weight = program.column_weight * noise
            outer = (w[:, :, None] * w[:, None, :]).flatten(1)
            precision = eye + ((seen * weight) @ outer).unflatten(-1, (m, m))
            right = (value * weight) @ w
            chol = torch.linalg.cholesky(precision)
            cov = torch.cholesky_inverse(chol)
            mean = (cov @ right.unsqueeze(-1)).squeeze(-1)
            one = mean.new_ones(len(mean), 1)
            z = torch.cat([mean, one], 1)
            zz = z[:, :, None] * z[:, None, :]
            zz[:, :m, :m] += cov
            gram += seen.T @ zz.flatten(1)
            raw = x.nan_to_num() * seen
            cross += raw.T @ z
            square += (raw**2).sum(0)
            count += seen.sum(0)
            quadratic = (value**2 * weight).sum() - (mean * right).sum()
            log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum() - (seen * weight.log()).sum()
            log_likelihood += float(-0.5 * (quadratic + log_det))
            n += len(x)
        gram = gram.unflatten(-1, (m + 1, m + 1)) + 1e-9 * torch.eye(m + 1, dtype=gram.dtype)
        solved = torch.linalg.solve(gram, cross.unsqueeze(-1)).squeeze(-1)
        for i in gated:
            free = [*allowed[i].nonzero().flatten().tolist(), m]
            solved[i] = 0.0
            solved[i, free] = torch.linalg.solve(gram[i][free][:, free], cross[i, free])
        rest = (
            square
            - 2 * (solved * cross).sum(1)
            + torch.einsum("da,dab,db->d", solved, gram, solved)
        )
        program.weight.copy_(solved[:, :m])
        program.bias.copy_(solved[:, m])
        program.log_scale.copy_(0.5 * (rest / count.clamp(min=1)).clamp(min=FLOOR).log())
        history.append({"elbo": log_likelihood / n})
        if log_likelihood / n - last < options.tol * 0.1:
            return history, True
        last = log_likelihood / n
    return history, False


@torch.no_grad()
def _to_principal(program: TableVAE) -> None:
    """Turns the latents of a linear-Gaussian program so that its encoder is exact."""
    scaled = program.weight * (-program.log_scale).exp()[:, None]
    _, _, vt = torch.linalg.svd(scaled, full_matrices=True)
    program.weight.copy_(program.weight @ vt.T)


def _polish(
    program: TableVAE,
    data: Any,
    transform: Callable[[Tensor], Tensor],
    options: Options,
    n: int,
) -> tuple[list[dict[str, float]], bool]:
    """Trains with :class:`~pyro_corex.CorExELBO`, at two learning rates."""
    batch = min(options.batch_size if n < 100_000 else 4 * options.batch_size, n)
    per_epoch = math.ceil(n / batch)
    epochs = max(1, round(options.max_iter / per_epoch))
    history: list[dict[str, float]] = []
    stages = (
        [(epochs, options.lr)]
        if epochs == 1
        else [
            (epochs - epochs // 3, options.lr),
            (epochs // 3, options.lr / 5),
        ]
    )
    for i, (number, lr) in enumerate(stages):
        if number:
            history += train(
                program,
                data,
                epochs=number,
                batch_size=batch,
                lr=lr,
                seed=options.seed + i,
                device="cpu",
                transform=transform,
                progress=False,
            ).epochs
    elbos = np.array([epoch["elbo"] for epoch in history])
    half = len(elbos) // 3
    converged = True
    if half >= 2:
        tail = elbos[-half:]
        slope = np.polyfit(np.arange(half), tail, 1)[0] * half
        noise = np.std(tail - np.poly1d(np.polyfit(np.arange(half), tail, 1))(np.arange(half)))
        converged = bool(slope < max(options.tol * 100 * abs(tail.mean()), 3 * noise))
    return history, converged


@torch.no_grad()
def correlation_loadings(program: TableVAE) -> tuple[Array, Array]:
    """Correlations of each score with the program's latents: (rows, m), and the row's column."""
    w = program.loadings()
    kinds = [program.spec.kinds[i] for i in program.scalar]
    noise = w.new_full((len(w),), math.pi**2 / 3)
    n = kinds.count("continuous")
    noise[:n] = (2 * program.log_scale).exp()
    counts = [row for row, kind in enumerate(kinds) if kind == "counts"]
    if counts:
        noise[counts] = (-program.bias[counts]).exp() + (-program.log_size).exp()
    rows = w / (w.square().sum(1) + noise).sqrt()[:, None]
    index = list(program.scalar)
    v = program.state_loadings()
    for at, column in enumerate(program.spec.columns("nominal")):
        k = program.spec.n_levels[column]
        p = (program.state_bias[at, :k]).softmax(-1)
        u = (v[at, :k] - p @ v[at, :k]) * (p * (1 - p)).sqrt()[:, None]
        rows = torch.cat([rows, u / (1 + u.square().sum(1)).sqrt()[:, None]])
        index += [column] * k
    return rows.numpy(), np.array(index)


def reported_rotation(program: TableVAE) -> Array:
    """Varimax, with most loadings positive."""
    rows, _ = correlation_loadings(program)
    rotation = varimax(rows)
    sign = np.sign((rows @ rotation).sum(0))
    return rotation * np.where(sign == 0, 1.0, sign)


@torch.no_grad()
def make_oblique(fitted: Fitted) -> None:
    """Lets the reported latents be correlated (promax), for a layer above to explain.

    The model of the columns is the same; each latent is N(0, 1) on its own, as the bound's prior.
    """
    program = fitted.program
    r = torch.as_tensor(fitted.rotation, dtype=program.weight.dtype)
    rows, _ = correlation_loadings(program)
    pattern, corr = promax(rows @ fitted.rotation)
    solved = np.linalg.lstsq(rows @ fitted.rotation, pattern, rcond=None)[0]
    turn = r @ torch.as_tensor(solved, dtype=r.dtype)
    program.weight.copy_(program.weight @ turn)
    program.state_weight.copy_(program.state_weight @ turn)
    program.prior_precision.copy_(torch.linalg.inv(torch.as_tensor(corr, dtype=r.dtype)))
    fitted.rotation = np.eye(program.latent_dim)
