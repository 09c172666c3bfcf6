"""A stack with a discrete top, trained in stages that find the classes of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_corex.batches import check_count, check_seed
from pyro_corex.objective import CorExELBO, Invariance
from pyro_corex.programs import Layer, StackedCorEx
from pyro_corex.threads import alone
from pyro_corex.training.checkpoint import Checkpoint, load, save
from pyro_corex.training.fit import fit
from pyro_corex.training.history import History
from pyro_corex.training.optimization import Optimization, check_positive
from pyro_corex.training.random_state import seeded
from pyro_corex.training.runners import Devices
from pyro_corex.training.start import Start, check_start, start_top

_END = 0.05
"""The learning rate at the end of a stage, as a share of that at its beginning."""

_OPTIONS = {
    "batch_size", "copies", "lr", "max_data", "n_components", "n_starts", "refine", "steps",
}  # fmt: skip
"""Those of :func:`start_top` that are not :func:`fit_stack`'s own."""

_STAGES = {1: "layers below", 3: "all layers"}  # files have these names, too


@dataclass(frozen=True)
class Stages:
    """What :func:`fit_stack` did; a stage that was left out is ``None``."""

    below: History | None
    """Of the layers below the top, alone."""
    starts: list[Start] | None
    """Of the top, the one that was taken first; see :func:`start_top`."""
    joint: History | None
    """Of all layers together."""


@alone()
def fit_stack(
    stack: StackedCorEx,
    x: Tensor,
    *,
    copy: Callable[[Tensor], Tensor] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    below_epochs: int = 100,
    start: Mapping[str, Any] | None = MappingProxyType({}),
    epochs: int = 150,
    mi_weight: float = 20.0,
    invariance: float = 100.0,
    batch_size: int = 128,
    lr: float = 3e-3,
    joint: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    device: str | torch.device = "auto",
    devices: int | Devices = 1,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Stages:
    r"""Trains a stack so that its discrete top finds the classes of the data (Sec. 6.1).

    From random weights the top of a stack seldom finds anything but a partition of its own.  Three
    stages lead it to the classes, and no label takes part:

    1. The layers below the top are trained alone, by Eq. 10.
    2. The top is started from the best of several Gaussian mixtures over them: :func:`start_top`.
    3. All layers are trained together, by Eq. 12 with two terms of the top class c more: a reward
       ``mi_weight`` :math:`\cdot I(c:x)`, which is an anchor (Eq. 20) with the true information,
       and a penalty ``invariance`` :math:`\cdot I(c:t|x)` on what the class tells of the copy.

    What counts as the same is for you to say: ``copy`` makes copies of a batch that keep its
    classes, such as small rotations of images (:class:`~pyro_corex.datasets.RandomAffine`), or
    the neighbours of a datum (:class:`~pyro_corex.datasets.Neighbours`).  In each stage the
    learning rate falls along a cosine.  Anchors of the stack are in force in the third.

    >>> kind = torch.arange(64) % 2  # dark and bright images of 20 pixels
    >>> x = torch.bernoulli((0.1 + 0.8 * kind[:, None]).expand(64, 20))
    >>> stack = StackedCorEx([(20, 16, 2), (2, 8, 2)], n_classes=2)
    >>> noisy = lambda x: torch.where(torch.rand_like(x) < 0.1, 1 - x, x)
    >>> few = {"below_epochs": 60, "epochs": 5, "start": {"steps": 100}, "progress": False}
    >>> stages = fit_stack(stack, x, copy=noisy, batch_size=16, lr=1e-2, **few)
    >>> found = stack.encode(x)[-1].probs.argmax(-1)
    >>> bool((found == kind).all() or (found == 1 - kind).all())
    True

    :param stack: two layers or more with a discrete top; trained in place.
    :param x: the data, shape ``(N, ...)``.
    :param copy: from a batch, as the encoder takes it, to one that is transformed at random.
        Without it the starts are ranked by their likelihood, and there is no penalty.
    :param transform: makes of each batch what the encoder takes, e.g. ``torch.bernoulli`` to draw
        binary pixels anew; see :func:`fit`.  The second stage takes the data as they are, if the
        likelihood is for such data.
    :param below_epochs: of the first stage; 0 leaves it out.
    :param start: options of :func:`start_top`, e.g. ``{"n_starts": 8}``; ``None`` leaves the second
        stage out.
    :param epochs: of the third stage; 0 leaves it out.
    :param mi_weight: in nats of the bound for each nat of I(c:x).
    :param invariance: the same for I(c:t|x).
    :param batch_size: the data of a step of the first and the third stage.
    :param lr: the learning rate of Adam at the beginning of each of them.
    :param joint: ``batch_size`` and ``lr`` of the third stage, where they are others.  I(c:x) and
        I(c:t|x) are those of a batch, and large batches know them better.
    :param seed: of all draws; the global random states are put back afterwards.
    :param device: "auto" takes CUDA where there is one.
    :param devices: as for :func:`fit`.
    :param folder: where the stages are saved.  A call that finds some of them there goes on.
    :param progress: show bars, each named after its stage.
    :returns: the histories of the stages.
    :raises ValueError: as :func:`fit` and :func:`start_top`, of which it is made.
    :raises TypeError: likewise, and for data that are no tensor.
    :raises OSError: where ``folder`` cannot be made or written.
    """
    for name, value in (("below_epochs", below_epochs), ("epochs", epochs)):
        check_count(name, value, least=0)
    if not isinstance(start, Mapping | None) or not set(start or {}) <= _OPTIONS:
        raise ValueError(f"start must be None or map some of {sorted(_OPTIONS)}, but got {start!r}")
    if not isinstance(joint, Mapping) or not set(joint) <= {"batch_size", "lr"}:
        raise ValueError(f"joint must map some of ['batch_size', 'lr'], but got {joint!r}")
    first: dict[str, Any] = {"batch_size": batch_size, "lr": lr}
    third = first | dict(joint)
    for stage, given in (("", first), ("joint's ", third)):
        check_count(f"{stage}batch_size", given["batch_size"])
        check_positive(f"{stage}lr", given["lr"])
    seed, path = check_seed(seed), None if folder is None else Path(folder)
    check_start("fit_stack", stack, x)
    top = f"z{stack.n_layers}"
    elbo = CorExELBO(
        mi_weight={top: mi_weight} if mi_weight else None,
        invariance=Invariance(copy, {top: invariance}) if copy and invariance else None,
    )
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)

    def named(stage: int, name: str) -> bool | str:
        return progress and f"stage {stage} of 3: {name}"

    def train(
        stage: int, module: StackedCorEx, epochs: int, elbo: CorExELBO | None,
        *, batch_size: int, lr: float,
    ) -> History:  # fmt: skip
        name = _STAGES[stage]
        steps = epochs * -(-len(x) // batch_size)
        return fit(
            module, x, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, device=device,
            devices=devices, elbo=elbo, transform=transform, progress=named(stage, name),
            optimizer=Optimization(lr_schedule=lambda it: CosineAnnealingLR(it, steps, _END * lr)),
            checkpoint=None if path is None else Checkpoint(path / name, resume="auto"),
        )  # fmt: skip

    below, starts, together = None, None, None
    if below_epochs:
        below = train(1, _below(stack), below_epochs, None, **first)
    if start is not None:
        told = {"transform": copy, "seed": seed, "progress": named(2, "top"), **start}
        starts = _start(stack, x, path, transform, told)
    if epochs:
        together = train(3, stack, epochs, elbo, **third)
    return Stages(below, starts, together)


def _below(stack: StackedCorEx) -> StackedCorEx:
    """The layers below the top, as a stack of their own of the same networks."""
    parts = zip(stack.encoders, stack.decoders, stack.dims, strict=True)
    layers = [Layer(*part) for part in parts][:-1]
    return StackedCorEx(layers, likelihood=stack.likelihood, n_classes=None)


def _start(
    stack: StackedCorEx,
    x: Tensor,
    folder: Path | None,
    transform: Callable[[Tensor], Tensor] | None,
    options: dict[str, Any],
) -> list[Start] | None:
    file = None if folder is None else folder / "start"
    if file is not None and file.exists():
        load(file, stack)
        return None
    try:
        stack.check_data(x.cpu())  # elsewhere values are not looked at
    except ValueError:
        if transform is not None:
            with seeded(options["seed"], x.device):
                x = transform(x)
    starts = start_top(stack, x, **options)
    if file is not None:
        save(stack, file)
    return starts
