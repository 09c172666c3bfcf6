"""Recording the traces of a pair of programs, and what can be read off them."""

from __future__ import annotations

from typing import Any

from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.util import check_site_shape

from pyro_corex.objective import sites


class Recorder(TraceMessenger):
    """``poutine.trace`` that says that it has no use for parameters.

    A program whose parameters are a module's own may then leave them unregistered, unless
    someone else, such as ``SVI``, is listening.
    """

    records_params = False


class Enumerate(EnumMessenger):
    """``EnumMessenger`` that gives up at a sequentially enumerated site.

    It also leaves out the guards against warnings of ``torch.jit.trace``, which cost time.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if sites.enumerated(msg) and msg["infer"]["enumerate"] == "sequential":
            raise SequentialSiteError
        EnumMessenger._pyro_sample.__wrapped__(self, msg)


class SequentialSiteError(Exception):
    """The guide has a site that is enumerated one value at a time."""


def enumerates(model_trace: Any, guide_trace: Any) -> bool:
    """Whether enumeration would do something for these traces."""
    guide_sites = (s for s in guide_trace.nodes.values() if sites.is_sample(s))
    if any(sites.enumerated(s) for s in guide_sites):
        return True
    return any(
        sites.is_sample(s)
        and sites.enumerated(s)
        and s["infer"]["enumerate"] == "parallel"
        and name not in guide_trace.nodes
        for name, s in model_trace.nodes.items()
    )


def check_shapes(trace: Any, max_plate_nesting: float) -> None:
    """Pyro's check that a site's batch shape is that of its plates."""
    for site in trace.nodes.values():
        if sites.is_sample(site):
            placeholder = site["value"].new_empty(()).expand(sites.batch_shape(site))
            check_site_shape({**site, "log_prob": placeholder}, max_plate_nesting)


def plate_nesting(*traces: Any) -> int:
    """How many batch dimensions the plates of these traces take."""
    dims = [
        frame.dim
        for trace in traces
        for site in trace.nodes.values()
        if sites.is_sample(site)
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return -min(dims, default=0)
