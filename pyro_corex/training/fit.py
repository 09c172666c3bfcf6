"""fit: training, from one process to many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_corex.batches import (
    Data,
    Transform,
    check_count,
    check_seed,
    for_program,
    in_memory,
    programs_of,
)
from pyro_corex.objective import CorExELBO
from pyro_corex.programs.base import CorExProgram
from pyro_corex.threads import alone
from pyro_corex.training import capture
from pyro_corex.training.checkpoint import Checkpoint
from pyro_corex.training.history import History
from pyro_corex.training.loop import Loop
from pyro_corex.training.optimization import MakeOptimiser, Optimization, check_positive, several
from pyro_corex.training.runners import Devices, Runner


@alone()
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
    transform: Transform | None = None,
    validation: Data | None = None,
    patience: int | None = None,
    optimizer: MakeOptimiser | Optimization | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    devices: int | Devices = 1,
    callback: Any = None,
    progress: bool | str = True,
) -> History:
    """Trains a program, on one device or on several.

    >>> from pyro_corex.programs import CorExVAE, mlp_decoder, mlp_encoder
    >>> x = torch.bernoulli(torch.full((64, 20), 0.3))
    >>> vae = CorExVAE(mlp_encoder([20, 4]), mlp_decoder([4, 20]), 4)
    >>> history = fit(vae, x, epochs=2, progress=False)
    >>> len(history["elbo"]), history.steps  # an entry an epoch, in nats per datum
    (2, 2)

    :param module: a program with ``.model(*batch)`` and ``.guide(*batch)``, such as
        :class:`~pyro_corex.CorExVAE`; it is trained in place and left in evaluation mode.  Programs
        of your own are run once before, so that parameters that appear on a first run (autoguides,
        ``pyro.param``, lazy modules) are trained, too.
    :param data: ``(N, ...)``, first axis the data: a tensor, an array, a tuple or a dict of them, a
        ``Dataset`` or a ``DataLoader``.  Model and guide are given all of a batch, a dict as
        keyword arguments; ready-made programs take x alone, which is its first entry or the one
        named ``"x"``.  A batch that is one tensor is converted to the dtype of the module's
        parameters; of several things, those that are floating are.
    :param epochs: passes over the data.
    :param batch_size: the data of a step, for each process.
    :param lr: the learning rate of Adam.
    :param seed: of the order of the data and of all sampling; the global random states of torch,
        NumPy and Python are put back afterwards.
    :param device: "auto" takes CUDA where there is one.
    :param elbo: the objective; ``CorExELBO()`` by default.  Parameters of its regularizers are
        trained, too, and weights that are schedules take a step after each training step.
    :param transform: called on the device with what the programs would be given of each batch, and
        gives what they are given instead: a tensor, a tuple or a dict; e.g. ``torch.bernoulli`` to
        binarise grey values anew in each epoch, or ``lambda x, y: x`` to select.
    :param validation: held-out data, ``(N, ...)`` as ``data``, on which the terms are evaluated
        after each epoch, with the same noise each time.
    :param patience: stop after this many epochs without a higher "val_objective"; the module is
        then left with the parameters of the best epoch.
    :param optimizer: from the parameters to an optimiser, in place of Adam; or an
        :class:`Optimization`, which has schedules and clipping, too.
    :param checkpoint: the file to which the state of the run is written after each epoch; or a
        :class:`Checkpoint`, which says how often, and whether to go on from it.
    :param devices: the number of processes on this machine, one device each; or
        :class:`Devices`, which have precision, strategies, compilation and capture, too.
    :param callback: called after each epoch with its number from 1, the module and its record; or a
        logger of Lightning Fabric, such as ``CSVLogger``, which gets the record; or several.
    :param progress: show a bar with the terms of the bound; a text stands before it.
    :raises ValueError: for options out of range; for data that are empty or outside of the
        likelihood's support; when the loss becomes NaN or infinite, naming the site, the term and
        the step; and for a checkpoint that is damaged or of another run.
    :raises TypeError: for a module without ``.model`` and ``.guide``, data of another kind,
        programs that do not take what a batch holds, saying how to select, and options that are no
        functions where functions are needed.
    :raises RuntimeError: where the data cannot be read, saying at which batch; and where a step is
        to be recorded, by ``Devices(capture=True)``, but waits for the device, reads a number from
        a tensor, or is no longer what was recorded.
    :raises OSError: where the checkpoint cannot be written; the one before it stays.
    :raises KeyboardInterrupt: on SIGINT, after the step has been finished and a checkpoint has
        been written.  On SIGTERM, ``SystemExit``.
    :returns: the history; ``module`` holds the result.
    """
    programs_of(module)
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_count(name, value)
    check_positive("lr", lr)
    seed = check_seed(seed)
    elbo = CorExELBO() if elbo is None else elbo
    if not isinstance(elbo, CorExELBO):
        raise TypeError(
            f"elbo must be a CorExELBO, e.g. CorExELBO(num_particles=2), but got {elbo!r}. Pyro's "
            "own objectives have no terms to record: train with them by SVI."
        )
    if patience is not None:
        check_count("patience", patience)
        if validation is None:
            raise ValueError(
                "patience needs validation=..., the data on which the objective is looked at"
            )
    callbacks = several(callback)
    _check_functions(transform, callbacks)
    if not isinstance(optimizer, Optimization):
        optimizer = Optimization(optimizer)
    if checkpoint is not None:
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint(checkpoint)
        checkpoint = checkpoint.looked_up()
    if transform is None:
        _check_support(module, data)
        if validation is not None:
            try:
                _check_support(module, validation)
            except ValueError as error:
                raise ValueError(f"validation: {error}") from None
    runner = _runner(device, devices if isinstance(devices, Devices) else Devices(devices))
    loop = Loop(
        module=module,
        data=data,
        elbo=elbo,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        transform=transform,
        validation=validation,
        patience=patience,
        optimization=optimizer,
        checkpoint=checkpoint,
        callbacks=callbacks,
        progress=progress,
    )
    loop.run_once()
    return runner.launch(loop)


def _check_functions(transform: Any, callbacks: Sequence[Any]) -> None:
    if transform is not None and not callable(transform):
        raise TypeError(f"transform must be a function, but got {type(transform).__name__}")
    for each in callbacks:
        if not callable(each) and not hasattr(each, "log_metrics"):
            raise TypeError(
                "callback must be a function or a logger of lightning_fabric.loggers, but got "
                f"{type(each).__name__}"
            )


def _check_support(module: nn.Module, data: Data) -> None:
    whole = in_memory(data)
    if whole is not None and isinstance(module, CorExProgram) and module.takes_x_alone:
        x = for_program(whole, module).args[0]
        module.check_data(x)
        module.check_units(x)


def _runner(device: str | torch.device, how: Devices) -> Runner:
    """The runner for these devices; Lightning Fabric is imported where it is needed."""
    chosen = _pick(device)
    if how.precision == "16-mixed" and chosen.type != "cuda":
        raise ValueError(
            f'precision="16-mixed" is for CUDA, but the device is {str(chosen)!r}: take '
            '"bf16-mixed"'
        )
    available = torch.cuda.device_count() if chosen.type == "cuda" else how.number
    if how.number > available:
        raise ValueError(f"devices={how.number}, but this machine has {available} CUDA device(s)")
    if chosen.type not in ("cpu", "cuda") and how.number > 1:
        raise ValueError(
            f"devices={how.number} is for the CPU and CUDA, but not for {chosen.type!r}"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    captured = how.capture
    if captured == "auto":
        captured = "auto" if chosen.type == "cpu" and not how.compile_networks else False
    elif captured:
        capture.check(chosen, how, launched)
    if (how.number, how.strategy, how.precision) == (1, "auto", "32-true") and not launched:
        return Runner(chosen, how.compile_networks, captured)
    from pyro_corex.training.fabric import FabricRunner

    return FabricRunner(chosen, how)


def _pick(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f'device must be "auto", or a device of torch such as "cpu" or "cuda:0", but got '
            f"{device!r}"
        ) from error
