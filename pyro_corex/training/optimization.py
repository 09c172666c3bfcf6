"""What a training step changes: the parameters, by an optimiser, and schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_corex.batches import Batch, programs_of
from pyro_corex.objective import CorExELBO
from pyro_corex.training import checkpoint
from pyro_corex.training.data import normalised
from pyro_corex.training.first_run import StoreParameters
from pyro_corex.training.runners import Runner
from pyro_corex.training.schedules import is_schedule

_OF_THE_MOMENT = re.compile(r" at 0x[0-9a-f]+|, now [^)]+")
"""What a ``repr`` may say that is no part of what was asked for: a place in memory, where a
schedule stands."""

MakeOptimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Optimization:
    """How :func:`~pyro_corex.fit` takes a step.

    :raises ValueError: for a ``clip_norm`` that is not positive.
    :raises TypeError: for what are no functions or schedules.
    """

    optimizer: MakeOptimiser | None = None
    """From the parameters to an optimiser, in place of ``Adam`` with the rate ``lr`` (torch's fused
    one where there is one), e.g. ``lambda parameters: torch.optim.SGD(parameters, lr=0.1)``."""

    lr_schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    """From the optimiser to one of torch's schedulers, which takes a step after each training step;
    ``ReduceLROnPlateau`` after each epoch, with minus the objective (on the validation data, if
    there are)."""

    kl_schedule: Any = None
    """A KL-weight schedule such as :class:`~pyro_corex.Warmup`, or several: their ``step()`` is
    called after each training step.  Weights of regularizers need not be named here."""

    clip_norm: float | None = None
    """The largest norm of the gradient."""

    def __post_init__(self) -> None:
        for name, of in (("optimizer", "the parameters"), ("lr_schedule", "the optimiser")):
            if (what := getattr(self, name)) is not None and not callable(what):
                got = type(what).__name__
                raise TypeError(f"{name} must be a function of {of}, but got {got}")
        _check_steps("kl_schedule", several(self.kl_schedule), "e.g. Warmup(0.0, 1.0, steps=1000)")
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm)

    def make(self, parameters: list[nn.Parameter], lr: float, fused: bool | None) -> Any:
        """The optimiser.

        :raises TypeError: where the function gave something else.
        """
        if self.optimizer is None:
            try:
                return torch.optim.Adam(parameters, lr=lr, fused=fused)
            except RuntimeError:  # not for these devices or dtypes
                return torch.optim.Adam(parameters, lr=lr)
        made = self.optimizer(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            pyros = isinstance(self.optimizer, PyroOptim)
            found = "is one of Pyro's, for SVI" if pyros else f"gave {type(made).__name__}"
            raise TypeError(
                "optimizer must be a function from the parameters to a torch.optim.Optimizer, such "
                f"as lambda parameters: torch.optim.Adam(parameters, lr=1e-3), but {found}"
            )
        return made


class Loss(nn.Module):
    """The loss as a module, whose forward pass is what several processes synchronise on."""

    def __init__(self, module: nn.Module, elbo: CorExELBO, from_store: StoreParameters) -> None:
        super().__init__()
        self.module = module
        self.from_store = from_store
        self.regularizers = elbo.regularizer_modules
        self.elbo = elbo

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the objective, in nats summed over the batch."""
        model, guide = programs_of(self.module)
        return self.elbo.differentiable_loss(model, guide, *args, **kwargs)


class Learner:
    """The parameters of a program and of its regularizers, their optimiser, and all schedules."""

    def __init__(
        self,
        module: nn.Module,
        elbo: CorExELBO,
        from_store: StoreParameters,
        how: Optimization,
        lr: float,
        runner: Runner,
    ) -> None:
        self.elbo, self.how, self.runner = elbo, how, runner
        self.parts = Loss(module, elbo, from_store).to(runner.device)
        # a fused optimiser would undo how the gradients of 16-mixed are scaled
        fused = None if runner.precision == "16-mixed" else True
        self.bare = how.make(list(self.parts.parameters()), lr, fused)
        self.lr_schedule = None
        if how.lr_schedule is not None:
            self.lr_schedule = how.lr_schedule(self.bare)
            _check_steps("lr_schedule", [self.lr_schedule], "one of torch.optim.lr_scheduler")
        self.loss, self.optimiser = runner.setup(self.parts, self.bare)
        self.schedules = all_schedules(elbo, how)
        critics = (r for r in self.parts.regularizers if hasattr(r, "own_loss"))
        self.with_own_loss = {p for critic in critics for p in critic.parameters()}

    def compute(self, batch: Batch) -> Tensor:
        """The loss of a batch, with its graph."""
        self.optimiser.zero_grad(set_to_none=True)
        with normalised():
            loss: Tensor = batch.call(self.loss)
        return loss

    def update(self, loss: Tensor) -> None:
        """Computes the gradients, and moves the parameters."""
        self.runner.backward(loss)
        for parameter in self.with_own_loss if self.runner.world > 1 else ():
            if parameter.grad is not None:  # an own loss is no sum over the data
                parameter.grad.div_(self.runner.world)
        self.move()

    def move(self) -> None:
        """Moves the parameters by the gradients that they have."""
        if self.how.clip_norm is not None:
            self.runner.clip(self.loss, self.optimiser, self.how.clip_norm)
        self.optimiser.step()

    def advance(self) -> None:
        """Has the schedules take a step, after that of the optimiser."""
        if self.lr_schedule is not None and not isinstance(self.lr_schedule, ReduceLROnPlateau):
            self.lr_schedule.step()
        for schedule in self.schedules:
            schedule.step()

    def epoch_done(self, objective: float) -> None:
        """Tells a plateau schedule, if there is one."""
        if isinstance(self.lr_schedule, ReduceLROnPlateau):
            self.lr_schedule.step(-objective)

    def not_finite(self) -> str:
        """The name of a parameter that is not finite, or nothing."""
        named = self.parts.named_parameters()
        found = (name for name, value in named if not bool(value.isfinite().all()))
        return next(found, "").removeprefix("module.")

    # ------------------------------------------------------------------ checkpoints

    def described(self) -> dict[str, Any]:
        """What has to be the same when a run goes on."""
        ignored = ("foreach", "fused", "capturable", "differentiable")  # how, and not what
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.bare.defaults.items()
            if name not in ignored and isinstance(value, (bool, int, float, str, tuple, type(None)))
        }
        return {
            "the optimiser": type(self.bare).__name__,
            "its options": plain,
            "lr_schedule": None if self.lr_schedule is None else type(self.lr_schedule).__name__,
            "the number of KL schedules": len(self.schedules),
            "clip_norm": self.how.clip_norm,
            "precision": self.runner.precision,
            "the number of processes": self.runner.world,
            "the objective": _OF_THE_MOMENT.sub("", repr(self.elbo)),
            **self._store_described(),
        }

    def _store_described(self) -> dict[str, Any]:
        values = self.parts.from_store.by_name()
        shapes = {name: list(value.shape) for name, value in values.items()}
        return {"the parameters in Pyro's store": shapes} if shapes else {}

    def state_dict(self) -> dict[str, Any]:
        """As data."""
        saved = [s.state_dict() if is_schedule(s) else None for s in self.schedules]
        return {
            **checkpoint.contents(self.parts.module),
            "from_store": self.parts.from_store.by_name(),
            "regularizers": checkpoint.contents(self.parts.regularizers),
            "optimiser": self.optimiser.state_dict(),
            "lr_schedule": None if self.lr_schedule is None else self.lr_schedule.state_dict(),
            "kl_schedules": saved,
            "scaler": self.runner.state_dict(),
            "max_plate_nesting": self.elbo.max_plate_nesting,
        }

    def load_state_dict(self, state: dict[str, Any], path: Any) -> None:
        """Puts :meth:`state_dict` back.

        :raises CheckpointError: where it does not fit.
        """
        checkpoint.compare(self.parts.regularizers, state["regularizers"], path)
        checkpoint.fill(self.parts.module, state, path)
        checkpoint.fill(self.parts.regularizers, state["regularizers"], path)
        self.parts.from_store.fill(state.get("from_store", {}))
        self.optimiser.load_state_dict(state["optimiser"])
        if self.lr_schedule is not None:
            self.lr_schedule.load_state_dict(state["lr_schedule"])
        for schedule, saved in zip(self.schedules, state["kl_schedules"], strict=True):
            if saved is not None:
                schedule.load_state_dict(saved)
        self.runner.load_state_dict(state["scaler"])
        # else the objective would look for it, with a run of the programs that draws
        self.elbo.max_plate_nesting = state["max_plate_nesting"]


def all_schedules(elbo: CorExELBO, how: Optimization) -> list[Any]:
    """The KL-weight schedules that were given, and those that regularizers have."""
    weights = (w for r in elbo.regularizers for w in (r.weight, *getattr(r, "schedules", ())))
    found = [*several(how.kl_schedule), *(w for w in weights if callable(getattr(w, "step", None)))]
    return list({id(schedule): schedule for schedule in found}.values())


def several(given: Any) -> list[Any]:
    """What was given as one or as several, as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def check_positive(name: str, value: Any) -> None:
    """Raises ``ValueError`` for what is no positive, finite number."""
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be > 0, but got {value!r}")


def _check_steps(name: str, given: list[Any], what: str) -> None:
    for each in given:
        if not callable(getattr(each, "step", None)):
            raise TypeError(f"{name} must be {what}, but got {type(each).__name__}")
