"""The KL-weight schedules that a module holds, whose state is saved with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def schedules(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The KL-weight schedules (such as ``Warmup``) that a module holds, with their places."""
    for prefix, part in module.named_modules():
        for attribute, value in vars(part).items():
            held = value.items() if isinstance(value, Mapping) else [("", value)]
            for key, item in held:
                if is_schedule(item):
                    yield f"{prefix}.{attribute}[{key}]", item


def is_schedule(item: Any) -> bool:
    """Whether ``item`` has a state of its own that is no module's or tensor's."""
    return not isinstance(item, (nn.Module, Tensor, type)) and all(
        callable(getattr(item, name, None)) for name in ("state_dict", "load_state_dict")
    )
