"""The parameters of programs that are there only after a first run.

Autoguides, ``pyro.param`` and lazy modules make their parameters when a program first runs, and
those of ``pyro.param`` are in Pyro's parameter store alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer

from pyro_corex.batches import Batch, Transform, prepare, programs_of
from pyro_corex.objective.sites import Recorder
from pyro_corex.programs.base import CorExProgram
from pyro_corex.programs.priors import UserPrior
from pyro_corex.training.data import normalised


class StoreParameters(nn.ParameterList):
    """Parameters that are in Pyro's store and in no module, by their names there.

    They are the unconstrained values, as ``SVI`` trains them.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        store = pyro.get_param_store()
        super().__init__(_as_parameter(store, name) for name in names)
        self.names = list(names)
        self.known = set(store.keys())

    def are_there(self) -> bool:
        """Whether they are those of this process's store."""
        store = pyro.get_param_store()
        return all(
            store._params.get(name) is value for name, value in zip(self.names, self, strict=True)
        )

    def warn_of_later_ones(self, module: nn.Module) -> None:
        """Warns of parameters that have come into the store since and are not the module's."""
        store, own = pyro.get_param_store(), {id(parameter) for parameter in module.parameters()}
        new = {n for n in store.keys() - self.known if id(store._params[n]) not in own}
        if new:
            self.known |= new
            warnings.warn(
                f"fit trains the parameters that are there after a first run of the programs, but "
                f"{sorted(new)} came later and are not trained. Name all parameters in each run, "
                "whatever branch it takes, or call fit again.",
                stacklevel=2,
            )

    def by_name(self) -> dict[str, Tensor]:
        """Name -> the unconstrained value."""
        return {name: value.detach() for name, value in zip(self.names, self, strict=True)}

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Puts :meth:`by_name` back."""
        with torch.no_grad():
            for name, value in self.by_name().items():
                value.copy_(values[name])


_OF_MODULES: WeakKeyDictionary[nn.Module, StoreParameters] = WeakKeyDictionary()


def stored_by(module: nn.Module) -> dict[str, Tensor]:
    """The unconstrained values of a module's parameters that are in Pyro's store alone, by name.

    They are known where ``fit`` has run the programs; else parameters in the store that may be the
    module's are warned of.
    """
    found, store = _OF_MODULES.get(module), pyro.get_param_store()
    if found is not None and found.are_there():
        return found.by_name()
    own = {id(parameter) for parameter in module.parameters()}
    others = sorted(n for n in store if id(store._params[n]) not in own)
    if others and not is_complete(module):
        warnings.warn(
            f"Pyro's parameter store holds {others}, which are not in the module and are not "
            "saved. If its programs name them, keep them, too: pyro.get_param_store().save(path).",
            stacklevel=3,
        )
    return {}


def into_store(values: Mapping[str, Tensor]) -> None:
    """Puts back what :func:`stored_by` gave.

    :raises ValueError: where there are no such parameters, or none of these shapes.
    """
    store = pyro.get_param_store()
    there = {name: store._params[name] for name in values if name in store}
    for name, value in values.items():
        if name not in there:
            raise ValueError(
                f"the programs keep {sorted(values)} in Pyro's parameter store, where {name!r} is "
                "not there yet. Run them once, CorExELBO().loss(module.model, module.guide, x), "
                "and load again"
            )
        if there[name].shape != value.shape:
            raise ValueError(
                f"{name!r} in Pyro's parameter store has the shape {tuple(there[name].shape)}, but "
                f"{tuple(value.shape)} in the file"
            )
    with torch.no_grad():
        for name, value in values.items():
            there[name].copy_(value)


def _as_parameter(store: Any, name: str) -> nn.Parameter:
    value = store._params[name]
    if not isinstance(value, nn.Parameter):  # as PyroModule does: the type only
        value = nn.Parameter(value.detach(), requires_grad=value.requires_grad)
        store._params[name] = value
        store._param_to_name[value] = name
    return value


def take_from_store(module: nn.Module) -> None:
    """Has ready-made programs take what stands in Pyro's store under the names of their parameters,
    as ``SVI`` does at its first step.

    :raises ValueError: where it has another shape.
    """
    for part in module.modules():
        if isinstance(part, CorExProgram):
            part._register()


def is_complete(module: nn.Module) -> bool:
    """Whether all parameters are known to be there already: all parts are torch's or ours, and made
    theirs when they were made.
    """
    parts = list(module.modules())
    known = all(
        type(part).__module__.startswith(("torch.nn.", "pyro_corex."))
        and not isinstance(part, UserPrior)
        for part in parts
    )
    lazy = any(isinstance(part, LazyModuleMixin) for part in parts)
    return known and not lazy


class _Names(Messenger):
    """Notes the parameters that programs name, but for what ``pyro.module`` finds of another module
    under its names: the networks that it is given compute with their own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = set[str]()

    def _pyro_post_param(self, msg: Any) -> None:
        given = msg["args"][1] if len(msg["args"]) > 1 else None
        if "$$$" in msg["name"] and given is not msg["value"]:
            return
        self.found.add(msg["name"])


def first_run(
    module: nn.Module, batches: Iterator[Batch], transform: Transform | None
) -> StoreParameters:
    """Runs the programs once, so that all their parameters are there.

    Running statistics, such as those of batch normalisation, are left as they are.

    :param batches: of which the first is taken, if there is one.
    :returns: the parameters that the programs have beside the module's own.
    """
    model, guide = programs_of(module)
    training, names = module.training, _Names()
    try:
        batch = next(batches)
    except Exception:  # training meets it again, and says where; or there is none
        return StoreParameters()
    module.train()
    try:
        batch = prepare(module, transform)(batch)
        unchecked = pyro.validation_enabled(False)
        with torch.no_grad(), _statistics_kept(module), names, unchecked, normalised():
            with Recorder() as recorder:
                batch.call(guide)
            batch.call(poutine.replay(model, trace=recorder.trace))
    finally:
        module.train(training)
    own = {id(parameter) for parameter in module.parameters()}
    store = pyro.get_param_store()
    found = StoreParameters(
        sorted(n for n in names.found if n in store and id(store._params[n]) not in own)
    )
    _OF_MODULES[module] = found
    return found


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    lazy = [part for part in module.modules() if _has_lazy_statistics(part)]
    kept = {
        name: buffer.clone()
        for name, buffer in module.named_buffers()
        if not isinstance(buffer, UninitializedBuffer)
    }
    try:
        yield
    finally:
        for part in lazy:
            if not _has_lazy_statistics(part):
                part.reset_running_stats()  # type: ignore[operator]
        for name, buffer in module.named_buffers():
            if name in kept and kept[name].shape == buffer.shape:
                buffer.copy_(kept[name])


def _has_lazy_statistics(part: nn.Module) -> bool:
    buffers = part.buffers(recurse=False)
    return hasattr(part, "reset_running_stats") and any(
        isinstance(buffer, UninitializedBuffer) for buffer in buffers
    )
