r"""TC(z) of the aggregate posterior from a minibatch, as a penalty on the objective (Sec. 7).

.. math::

    TC(x;z) - \beta\, TC(z) \ge \text{ELBO} - (\beta - 1)\, TC(z)

The estimator is :func:`pyro_corex.information.pairwise_total_correlation` with stratified weights;
here it is given the log density of every draw of the guide under the encoder of every datum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor

from pyro_corex.information import minibatch_total_correlation, pairwise_total_correlation
from pyro_corex.objective import sites
from pyro_corex.objective.sites import Site, is_sample

Axis = str | int


def candidates(guide: Mapping[str, Site]) -> list[str]:
    """The latent sites of a guide that have a density."""
    return [
        name
        for name, site in guide.items()
        if is_sample(site)
        and not site["is_observed"]
        and not sites.is_subsample(site)
        and not sites.is_deterministic(site)
        and not sites.is_delta(site["fn"])
    ]


def top_layer(names: Sequence[str], parents: Mapping[str, frozenset[str]] | None) -> list[str]:
    """Those of the latent sites from which no other is drawn: the TC(z) of Eq. 4 and 15.

    :param parents: site -> the sites that it is drawn from, ``None`` where that is not known.
    :raises ValueError: where it is not known and matters.
    """
    if len(names) < 2:
        return list(names)
    if parents is None:
        raise ValueError(
            f"The guide has the latent sites {sorted(names)}, and which of them are drawn from "
            "which could not be followed. Say whose TC(z) tc_weight is for, e.g. "
            f"tc_sites=[{names[-1]!r}]."
        )
    below = {parent for name in names for parent in parents.get(name, ())}
    return [name for name in names if name not in below]


def total_correlation(
    guide: Mapping[str, Site],
    names: Sequence[str],
    *,
    axes: Mapping[str, Mapping[Axis, int]],
    data_axes: set[Axis],
    particle_plate: str,
    max_plate_nesting: float,
    num_data: int,
) -> Tensor:
    """TC of the latents ``names`` together, in nats; summed over vectorised particles.

    :param guide: the sites of the guide's trace.
    :param axes: site -> its batch axes and their dimensions.
    :param num_data: the size of the data set that the batch stands for.
    :raises ValueError: where a site does not qualify: it is not reparameterised, does not
        factorise, is masked, depends on an enumerated site, or is not over one data axis.
    """
    blocked = [name for name, site in guide.items() if is_sample(site) and _is_noisy(site)]
    if blocked:
        raise ValueError(
            f"tc_weight needs reparameterised latents, but the guide draws {sorted(blocked)} "
            "without a reparameterisation, through which TC(z) has no gradient. Enumerate them, "
            "relax them, or set tc_weight=0."
        )
    data = {
        name: _data_dim(name, guide[name], axes[name], data_axes, max_plate_nesting)
        for name in names
    }
    if len(names) == 1 and _is_normal_matrix(guide[names[0]], data[names[0]], particle_plate):
        site = guide[names[0]]
        fn, z = site["fn"], site["value"]
        if len(z) < 2:  # a last batch of one datum says nothing about TC(z)
            return z.new_zeros(())
        return minibatch_total_correlation(z, fn.loc, fn.scale, num_data)
    parts = [_pairs(name, guide[name], data[name], particle_plate) for name in names]
    if not parts:
        raise ValueError(
            "tc_weight needs latents that the guide draws for each datum, but no guide site in the "
            "data plate has a density. Set tc_weight=0, or name the data's plate with data_plates."
        )
    if len({part.shape[:3] for part in parts}) > 1:
        raise ValueError(f"The latents {sorted(names)} are not over the same data.")
    pairs = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
    if pairs.shape[1] < 2:  # as above
        return pairs.new_zeros(())
    per_particle = [pairwise_total_correlation(p, num_data) for p in pairs.unbind()]
    return torch.stack(per_particle).sum() if len(per_particle) > 1 else per_particle[0]


def _is_noisy(site: Site) -> bool:
    """Whether a gradient through the site needs a score function."""
    exact = site["infer"].get("enumerate") == "parallel" and "num_samples" not in site["infer"]
    return sites.needs_weight(site) and not exact and not sites.is_subsample(site)


def _is_normal_matrix(site: Site, data: int, particle_plate: str) -> bool:
    """Whether a site is normals of shape (data, latents), for which there is a quicker way."""
    fn, value = site["fn"], site["value"]
    return (
        type(fn) is Normal
        and data == -2
        and value.dim() == 2
        and fn.loc.shape == fn.scale.shape == value.shape
        and all(frame.name != particle_plate for frame in site["cond_indep_stack"])
    )


def _data_dim(
    name: str,
    site: Site,
    axes: Mapping[Axis, int],
    data_axes: set[Axis],
    max_plate_nesting: float,
) -> int:
    """The batch dimension of the data, of a site that qualifies."""
    fn: Any = site["fn"]
    if sites.needs_weight(site):
        raise ValueError(
            f"TC(z) of site {name!r} is asked for, but it is enumerated, and its values are not "
            "draws. Name continuous latents with tc_sites, or set tc_weight=0. (A single discrete "
            "latent has TC(z) = 0.)"
        )
    if site["mask"] is not None and site["mask"] is not True:
        raise ValueError(f"TC(z) of site {name!r} is asked for, but the site is masked.")
    dims = [dim for axis, dim in axes.items() if axis in data_axes]
    if len(dims) != 1:
        raise ValueError(
            f"TC(z) of site {name!r} needs exactly one data axis in its batch shape "
            f"{tuple(fn.batch_shape)}, but there are {len(dims)}. Name the data's plate with "
            "data_plates, or other latents with tc_sites."
        )
    lead = fn.batch_shape[: max(0, len(fn.batch_shape) - int(min(max_plate_nesting, 99)))]
    if any(size > 1 for size in lead):
        raise ValueError(
            f"TC(z) of site {name!r} is asked for, but it is drawn given an enumerated site, so "
            "that there are several draws for each datum. Name other latents with tc_sites."
        )
    return dims[0]


def _pairs(name: str, site: Site, data: int, particle_plate: str) -> Tensor:
    """The log density p(z_bj | x_i) of draw b under datum i: shape (particles, B, B, m)."""
    fn: Any = site["fn"]
    events = len(fn.event_shape)
    data = data - events
    draws = site["value"].movedim(data, 0).unsqueeze(data)
    density, factorised = sites.log_prob(fn, draws)
    if factorised != events:
        raise ValueError(
            f"TC(z) of site {name!r} needs a guide that factorises over its latents, but its "
            f"event shape is {tuple(fn.event_shape)} and {type(fn).__name__} does not. Use "
            "Normal(...).to_event(1), or name other latents with tc_sites."
        )
    density = density.movedim(data, 1)
    particle = [f.dim for f in site["cond_indep_stack"] if f.name == particle_plate]
    if particle:  # the outermost plate, so that moving the data's did not change its place
        density = density.movedim(particle[0] + 1 - events, 0)
    else:
        density = density.unsqueeze(0)
    return density.flatten(3) if density.dim() > 3 else density.unsqueeze(3)
