"""How much of the data's total correlation a program explains: Eq. 10 on a data set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_corex.batches import (
    Batch,
    Data,
    Transform,
    check_count,
    check_seed,
    place_of,
    prepare,
    programs_of,
    read_batches,
)
from pyro_corex.evaluation.importance import ImportanceWeights
from pyro_corex.information import Estimate
from pyro_corex.information.entropy import Swayed, entropy_estimate, mean_with_entropies
from pyro_corex.objective import CorExELBO, CorExTerms
from pyro_corex.objective.evidence import Evidence
from pyro_corex.threads import alone


@dataclass(frozen=True, repr=False)
class TCBound(Estimate[float]):
    """A lower bound on TC(x), in nats, and what it is made of; see :func:`tc_bound`."""

    terms: CorExTerms
    """The terms of all data; ``terms.relevance`` has :math:`I(x_i : z)` by input dimension, where
    the decoder is given the latents alone."""

    num_data: int
    """How many data it was evaluated on."""

    layers: tuple[Estimate[float], ...] = ()
    """The contribution of each layer of a stack, a scalar each, from the data upwards (Eq. 13 to
    17); they add up to ``estimate``, in nats.  Empty where the latents are not layers, and with
    importance samples, which give no sum over layers."""

    importance_samples: int | None = None
    """How many draws each datum was given to bound ln p(x); ``None`` for the plain bound."""

    log_likelihood: Estimate[float] | None = None
    """With importance samples a lower bound on ln p(x), in nats per datum, on average over the data
    and over the draws: with thousands of draws what papers print as test log-likelihood."""

    def __repr__(self) -> str:
        terms = self.terms
        entropy, reconstruction, kl = (
            float(sum(value.double().sum() for value in values.values()))
            for values in (terms.entropy, terms.reconstruction, terms.kl)
        )
        lines = [f"TCBound(TC(x) >= {super().__repr__()}, from {self.num_data} data"]
        parts = f"reconstruction {reconstruction:.4g} - kl {kl:.4g}"
        if self.log_likelihood is None:
            lines.append(f"  entropies {entropy:.4g} + {parts}")
        else:
            lines += [
                f"  entropies {entropy:.4g} + ln p(x) per datum >= {self.log_likelihood!r}",
                f"  by K = {self.importance_samples} importance samples; of one draw: {parts}",
            ]
        if len(self.layers) > 1:
            lines.append("  layers: " + ", ".join(map(repr, self.layers)))
        return "\n".join([*lines, *(f"  {remark}" for remark in self.remarks())]) + ")"

    def remarks(self) -> list[str]:
        """What the numbers do not say, as sentences."""
        found = []
        if sum(value.numel() for value in self.terms.entropy.values()) == 1:
            found.append("one observed dimension: its TC is 0, and the bound says nothing")
        elif self.estimate < 0:
            found.append(
                "a bound below 0 says nothing, as TC(x) is never negative: the program is worse "
                "than independent columns, under-trained or overfitted"
            )
        if len(self.layers) > 1 and any(layer.estimate < 0 for layer in self.layers):
            found.append("a layer below 0 does not pay for itself (Eq. 16)")
        if self.terms.evidence.sight().own:
            found.append(
                "the decoder sees x itself: a bound on TC(x), not on what the latents explain"
            )
        y = self.terms.evidence.covariate
        if y is not None:
            found.append(
                f"H(y) = {float(entropy_estimate(y, 'categorical').value):.4g} has been taken off, "
                f"as the model is given y, here {self.terms.evidence.sight().y}: without that it "
                "would be a bound on TC(x) + I(x : y)"
            )
        return found


@alone()
def tc_bound(
    module: Any,
    data: Data,
    *,
    num_particles: int = 1,
    importance_samples: int | None = None,
    batch_size: int = 1024,
    transform: Transform | None = None,
    data_plates: Collection[str] | None = None,
    seed: int = 0,
) -> TCBound:
    r"""A lower bound on TC(x), in nats, from a trained program (Eq. 10).

    .. math::

        TC(x) \ge \sum_i [H(x_i) + \langle \ln q_\phi(x_i|z) \rangle]
        - \sum_j D_{KL}(p_\theta(z_j|x) \| r_\alpha(z_j))

    over the distribution that ``data`` are from.  Give data that the program was not trained on: on
    its own training data an overfitted program is credited with what it remembers.  The entropies
    are of the very data that the bound is evaluated on.  KL weights (anchors) have no part in it.
    The bias of differential entropies is between -3 / N and 0.5 / N nats a dimension, unless data
    lie in clusters of a few; where it shows, it is in the standard error, as is the correlation of
    the entropies with the rest.

    The bound is that of one draw from the guide, on average over ``num_particles`` draws: more of
    them lessen the noise, and leave its expectation as it is.  ``importance_samples=K`` puts the
    logarithm of a mean over K draws in the place of the sums over :math:`i` and :math:`j` (Burda et
    al. 2016),

    .. math::

        TC(x) \ge \sum_i H(x_i) + \Big\langle \ln \frac{1}{K} \sum_{k=1}^K
        \frac{q_\phi(x, z_k)}{p_\theta(z_k|x)} \Big\rangle, \qquad z_k \sim p_\theta(z|x),

    whose expectation grows with K, towards the bound with the exact :math:`\ln q_\phi(x)`.  All
    latents are drawn for it, those too that are summed over elsewhere.  It is no sum over
    dimensions: ``terms`` remain those of the plain bound.

    Of a model that is told a covariate y beside what it observes, the terms bound TC(x) + I(x : y),
    and I(x : y) is at most H(y).  Where y is discrete, H(y) is taken off, jointly for all that the
    model is told; it is estimated from the same data, and its error is part of ``stderr``.

    Data are read batch by batch.  What is kept of them are x itself, for its entropies, and what
    else the model may be told; the draws of the lower layers of a stack; and a few numbers for each
    datum.

    :param module: a program with ``.model(*batch)`` and ``.guide(*batch)``; it is put into
        evaluation mode for the time being.
    :param data: ``(N, ...)``, first axis the data: a tensor, an array, a tuple or a dict of them, a
        ``Dataset``, or an iterable of batches such as a ``DataLoader``.  Model and guide are given
        all of a batch, a dict as keyword arguments; ready-made programs take x alone, which is its
        first entry or the one named ``"x"``.
    :param num_particles: draws from the guide for each datum, over which terms are averaged.
    :param importance_samples: K; ``None``, the default, gives the plain bound.
    :param batch_size: of tensors, arrays and data sets; data times importance samples that the
        programs are given at once are no more than that, or one batch.
    :param transform: called with what the programs would be given of each batch, and gives what
        they are given instead: a tensor, a tuple or a dict; e.g. ``torch.bernoulli`` to binarise
        grey values, or ``lambda x, y: x`` to select.
    :param data_plates: see :class:`~pyro_corex.CorExELBO`.
    :param seed: of the draws and of ``transform``; torch's random state is put back afterwards.
    :raises ValueError: where the likelihood is not a proper one of the data (Bernoulli on grey
        values, a density on discrete data, a masked site, one that does not factorise); where the
        model is told a covariate with more than one distinct value in ten data, or programs are
        not normalised (``pyro.factor``, points of a continuous latent, masks, ...); saying how to
        mend it; for data that are fewer than two; and with importance samples for latents that
        data share and programs that observe other data each time.
    :raises TypeError: for a module without ``.model`` and ``.guide``, and for programs that do not
        take what a batch holds, saying how to select.

    >>> import pyro
    >>> import pyro.distributions as dist
    >>> from pyro_corex.datasets import noisy_coins
    >>> class Coins(torch.nn.Module):  # one latent knows the coin of three noiseless copies
    ...     def model(self, x):
    ...         with pyro.plate("data", len(x)):
    ...             z = pyro.sample("z", dist.Bernoulli(0.5))
    ...             copies = dist.Bernoulli(z[..., None].expand(z.shape + (3,))).to_event(1)
    ...             pyro.sample("x", copies, obs=x)
    ...     def guide(self, x):
    ...         with pyro.plate("data", len(x)):
    ...             pyro.sample("z", dist.Bernoulli(x[:, 0]))
    >>> x = noisy_coins(1000, groups=1, copies=3, flip=0.0).x
    >>> round(tc_bound(Coins(), x).estimate, 2)  # 2 ln 2, as TC(x)
    1.39
    """
    weights = None
    if importance_samples is not None:
        check_count("importance_samples", importance_samples)
        weights = ImportanceWeights(
            module, importance_samples, rows=batch_size, data_plates=data_plates, seed=seed
        )

    def watch(batch: Batch, terms: CorExTerms) -> None:
        _refuse(terms)
        if weights is not None:
            weights.look(batch, terms)

    terms = dataset_terms(
        module,
        data,
        num_particles=num_particles,
        batch_size=batch_size,
        transform=transform,
        data_plates=data_plates,
        seed=seed,
        watch=watch,
    )
    if weights is None:
        return _bound(terms)
    return _weighted(terms, importance_samples, weights.log_likelihood())


def dataset_terms(
    module: Any,
    data: Data,
    *,
    num_particles: int = 1,
    batch_size: int = 1024,
    transform: Transform | None = None,
    data_plates: Collection[str] | None = None,
    seed: int = 0,
    watch: Callable[[Batch, CorExTerms], Any] | None = None,
) -> CorExTerms:
    """The terms of a data set, read batch by batch; as :func:`tc_bound` takes its arguments.

    :param watch: is called with each batch and its terms, and may raise.
    :raises ValueError: for data that are empty.
    :raises TypeError: as :func:`tc_bound`.
    """
    model, guide = programs_of(module)
    check_count("num_particles", num_particles)
    check_count("batch_size", batch_size)
    elbo = CorExELBO(num_particles, data_plates=data_plates, strict_enumeration_warning=False)
    parts: list[CorExTerms] = []
    news = _News()
    with evaluating(module, seed):
        for batch in batches_for(module, data, batch_size, transform):
            terms = elbo.terms(model, guide, *batch.args, **batch.kwargs)
            news.look(batch, terms.evidence)
            if watch is not None:
                watch(batch, terms)
            parts.append(replace(terms, _source=terms.evidence.compact()))
            while len(parts) > 1 and parts[-2].evidence.size <= parts[-1].evidence.size:
                parts[-2:] = [CorExTerms.join(parts[-2:])]  # few are kept, each term joined seldom
    if not parts:
        raise ValueError("The data are empty: there is no batch to evaluate on")
    return CorExTerms.join(parts)


def batches_for(
    module: Any, data: Data, batch_size: int, transform: Transform | None
) -> Iterator[Batch]:
    """The batches of a data set, as a program takes them."""
    return map(prepare(module, transform), read_batches(data, batch_size, module))


@contextmanager
def evaluating(module: Any, seed: int) -> Iterator[None]:
    """Puts a module into evaluation mode for a while, with draws that follow ``seed``.

    Each of its parts is put back as it was, and so is torch's random state.
    """
    check_seed(seed)
    device, _ = place_of(module)
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    modes = [(part, part.training) for part in parts]
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), pyro.validation_enabled(False):
        # not the very seed, with which the data may have been simulated: the draws from the guide
        # would repeat the noise of the data, and the bound would be too high
        torch.manual_seed(0x7C_B0_5EED + seed)
        for part in parts:
            part.training = False
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode


class _News:
    """Looks at what the model's densities depend on, where a batch may show what others did not.

    That is the first, and one in which something has other values that was the same for all data
    before: the label, of data that are sorted by it.
    """

    def __init__(self) -> None:
        self._first: list[Tensor] = []
        self._moving: list[Tensor] = []

    def look(self, batch: Batch, evidence: Evidence) -> None:
        """Looks at the programs, if this batch is such a one."""
        rows = [x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1) for x in batch.tensors()]
        new = not self._first
        if new:
            self._first = [x[0] for x in rows]
            self._moving = [torch.zeros_like(x, dtype=torch.bool) for x in self._first]
        for place, x in enumerate(rows[: len(self._first)]):
            first, moving = self._first[place], self._moving[place]
            if x.shape[1:] == first.shape and not _is_observed(x, evidence):
                self._moving[place] = moving | (x != first).any(0)
                new = new or not torch.equal(moving, self._moving[place])
        evidence.sight(self._first, run=new)


def _is_observed(x: Tensor, evidence: Evidence) -> bool:
    """Whether an argument is what a site observes."""
    values = [inputs.values for inputs in evidence.inputs.values()]
    return any(x.shape == seen.shape and torch.equal(x.to(seen), seen) for seen in values)


def _complete(terms: CorExTerms) -> Evidence:
    """The evidence of all data, if it is enough for a bound."""
    if terms.evidence.size < 2:
        raise ValueError(f"A bound on TC(x) needs at least 2 data, but got {terms.evidence.size}")
    _ = terms.entropy, terms.evidence.covariate  # each says why if its entropy is not known
    return terms.evidence


def _weighted(terms: CorExTerms, samples: int | None, log_likelihood: Tensor) -> TCBound:
    evidence = _complete(terms)
    found = mean_with_entropies(log_likelihood, evidence.whole()[1])
    error = float(log_likelihood.std()) / len(log_likelihood) ** 0.5
    return TCBound(
        float(found.value),
        float(found.stderr),
        terms,
        evidence.size,
        importance_samples=samples,
        log_likelihood=Estimate(float(log_likelihood.mean()), error),
    )


def _bound(terms: CorExTerms) -> TCBound:
    evidence = _complete(terms)
    apart = not evidence.no_layers and not evidence.sight().unexplained
    parts = [evidence.whole(), *(evidence.by_layer() if apart else [])]
    known: Swayed = {}  # layers share their entropies with the whole
    found = [mean_with_entropies(*part, known) for part in parts]
    whole, *layers = [Estimate(float(each.value), float(each.stderr)) for each in found]
    return TCBound(whole.value, whole.stderr, terms, evidence.size, tuple(layers))


def _refuse(terms: CorExTerms) -> None:
    """Raises for what no bound can be stated for, as soon as a batch of it is seen."""
    evidence = terms.evidence
    problem = next((i.problem for i in evidence.inputs.values() if i.problem), "")
    if problem:
        raise ValueError(problem)
    if not evidence.inputs:
        raise ValueError(
            "The model observes nothing, so there is no TC(x) to bound. Give it a site with obs=..."
        )
    if evidence.problem or evidence.sight().problem:
        raise ValueError(evidence.problem or evidence.sight().problem)
    if not evidence.per_datum:
        raise ValueError(
            "The terms are not known for each datum, so the bound's error is not either: some "
            "sites are summed out in the model, enumerated one value at a time, or drawn for all "
            "data at once. "
            "elbo.terms(model, guide, x).tc_bound needs no error."
        )
