"""Which KLs may be in closed form, and whether a KL has one weight in both programs.

A closed-form KL(q(z | parents) ‖ p(z | parents)) may stand for the log-ratio at site z only if no
parent of z in the model is a descendant of z in the guide: the mean-field condition (see the
docstring of ``pyro.infer.TraceMeanField_ELBO``).  In a stack, z¹ has the parent z² in the model,
and the guide draws z² from z¹: there the log-ratio has to be sampled.  The condition is decided
from the programs, once for each set of sites, and anew where the programs have changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_corex.arrays import on_hand
from pyro_corex.objective.sites import Recorder, Site, analytic_kl, is_delta
from pyro_corex.objective.structure import Structure

Program = Callable[..., Any]


class ClosedForms:
    """Which KLs of a pair of programs may be in closed form, as long as they stay as they are."""

    def __init__(self, model: Program, guide: Program) -> None:
        self.model, self.guide = model, guide
        self._cleared: dict[Any, _Cleared] = {}
        self._parents: dict[Any, tuple[list[Structure], Any]] = {}

    def cleared(
        self, model: dict[str, Site], guide: dict[str, Site], args: Any, kwargs: Any
    ) -> frozenset[str]:
        """The sites whose KL may be taken in closed form, of the sites of the two traces."""
        both = frozenset(n for n, s in guide.items() if n in model and _may_be_analytic(s))
        key = tuple(model), tuple(guide), both
        known = self._cleared.get(key)
        if known is None:
            known = self._cleared[key] = _Cleared(both, both & suspects(list(model), list(guide)))
        if known.doubtful and not known.hold(model, guide):
            pairs = [(name, guide[name]["fn"], model[name]["fn"]) for name in known.doubtful]
            doubtful = {name for name, q, p in pairs if analytic_kl(q, p) is not None}
            wrong = violations(doubtful, self.model, self.guide, args, kwargs)
            known.note(doubtful if wrong is None else wrong, model, guide)
            if wrong and is_validation_enabled():
                warnings.warn(
                    f"The KL of {sorted(wrong)} is estimated from a sample: the model draws "
                    "it given a site that the guide draws from it, where a closed form would be "
                    'wrong. Mark the guide site infer={"analytic_kl": False} to say that this '
                    "is meant.",
                    stacklevel=2,
                )
        return known.names

    def guide_parents(
        self, latents: Collection[str], guide: Mapping[str, Site], args: Any, kwargs: Any
    ) -> dict[str, frozenset[str]] | None:
        """Guide site -> the sites that it is drawn from; ``None`` if it cannot be followed."""
        now = [Structure(guide, guide)]
        find = lambda: guide_parents(self.guide, args, kwargs)  # noqa: E731
        return self._found(("guide", *latents), now, find)

    def above_in_model(
        self,
        latents: Collection[str],
        model: Mapping[str, Site],
        guide: Mapping[str, Site],
        args: Any,
        kwargs: Any,
    ) -> dict[str, set[str]] | None:
        """Latent -> those of the latents that the model's density of it depends on; ``None`` if
        that cannot be followed.
        """
        now = [Structure(model, latents), Structure(guide, latents)]
        return self._found(
            ("model", *latents),
            now,
            lambda: above_in_model(latents, self.model, self.guide, args, kwargs),
        )

    def _found(self, key: Any, now: list[Structure], find: Callable[[], Any]) -> Any:
        """What was found for programs of this structure; evaluation goes by what training found."""
        before, found = self._parents.get(key, (None, None))
        trusted = not torch.is_grad_enabled() and not is_validation_enabled()
        if before is None or not (
            trusted or all(a.same_graph(b) for a, b in zip(now, before, strict=True))
        ):
            found = find()
            self._parents[key] = now, found
        return found


class _Cleared:
    """The KLs of the sites of two traces that may be in closed form; a wrong one is for good.

    :param doubtful: those that the order of the programs does not clear.
    """

    def __init__(self, both: frozenset[str], doubtful: frozenset[str]) -> None:
        self.names, self.doubtful = both, doubtful
        self._seen: dict[Any, tuple[Structure, Structure]] = {}  # of batches of each shape

    def hold(self, model: Mapping[str, Site], guide: Mapping[str, Site]) -> bool:
        """Whether the doubtful ones that were cleared still are.

        A prior that holds what it held is drawn from nothing, whatever became of the guide.
        """
        seen = self._seen.get(self._shapes(model))
        if seen is None:
            return False
        prior = Structure(model, self.doubtful)
        if not prior.same_values(seen[0]):
            return False
        if prior.is_constant and seen[0].is_constant:
            return prior.graph == seen[0].graph
        return prior.same_graph(seen[0]) and Structure(guide, guide).same_graph(seen[1])

    def note(
        self, wrong: Collection[str], model: Mapping[str, Site], guide: Mapping[str, Site]
    ) -> None:
        """Remembers what was found."""
        self.names, self.doubtful = self.names - set(wrong), self.doubtful - set(wrong)
        while len(self._seen) >= _SHAPES:
            del self._seen[next(iter(self._seen))]
        self._seen[self._shapes(model)] = Structure(model, self.doubtful), Structure(guide, guide)

    def _shapes(self, model: Mapping[str, Site]) -> Any:
        return tuple(model[name]["fn"].batch_shape for name in sorted(self.doubtful))


_SHAPES = 4  # of batches: those of an epoch, its last one, and some of evaluation


def _may_be_analytic(site: Site) -> bool:
    return not site["infer"].get("enumerate") and site["infer"].get("analytic_kl", True)


def suspects(model_order: list[str], guide_order: list[str]) -> set[str]:
    """The sites that the order of the two programs does not clear.

    A site is cleared when nothing that precedes it in the model follows it in the guide.
    """
    position = {name: i for i, name in enumerate(guide_order)}
    found, latest = set(), -1
    for name in (name for name in model_order if name in position):
        if latest > position[name]:
            found.add(name)
        latest = max(latest, position[name])
    return found


def violations(
    names: Collection[str],
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> set[str] | None:
    """Those of ``names`` whose analytic KL would be wrong; ``None`` if that cannot be followed.

    A dependency is found in two ways: from values that remember which sites they came from, and by
    changing a site in the guide and seeing whether the model's density at that site changes with
    what the guide drew after it.  The second also sees what the first loses, such as a write into
    another tensor.  The random state is left as it was.
    """
    if not names:
        return set()
    try:
        with unseen():
            runs = Runs(model, guide, args, kwargs)
            with _NoReading():
                above_in_guide = _parents(runs.guide(_Track()).nodes)
                above_in_model = _parents(runs.model(runs.guide(), _Track()).nodes)
            found = {name for name in names if runs.changes(name)}
    except Exception:  # any operation may lack support for tracked tensors; say so
        return None
    return found | {
        name
        for name in names
        if any(
            name in ancestors(parent, above_in_guide)
            for parent in above_in_model.get(name, ())
            if parent != name
        )
    }


def guide_parents(
    guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, frozenset[str]] | None:
    """Guide site -> the sites that it is drawn from; ``None`` if that cannot be followed."""
    try:
        with unseen(), _NoReading():
            return _parents(Runs(None, guide, args, kwargs).guide(_Track()).nodes)
    except Exception:  # any operation may lack support for tracked tensors; say so
        return None


def above_in_model(
    latents: Collection[str], model: Program, guide: Program, args: Any, kwargs: Any
) -> dict[str, set[str]] | None:
    """Latent -> the latents above it in the model; ``None`` if that cannot be followed.

    As in :func:`violations`, from labels and from changes, of one site in the model at a time.
    """
    try:
        with unseen():
            runs = Runs(model, guide, args, kwargs)
            values = runs.guide()
            with _NoReading():
                parents = _parents(runs.model(values, _Track()).nodes)
            found = {name: ancestors(name, parents) & set(latents) for name in latents}
            before = runs.model(values).nodes
            for name in latents:
                own = values.nodes[name]["value"]
                values.nodes[name]["value"] = before[name]["fn"].sample()
                after = runs.model(values).nodes
                values.nodes[name]["value"] = own
                for other in set(latents) - {name}:
                    at = before[other]["value"]
                    pair = (nodes[other]["fn"].log_prob(at) for nodes in (before, after))
                    if not torch.equal(*pair):
                        found[other].add(name)
    except Exception:  # any operation may lack support for tracked tensors; say so
        return None
    return found


@contextmanager
def unseen() -> Iterator[None]:
    """Programs run without a trace in gradients, handlers or the random state."""
    state = pyro.util.get_rng_state()  # of Python and NumPy, too
    try:
        with (
            torch.random.fork_rng(),
            torch.no_grad(),
            pyro.validation_enabled(False),
            poutine.block(),
        ):
            yield
    finally:
        pyro.util.set_rng_state(state)


class Runs:
    """Runs of the two programs that all draw the same random numbers."""

    def __init__(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        self._model, self._guide, self._args, self._kwargs = model, guide, args, kwargs

    def guide(self, handler: Any = None) -> Any:
        """A trace of the guide."""
        pyro.set_rng_seed(0)  # of every device, and of Python and NumPy; all are put back
        program = handler(self._guide) if handler else self._guide
        return Recorder()(program).get_trace(*self._args, **self._kwargs)

    def model(self, values: Any, handler: Any = None) -> Any:
        """A trace of the model with the draws of a trace of the guide."""
        pyro.set_rng_seed(0)
        program = poutine.replay(self._model, values)
        program = handler(program) if handler else program
        return Recorder()(program).get_trace(*self._args, **self._kwargs)

    def changes(self, name: str) -> bool:
        """Whether the model's density at a site depends on what the guide draws from it."""
        values, changed = self.guide(), self.guide(_Change(name))
        value = changed.nodes[name]["value"] = values.nodes[name]["value"]
        before = self.model(values).nodes[name]["fn"].log_prob(value)
        after = self.model(changed).nodes[name]["fn"].log_prob(value)
        return not torch.equal(before, after)


class _Change(Messenger):
    """Draws one site anew, without a trace in the draws of the others."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["name"] == self.name:
            with torch.random.fork_rng():
                msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])


class _NoReading(TorchFunctionMode):
    """Raises where a program reads a number from a tensor, and what it does may depend on it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _READS and get_provenance([args, kwargs]):
            raise TypeError(f"{func.__name__} of a tracked tensor")
        return func(*args, **(kwargs or {}))


_READS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"}


class _Track(Messenger):
    """Labels every sampled value with the name of its site.

    The value of a ``pyro.deterministic`` or ``Delta`` site keeps the labels of what it was computed
    from: the model may have no other trace of them.
    """

    def _pyro_post_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg) and isinstance(msg["value"], torch.Tensor):
            labels = frozenset({msg["name"]})
            if msg["is_observed"] or is_delta(msg["fn"]):
                labels |= get_provenance(msg["value"])
            msg["value"] = ProvenanceTensor(detach_provenance(msg["value"]), labels)


def _parents(nodes: dict[str, Site]) -> dict[str, frozenset[str]]:
    parents = {}
    for name, site in nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            log_prob = site["fn"].log_prob(detach_provenance(site["value"]))
            parents[name] = frozenset(get_provenance(log_prob)) - {name}
    return parents


def ancestors(name: str, parents: Mapping[str, Collection[str]]) -> set[str]:
    """The parents of a site, theirs, and so on."""
    found: set[str] = set()
    stack = [name]
    while stack:
        for parent in parents.get(stack.pop(), ()):
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


# ---------------------------------------------------------------------- one weight


def check_same_scale(name: str, model_site: Site, guide_site: Site) -> None:
    """Raises ``ValueError`` for a negative scale, and for one that differs between the programs."""
    pairs = [("scale", model_site["scale"], guide_site["scale"])]
    wp, wq = (getattr(site["fn"], "event_weight", None) for site in (model_site, guide_site))
    if wp is not None or wq is not None:
        one = 1.0
        pairs.append(("per-dimension weight", one if wp is None else wp, one if wq is None else wq))
    for what, p, q in pairs:
        if p is q and isinstance(p, float) and p == 1.0:
            continue
        for scale in (p, q):
            if holds(lambda s: s < 0, scale):
                raise ValueError(
                    f"Site {name!r} has the negative {what} {scale}. A KL weight must be >= 0: "
                    "1 is the bound itself, less than 1 lets the latent carry more, 0 takes the "
                    "pressure off."
                )
        if p is not q and holds(lambda a, b: a != b, p, q):
            raise ValueError(
                f"Site {name!r} has the {what} {p} in the model but {q} in the guide. "
                "A KL term has one weight: wrap both programs with the same weights, "
                "anchor(model, weights) and anchor(guide, weights)."
            )


_FIRST = ("cpu", "meta")  # the one has its values on hand, the other none


def holds(condition: Any, *values: Tensor | float) -> bool:
    """Whether a condition holds anywhere, asked only where the answer costs no synchronisation.

    Values on an accelerator are looked at when Pyro's validation is on, which synchronises anyway.
    """
    tensors = [v for v in values if isinstance(v, Tensor)]
    for tensor in tensors:
        other = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type not in _FIRST
        if not on_hand(tensor) and not (other and is_validation_enabled()):
            return False
    result = condition(*values)
    return bool(result.any()) if isinstance(result, Tensor) else bool(result)
