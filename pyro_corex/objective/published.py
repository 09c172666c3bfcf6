"""Terms of published objectives: InfoVAE's, free bits, a capacity, and InfoGAN's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from functools import partial
from numbers import Real
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Categorical

from pyro_corex.objective.contributions import ratio
from pyro_corex.objective.dependence import check_sites, draws
from pyro_corex.objective.probabilities import data_dim, exact_noise
from pyro_corex.objective.sites import Site, log_prob, total
from pyro_corex.objective.step import Step, Weight, check_weight

Amount = float | Callable[[], float]


class MaximumMeanDiscrepancy:
    r"""How far the guide's draws, over all data, are from the prior: InfoVAE (Zhao et al. 2019).

    .. math::

        \langle k(z, z') \rangle + \langle k(r, r') \rangle - 2 \langle k(z, r) \rangle, \quad
        z, z' \sim p_\theta(z),\ r, r' \sim r_\alpha(z)

    It is the U-statistic of Gretton et al. (2012), over pairs of different draws of the batch and
    as many draws of the model: without bias, so that it may be below 0.  It has no unit.  Of a
    layer below others, r is drawn given what the guide drew above.

    :param weight: see :class:`Regularizer`.
    :param sites: as for :class:`TotalCorrelation`; several are taken together.
    :param kernel: "imq", the inverse multiquadratic :math:`C/(C + \|a-b\|^2)`, or "rbf",
        :math:`\exp(-\|a-b\|^2/C)`.
    :param scale: C, by default 2m for m latents, the mean squared distance of two draws of a
        standard normal.  The published code of InfoVAE has the "rbf" with m².
    :raises ValueError: for an unknown kernel and a scale that is not positive; when it is
        evaluated, as :class:`TotalCorrelation`.
    :raises TypeError: as :class:`TotalCorrelation`.
    """

    name = "maximum_mean_discrepancy"

    def __init__(
        self,
        weight: Weight,
        sites: Collection[str] | None = None,
        *,
        kernel: str = "imq",
        scale: float | None = None,
    ) -> None:
        check_weight(self.name, weight)
        if kernel not in ("imq", "rbf"):
            raise ValueError(f"kernel must be 'imq' or 'rbf', but got {kernel!r}")
        if scale is not None and (not isinstance(scale, Real) or not 0 < scale < math.inf):
            raise ValueError(f"scale must be None or a finite number > 0, but got {scale!r}")
        self.weight, self.sites = weight, check_sites(sites)
        self.kernel, self.scale = kernel, scale

    def __call__(self, step: Step) -> Tensor:
        """The discrepancy, a scalar: see :class:`Regularizer`."""
        z = draws(step, self.sites, self.name)
        prior = draws(step, self.sites, self.name, partial(_prior, step))
        n = z.shape[1]
        if n < 2:  # a last batch of one datum has no pairs
            return z.new_zeros(())
        within = self._sum(z, z, 1) + self._sum(prior, prior, 1)
        return (within / (n * (n - 1)) - 2 * self._sum(z, prior) / n**2).mean()

    def _sum(self, a: Tensor, b: Tensor, less: int = 0) -> Tensor:
        """The sum of the kernel over pairs, for each particle, ``less`` that on the diagonal."""
        scale = 2 * a.shape[2] if self.scale is None else self.scale
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        square = distance.square() / scale
        values = (-square).exp() if self.kernel == "rbf" else 1 / (1 + square)
        return values.sum((1, 2)) - less * a.shape[1]


def _prior(step: Step, name: str, site: Site) -> Tensor:
    """As many draws of the model as the guide has, in the same shape."""
    fn, shape = step.p(name) if name in step.model_sites else None, site["fn"].batch_shape
    if fn is None or len(fn.batch_shape) > len(shape):
        how = "does not draw" if fn is None else "draws given an enumerated site"
        raise ValueError(
            f"sites must name latents that the model draws from one prior, but {name!r} it {how}. "
            "Leave MaximumMeanDiscrepancy out."
        )
    fn = fn.expand(shape)
    value: Tensor = fn.rsample() if fn.has_rsample else fn.sample()
    return value


class _OfKL:
    """What replaces the KL that is trained, whatever its weights, by another function of it."""

    weight = 1.0
    replaces_kl = True
    """That no other regularizer may replace the KL of these sites."""

    def __init__(self, option: str, amount: Amount, sites: Collection[str] | None) -> None:
        if not callable(amount):
            _check_amount(option, amount)
        self.sites, self._amount = check_sites(sites), amount
        self.schedules = (amount,)
        """What :func:`~pyro_corex.fit` moves on after each step, beside the weight."""

    def _now(self) -> float:
        return self._amount() if callable(self._amount) else self._amount

    def _pairs(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """The KL of each site in nats per datum, ``(m,)``, and the same as it is trained."""
        known = step.kl_sites
        names = known if self.sites is None else list(self.sites)
        if not names or not set(names) <= set(known):
            raise ValueError(f"sites must name latents with a KL, of {known}, but got {names}")
        return [(step.kl(n).reshape(-1), step.kl(n, weighted=True).reshape(-1)) for n in names]


class FreeBits(_OfKL):
    r"""A KL below which a latent is not compressed further (Kingma et al. 2016).

    .. math::

        \langle \ln q_\phi(x|z) \rangle - \sum_j \max(\lambda, \langle KL_j \rangle)

    The value is what this takes off the bound, :math:`\max(\lambda - KL_j, 0)`, so that the terms
    stay those of the bound.  The mean is that of the batch.  A weight of the KL (:func:`anchor`)
    weighs the maximum.

    :param nats: :math:`\lambda >= 0` for each group, or a schedule such as ``Warmup``.
    :param sites: the KLs that are meant, keys of ``terms.kl``; by default all.
    :param per: what a group is, each "latent" or each "site".
    :raises ValueError: for ``nats`` that are negative or not finite, and another ``per``.
    :raises TypeError: for ``sites`` that are no collection of names.
    """

    name = "free_bits"

    def __init__(
        self, nats: Amount, sites: Collection[str] | None = None, *, per: str = "latent"
    ) -> None:
        super().__init__("nats", nats, sites)
        if per not in ("latent", "site"):
            raise ValueError(f"per must be 'latent' or 'site', but got {per!r}")
        self.per = per

    def __call__(self, step: Step) -> Tensor:
        """Nats per datum, one value for each group: see :class:`Regularizer`."""
        found, nats = [], self._now()
        for kl, weighted in self._pairs(step):
            if self.per == "site":
                kl, weighted = kl.sum(0, keepdim=True), weighted.sum(0, keepdim=True)
            free = ratio(weighted, kl).detach() * nats - weighted
            found.append(free.where(kl < nats, torch.zeros_like(free)))
        return torch.cat(found)


class Capacity(_OfKL):
    r"""A KL that is held at C nats, which may grow while training (Burgess et al. 2018).

    .. math::

        \langle \ln q_\phi(x|z) \rangle - \gamma\, |KL - C|

    The value is :math:`\gamma |KL - C|` less the KL as it is weighted in the loss, whose place it
    takes.

    :param gamma: how steep it is, a number >= 0.
    :param capacity: C >= 0, of the sum over latents, in nats, or a schedule such as
        ``Warmup(0.0, 25.0, steps=100_000)``.
    :param sites: as for :class:`FreeBits`.
    :raises ValueError: for numbers that are negative or not finite.
    :raises TypeError: as :class:`FreeBits`.
    """

    name = "capacity"

    def __init__(
        self, gamma: float, capacity: Amount, sites: Collection[str] | None = None
    ) -> None:
        super().__init__("capacity", capacity, sites)
        self.gamma = _check_amount("gamma", gamma)

    def __call__(self, step: Step) -> Tensor:
        """Nats per datum, a scalar: see :class:`Regularizer`."""
        kl, weighted = map(torch.cat, zip(*self._pairs(step), strict=True))
        return self.gamma * (kl.sum() - self._now()).abs() - weighted.sum()


def _check_amount(option: str, amount: Any) -> float:
    if not isinstance(amount, Real) or not 0 <= float(amount) < math.inf:
        raise ValueError(f"{option} must be a finite number >= 0, but got {amount!r}")
    return float(amount)


class GeneratedInformation:
    r"""What data that the model draws tell of the code that they are drawn from: InfoGAN's term.

    .. math::

        I(c : x) \ge \langle \ln p_\theta(c|x) - \ln r_\alpha(c) \rangle, \quad
        c \sim r_\alpha(c),\ x \sim q_\phi(x|c)

    (Chen et al. 2016), for the model's own draws, as many as the batch has data, and not for the
    data: that is :class:`MutualInformation`.  With a negative ``weight`` it is a reward.  The
    gradient reaches the decoder through x, and the guide, but not the prior, which InfoGAN holds
    fixed.  Where x has no reparameterised draw, its mean is taken in its place, as InfoGAN's
    generator gives it: for binary x their probabilities, of which the value is a bound then.

    The model must draw n data as ``model(n=n)``, as the ready-made programs do, and the guide take
    these alone.

    :param weight: see :class:`Regularizer`; -1 is the bound itself.
    :param sites: which latents c consists of, of the top layer; by default all of it.
    :raises ValueError: when it is evaluated, for other programs and other latents, and for draws
        without a gradient, such as categorical x.
    :raises TypeError: for ``sites`` that are no collection of names.
    """

    name = "generated_information"

    def __init__(self, weight: Weight, sites: Collection[str] | None = None) -> None:
        check_weight(self.name, weight)
        self.weight, self.sites = weight, check_sites(sites)

    def __call__(self, step: Step) -> Tensor:
        """Nats for each latent, ``(m,)``: see :class:`Regularizer`."""
        alone = len(step.args) == 1 and isinstance(step.args[0], Tensor) and not step.kwargs
        if not alone or "n" not in inspect.signature(step.model).parameters:
            raise ValueError(
                "model must draw data, as model(n=100), and guide must take these alone, as in "
                f"CorExVAE, for GeneratedInformation, but got {step.model!r}"
            )
        top = step.top_layer() or list(self.sites or ())
        names = top if self.sites is None else list(self.sites)
        if not names or not set(names) <= set(top) & set(step.model_sites):
            raise ValueError(f"sites must name latents of the top layer, {top}, but got {names}")
        drawn = _Generate(top, [n for n, s in step.model_sites.items() if s["is_observed"]])
        with drawn:
            x = step.model(n=len(step.args[0]))
        with pyro.validation_enabled(False):  # means of x may be no data
            guide = step.rerun((x,), {})
        noisy = [n for n, site in guide.items() if n not in top and not exact_noise(site)]
        if noisy:
            raise ValueError(f"guide must have reparameterised draws, but {noisy} are not")
        return torch.cat([self._of(step, n, guide[n], *drawn.found[n]) for n in names])

    def _of(self, step: Step, name: str, site: Site, prior: Any, code: Tensor) -> Tensor:
        data_dim(self.name, name, site, step)
        q, p = log_prob(site["fn"], code), log_prob(prior, code)
        q, p = (q, p) if q[1] == p[1] else ((total(q), 0), (total(p), 0))
        gain, events = q[0] - p[0].detach(), q[1]
        keep = {d - events for axis, d in step.axes(name).items() if axis not in step.data_axes}
        keep |= set(range(-events, 0))
        return gain.mean([d for d in range(-gain.dim(), 0) if d not in keep]).reshape(-1)


class _Generate(Messenger):
    """Draws codes without a gradient, and data with one."""

    def __init__(self, codes: list[str], observed: list[str]) -> None:
        super().__init__()
        self.codes, self.observed = codes, observed
        self.found: dict[str, tuple[Any, Tensor]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn, name = msg["fn"], msg["name"]
        if name in self.codes:
            msg["value"], msg["done"] = fn.sample(), True
            self.found[name] = fn, msg["value"]
        elif name in self.observed and not fn.has_rsample:
            try:
                mean = None if isinstance(fn, Categorical) else fn.mean
            except NotImplementedError:
                mean = None
            if mean is None:
                raise ValueError(
                    "likelihood must have reparameterised draws or a mean for "
                    f"GeneratedInformation, but {name!r} is drawn from {type(fn).__name__}"
                )
            msg["value"], msg["done"] = mean, True
