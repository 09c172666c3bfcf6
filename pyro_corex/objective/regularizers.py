"""Regularizers: terms beside Eq. 10, which are taken off the bound or added to it.

The protocol is :class:`Regularizer`; what it is given is a :class:`Step`.  A regularizer of one's
own is any object with a name, a weight and a call::

    class Energy:
        name, weight = "energy", 0.1

        def __call__(self, step):
            return step.draw("z").square().mean(0)

    elbo = CorExELBO(regularizers=[Energy()])
    svi = SVI(model, guide, optim, elbo)
    elbo.last_terms.regularizers["energy"]  # one value a latent
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor

from pyro_corex.information import minibatch_total_correlation, pairwise_total_correlation
from pyro_corex.objective import sites
from pyro_corex.objective.probabilities import data_dim, entropy, exact_noise, probability_table
from pyro_corex.objective.sites import PARTICLE_PLATE, Site
from pyro_corex.objective.step import Regularizer, Step, Weight, check_weight

__all__ = ["Invariance", "MutualInformation", "Regularizer", "Step", "TotalCorrelation"]


class TotalCorrelation:
    r"""A penalty on TC(z) of the aggregate posterior, estimated from the minibatch (Sec. 7).

    .. math::

        TC(x;z) - \beta\, TC(z) \ge \text{ELBO} - (\beta - 1)\, TC(z)

    with the weight :math:`\beta - 1`.  The estimator is
    :func:`pyro_corex.information.pairwise_total_correlation` with stratified weights, given the log
    density of every draw of the guide under the encoder of every datum.

    :param weight: see :class:`Regularizer`.
    :param sites: the latents whose TC(z), taken together, is penalised.  By default they are the
        top layer: all those from which the guide draws no other latent (Eq. 15).
    :param num_data: the size of the data set that a batch is from; by default ``step.num_data``.
    :raises ValueError: for ``num_data`` below 1; when it is evaluated, for latents that are not
        reparameterised, do not factorise, are masked, depend on an enumerated site, or are not over
        one data axis.
    :raises TypeError: for ``sites`` that are no collection of names.
    """

    name = "total_correlation"

    def __init__(
        self, weight: Weight, sites: Collection[str] | None = None, num_data: int | None = None
    ) -> None:
        if isinstance(sites, str):
            raise TypeError(
                f"tc_sites must be a collection of names, e.g. [{sites!r}], but got the string "
                f"{sites!r}"
            )
        if num_data is not None and not num_data >= 1:
            raise ValueError(f"tc_num_data must be an integer >= 1, but got {num_data!r}")
        check_weight(self.name, weight)
        self.weight = weight
        self.sites = None if sites is None else tuple(sites)
        self.num_data = num_data

    def __call__(self, step: Step) -> Tensor:
        """TC of the latents together in nats, a scalar: see :class:`Regularizer`."""
        guide = step.guide_sites
        blocked = [name for name, site in guide.items() if not exact_noise(site)]
        if blocked:
            raise ValueError(
                f"tc_weight needs reparameterised latents, but the guide draws {sorted(blocked)} "
                "without a reparameterisation, through which TC(z) has no gradient. Enumerate "
                "them, relax them, or set tc_weight=0."
            )
        names = self._penalised(step)
        data = {name: self._data_dim(name, step) for name in names}
        num_data = int(step.num_data) if self.num_data is None else self.num_data
        if len(names) == 1 and _is_normal_matrix(guide[names[0]], data[names[0]]):
            z, fn = guide[names[0]]["value"], guide[names[0]]["fn"]
            if len(z) < 2:  # a last batch of one datum says nothing about TC(z)
                return z.new_zeros(())
            return minibatch_total_correlation(z, fn.loc, fn.scale, num_data)
        parts = [_pairs(name, guide[name], data[name]) for name in names]
        if not parts:
            raise ValueError(
                "tc_weight needs latents that the guide draws for each datum, but no guide site in "
                "the data plate has a density. Set tc_weight=0, or name the data's plate with "
                "data_plates."
            )
        if len({part.shape[:3] for part in parts}) > 1:
            raise ValueError(f"The latents {sorted(names)} are not over the same data.")
        pairs = torch.cat(parts, -1)
        if pairs.shape[1] < 2:  # as above
            return pairs.new_zeros(())
        found = [pairwise_total_correlation(particle, num_data) for particle in pairs.unbind()]
        return torch.stack(found).mean()

    def _penalised(self, step: Step) -> list[str]:
        """The sites that were told, or the top layer."""
        latents = [
            name
            for name, site in step.guide_sites.items()
            if not site["is_observed"]
            and not site["infer"].get("_deterministic")
            and not sites.is_delta(site["fn"])
            and not step.data_axes.isdisjoint(step.axes(name))
        ]
        if self.sites is not None:
            missing = sorted(set(self.sites) - set(latents))
            if missing or not self.sites:
                raise ValueError(
                    f"tc_sites names {missing}, but the latents that the guide draws for each "
                    f"datum are {latents}. Name one or more of these."
                )
            return [name for name in latents if name in self.sites]
        if len(latents) < 2:
            return latents
        parents = step.parents(latents)
        if parents is None:
            raise ValueError(
                f"The guide has the latent sites {sorted(latents)}, and which of them are drawn "
                "from which could not be followed. Say whose TC(z) tc_weight is for, e.g. "
                f"tc_sites=[{latents[-1]!r}]."
            )
        below = {parent for name in latents for parent in parents.get(name, ())}
        return [name for name in latents if name not in below]

    @staticmethod
    def _data_dim(name: str, step: Step) -> int:
        site = step.guide_sites[name]
        if sites.needs_weight(site):
            raise ValueError(
                f"TC(z) of site {name!r} is asked for, but it is enumerated, and its values are "
                "not draws. Name continuous latents with tc_sites, or set tc_weight=0. (A single "
                "discrete latent has TC(z) = 0.)"
            )
        return data_dim("TotalCorrelation", name, site, step)

    def __repr__(self) -> str:
        sites = "" if self.sites is None else f", sites={list(self.sites)}"
        num_data = "" if self.num_data is None else f", num_data={self.num_data}"
        return f"TotalCorrelation({self.weight!r}{sites}{num_data})"


def _is_normal_matrix(site: Site, data: int) -> bool:
    """Whether a site is normals of shape (data, latents), for which there is a quicker way."""
    fn, value = site["fn"], site["value"]
    return (
        type(fn) is Normal
        and data == -2
        and value.dim() == 2
        and fn.loc.shape == fn.scale.shape == value.shape
        and all(frame.name != PARTICLE_PLATE for frame in site["cond_indep_stack"])
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
            f"TC(z) of site {name!r} needs a guide that factorises over its latents, but its "
            f"event shape is {tuple(fn.event_shape)} and {type(fn).__name__} does not. Use "
            "Normal(...).to_event(1), or name other latents with tc_sites."
        )
    density = density.movedim(data, 1)
    particle = [f.dim for f in site["cond_indep_stack"] if f.name == PARTICLE_PLATE]
    if particle:  # the outermost plate, so that moving the data's did not change its place
        density = density.movedim(particle[0] + 1 - events, 0)
    else:
        density = density.unsqueeze(0)
    return density.flatten(3) if density.dim() > 3 else density.unsqueeze(3)


class _OfSites:
    """What is estimated for one or more discrete sites, each with a weight of its own."""

    name: str
    _option: str
    _sign = 1.0

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = _check_weights(self._option, weights)
        self._sizes = [1] * len(self.weights)
        self._like = torch.zeros(())

    @property
    def weight(self) -> float | Tensor:
        """The weight of the sites, a scalar; where these differ, of each latent: ``(m,)``."""
        signed = [self._sign * weight for weight in self.weights.values()]
        if len(set(signed)) == 1:
            return signed[0]
        sizes = torch.tensor(self._sizes)
        return torch.tensor(signed).repeat_interleave(sizes).to(self._like)

    def _values(self, step: Step, of: Callable[[str], Tensor]) -> Tensor:
        found = [of(name) / step.particles for name in self.weights]
        self._sizes, self._like = [value.numel() for value in found], found[0].detach()
        if len(found) == 1 and found[0].dim() < 2:
            return found[0]
        return torch.cat([value.flatten() for value in found])


class MutualInformation(_OfSites):
    r"""A reward for I(z:x): what discrete latents of the guide know of the datum (Eq. 20).

    For a site whose distribution is a table of probabilities q, a difference of entropies is exact
    for the batch, with no sample of the site in it:
    :math:`H(\langle q(z|x) \rangle_x) - \langle H(q(z|x)) \rangle_x`.  That is I(z:x) of the
    batch's own aggregate posterior, and at most the logarithm of the batch's size.  Where the guide
    draws the site given another latent, it is I(z : that latent), which is not less.

    As a reward its ``weight`` is minus the given one.

    :param weights: guide site -> how much the bound is raised for each nat, a finite number >= 0;
        0 reports only.  The values of several sites stand one after the other.
    :raises TypeError: where they are not a mapping from names to numbers.
    :raises ValueError: for a weight out of range; when it is evaluated, for a site that is not
        categorical, is masked, is not over one data axis, or depends on an enumerated site or on a
        draw without a reparameterisation.
    """

    name = "mutual_information"
    _option = "mi_weight"
    _sign = -1.0

    def __call__(self, step: Step) -> Tensor:
        """I(z_j : x) of the batch in nats, one value a latent: see :class:`Regularizer`."""

        def known(name: str) -> Tensor:
            table = probability_table(self._option, name, step.guide_sites, step)
            mean = table.probs.mean(table.data - 1, keepdim=True)
            within = entropy(table.probs).mean(table.data, keepdim=True)
            return table.by_latent(entropy(mean) - within)

        return self._values(step, known)

    def __repr__(self) -> str:
        return f"MutualInformation({self.weights})"


class Invariance(_OfSites):
    r"""A penalty on what discrete latents tell of how a datum was transformed: I(z:t|x).

    It asks them to give the same answer for transformed copies of a datum.  What is penalised is
    :math:`I(z_j : t \mid x)`, the information that the latent keeps about which copy :math:`t(x)`
    of a datum it was given, in nats: the generalised Jensen-Shannon divergence (Lin 1991) of
    :math:`p(z_j|t(x))` over the datum itself and its ``copies``.  Where the guide draws the site
    given another latent, a draw of that is a part of the copy.  By the chain rule
    :math:`I(z_j : x, t) - I(z_j : t|x) = I(z_j : x)`, so that with equal weights on this and on
    ``mi_weight`` the information about x *up to* the transformations is rewarded.

    Example::

        slight = RandomAffine(28, rotation=0.26, scale=0.15, shift=2.0)
        invariance = Invariance(lambda x: torch.bernoulli(slight(x)), {"z2": 100.0})
        elbo = CorExELBO(mi_weight={"z2": 100.0}, invariance=invariance)

    :param transform: from the programs' first argument to a transformed one of the same shape.  It
        is called at every evaluation; its randomness is torch's.
    :param weights: latent site -> weight, a finite number >= 0; 0 reports only.  The site has to
        qualify for :class:`MutualInformation`.
    :param copies: transformed copies of each datum; the guide runs once for each.
    :raises TypeError: where ``transform`` is no function, or ``weights`` no mapping to numbers.
    :raises ValueError: where a weight is negative or not finite, or ``copies`` less than 1.
    """

    name = "invariance"
    _option = "Invariance.weights"

    def __init__(
        self, transform: Callable[[Tensor], Tensor], weights: Mapping[str, float], copies: int = 1
    ) -> None:
        if not callable(transform):
            raise TypeError(
                "transform must be a function from a batch to a transformed one, but got "
                f"{transform!r}"
            )
        if not isinstance(copies, int) or copies < 1:
            raise ValueError(f"copies must be an integer >= 1, but got {copies!r}")
        super().__init__(weights)
        self.transform, self.copies = transform, copies

    def __call__(self, step: Step) -> Tensor:
        """I(z_j : t|x) in nats, one value a latent: see :class:`Regularizer`."""
        for site in step.guide_sites.values():
            for frame in site["cond_indep_stack"]:
                if frame.full_size is not None and frame.size not in (frame.full_size, -1):
                    raise ValueError(
                        "invariance compares the data of a batch with copies of them, but a plate "
                        "of the guide subsamples, anew in each run. Give batches as an argument "
                        "instead, or set invariance=None."
                    )
        guides = [step.guide_sites]
        guides += [step.rerun(self._copy(step.args), step.kwargs) for _ in range(self.copies)]

        def told(name: str) -> Tensor:
            tables = [probability_table(self._option, name, guide, step) for guide in guides]
            probs = torch.stack([table.probs for table in tables])
            value = entropy(probs.mean(0)) - entropy(probs).mean(0)
            return tables[0].by_latent(value.mean(tables[0].data, keepdim=True))

        return self._values(step, told)

    def _copy(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The programs' arguments with the first one transformed."""
        if not args or not isinstance(args[0], Tensor):
            got = type(args[0]).__name__ if args else "no positional argument"
            raise TypeError(
                f"Invariance transforms the programs' first argument, a batch, but got {got}"
            )
        copy = self.transform(args[0])
        if not isinstance(copy, Tensor) or copy.shape != args[0].shape:
            given = str(tuple(copy.shape)) if isinstance(copy, Tensor) else type(copy).__name__
            raise ValueError(
                f"The transform of Invariance must keep the batch's shape {tuple(args[0].shape)}, "
                f"but gives {given}"
            )
        return (copy, *args[1:])

    def __repr__(self) -> str:
        return f"Invariance({self.transform!r}, {self.weights}, copies={self.copies})"


def _check_weights(option: str, weights: Any) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{option} must map the names of latent sites to weights, e.g. {{'z2': 10.0}}, but got "
            f"{weights!r}"
        )
    if not weights:
        raise ValueError(f"{option} must name at least one latent site, but got {weights!r}")
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)):
            raise TypeError(f"{option}[{name!r}] must be a number >= 0, but got {weight!r}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{option}[{name!r}] must be a finite number >= 0, but got {weight!r}")
    return dict(weights)
