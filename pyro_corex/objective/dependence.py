r"""Dependence among latents: penalties on TC(z) (Gao et al. 2018, Sec. 7).

.. math::

    TC(x;z) - \beta\, TC(z) \ge \text{ELBO} - (\beta - 1)\, TC(z)

A penalty with the weight :math:`\beta - 1` should see how latents depend on one another, and not
how much each of them knows of x.  :class:`TotalCorrelation` and :class:`DensityRatio` need draws
only and do so.  The estimator of most implementations, :class:`MinibatchTotalCorrelation`, does
not.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Collection
from numbers import Real
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from pyro_corex.information import (
    batch_log_weight,
    minibatch_total_correlation,
    pairwise_total_correlation,
    sample_total_correlation,
)
from pyro_corex.objective import sites
from pyro_corex.objective.axes import is_deterministic
from pyro_corex.objective.probabilities import data_dim, exact_noise
from pyro_corex.objective.sites import PARTICLE_PLATE, Site
from pyro_corex.objective.step import Step, Weight, check_weight


class TotalCorrelation:
    r"""A penalty on TC(z) as far as correlations show it, from the batch's draws (Sec. 7).

    .. math::

        TC(z) \ge -\tfrac12 \ln\det \operatorname{corr}(z) \quad\text{for normal marginals, with
        equality for a normal joint}

    The value is :func:`pyro_corex.information.sample_total_correlation` of the draws.  It does not
    change with the scale of a latent.  For normal aggregates value and gradient are without bias,
    however small the batch is beside the data, so that there is pressure on dependence and none on
    I(z_j:x).  It does not see dependence without correlation, which :class:`DensityRatio` does.
    Where the batch has fewer than four data for each latent, correlations are shrunk, and the value
    is too low.

    :param weight: see :class:`Regularizer`.
    :param sites: the latents whose TC(z), taken together, is penalised.  By default they are the
        top layer: all those that the model draws from no other latent (Eq. 15).
    :raises ValueError: when it is evaluated, for latents that are not reparameterised, are masked,
        depend on an enumerated site, or are not over one data axis.
    :raises TypeError: for ``sites`` that are no collection of names.
    """

    name = "total_correlation"

    def __init__(self, weight: Weight, sites: Collection[str] | None = None) -> None:
        check_weight(self.name, weight)
        self.weight = weight
        self.sites = check_sites(sites)

    def __call__(self, step: Step) -> Tensor:
        """TC of the latents together in nats, a scalar: see :class:`Regularizer`."""
        found = [sample_total_correlation(z) for z in draws(step, self.sites, self.name).unbind()]
        return torch.stack(found).mean()

    def __repr__(self) -> str:
        return f"TotalCorrelation({self.weight!r}{_repr(self.sites)})"


class DensityRatio(nn.Module):
    r"""A penalty on TC(z) by a critic that tells draws from shuffled ones (Kim & Mnih 2018).

    The critic D learns to tell draws of p(z) from draws of :math:`\prod_j p(z_j)`, which are made
    by shuffling each latent over the batch.  Its log-odds then estimate the log density ratio.  The
    penalty is their mean over the draws, and its gradient reaches the programs through the draws:

    .. math::

        TC(z) = \langle \ln p(z) - \textstyle\sum_j \ln p(z_j) \rangle \approx
        \langle \operatorname{logit} D(z) \rangle

    Latents are standardised over the batch, so that their scale plays no part.  The penalty sees
    the dependence that the critic has learned to see.  The critic's parameters must be in the
    optimiser, as they are in ``SVI`` and ``fit``, and it lags behind an encoder that changes fast.

    :param weight: see :class:`Regularizer`.
    :param latent_dim: the number of latents, m.
    :param sites: as for :class:`TotalCorrelation`.
    :param critic: from ``(B, m)`` to ``(B,)`` or ``(B, 1)``, the log-odds of a true draw; by
        default a network with three hidden layers of 256.
    :raises ValueError: as :class:`TotalCorrelation`, and where the latents are not ``latent_dim``.
    :raises TypeError: as :class:`TotalCorrelation`, and for a critic that is no module.
    """

    name = "density_ratio"

    def __init__(
        self,
        weight: Weight,
        latent_dim: int,
        sites: Collection[str] | None = None,
        *,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_weight(self.name, weight)
        if not isinstance(latent_dim, int) or latent_dim < 1:
            raise ValueError(f"latent_dim must be an integer >= 1, but got {latent_dim!r}")
        if critic is not None and not isinstance(critic, nn.Module):
            raise TypeError(
                f"critic must be an nn.Module from (B, {latent_dim}) to (B,), but got {critic!r}"
            )
        self.weight, self.latent_dim = weight, latent_dim
        self.sites = check_sites(sites)
        self.critic = _critic(latent_dim) if critic is None else critic

    def forward(self, step: Step) -> Tensor:
        """The mean log-odds of the draws in nats, a scalar: see :class:`Regularizer`."""
        value: Tensor = self.critic(self._standardised(step)).mean()
        return value

    def own_loss(self, step: Step) -> Tensor:
        """The critic's cross-entropy in nats, a scalar."""
        z = self._standardised(step).detach()
        orders = (torch.randperm(len(z), device=z.device) for _ in range(z.shape[1]))
        shuffled = torch.stack([c[order] for c, order in zip(z.unbind(1), orders, strict=True)], 1)
        true, false = self.critic(z), self.critic(shuffled)
        loss: Tensor = nn.functional.softplus(-true).mean() + nn.functional.softplus(false).mean()
        return 0.5 * loss

    def _standardised(self, step: Step) -> Tensor:
        z = draws(step, self.sites, self.name).flatten(0, 1)
        if z.shape[1] != self.latent_dim:
            raise ValueError(
                f"latent_dim of DensityRatio must be the number of latents, {z.shape[1]}, but got "
                f"{self.latent_dim}"
            )
        if len(z) < 2:
            return torch.zeros_like(z)
        return (z - z.mean(0)) / z.std(0).clamp_min(torch.finfo(z.dtype).tiny)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"{self.weight!r}, {self.latent_dim}{_repr(self.sites)}"


class MinibatchTotalCorrelation:
    r"""The penalty that beta-TCVAE calls TC(z) (Chen et al. 2018), kept to compare with.

    The density of a draw is a weighted sum over the encoders of the minibatch.  As soon as I(x:z)
    of the latents together exceeds ln N, a draw is explained by its own datum alone, and the value
    is :math:`\sum_j I(z_j:x) - \ln N`, whatever TC(z) is: it then penalises what each latent knows
    of x, as a KL weight does.  A warning says so where I(x:z) comes within a nat of ln N.  See
    :func:`pyro_corex.information.pairwise_total_correlation` for the two methods.

    :param weight: see :class:`Regularizer`.
    :param sites: as for :class:`TotalCorrelation`.
    :param num_data: N, the size of the data set that a batch is from; by default ``step.num_data``.
    :param method: "stratified", with densities that are unbiased, or "weighted", the published
        one (Sec. 4.1), whose value is too large by up to (m - 1) ln N, and whose cap is ln B.
    :raises ValueError: for ``num_data`` below 1, an unknown ``method``, as
        :class:`TotalCorrelation`, and for latents that do not factorise.
    :raises TypeError: as :class:`TotalCorrelation`.
    """

    name = "minibatch_total_correlation"

    def __init__(
        self,
        weight: Weight,
        sites: Collection[str] | None = None,
        num_data: int | None = None,
        *,
        method: str = "stratified",
    ) -> None:
        if num_data is not None and (not isinstance(num_data, Real) or num_data < 1):
            raise ValueError(f"num_data must be an integer >= 1, but got {num_data!r}")
        if method not in ("stratified", "weighted"):
            raise ValueError(f"method must be 'stratified' or 'weighted', but got {method!r}")
        check_weight(self.name, weight)
        self.weight, self.num_data, self.method = weight, num_data, method
        self.sites = check_sites(sites)
        self._calls = 0

    def __call__(self, step: Step) -> Tensor:
        """The estimate in nats, a scalar: see :class:`Regularizer`."""
        guide = step.guide_sites
        names = _latents(step, self.sites, self.name)
        data = {name: data_dim(self.name, name, guide[name], step) for name in names}
        num_data = int(step.num_data) if self.num_data is None else self.num_data
        self._calls += 1
        look = self._calls & (self._calls - 1) == 0  # at calls 1, 2, 4, 8, ...: it stops a GPU
        look = look and _may_read(guide[names[0]]["value"])
        if len(names) == 1 and _is_normal_matrix(guide[names[0]], data[names[0]]):
            z, fn = guide[names[0]]["value"], guide[names[0]]["fn"]
            if len(z) < 2:  # a last batch of one datum says nothing about TC(z)
                return z.new_zeros(())
            if look:
                pairs = _pairs(names[0], guide[names[0]], data[names[0]])
                _warn(pairs[0].detach(), num_data, self.method)
            return minibatch_total_correlation(z, fn.loc, fn.scale, num_data, self.method)
        parts = [_pairs(name, guide[name], data[name]) for name in names]
        _check_same_data(names, [part.shape[:3] for part in parts])
        pairs = torch.cat(parts, -1)
        if pairs.shape[1] < 2:  # as above
            return pairs.new_zeros(())
        if look:
            _warn(pairs[0].detach(), num_data, self.method)
        found = [pairwise_total_correlation(each, num_data, self.method) for each in pairs.unbind()]
        return torch.stack(found).mean()

    def __repr__(self) -> str:
        num_data = "" if self.num_data is None else f", num_data={self.num_data}"
        method = "" if self.method == "stratified" else f", method={self.method!r}"
        return f"MinibatchTotalCorrelation({self.weight!r}{_repr(self.sites)}{num_data}{method})"


# ---------------------------------------------------------------------- which latents


def check_sites(sites: Collection[str] | None) -> tuple[str, ...] | None:
    """The names of sites that were given, where it is a collection."""
    if isinstance(sites, str):
        raise TypeError(
            f"sites must be a collection of names, e.g. [{sites!r}], but got the string {sites!r}"
        )
    return None if sites is None else tuple(sites)


def _repr(sites: tuple[str, ...] | None) -> str:
    return "" if sites is None else f", sites={list(sites)}"


def _latents(step: Step, told: tuple[str, ...] | None, option: str) -> list[str]:
    """The sites that were told, or the top layer."""
    guide = step.guide_sites
    blocked = [name for name, site in guide.items() if not exact_noise(site)]
    if blocked:
        raise ValueError(
            f"{option} needs reparameterised latents, but the guide draws {sorted(blocked)} "
            "without a reparameterisation, through which it has no gradient. Enumerate "
            "them, relax them, or leave the penalty out."
        )
    known = [
        name
        for name, site in guide.items()
        if not site["is_observed"]
        and not is_deterministic(site)
        and not sites.is_delta(site["fn"])
        and not step.data_axes.isdisjoint(step.axes(name))
    ]
    names = known if told is None else [name for name in known if name in told]
    if told is not None and (not told or set(told) - set(known)):
        raise ValueError(
            f"sites names {sorted(set(told) - set(known))}, but the latents that the guide draws "
            f"for each datum are {known}. Name one or more of these."
        )
    if not known:
        raise ValueError(
            f"{option} needs latents that the guide draws for each datum, but no guide site in "
            "the data plate has a density. Leave the penalty out, or name the data's plate with "
            "data_plates."
        )
    if told is None and len(known) > 1:
        top = step.top_layer()
        if top is None:
            raise ValueError(
                f"The guide has the latent sites {sorted(known)}, and which of them the model "
                f"draws from which could not be followed. Say which are meant, e.g. "
                f"sites=[{known[-1]!r}]."
            )
        names = [name for name in known if name in top]
    for name in names:
        if sites.needs_weight(guide[name]):
            raise ValueError(
                f"{option} of site {name!r} is asked for, but it is enumerated, and its values are "
                "not draws. Name continuous latents with sites, or leave the penalty out."
            )
    return names


def _check_same_data(names: list[str], shapes: list[torch.Size]) -> None:
    if len(set(shapes)) > 1:
        raise ValueError(f"The latents {sorted(names)} are not over the same data.")


def _particle_dim(site: Site) -> int | None:
    return next((f.dim for f in site["cond_indep_stack"] if f.name == PARTICLE_PLATE), None)


def draws(
    step: Step,
    told: tuple[str, ...] | None,
    option: str,
    of: Callable[[str, Site], Tensor] = lambda _, site: site["value"],
) -> Tensor:
    """What the guide drew at the latents, or other values ``of`` them: shape (particles, B, m)."""
    names, parts = _latents(step, told, option), []
    for name in names:
        site = step.guide_sites[name]
        value, events = of(name, site), len(site["fn"].event_shape)
        data, particle = data_dim(option, name, site, step) - events, _particle_dim(site)
        if particle is None:
            value = value.movedim(data, 0).unsqueeze(0)
        else:
            value = value.movedim((particle - events, data), (0, 1))
        parts.append(value.flatten(2) if value.dim() > 2 else value.unsqueeze(2))
    _check_same_data(names, [part.shape[:2] for part in parts])
    return torch.cat(parts, 2)


# ---------------------------------------------------------------------- pairs of a minibatch


def _is_normal_matrix(site: Site, data: int) -> bool:
    """Whether a site is normals of shape (data, latents), for which there is a quicker way."""
    fn, value = site["fn"], site["value"]
    return (
        type(fn) is Normal
        and data == -2
        and value.dim() == 2
        and fn.loc.shape == fn.scale.shape == value.shape
        and _particle_dim(site) is None
    )


def _pairs(name: str, site: Site, data: int) -> Tensor:
    """The log density p(z_bj | x_i) of draw b under datum i: shape (particles, B, B, m)."""
    fn: Any = site["fn"]
    events = len(fn.event_shape)
    data = data - events
    draws = site["value"].movedim(data, 0).unsqueeze(data)
    density, factorised = sites.log_prob(fn, draws)
    if factorised != events:
        raise ValueError(
            f"The minibatch estimate of site {name!r} needs a guide that factorises over its "
            f"latents, but its event shape is {tuple(fn.event_shape)} and {type(fn).__name__} does "
            "not. Use Normal(...).to_event(1), or TotalCorrelation, which needs draws only."
        )
    density = density.movedim(data, 1)
    particle = _particle_dim(site)
    if particle is not None:  # the outermost plate: moving the data's did not change its place
        density = density.movedim(particle + 1 - events, 0)
    else:
        density = density.unsqueeze(0)
    return density.flatten(3) if density.dim() > 3 else density.unsqueeze(3)


def _may_read(value: Tensor) -> bool:
    """Whether numbers may be read: not of a step that is being recorded, or is about to be."""
    return not value.is_cuda or not (
        torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode()
    )


def _warn(pairs: Tensor, num_data: int, method: str) -> None:
    """Where the batch's I(x:z) is near its cap; pairs (B, B, m) as of :func:`_pairs`."""
    joint = pairs.sum(2)
    name, size = ("N", num_data) if method == "stratified" else ("B", len(joint))
    density = (joint + batch_log_weight(joint, size)).logsumexp(1)  # with N = B all are 1/B
    if float((joint.diagonal() - density).mean()) > math.log(size) - 1:
        warnings.warn(
            "MinibatchTotalCorrelation does not see TC(z) here: I(x:z) of the batch is within one "
            f"nat of ln {name} = {math.log(size):.2f}, where the estimate follows the sum of the "
            "I(z_j:x), whatever TC(z) is, and the penalty is on what latents know of x. "
            "Use TotalCorrelation or DensityRatio; for compression, a KL weight (anchor).",
            UserWarning,
            stacklevel=2,
        )


def _critic(latent_dim: int) -> nn.Sequential:
    sizes = [latent_dim, 256, 256, 256]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
