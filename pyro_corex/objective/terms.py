"""The terms of the CorEx bound, in nats per datum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_corex.information import Estimate, entropy_estimate, mean_with_entropies
from pyro_corex.objective.contributions import Contributions, Key, Sum, ratio
from pyro_corex.objective.evidence import Evidence, Inputs
from pyro_corex.objective.recorded import Recorded
from pyro_corex.objective.term import times


@dataclass(frozen=True, repr=False)
class CorExTerms:
    r"""The terms of the CorEx bound (Eq. 10 and 21), each in nats per datum.

    A datum is one element of the data plates, so that ``objective * num_data`` is minus the loss.
    Every tensor is detached; nothing is copied to the host until it is read.
    """

    reconstruction: Mapping[str, Tensor]
    r"""Observed site -> :math:`\langle \ln q_\phi(x_i|z) \rangle`, one value per input dimension.

    The shape, ``(d,)`` for most, is that of the site's own plates (those that are not the data's)
    followed by its event dimensions; a site whose distribution does not factorise has one value.
    Unweighted, as ``kl`` is: without ``poutine.scale``."""

    kl: Mapping[str, Tensor]
    r"""Latent site -> :math:`D_{KL}(p_\theta(z_j|x) \| r_\alpha(z_j))`, unweighted, one value per
    latent dimension, ``(m,)`` for most: an upper bound on :math:`I(z_j : x)` (Eq. 9).

    Latents whose KLs are not known apart have one under their joint name, such as ``"z1+z2"``.  One
    that is sampled at the guide's draw may be below 0 in a batch; in expectation it is not."""

    kl_weight: Mapping[str, Tensor]
    """Latent site -> the anchor weights in force (1 - lambda in Eq. 21), in the shape of ``kl``.

    Where they differ between data, or between the batches that were joined, the one number whose
    product with ``kl`` is the mean of the products: a mean weighted by the KLs."""

    num_data: float
    """The number of data that the loss stands for."""

    reconstruction_weight: Mapping[str, Tensor] = field(default_factory=dict)
    """Observed site -> the scale of its likelihood, by ``poutine.scale`` or similar, in the shape
    of ``reconstruction``; what it differs between is as in ``kl_weight``.  (The factor that makes
    up for what a plate leaves out is none.)"""

    regularizers: Mapping[str, Tensor] = field(default_factory=dict)
    """Regularizer -> its value: a scalar, or one for each latent.

    Joined terms have the mean over batches."""

    regularizer_weight: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Regularizer -> the weight of what is taken off the bound: a scalar, or in its shape."""

    _source: Sequence[Recorded] | Evidence | None = field(default=None, repr=False, compare=False)
    """What the terms were made of: one for each draw from the guide."""

    @classmethod
    def of(cls, traces: Sequence[Contributions], num_particles: int) -> CorExTerms:
        """The terms of one batch, from the traces that an evaluation has made."""
        sums: dict[Key, Sum] = {}
        for trace in traces:
            for key, found in trace.sums.items():
                sums[key] = sums[key].plus(found) if key in sums else found
        last = traces[-1]
        scale = 1.0 / (num_particles * last.num_data)
        seen = {name: found for (kind, name), found in sums.items() if kind == "reconstruction"}
        kl = {name: found for (kind, name), found in sums.items() if kind == "kl"}
        return cls(
            reconstruction={name: found.value * scale for name, found in seen.items()},
            kl={name: found.value * scale for name, found in kl.items()},
            kl_weight={name: found.weights() for name, found in kl.items()},
            num_data=last.num_data,
            reconstruction_weight={name: found.weights() for name, found in seen.items()},
            regularizers={
                name: torch.stack([trace.regularizers[name][0] for trace in traces]).mean(0)
                for name in last.regularizers
            },
            regularizer_weight={name: weight for name, (_, weight) in last.regularizers.items()},
            _source=[trace.recorded for trace in traces],
        )

    @classmethod
    def of_sums(
        cls, sums: Mapping[tuple[str, str], tuple[Tensor, Tensor]], size: float, num_data: float
    ) -> CorExTerms:
        """The mean over steps, without data, from the sums of :attr:`CorExELBO.last_sums`.

        :param size: the data that the sums stand for; ``num_data`` those of one pass.
        """
        fields: dict[str, Any] = {f: {} for pair in _WEIGHTS.items() for f in pair}
        for (kind, name), (value, weighted) in sums.items():
            of_values = "regularizers" if kind == "regularizer" else kind
            fields[of_values][name] = value / size
            fields[_WEIGHTS[of_values]][name] = ratio(weighted, value)
        return cls(num_data=num_data, **fields)

    @property
    def elbo(self) -> float:
        """The sum of ``reconstruction`` minus the sum of ``kl``: Eq. 10 without the entropies.

        Both are unweighted: it is the evidence lower bound, whatever is trained.
        """
        return float(_total(self.reconstruction) - _total(self.kl))

    @property
    def objective(self) -> float:
        """The sum of ``reconstruction`` minus ``kl`` minus the regularizers, each times its weight.

        Minus the loss that is trained, per datum (Eq. 21).
        """
        seen, kl, penalties = (
            _total({n: times(v, getattr(self, of)[n]) for n, v in getattr(self, kind).items()})
            for kind, of in _WEIGHTS.items()
        )
        return float(seen - kl - penalties)

    # ------------------------------------------------------------------ with the entropies

    @cached_property
    def entropy(self) -> Mapping[str, Tensor]:
        """Observed site -> :math:`H(x_i)` in nats, in the shape of ``reconstruction``.

        Estimated from the values of the batch that the terms are from (see
        :func:`pyro_corex.information.entropy_estimate`): differential entropies where the
        likelihood is a density, else entropies of the observed frequencies.

        :raises ValueError: where the likelihood is not a proper one for the data, or does not
            factorise; saying how to mend it.
        """
        return {
            name: entropy_of(name, inputs).value.reshape(self._shape(name))
            for name, inputs in self.evidence.inputs.items()
        }

    @property
    def relevance(self) -> Mapping[str, Tensor]:
        r"""Observed site -> :math:`H(x_i) + \langle \ln q_\phi(x_i|z) \rangle`, in the shape of
        ``reconstruction``: a lower bound on :math:`I(x_i : z)` (Eq. 8).

        It is negative where the decoder is worse than the marginal.

        :raises ValueError: as :attr:`entropy`, and where the model's densities depend on more than
            the latents (see :mod:`pyro_corex.objective.inputs`).
        """
        _ = self.entropy  # which names the site if its entropies are not known
        self._refuse(explained=True)
        return {name: h + self.reconstruction[name] for name, h in self.entropy.items()}

    @property
    def tc_bound(self) -> float:
        r"""The sum of ``relevance`` minus the sum of ``kl``: a lower bound on TC(x) (Eq. 10).

        It is of the batch, and as noisy as that; :func:`pyro_corex.tc_bound` is of a data set, with
        a standard error.  The KLs count in full, whatever weights were trained with.

        Of a model that is told a discrete covariate y the entropy H(y) is taken off: without that
        it would be a bound on TC(x) + I(x : y).

        :raises ValueError: as :attr:`entropy`; for programs that are not normalised, and for a
            model that is told a y with too many values: the number would be no bound on TC(x).
        """
        found = self._relevance() - _number(self.kl)
        self._refuse(self.evidence.problem)
        y = self.evidence.covariate
        return found if y is None else found - float(entropy_estimate(y, "categorical").value)

    @property
    def informativeness(self) -> float:
        r"""A lower bound on :math:`TC(x;z) = \sum_i I(x_i:z) - I(x:z)` (Eq. 5), in nats.

        Each :math:`I(x_i:z)` is replaced by ``relevance`` (Eq. 8), which is not more, and
        :math:`I(x:z)` by the sum of ``kl``, which is not less (Eq. 9): the number ``tc_bound``.  It
        falls short of TC(x;z) by TC(z) and by the distance of the prior from
        :math:`p_\theta(z_j)`.

        :raises ValueError: as :attr:`tc_bound` and :attr:`relevance`.
        """
        found = self.tc_bound
        self._refuse(explained=True)
        return found

    @cached_property
    def layers(self) -> tuple[float, ...]:
        r"""The contribution of each layer, from the data upwards; they add up to ``tc_bound``.

        A lower bound on :math:`L(\theta^{(l)}; z^{(l-1)})` (Eq. 13 to 17) up to the error of the
        entropies,

        .. math::

            \sum_i [H(z^{(l-1)}_i) + \langle \ln q(z^{(l-1)}_i|z^{(l)}) \rangle]
            - \sum_j [H(z^{(l)}_j) + \langle \ln p(z^{(l)}_j|z^{(l-1)}) \rangle],

        where :math:`z^{(0)} = x`, and the second sum is that of ``kl`` for the top layer.  Errors
        of the draws' entropies move nats from one layer to the next, but leave the sum as it is.
        A layer pays for itself where its contribution is positive (Eq. 16).

        :raises ValueError: as :attr:`informativeness`, and for programs whose latents are not
            layers: in a stack the guide goes up and the model comes down.
        """
        evidence = self.evidence
        if evidence.no_layers:
            raise ValueError(
                f"The latents are not the layers of a stack: {evidence.no_layers}. Use tc_bound "
                "for the whole, or StackedCorEx."
            )
        _ = self.entropy  # which names the site if its entropies are not known
        self._refuse(evidence.problem, explained=True)
        return tuple(float(mean_with_entropies(*part).value) for part in evidence.by_layer())

    def without_data(self) -> CorExTerms:
        """The same terms without what needs the data, from ``entropy`` to ``layers``, of which
        they let go: for keeping the terms of many steps.
        """
        return replace(self, _source=None)

    @staticmethod
    def join(parts: Sequence[CorExTerms]) -> CorExTerms:
        """The terms of several batches of one program as those of all their data.

        :raises ValueError: where there are none, they have let go of their data, or they are of
            other sites.
        """
        if not parts:
            raise ValueError("There are no terms to join: give those of at least one batch.")
        first, *others = (
            [name for kind in _WEIGHTS for name in sorted(getattr(p, kind))] for p in parts
        )
        for other in others:
            if other != first:
                raise ValueError(
                    "parts must be the terms of one program, but they are of different sites or "
                    f"regularizers: {first} and {other}"
                )
        evidence = [part.evidence for part in parts]
        sizes = [
            float(e.size) if e.size else p.num_data for e, p in zip(evidence, parts, strict=True)
        ]
        return replace(
            parts[0],
            num_data=sum(sizes),
            **_means(parts, torch.tensor(sizes, dtype=torch.double), evidence[0].shared),
            _source=Evidence.join(evidence),
        )

    @property
    def evidence(self) -> Evidence:
        """What the terms say of each datum; for :mod:`pyro_corex.evaluation`.

        :raises ValueError: after :meth:`without_data`.
        """
        if self._source is None:
            raise ValueError(
                "These terms have let go of their data, which the entropies H(x_i) need. Evaluate "
                "anew, elbo.terms(model, guide, x)."
            )
        if isinstance(self._source, Evidence):
            return self._source
        return Evidence.average([source.evidence for source in self._source])

    def _refuse(self, problem: str = "", *, explained: bool = False) -> None:
        """Raises where there is no bound on TC(x), or none on what the latents explain of it."""
        sight = self.evidence.sight()
        reason = problem or sight.problem or (sight.unexplained if explained else "")
        if reason:
            raise ValueError(reason)

    def _relevance(self) -> float:
        if not self.evidence.inputs:
            raise ValueError(
                "The model observes nothing, so there is no TC(x) to bound. Give it a site with "
                "obs=..."
            )
        return _number(self.entropy) + _number(self.reconstruction)

    def _shape(self, name: str) -> torch.Size:
        return self.reconstruction[name].shape

    def __repr__(self) -> str:
        lines = [
            f"CorExTerms(elbo={self.elbo:.4g}, objective={self.objective:.4g} nats per datum,"
            f" num_data={self.num_data:g}"
        ]
        for name, value in self.reconstruction.items():
            scale = _range(self.reconstruction_weight[name])
            scale = "" if scale == "1" else f", weight {scale}"
            lines.append(f"  reconstruction[{name!r}]: {_summary(value, 'dimension')}{scale}")
        for name, value in self.kl.items():
            weights = _range(self.kl_weight[name])
            lines.append(f"  kl[{name!r}]: {_summary(value, 'latent')}, weight {weights}")
        for name, value in self.regularizers.items():
            weights = _range(self.regularizer_weight[name])
            lines.append(f"  regularizers[{name!r}]: {_summary(value, 'latent')}, weight {weights}")
        return "\n".join(lines) + ")"


def _means(
    parts: Sequence[CorExTerms], sizes: Tensor, shared: Collection[str]
) -> dict[str, dict[str, Tensor]]:
    """The fields of the mean over batches, and the weights with which its products are means; the
    KL of ``shared`` sites is paid once for all of them.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for kind, of_weights in _WEIGHTS.items():
        found[kind], found[of_weights] = {}, {}
        for name in getattr(parts[0], kind):
            values = torch.stack([getattr(part, kind)[name] for part in parts])
            given = [torch.as_tensor(getattr(part, of_weights)[name]) for part in parts]
            weights = torch.stack(given).to(values)
            weights = weights.reshape(weights.shape + (1,) * (values.dim() - weights.dim()))
            shares = (sizes / sizes.sum()).to(values)
            shares = shares * shares if kind == "kl" and name in shared else shares
            value = torch.tensordot(shares, values, 1)
            weight = ratio(torch.tensordot(shares, times(values, weights), 1), value)
            same = (weights == weights[0]).all(0)
            found[kind][name], found[of_weights][name] = value, weights[0].where(same, weight)
    return found


_WEIGHTS = {
    "reconstruction": "reconstruction_weight",
    "kl": "kl_weight",
    "regularizers": "regularizer_weight",
}


def _total(values: Mapping[str, Tensor]) -> Tensor | float:
    totals = [value.sum() for value in values.values()]
    return torch.stack(totals).sum() if totals else 0.0


def _number(values: Mapping[str, Tensor]) -> float:
    """As ``_total``, in double precision, so that differences of large sums stay exact."""
    return sum(float(value.double().sum()) for value in values.values())


def entropy_of(name: str, inputs: Inputs) -> Estimate[Tensor]:
    """The entropies of a site's values.

    :raises ValueError: where they would not fit the likelihood.
    """
    if inputs.problem:
        raise ValueError(inputs.problem)
    try:
        return entropy_estimate(inputs.values, inputs.kind)
    except ValueError as error:
        hint = ""
        if inputs.kind == "continuous":
            hint = (
                " A density has no finite bound on TC(x) for discrete data: use a discrete "
                "likelihood for them, such as Categorical or Bernoulli."
            )
        raise ValueError(f"The entropies of site {name!r} are not known: {error}{hint}") from error


def _summary(value: Tensor, unit: str) -> str:
    text = f"{float(value.sum()):.4g}"
    if value.numel() > 1:
        text += f" over {value.numel()} {unit}s (largest {float(value.max()):.3g})"
    return text


def _range(weight: Tensor | float) -> str:
    values = torch.as_tensor(weight)
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def describe_non_finite(traces: Sequence[Contributions]) -> str:
    """Which terms of an evaluation are NaN or infinite, as a sentence."""
    found = []
    terms = CorExTerms.of(traces, 1)
    for what, values in (
        ("the reconstruction of site {!r}", terms.reconstruction),
        ("the KL of site {!r}", terms.kl),
        ("the regularizer {!r}", terms.regularizers),
    ):
        for name, value in values.items():
            for how, bad in (("NaN", value.isnan()), ("infinite", value.isinf())):
                count = int(bad.sum())
                if count:
                    where = (
                        f" in {count} of {value.numel()} dimensions" if value.numel() > 1 else ""
                    )
                    found.append(f"{what.format(name)} is {how}{where}")
    return (
        "The loss is not finite: " + ("; ".join(found) or "the sum of its terms overflows") + ". "
        "Check the data and the parameters for NaN and for values outside a support, or lower "
        "the learning rate."
    )
