"""fit: the training loop, from one process to many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyro_corex.objective import CorExELBO
from pyro_corex.training import checkpoint as checkpoints
from pyro_corex.training import files, random_state
from pyro_corex.training.data import Batches, Data, make_batches
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Interrupts
from pyro_corex.training.launch import launch, make_fabric, pick_device
from pyro_corex.training.loop import Callback, Loop, Loss, Settings
from pyro_corex.training.networks import compiled, in_lower_precision
from pyro_corex.training.storage import check_folder

MakeOptimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def fit(
    module: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    elbo: CorExELBO | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool = True,
    validation: Data | None = None,
    patience: int | None = None,
    optimizer: MakeOptimiser | None = None,
    lr_schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    kl_schedule: Any = None,
    clip_norm: float | None = None,
    precision: str = "32-true",
    compile_networks: bool | str = False,
    devices: int = 1,
    strategy: Any = "auto",
    logger: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = 1,
    checkpoint_every_steps: int | None = None,
    resume: bool | str = False,
) -> History:
    """Trains a program, on one device or on several.

    >>> from pyro_corex.programs import CorExVAE, mlp_decoder, mlp_encoder
    >>> x = torch.bernoulli(torch.full((64, 20), 0.3))
    >>> vae = CorExVAE(mlp_encoder([20, 4]), mlp_decoder([4, 20]), 4)
    >>> history = fit(vae, x, epochs=2, progress=False)
    >>> len(history["elbo"]), history.steps  # an entry an epoch, in nats per datum
    (2, 2)

    :param module: a program with ``.model(x)`` and ``.guide(x)``, such as
        :class:`~pyro_corex.CorExVAE`; it is trained in place and left in evaluation mode.
    :param data: ``(N, ...)``, first axis the data: a tensor, an array, a ``Dataset`` or a
        ``DataLoader``.  Batches that are tuples or lists give x as their first entry.  They
        are converted to the dtype of the module's parameters.
    :param epochs: passes over the data.
    :param batch_size: the data of a step, for each process.
    :param lr: the learning rate of Adam.
    :param seed: of the order of the data and of all sampling; the global random states of torch,
        NumPy and Python are put back afterwards.
    :param device: "auto" takes CUDA where there is one.
    :param elbo: the objective; ``CorExELBO()`` by default.
    :param transform: applied to each batch on the device, e.g. ``torch.bernoulli`` to binarise grey
        values anew in each epoch.
    :param callback: called after each epoch with its number from 1, the module and its record; or
        several such functions.
    :param progress: show a bar with the terms of the bound.
    :param validation: held-out data, ``(N, ...)``, on which the terms are evaluated after each
        epoch, with the same noise each time.
    :param patience: stop after this many epochs without a higher "val_objective"; the module is
        then left with the parameters of the best epoch.
    :param optimizer: from the parameters to an optimiser, in place of ``Adam`` with the rate
        ``lr`` (torch's fused one where there is one), e.g.
        ``lambda parameters: torch.optim.SGD(parameters, lr=0.1)``.
    :param lr_schedule: from the optimiser to one of torch's schedulers, which takes a step after
        each training step; ``ReduceLROnPlateau`` after each epoch, with minus the objective (on the
        validation data, if there are).
    :param kl_schedule: a KL-weight schedule such as :class:`~pyro_corex.Warmup`, or several: their
        ``step()`` is called after each training step.  Their state is in checkpoints.
    :param clip_norm: the largest norm of the gradient.
    :param precision: "32-true" computes in the dtype of the parameters.  With "bf16-mixed", and
        "16-mixed" on CUDA, the networks compute in 16 bits, and all else in the parameters' dtype.
    :param compile_networks: run the networks through ``torch.compile``, with its default backend
        or with the one that is named.
    :param devices: the number of processes on this machine, one device each.  Each has batches of
        ``batch_size`` data.
    :param strategy: a strategy of Lightning Fabric.  "auto" starts the processes by forking where
        that is safe, and takes those that ``torchrun`` has started.
    :param logger: of Lightning Fabric, such as ``CSVLogger`` or ``TensorBoardLogger``, or several;
        they get the record of each epoch.
    :param checkpoint: the file to which the state of the run is written.
    :param checkpoint_every: epochs from one checkpoint to the next; ``None`` for the end alone.
    :param checkpoint_every_steps: training steps from one to the next, in addition.
    :param resume: ``True`` goes on from ``checkpoint``; "auto" does if it is there.  The run goes
        on as though it had not stopped, on the CPU bit for bit.
    :raises ValueError: for options out of range; for data that are empty or outside of the
        likelihood's support; when the loss becomes NaN or infinite, naming the site, the term and
        the step; and for a checkpoint that is damaged or of another run.
    :raises TypeError: for a module without ``.model`` and ``.guide``, data of another kind, and
        options that are no functions where functions are needed.
    :raises RuntimeError: where the data cannot be read, saying at which batch.
    :raises OSError: where the checkpoint cannot be written; the one before it stays.
    :raises KeyboardInterrupt: on SIGINT, after the step has been finished and a checkpoint has
        been written.  On SIGTERM, ``SystemExit``.
    :returns: the history; ``module`` holds the result.
    """
    _check_program(module)
    callbacks, schedules, loggers = map(_several, (callback, kl_schedule, logger))
    for name, what in (("transform", transform), ("optimizer", optimizer)):
        _check_calls(name, what)
    _check_calls("lr_schedule", lr_schedule, "of the optimiser that gives a scheduler")
    for each in callbacks:
        _check_calls("callback", each)
    _check_has("kl_schedule", schedules, "step", "e.g. Warmup(0.0, 1.0, steps=1000)")
    _check_has("logger", loggers, "log_metrics", "one of lightning_fabric.loggers, e.g. CSVLogger")
    _check(
        {"epochs": epochs, "batch_size": batch_size, "devices": devices},
        {"patience": patience, "checkpoint_every": checkpoint_every}
        | {"checkpoint_every_steps": checkpoint_every_steps},
        {"lr": lr} | ({} if clip_norm is None else {"clip_norm": clip_norm}),
    )
    if patience is not None and validation is None:
        raise ValueError(
            "patience needs validation=..., the data on which the objective is looked at"
        )
    path = _check_checkpoint(checkpoint, resume)
    settings = Settings(
        epochs=epochs,
        seed=seed,
        transform=transform,
        callbacks=callbacks,
        patience=patience,
        schedules=schedules,
        clip_norm=clip_norm,
        path=path,
        every_epochs=checkpoint_every,
        every_steps=checkpoint_every_steps,
        progress=progress,
    )
    if isinstance(data, (Tensor, np.ndarray)) and transform is None:
        _check_support(module, torch.as_tensor(data))
    chosen = pick_device(device)
    fabric = make_fabric(chosen, devices, strategy, precision, loggers)
    run = _Run(
        module=module,
        data=data,
        validation=validation,
        batch_size=batch_size,
        lr=lr,
        elbo=CorExELBO() if elbo is None else elbo,
        make_optimiser=optimizer,
        make_schedule=lr_schedule,
        compile_networks=compile_networks,
        resume=bool(resume) and path is not None and (resume is True or path.exists()),
        settings=settings,
    )
    history = launch(fabric, run, module, schedules)
    module.eval()
    return history


@dataclass(frozen=True)
class _Run:
    """All that a process needs to take part."""

    module: nn.Module
    data: Data
    validation: Data | None
    batch_size: int
    lr: float
    elbo: CorExELBO
    make_optimiser: MakeOptimiser | None
    make_schedule: Callable[[torch.optim.Optimizer], Any] | None
    compile_networks: bool | str
    resume: bool
    settings: Settings

    def __call__(self, fabric: Any) -> History:
        """Runs in each process."""
        module, settings, device = self.module, self.settings, fabric.device
        dtype = next((p.dtype for p in module.parameters()), torch.get_default_dtype())
        mixed = fabric.strategy.precision
        with (
            random_state.seeded(settings.seed, device, fabric.global_rank),
            _size_told(self.elbo, self.data),
            in_lower_precision(module, mixed.networks, dtype)
            if mixed.precision != "32-true"
            else _nothing(),
            compiled(module, self.compile_networks),
            Interrupts() as interrupts,
        ):
            loop = self._loop(fabric, dtype)
            try:
                return loop.run(interrupts)
            finally:
                module.eval()
                for logger in fabric.loggers:
                    logger.finalize("success")

    def _loop(self, fabric: Any, dtype: torch.dtype) -> Loop:
        module, settings, device = self.module, self.settings, fabric.device
        batches = self._batches(self.data, fabric, dtype)
        validation = None
        if self.validation is not None:
            validation = self._batches(
                self.validation, fabric, dtype, shuffle=False, name="The validation data"
            )
        module.to(device).train()
        parameters = list(module.parameters())
        if self.make_optimiser is not None:
            optimiser = self.make_optimiser(parameters)
            if not isinstance(optimiser, torch.optim.Optimizer):
                raise TypeError(
                    "optimizer must be a function from the parameters to a torch.optim.Optimizer, "
                    f"but gave {type(optimiser).__name__}"
                )
        else:
            optimiser = _adam(parameters, self.lr, fabric.strategy.precision.precision)
        schedule = None if self.make_schedule is None else self.make_schedule(optimiser)
        if self.make_schedule is not None:
            _check_has("lr_schedule", [schedule], "step", "one of torch.optim.lr_scheduler")
        loss, wrapped = fabric.setup(Loss(module, self.elbo, fabric.world_size), optimiser)
        loop = Loop(
            fabric=fabric,
            loss=loss,
            module=module,
            elbo=self.elbo,
            optimiser=wrapped,
            lr_schedule=schedule,
            data=batches,
            validation=validation,
            settings=settings,
            told=self._told(fabric, optimiser, schedule, batches),
        )
        if settings.path is not None:
            if fabric.global_rank == 0:
                files.remove_leftovers(settings.path)
            if self.resume:
                checkpoints.read(loop, settings.path)
        return loop

    def _batches(self, data: Data, fabric: Any, dtype: torch.dtype, **options: Any) -> Batches:
        return make_batches(
            data,
            self.batch_size,
            device=fabric.device,
            dtype=dtype,
            seed=self.settings.seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            **options,
        )

    def _told(
        self, fabric: Any, optimiser: torch.optim.Optimizer, schedule: Any, batches: Batches
    ) -> dict[str, Any]:
        """What makes this run this one, as data."""
        ignored = ("foreach", "fused", "capturable", "differentiable")  # how, and not what
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in optimiser.defaults.items()
            if name not in ignored and isinstance(value, (bool, int, float, str, tuple, type(None)))
        }
        return {
            "seed": self.settings.seed,
            "the number of data": batches.num_data,
            "batch_size": self.batch_size if not isinstance(self.data, DataLoader) else None,
            "the optimiser": type(optimiser).__name__,
            "its options": plain,
            "lr_schedule": None if schedule is None else type(schedule).__name__,
            "the number of KL schedules": len(self.settings.schedules),
            "clip_norm": self.settings.clip_norm,
            "precision": str(fabric.strategy.precision.precision),
            "the number of processes": fabric.world_size,
            "the objective": repr(self.elbo),
        }


def _adam(parameters: list[nn.Parameter], lr: float, precision: str) -> torch.optim.Optimizer:
    if precision != "16-mixed":  # whose gradients are scaled, which a fused optimiser would undo
        try:
            return torch.optim.Adam(parameters, lr=lr, fused=True)
        except RuntimeError:  # not for these devices or dtypes
            pass
    return torch.optim.Adam(parameters, lr=lr)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _size_told(elbo: CorExELBO, data: Data) -> Iterator[None]:
    """Tells the objective the size of the data set, which an estimate of TC(z) needs."""
    told = elbo.tc_num_data
    whole = data.dataset if isinstance(data, DataLoader) else data
    if told is None and elbo.tc_weight and hasattr(whole, "__len__"):
        elbo.tc_num_data = len(whole)
    try:
        yield
    finally:
        elbo.tc_num_data = told


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _check_program(module: Any) -> None:
    if not callable(getattr(module, "model", None)) or not callable(getattr(module, "guide", None)):
        raise TypeError(
            f"{type(module).__name__} must have the methods .model(x) and .guide(x), as CorExVAE "
            "has"
        )


def _check_calls(name: str, what: Any, how: str = "") -> None:
    if what is not None and not callable(what):
        raise TypeError(
            f"{name} must be a function{' ' + how if how else ''}, but got {type(what).__name__}"
        )


def _check_has(name: str, given: Sequence[Any], method: str, what: str) -> None:
    for each in given:
        if not callable(getattr(each, method, None)):
            raise TypeError(f"{name} must be {what}, but got {type(each).__name__}")


def _check_support(module: nn.Module, x: Tensor) -> None:
    likelihood = getattr(module, "likelihood", None)
    if likelihood is not None:
        likelihood.check(x)


def _check_checkpoint(checkpoint: str | Path | None, resume: bool | str) -> Path | None:
    if resume not in (True, False, "auto"):
        raise ValueError(f'resume must be True, False or "auto", but got {resume!r}')
    if checkpoint is None:
        if resume:
            raise ValueError(f"resume={resume!r} needs checkpoint=..., the file to go on from")
        return None
    path = check_folder(Path(checkpoint))
    if resume is True and not path.exists():
        raise FileNotFoundError(
            f'There is no checkpoint {path} to go on from. resume="auto" would start anew'
        )
    if resume is False and path.exists():
        raise FileExistsError(
            f"{path} is there already: pass resume=True to go on from it, or delete it or name "
            "another file to start anew"
        )
    return path


def _check(whole: dict[str, Any], optional: dict[str, Any], positive: dict[str, Any]) -> None:
    for name, value in {**whole, **optional}.items():
        if value is None and name in optional:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, but got {value!r}")
    for name, value in positive.items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be > 0, but got {value!r}")
