"""How many layers to stack: while the next one pays for itself (Eq. 16)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import Data, check_count, check_seed, in_memory
from pyro_corex.evaluation.bound import TCBound, tc_bound
from pyro_corex.information import Estimate
from pyro_corex.programs import Layer, Likelihood, Prior, StackedCorEx
from pyro_corex.programs.likelihoods import make_likelihood
from pyro_corex.training import fit

LayerLike = Layer | Sequence[int]


@dataclass(frozen=True)
class Trial:
    """A depth that :func:`choose_depth` tried."""

    depth: int
    """The number of layers."""
    contribution: Estimate[float]
    """Of the top layer, on held-out data, a scalar: L^(l) in Eq. 13."""
    bound: TCBound
    """Of the whole stack, in nats."""
    margin: float
    """What the contribution has to exceed, in nats."""

    @property
    def pays(self) -> bool:
        """Whether the contribution is positive beyond its error."""
        return self.contribution.estimate > self.margin


@dataclass(frozen=True, repr=False)
class Depth:
    """The depth that was chosen, and what was tried; see :func:`choose_depth`."""

    depth: int
    """The number of layers that pay for themselves."""
    module: StackedCorEx | None
    """The stack of that depth, trained; ``None`` for depth 0."""
    trials: tuple[Trial, ...]
    """One for each depth, from 1."""
    n_sigma: float
    """As it was given."""

    def __repr__(self) -> str:
        lines = [f"Depth({self.depth}, at {self.n_sigma:g} standard errors"]
        for trial in self.trials:
            bound = f"TC(x) >= {trial.bound.estimate:.4g} ± {trial.bound.stderr:.2g}"
            verdict = "pays" if trial.pays else f"does not pay (needs {trial.margin:.2g})"
            lines.append(f"  layer {trial.depth}: {trial.contribution!r}, {verdict}; {bound}")
        return "\n".join(lines) + ")"


def choose_depth(
    layers: Sequence[LayerLike] | Callable[[int], LayerLike],
    data: Any,
    *,
    holdout: float | Data = 0.25,
    max_depth: int | None = None,
    n_sigma: float = 3.0,
    likelihood: str | Likelihood = "bernoulli",
    prior: str | Prior | Distribution | Callable[[], Any] = "standard_normal",
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    transform: Callable[[Tensor], Tensor] | None = None,
    progress: bool = False,
) -> Depth:
    r"""Grows a stack layer by layer while the next one pays for itself.

    A layer pays if its contribution :math:`L(\theta^{(l)}; z^{(l-1)})` (Eq. 13), a lower bound on
    TC(x; z) - TC(z) with the layer below in the place of x, is positive by more than ``n_sigma``
    standard errors on held-out data and the largest bias that their entropies may have; then the
    bound on TC(x) grows with it (Eq. 16).  Growing is greedy: each layer is trained on top of those
    below, which stay as they are, and the first one that does not pay ends it.

    What depth is found depends on what a layer can express: a stack of flexible networks may put
    into one layer what simple ones need several for.

    :param layers: the layers to try, from the data upwards, as :class:`~pyro_corex.StackedCorEx`
        takes them; or a function of the level, 1 for the first, that makes one.
    :param data: as :func:`~pyro_corex.fit` takes it.
    :param holdout: the share of tensors or arrays to hold out (chosen by ``seed``), or the data
        that are held out, ``(N, ...)``.  Contributions are evaluated on these only.
    :param max_depth: where to stop at the latest; needed if ``layers`` is a function.
    :param n_sigma: how many standard errors make a contribution positive.
    :param epochs: passes over the data for each layer, at the rate ``lr``; half as many follow at a
        fifth of it.
    :raises ValueError: for options out of range, and as :func:`~pyro_corex.tc_bound`.
    :raises TypeError: for a share to hold out of data that are no tensors or arrays.
    """
    depths = _depths(layers, max_depth)
    check_seed(seed)
    if not isinstance(n_sigma, (int, float)) or not 0 <= n_sigma < math.inf:
        raise ValueError(f"n_sigma must be a finite number >= 0, but got {n_sigma!r}")
    train, held_out = _split(data, holdout, seed)
    likelihood = make_likelihood(likelihood)
    trained: list[Layer] = []
    trials: list[Trial] = []
    best: StackedCorEx | None = None
    frozen: list[nn.Parameter] = []
    try:
        for depth in depths:
            new = layers(depth) if callable(layers) else layers[depth - 1]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + depth)
                stack = StackedCorEx(
                    [*trained, new], likelihood=likelihood, n_classes=None, prior=prior
                )
            for n_epochs, rate in ((epochs, lr), (max(1, epochs // 2), lr / 5)):
                fit(
                    stack,
                    train,
                    epochs=n_epochs,
                    batch_size=batch_size,
                    lr=rate,
                    seed=seed + depth,
                    device=device,
                    transform=transform,
                    progress=progress,
                )
            bound = tc_bound(stack, held_out, transform=transform, seed=seed)
            top = bound.layers[-1]
            trials.append(Trial(depth, top, bound, n_sigma * top.stderr + _bias(bound)))
            if not trials[-1].pays:
                break
            best = stack
            trained = [
                Layer(up, down, dim)
                for up, down, dim in zip(stack.encoders, stack.decoders, stack.dims, strict=True)
            ]
            parts = (stack.encoders, stack.decoders, likelihood)
            new_frozen = [p for part in parts for p in part.parameters() if p.requires_grad]
            frozen += new_frozen
            for parameter in new_frozen:
                parameter.requires_grad_(False)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return Depth(0 if best is None else best.n_layers, best, tuple(trials), n_sigma)


def _bias(bound: TCBound) -> float:
    """What the entropies of the layer below the top may be wrong by, beyond their standard error.

    A differential entropy is biased by at most 0.002 nats at 1,000 data and 0.0008 at 10,000 (see
    :func:`pyro_corex.information.entropy_estimate`), a discrete one by much less.
    """
    evidence = bound.terms.evidence
    below = [layer.values for layer in evidence.below.values()][-1:] or [
        inputs.values for inputs in evidence.inputs.values() if inputs.kind == "continuous"
    ]
    per_dimension = 0.002 * (1000 / bound.num_data) ** 0.4
    return per_dimension * sum(values.shape[1] for values in below)


def _depths(layers: Any, max_depth: int | None) -> Any:
    if max_depth is not None:
        check_count("max_depth", max_depth)
    if callable(layers):
        if max_depth is None:
            raise ValueError("max_depth is needed where layers is a function of the level")
        return range(1, max_depth + 1)
    if not isinstance(layers, Sequence) or not layers:
        raise ValueError(
            "layers must be a non-empty sequence of layers, e.g. [(784, 512, 64), (64, 32, 10)], "
            f"or a function that makes one, but got {layers!r}"
        )
    return range(1, min(len(layers), max_depth or len(layers)) + 1)


def _split(data: Any, holdout: Any, seed: int) -> tuple[Any, Any]:
    if isinstance(holdout, (int, str)) or holdout is None:
        raise TypeError(f"holdout must be a share below 1, or data, but got {holdout!r}")
    if not isinstance(holdout, float):
        return data, holdout
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must be a share between 0 and 1, but got {holdout!r}")
    x = in_memory(data)
    if x is None:
        raise TypeError(
            "holdout is a share of tensors or arrays, but data is "
            f"{type(data).__name__}. Give the data that are held out: holdout=..."
        )
    n = round(holdout * len(x))
    if not 2 <= n < len(x):
        raise ValueError(f"holdout={holdout} of {len(x)} data leaves {n} to hold out; at least 2")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, rest = order[:n], order[n:]
    return x.map(lambda each: each[rest.to(each.device)]), x.map(
        lambda each: each[held.to(each.device)]
    )
