"""Where the discrete top of a stack starts from: a mixture over the layer below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_corex.batches import check_count
from pyro_corex.information.checks import check_finite
from pyro_corex.information.mixture import fit_mixture, merge_states
from pyro_corex.programs import LadderVAE, StackedCorEx
from pyro_corex.threads import alone
from pyro_corex.training.optimization import Optimization
from pyro_corex.training.random_state import seeded

_IMITATE = 150
"""Steps in which a refined start is brought to what it was."""


@dataclass(frozen=True)
class Start:
    """One start of the top layer; see :func:`start_top`."""

    n_components: int
    """Of the mixture."""
    log_likelihood: float
    """Of the mixture, in nats per datum and its copies."""
    information: float
    """What the class of one copy tells about that of another, in nats: what the starts are ranked
    by where there are copies."""
    responsibilities: Tensor
    """Shape ``(N, n_classes)``."""


@alone()
def start_top(
    stack: StackedCorEx,
    x: Tensor,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    copies: int = 3,
    n_components: int | Sequence[int] | None = None,
    n_starts: int = 4,
    max_data: int = 20_000,
    refine: int = 0,
    steps: int = 3000,
    batch_size: int = 512,
    lr: float = 3e-3,
    seed: int = 0,
    progress: bool | str = True,
) -> list[Start]:
    r"""Starts the discrete top of a trained layer from a Gaussian mixture (Sec. 6.1).

    Full-covariance mixtures are fitted to draws of the layer below, and the best one's
    responsibilities are copied into :math:`p_\theta(z^{(L)}|z^{(L-1)})` and, with the moments of
    the layer below, into the model.  Without ``transform`` the best is that of the highest
    likelihood, which is the layer's part in the bound.  With it, the copies of a datum share a
    component, the components are merged to the number of classes, and the best start is that
    whose classes tell most about the class of another copy.  With ``refine`` each start is first
    improved by that very information.  No label is involved.

    :param stack: a stack whose layers below the top have been trained; changed in place.
    :param x: the data, as the encoder of the first layer takes them: shape ``(N, ...)``.
    :param transform: makes transformed copies of a batch.
    :param copies: their number, without the datum itself.
    :param n_components: of the mixtures; one number or several to try.  By default the number of
        classes, and with a ``transform`` twice that: a class may be several Gaussians.
    :param n_starts: mixtures for each of ``n_components``.
    :param max_data: fit the mixtures to that many of the data, drawn at random.
    :param refine: with a ``transform``, steps by which a network for each start, that imitates its
        responsibilities first, is made to tell more of another copy's class (Ji et al. 2019).
    :param steps: training steps of the top's networks towards the responsibilities.
    :param seed: of all draws; the global random states are put back afterwards.
    :param progress: show progress bars; text stands before their names.
    :returns: the starts, the best one, which was taken, first.
    :raises ValueError: for a stack without a discrete top over another layer or with a guide from
        the top down, data that are empty, NaN or changed in shape by ``transform``, and numbers
        that are less than 1.
    :raises TypeError: for data that are no tensor.
    """
    n_classes = check_start("start_top", stack, x)
    default = n_classes * (1 if transform is None else 2)
    given = default if n_components is None else n_components
    numbers: list[Any] = list(given) if isinstance(given, Sequence) else [given]
    counts = {"n_starts": n_starts, "copies": copies, "max_data": max_data, "steps": steps}
    for name, value in {**counts, "batch_size": batch_size}.items():
        check_count(name, value)
    check_count("refine", refine, least=0)
    for number in numbers or [numbers]:  # an empty list is refused as what it is
        check_count("n_components", number)
    device = next(stack.parameters()).device
    with seeded(seed, device):
        x = x.to(device)
        views = [x] if transform is None else [x, *(transform(x) for _ in range(copies))]
        for view in views:
            shape = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            if shape != tuple(x.shape):
                raise ValueError(
                    "The transform of start_top (copy of fit_stack) must keep the shape "
                    f"{tuple(x.shape)}, but gives {shape}"
                )
        below = [_moments(stack, view) for view in views]
        loc, scale = below[0]
        signal, noise = loc.var(0), scale.square().mean(0)
        active = signal > 0.05 * (signal + noise)  # the others tell nothing about x
        if not bool(active.any()):
            raise ValueError(
                f"No latent of layer {stack.n_layers - 1} tells anything about x, so there is "
                "nothing to start the top from. Train the layers below for longer first "
                "(below_epochs of fit_stack)."
            )
        draws = torch.stack([torch.normal(*moments)[:, active] for moments in below])
        some = torch.randperm(len(x), device=device)[:max_data]
        wanted = [(n, 1000 * seed + i) for n in numbers for i in range(n_starts)]
        shown = tqdm(wanted, desc=_named("mixtures", progress), disable=not progress)
        found = [_start(draws, some, n, n_classes, own) for n, own in shown]
        if refine and transform is not None:
            means = torch.stack([moments[0][:, active] for moments in below])
            found = _refined(means, some, found, refine, progress)
        found.sort(key=lambda s: s.log_likelihood if transform is None else s.information)
        found.reverse()
        _copy_into_top(stack, below[0], found[0].responsibilities, steps, batch_size, lr, progress)
    return found


def check_start(call: str, stack: Any, x: Any) -> int:
    """The classes of a stack; raises as :func:`start_top` does for what cannot be started."""
    if not isinstance(stack, StackedCorEx) or stack.n_classes is None or stack.n_layers < 2:
        raise ValueError(
            f"{call} needs a stack of at least two layers with a discrete top, but got "
            f"{stack!r}. Give StackedCorEx n_classes."
        )
    if isinstance(stack, LadderVAE):
        raise ValueError(
            f"{call} needs a stack whose guide goes up, but got a LadderVAE, whose layers depend "
            "on the top. Start a StackedCorEx of the same networks, and load its parameters."
        )
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x must be a tensor of shape (N, ...), but got {type(x).__name__}. Convert it with "
            "torch.as_tensor."
        )
    check_finite("x", x)
    return stack.n_classes


def _start(draws: Tensor, some: Tensor, components: int, classes: int, seed: int) -> Start:
    mixture = fit_mixture(draws[:, some], components, seed=seed)
    if len(draws) == 1:
        new, information = torch.arange(components), 0.0
        if components > classes:
            raise ValueError(
                f"n_components={components} is more than the {classes} classes, and only copies "
                "say which to merge. Give a transform (copy of fit_stack), or n_components=None."
            )
    else:
        one = [mixture.responsibilities(view) for view in draws[:, some]]
        both: Any = sum(a.T @ b for a in one for b in one if a is not b)
        new, information = merge_states(both, classes)
    merge = torch.eye(classes, dtype=draws.dtype, device=draws.device)[new.to(draws.device)]
    resp = mixture.responsibilities(draws[0]) @ merge
    return Start(components, mixture.log_likelihood, information, resp)


def _refined(
    means: Tensor, some: Tensor, starts: list[Start], steps: int, progress: bool | str
) -> list[Start]:
    """The starts, each as a network that tells most about the class of another copy."""
    z = (means - means.mean((0, 1))) / means.std((0, 1))
    resp = torch.stack([start.responsibilities for start in starts])
    n, hidden = len(starts), 64
    sizes = [(n, z.shape[-1], hidden), (n, 1, hidden), (n, hidden, resp.shape[-1])]
    weights = [torch.randn(size, device=z.device) / size[1] ** 0.5 for size in sizes]
    parameters = [weight.requires_grad_() for weight in weights]

    def probs(z: Tensor) -> Tensor:
        up, bias, out = parameters
        return ((z @ up + bias).relu() @ out).softmax(-1)

    optimiser = Optimization().make(parameters, 1e-2, fused=True)
    shown = tqdm(range(_IMITATE + steps), desc=_named("refined", progress), disable=not progress)
    for step in shown:
        rows = some[torch.randint(len(some), (1024,), device=z.device)]
        one, other = torch.randperm(len(z), device=z.device)[:2]
        own = probs(z[one, rows])
        if step < _IMITATE:
            gain = (resp[:, rows] * own.clamp_min(1e-6).log()).sum(-1).mean(-1)
        else:
            gain = _information(own.mT @ probs(z[other, rows]))
        optimiser.zero_grad(set_to_none=True)
        (-gain.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        each = torch.stack([probs(view) for view in z])
        every = each.sum(0)
        both = every.mT @ every - (each.mT @ each).sum(0)
        information = _information(both).tolist()
    return [
        replace(start, information=value, responsibilities=own)
        for start, value, own in zip(starts, information, each[0], strict=True)
    ]


def _named(part: str, progress: bool | str) -> str:
    """What a bar is called."""
    return f"{progress}, {part}" if isinstance(progress, str) else part


def _information(joint: Tensor) -> Tensor:
    """Between the rows and the columns of tables, in nats: ``(n, K, K)`` to ``(n,)``."""
    joint = (joint / joint.sum((-1, -2), keepdim=True)).clamp_min(1e-12)
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return (joint * (joint / apart).log()).sum((-1, -2))


@torch.no_grad()
def _moments(stack: StackedCorEx, x: Tensor) -> tuple[Tensor, Tensor]:
    parts = [stack.encode(rows)[-2] for rows in x.split(10_000)]
    return torch.cat([q.mean for q in parts]), torch.cat([q.stddev for q in parts])


def _copy_into_top(
    stack: StackedCorEx,
    below: tuple[Tensor, Tensor],
    resp: Tensor,
    steps: int,
    size: int,
    lr: float,
    progress: bool | str,
) -> None:
    loc, scale = below
    top = [stack.encoders[-1], stack.decoders[-1], stack.prior]
    parameters = [p for module in top for p in module.parameters()]
    optimiser = Optimization().make(parameters, lr, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    classes = torch.arange(stack.dims[-1], device=loc.device)
    for _ in tqdm(range(steps), desc=_named("copied", progress), disable=not progress):
        rows = torch.randint(len(loc), (size,), device=loc.device)
        z, r = torch.normal(loc[rows], scale[rows]), resp[rows]
        up: Any = stack.encode_layer(stack.n_layers, z)
        prior: Any = stack.prior()
        down = stack.given_top(classes).log_prob(z.unsqueeze(1)).sum(-1)
        gain = r * (up.logits.squeeze(-2) + down + prior.logits)
        optimiser.zero_grad(set_to_none=True)
        (-gain.sum(-1).mean()).backward()
        optimiser.step()
        schedule.step()
