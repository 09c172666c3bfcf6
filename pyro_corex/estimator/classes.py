"""What a latent class analyst reads of categorical latents: sizes of classes, and profiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.programs.latent_classes import LatentClasses

_ALIKE = 2  # digits of sizes by which classes count as equally large


@torch.no_grad()
def order_states(program: LatentClasses) -> None:
    """Numbers the states of each latent by their size, the largest first.

    Of those that are equally large, the one is first whose first column is higher.
    """
    sizes = program.prior().exp().numpy().round(_ALIKE)
    for j, s in enumerate(program.n_states):
        columns = (program.parents == j).nonzero().flatten()
        first = _heights(program, int(columns[0]))[:s] if len(columns) else np.zeros(s)
        order = torch.as_tensor(np.lexsort((-first, -sizes[j, :s])))
        program.class_logits[j, :s] = program.class_logits[j, order]
        for parameter in (program.table, program.loc, program.log_scale):
            parameter[columns, :s] = parameter[columns][:, order]


def _heights(program: LatentClasses, column: int) -> Array:
    """What a column is on average in each state, in its code."""
    n = program.spec.n_levels[column]
    if not n:
        return np.asarray(program.loc[column].numpy())
    p = program.table[column, :, :n].softmax(-1)
    return np.asarray((p @ torch.arange(n, dtype=p.dtype)).numpy())


@torch.no_grad()
def class_figures(
    program: LatentClasses, columns: Sequence[Column], latents: Array, x: Tensor, often: Array
) -> dict[str, object]:
    """Attributes of :class:`~pyro_corex.CorEx`, by name.

    :param latents: the program's, in the order in which they are reported.
    :param x: coded rows ``(N, d)``, which count so ``often``, ``(N,)``.
    """
    sizes, profiles = [], []
    prior, posterior = program.prior().exp().numpy(), program.encode(x).probs.numpy()
    for j in latents:
        s = program.n_states[j]
        sizes.append(prior[j, :s])
        own: dict[str, Array] = {}
        for kind, members in program.members(int(j)):
            fn = program.column_distribution(kind, members, torch.arange(s)[:, None])
            for at, i in enumerate(members):
                column = columns[i]
                if kind == "levels":
                    p: Array = fn.probs.numpy()  # type: ignore[attr-defined]
                    own[column.name] = p[:, at, : column.n_levels]
                else:
                    q = posterior[:, j, :s] * often[:, None]
                    own[column.name] = _moments(column.decode(x[:, i].numpy()), q)
        profiles.append({c.name: own[c.name] for c in columns if c.name in own})
    return {"class_sizes_": sizes, "class_profiles_": profiles}


def _moments(x: Array, q: Array) -> Array:
    """Means and standard deviations of data ``(N,)`` that are of classes by ``(N, S)``."""
    q, x = q[~np.isnan(x)], x[~np.isnan(x), None]
    total = np.maximum(q.sum(0), 1e-12)
    mean = (q * x).sum(0) / total
    return np.stack([mean, np.sqrt((q * (x - mean) ** 2).sum(0) / total)], 1)


def n_parameters(program: LatentClasses) -> int:
    """How many free parameters a latent class model has."""
    found = sum(s - 1 for s in program.n_states)
    parents = program.parents.tolist()
    for j, kind, n in zip(parents, program.spec.kinds, program.spec.n_levels, strict=True):
        s = program.n_states[j]
        found += s * (n - 1) if n else 2 * s if kind == "continuous" else s + 1
    return found
