"""The aggregate posterior p(z_j) = (1/N) sum_n p(z_j | x_n) (Gao et al. 2018, Sec. 6.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import (
    Data,
    Transform,
    check_count,
    check_seed,
    place_of,
    prepare,
    read_batches,
)
from pyro_corex.information.bracket import Bracket, aggregate_total_correlation
from pyro_corex.information.checks import check_gaussian, check_generator
from pyro_corex.information.encodings import choose, drawing, names_of, parameters_of
from pyro_corex.information.estimate import Estimate
from pyro_corex.information.joint import JointDensity, fit_joint
from pyro_corex.information.memory_maps import concatenate_in_files
from pyro_corex.information.mutual_information import (
    aggregate_entropy,
    categorical_mutual_information_estimate,
    check_probs,
    gaussian_mutual_information,
    gaussian_mutual_information_estimate,
)
from pyro_corex.information.pairwise import normal_log_density

_BATCH = 1024
_DRAWS = 4096  # from which the information of encoders without a formula is estimated, at least
_ELEMENTS = 1 << 22  # bound on points * data * latents held at once


class AggregatePosterior:
    """The marginals p(z_j) of the latents over a data set, and their product (Sec. 6.3).

    ``AggregatePosterior(loc, scale)`` is for Gaussian encoders, :meth:`from_probs` for discrete
    ones and :meth:`from_data` for a trained module. All information is in nats. No gradients are
    recorded, and the global random state is used by :meth:`sample` only.

    :param loc: ``(N, m)`` means of p(z_j | x_n).
    :param scale: ``(N, m)`` standard deviations.
    :raises ValueError: where shapes differ, entries are not finite or scales not positive.
    :raises TypeError: where loc or scale is not floating.

    >>> loc = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).repeat(50, 1)  # a coin, and nothing
    >>> post = AggregatePosterior(loc, torch.full((100, 2), 0.1))
    >>> post.variance
    tensor([9.0100, 0.0100])
    >>> post.mutual_information().round(decimals=4)  # ln 2, and nothing
    tensor([0.6931, 0.0000])
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        loc, scale = check_gaussian(loc, scale)
        self._loc, self._scale = loc.detach(), scale.detach()
        self._probs: Tensor | None = None
        self._mi: Estimate[Tensor] | None = None
        self._tc: dict[tuple[int, int], Bracket] = {}

    @classmethod
    def from_probs(cls, probs: Tensor) -> AggregatePosterior:
        """For discrete latents with probabilities (N, m, K) that sum to 1 over K.

        :raises ValueError: for others.
        :raises TypeError: for what is no tensor, array or list of numbers.
        """
        self = cls.__new__(cls)
        self._probs = probs = check_probs(probs).detach()
        self._loc = self._scale = probs.new_empty((*probs.shape[:2],))[:, :0]
        self._mi, self._tc = None, {}
        return self

    @classmethod
    def from_data(
        cls,
        module: nn.Module,
        data: Data,
        *,
        layer: int = -1,
        batch_size: int = _BATCH,
        transform: Transform | None = None,
        storage: str | Path | None = None,
        seed: int = 0,
    ) -> AggregatePosterior:
        """Encodes a data set with ``module.encode(*batch)``, without gradients, in evaluation mode.

        The data are read batch by batch. What is kept of each datum are the parameters of its
        encoder, 2 m numbers, or m K for discrete latents; where they are too many for memory, give
        a folder as ``storage``, and N is bound by the disk alone.

        :param module: its ``encode`` returns a Normal with ``loc`` and ``scale`` ``(B, m)``,
            possibly inside Independent, or a Categorical with ``probs`` ``(B, K)`` or
            ``(B, m, K)``, or a sequence of such, one for each layer.  A Bernoulli is taken as a
            Categorical of two states, and of another family of numbers ``(B, m)``, such as
            LogNormal or Beta, the information is estimated from draws; there is no
            :meth:`total_correlation` for these.
        :param data: ``(N, ...)``: a tensor, an array, a tuple or a dict of them, a ``Dataset``, or
            an iterable of batches such as a ``DataLoader``.  ``encode`` is given all of a batch, a
            dict as keyword arguments; that of a ready-made program takes x alone, which is its
            first entry or the one named ``"x"``.
        :param layer: which layer of a stack, the last by default.  A module with a method
            ``encode_with_draws``, as ``StackedCorEx``, is asked by that to condition each layer on
            a draw of the layer below: N draws of it stand for the data, and the information is
            I(z_j^(l) : z^(l-1)), of which the KL is a bound (Eq. 13 to 17).
        :param batch_size: of tensors, arrays and data sets.
        :param transform: as :func:`~pyro_corex.tc_bound` takes it.
        :param storage: a folder for temporary files, which hold the encodings in place of memory,
            are read by all methods and vanish with this object.  The result is on the CPU then.
        :param seed: of these draws; the global random state is put back afterwards.
        :raises TypeError: where the module has no ``encode``, or it returns no such distribution
            or does not take what a batch holds.
        :raises ValueError: where there are no data, or ``layer`` or ``batch_size`` is out of range.
        :raises OSError: where ``storage`` does not exist, may not be written to, or is full.
        """
        encode = getattr(module, "encode", None)
        if isinstance(module, type) or not callable(encode):
            raise TypeError(
                f"module must be a program, but {_name(module)} has no encode(x) that returns a "
                "distribution over z; add one, or use AggregatePosterior(loc, scale)"
            )
        check_seed(seed)
        encode = getattr(module, "encode_with_draws", encode)
        batches = map(
            prepare(module, transform, ["encode"]), read_batches(data, batch_size, module)
        )
        families: set[type[Distribution]] = set()
        parts = (parameters_of(choose(batch.call(encode), layer), families) for batch in batches)
        device = place_of(module)[0] or torch.device("cpu")
        children = list(module.modules()) if isinstance(module, nn.Module) else []
        modes = [(child, child.training) for child in children]
        for child in children:
            child.training = False
        try:
            # not with the very seed, with which data may be simulated
            with torch.no_grad(), drawing(device, 0x7C_B0_5EED + seed):
                if storage is None:
                    whole = [torch.cat(column) for column in zip(*parts, strict=True)]
                else:
                    whole = concatenate_in_files(parts, storage)
        finally:
            for child, mode in modes:
                child.training = mode
        if not whole:
            raise ValueError("data holds no batches; give at least one datum")
        (family,) = families
        if family is Normal:
            return cls(*whole)
        return cls.from_probs(*whole) if family is Categorical else _OfFamily(family, whole, seed)

    def __repr__(self) -> str:
        if self._probs is None:
            n, m = self._loc.shape
            return f"AggregatePosterior(Gaussian encoder, {n} data, {m} latents)"
        n, m, k = self._probs.shape
        return f"AggregatePosterior(categorical encoder, {n} data, {m} latents, {k} states)"

    @property
    def mean(self) -> Tensor:
        """(m,) means; for discrete latents, of the state's number 0 ... K - 1."""
        if self._probs is None:
            return self._loc.mean(0)
        return self._probs.mean(0) @ _states(self._probs)

    @property
    def variance(self) -> Tensor:
        """(m,) variances, within plus between the data."""
        if self._probs is None:
            within = torch.linalg.vector_norm(self._scale, dim=0).square() / len(self._scale)
            return within + self._loc.var(0, correction=0)
        deviation = _states(self._probs) - self.mean[:, None]
        return (self._probs.mean(0) * deviation.square()).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, m) from the product of the marginals: every latent from a datum of its own.

        Discrete latents are integers.

        Raises ValueError for negative n, TypeError for a generator of another kind.
        """
        check_count("n", n, 0)
        check_generator(generator)
        if self._probs is not None:
            weights = self._probs.mean(0)
            if n == 0:
                return weights.new_empty((0, weights.shape[0]), dtype=torch.long)
            return weights.multinomial(n, replacement=True, generator=generator).T.contiguous()
        size, m = self._loc.shape
        row = torch.randint(size, (n, m), generator=generator, device=self._loc.device)
        return self._sample(row, generator)

    def _sample(self, row: Tensor, generator: torch.Generator | None) -> Tensor:
        dtype, device = self._loc.dtype, row.device
        noise = torch.randn(row.shape, generator=generator, device=device, dtype=dtype)
        return self._loc.gather(0, row).addcmul_(self._scale.gather(0, row), noise)

    def fit_joint(
        self, components: int | Sequence[int] = (1, 4, 16, 64), seed: int = 0
    ) -> JointDensity:
        """A density over all latents together, from which new data keep what latents share.

        The product of the marginals (:meth:`sample`) loses TC(z).  This is a Gaussian mixture with
        full covariances, fitted to draws of the aggregate posterior; with one component, a
        Gaussian.

        :param components: how many components it has; of several numbers the one is taken that
            explains draws of held-out data best.
        :param seed: of the draws and of the fit; the global random state is left alone.
        :raises ValueError: for encoders that are not Gaussian, fewer than 20 data, and numbers of
            components below 1 or all above the data.

        >>> loc = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
        >>> joint = AggregatePosterior(loc, torch.full((500, 2), 0.5)).fit_joint(1)
        >>> abs(joint.gain.value - 0.51) < 2 * joint.gain.stderr  # TC(z) of correlation 0.8
        True
        """
        if type(self) is not AggregatePosterior or self._probs is not None:
            raise ValueError(
                f"A joint density is for Gaussian encoders, but got {self}; draw with sample()"
            )
        return fit_joint(self._loc, self._scale, self.log_prob, components, seed)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of the marginals, ln p(z_j): (n, m) -> (n, m), in nats.

        Time n N m, memory bounded.

        Raises ValueError when z is not (n, m), or not a state of a discrete latent.
        """
        m = self._loc.shape[1] if self._probs is None else self._probs.shape[1]
        z = as_tensor(z, "z")
        if z.dim() != 2 or z.shape[1] != m:
            raise ValueError(f"z must have shape (n, {m}), but got {tuple(z.shape)}")
        if self._probs is not None:
            k = self._probs.shape[2]
            if z.is_floating_point() or bool(((z < 0) | (z >= k)).any()):
                raise ValueError(f"z must hold integer states from 0 to {k - 1}")
            return self._probs.mean(0).log().T.gather(0, z)
        size = self._loc.shape[0]
        columns = min(size, max(1, _ELEMENTS // m))
        rows = max(1, _ELEMENTS // (m * columns))
        with torch.no_grad():
            out = [self._log_prob(part, columns) for part in torch.split(z, rows)]
        return torch.cat(out) - math.log(size)

    def _log_prob(self, z: Tensor, columns: int) -> Tensor:
        locs, scales = torch.split(self._loc, columns), torch.split(self._scale, columns)
        parts = [
            normal_log_density(z[:, None], a, b).logsumexp(1)
            for a, b in zip(locs, scales, strict=True)
        ]
        return torch.stack(parts).logsumexp(0)

    def entropy(self) -> Tensor:
        """(m,) entropies of the marginals; differential for Gaussian encoders."""
        if self._probs is None:
            return aggregate_entropy(self._loc, self._scale)
        entropy: Tensor = torch.special.entr(self._probs.mean(0)).sum(1)
        return entropy

    def mutual_information(self) -> Tensor:
        """(m,) I(z_j : x), deterministic; see :func:`gaussian_mutual_information`."""
        if self._mi is None and self._probs is None:
            return gaussian_mutual_information(self._loc, self._scale)
        return self._mutual_information().value

    def mutual_information_stderr(self) -> Tensor:
        """(m,) standard errors of :meth:`mutual_information`."""
        return self._mutual_information().stderr

    def _mutual_information(self) -> Estimate[Tensor]:
        if self._mi is None:
            if self._probs is None:
                self._mi = gaussian_mutual_information_estimate(self._loc, self._scale)
            else:
                self._mi = categorical_mutual_information_estimate(self._probs)
        return self._mi

    def total_correlation(self, num_samples: int = 1024, seed: int = 0) -> Bracket:
        """An interval that contains TC(z) (Eq. 4) of the distribution that the data are from, nats.

        See :func:`~pyro_corex.information.aggregate_total_correlation`, which warns where the data
        are too few to close it.  The draws follow ``seed`` and leave the global random state alone.

        Raises ValueError for encoders that are neither Gaussian nor categorical.
        """
        key = (check_count("num_samples", num_samples), check_seed(seed))
        if key not in self._tc:
            encoders = (self._loc, self._scale) if self._probs is None else (self._probs,)
            self._tc[key] = aggregate_total_correlation(
                *encoders, num_samples=num_samples, seed=seed
            )
        return self._tc[key]


class _OfFamily(AggregatePosterior):
    """The same for encoders of any family whose latents are single numbers, by sampling."""

    def __init__(self, family: type[Distribution], parameters: list[Tensor], seed: int) -> None:
        self._family, self._parameters, self._seed = family, parameters, seed
        self._loc = parameters[0]  # of which nothing but the shape is used
        self._probs, self._mi, self._tc = None, None, {}
        for name, value in zip(names_of(family), parameters, strict=True):
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{name} of {family.__name__} must be finite, but holds NaN or infinity; look "
                    "at the encoder"
                )

    def __repr__(self) -> str:
        n, m = self._loc.shape
        return f"AggregatePosterior({self._family.__name__} encoder, {n} data, {m} latents)"

    def _encoders(self, change: Any = lambda value: value) -> Distribution:
        make: Any = self._family
        named = zip(names_of(make), self._parameters, strict=True)
        found: Distribution = make(**{n: change(v) for n, v in named}, validate_args=False)
        return found

    @property
    def mean(self) -> Tensor:
        return self._encoders().mean.mean(0)

    @property
    def variance(self) -> Tensor:
        q = self._encoders()
        return q.variance.mean(0) + q.mean.var(0, correction=0)

    def _sample(self, row: Tensor, generator: torch.Generator | None) -> Tensor:
        seed = torch.randint(1 << 62, (), generator=generator, device=row.device)
        with drawing(row.device, int(seed)):
            return self._encoders(lambda value: value.gather(0, row)).sample()

    def _log_prob(self, z: Tensor, columns: int) -> Tensor:
        each = [
            self._encoders(lambda value, at=at: value[at : at + columns])
            for at in range(0, len(self._loc), columns)
        ]
        return torch.stack([q.log_prob(z[:, None]).logsumexp(1) for q in each]).logsumexp(0)

    def entropy(self) -> Tensor:
        self._mutual_information()
        return self._entropy

    def mutual_information(self) -> Tensor:
        return self._mutual_information().value

    def _mutual_information(self) -> Estimate[Tensor]:
        if self._mi is None:
            size, device = len(self._loc), self._loc.device
            with drawing(device, self._seed):
                row = torch.randperm(size, device=device)[:_DRAWS].repeat(-(-_DRAWS // size))
                q = self._encoders(lambda value: value[row])
                z = q.sample()
            marginal = self.log_prob(z)
            share = q.log_prob(z) - marginal
            self._entropy = -marginal.mean(0)
            self._mi = Estimate(share.mean(0), share.std(0) / len(z) ** 0.5)
        return self._mi

    def total_correlation(self, num_samples: int = 1024, seed: int = 0) -> Bracket:
        raise ValueError(
            "The interval for TC(z) is for Gaussian and categorical encoders, but encode returned "
            f"{self._family.__name__}. Where z is a function of a Normal, as LogNormal is its exp, "
            "let encode return that Normal: TC(z) is the same"
        )


def _name(module: Any) -> str:
    return f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__


def _states(probs: Tensor) -> Tensor:
    return torch.arange(probs.shape[2], dtype=probs.dtype, device=probs.device)
