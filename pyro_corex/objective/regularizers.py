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
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_corex.objective.probabilities import entropy, probability_table
from pyro_corex.objective.step import Regularizer, Step

__all__ = ["Invariance", "MutualInformation", "Regularizer", "Step"]


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
    :math:`p(z_j|t(x))` over the datum itself and its ``copies``.  If the guide draws the site
    given another latent, each copy has a draw of that latent.  By the chain rule
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
