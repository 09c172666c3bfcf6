"""Step: what a regularizer gets to see of one evaluation of the objective, and how it is used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.objective.axes import is_deterministic
from pyro_corex.objective.contributions import Contributions
from pyro_corex.objective.sites import Site
from pyro_corex.objective.term import Axis

Weight = float | Tensor | Callable[[], float | Tensor]


@runtime_checkable
class Regularizer(Protocol):
    """A term of one's own: ``weight * regularizer(step)`` nats per datum are taken off the bound.

    A positive weight is a penalty, a negative one a reward.  Any object with these three will do::

        class Energy:
            name, weight = "energy", 0.1

            def __call__(self, step):
                return step.draw("z").square().mean(0)  # one value a latent

    An ``nn.Module`` is trained with the programs.  If it has a method ``own_loss(step)``, its
    parameters follow the gradient of that alone, and the programs only that of the objective: so
    are critics written, such as that of FactorVAE (Kim & Mnih 2018).  The penalty on TC(z) of
    Sec. 7 is one that comes with the library.

    :raises TypeError: by the objective, for an object without these, and a value that is no tensor.
    :raises ValueError: by the objective, for a value that is neither one nor one for each latent.
    """

    name: str
    """The key in ``terms.regularizers`` and in the history of :func:`~pyro_corex.fit`."""

    @property
    def weight(self) -> Weight:
        """A number, a tensor of the shape of the value, or a schedule such as ``Warmup``."""

    def __call__(self, step: Step) -> Tensor:
        """The value in nats per datum: a scalar, or one for each latent, ``(m,)``.

        Of several particles in one trace it is the mean.
        """


class Step:
    """What one evaluation of the objective holds (Eq. 10): draws, distributions, data, programs.

    Tensors are those of the evaluation, with their graph.
    """

    def __init__(
        self,
        found: Contributions,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        num_data: float | None,
        parents: Callable[[Sequence[str]], Mapping[str, frozenset[str]] | None],
        rerun: Callable[[Any, Any], dict[str, Site]],
        above: Callable[[Sequence[str]], Mapping[str, set[str]] | None] = lambda _: None,
    ) -> None:
        self.model, self.guide = model, guide
        self.args, self.kwargs = args, kwargs
        self.num_data = found.num_data if num_data is None else num_data
        """The size of the data set: told by ``fit``, else that of the data plate."""
        self.guide_sites, self.model_sites = found.guide, found.model
        """The sites of the traces as Pyro records them."""
        self.data_axes, self.max_plate_nesting = found.data_axes, found.max_plate_nesting
        self.particles = found.particles
        """How many draws of each datum one trace holds."""
        self.parents = parents
        """From latent sites to what each guide site is drawn from; ``None`` if that is unknown."""
        self.rerun = rerun
        """Runs the guide at other arguments, ``rerun(args, kwargs)``, and gives its sites."""
        self._found, self._above = found, above

    def draw(self, site: str) -> Tensor:
        """What the guide drew at a latent site: ``batch + events``, for most ``(B, m)``."""
        value: Tensor = _site(site, self.guide_sites, "guide")["value"]
        return value

    def q(self, site: str) -> Distribution:
        """The guide's distribution at a site, whose draws have the shape of :meth:`draw`."""
        fn: Distribution = _site(site, self.guide_sites, "guide")["fn"]
        return fn

    def p(self, site: str) -> Distribution:
        """The model's distribution at a site given the guide's draws, for most over ``(B, m)``."""
        fn: Distribution = _site(site, self.model_sites, "model")["fn"]
        return fn

    def observed(self, site: str) -> Tensor:
        """The data of an observed site: ``batch + events``, for most ``(B, d)``."""
        found = _site(site, self.model_sites, "model")
        if not found["is_observed"]:
            raise KeyError(f"Site {site!r} of the model is not observed: see step.draw")
        value: Tensor = found["value"]
        return value

    @property
    def kl_sites(self) -> list[str]:
        """The sites that have a KL, the keys of ``terms.kl``."""
        return [name for kind, name in self._found.sums if kind == "kl"]

    def kl(self, site: str, *, weighted: bool = False) -> Tensor:
        """The KL of a site's latents in nats per datum, as ``terms.kl``: ``(m,)``.

        :param weighted: with the weights in force, as it is trained.
        """
        if site not in self.kl_sites:
            raise KeyError(f"There is no KL of site {site!r}, but of {self.kl_sites}")
        found = self._found
        value = found.sums["kl", site]
        return (value.weighted if weighted else value.value) / (found.num_data * found.particles)

    def top_layer(self) -> list[str] | None:
        """The latents of each datum that the model draws from no other such latent (Eq. 15).

        Whether the guide goes up from the data or comes down to them is of no account.  A latent
        that the guide makes of an auxiliary draw, as autoguides do, is named by that draw, which
        has the density.

        :returns: guide sites in the order of the guide; ``None`` where it cannot be followed which
            latents the model draws from which.
        """
        found = self._found
        latents = [
            name
            for name, site in found.guide.items()
            if name in found.model
            and not site["is_observed"]
            and not is_deterministic(site)
            and not found.data_axes.isdisjoint(found.axes["model", name])
        ]
        above = self._above(latents) if len(latents) > 1 else {name: set() for name in latents}
        if above is None:
            return None
        top = set[str]()
        for name in (name for name in latents if not above[name]):
            image, label = found.plan.images.get(name), found.plan.joint.get(name)
            own = [n for n, of in found.plan.joint.items() if of == label and n not in found.model]
            top.update([image.auxiliary] if image else own or [name])
        return [name for name in found.guide if name in top]

    def axes(self, site: str) -> Mapping[Axis, int]:
        """Plate -> batch dimension of a guide site, without enumeration's and the particles'."""
        return self._found.axes.get(("guide", site), {})


def _site(name: str, nodes: Mapping[str, Site], role: str) -> Site:
    if name not in nodes:
        raise KeyError(f"The {role} has no site {name!r}, but {sorted(nodes)}")
    return nodes[name]


# ---------------------------------------------------------------------- what the objective does


def check_regularizers(shorthands: Sequence[Regularizer], given: Any) -> tuple[Regularizer, ...]:
    """The regularizers of an objective: those of its shorthands and those that were given.

    :raises TypeError: for what is no collection of regularizers.
    :raises ValueError: where two have one name or replace one KL, or a weight is not finite.
    """
    if isinstance(given, (str, Mapping)) or callable(given) or not hasattr(given, "__iter__"):
        raise TypeError(f"regularizers must be a list of regularizers, but got {given!r}")
    found = (*shorthands, *given)
    for each in found:
        lacking = [what for what in ("name", "weight") if not hasattr(each, what)]
        if isinstance(each, type) or lacking or not callable(each):
            lacks = (
                "it is a class, not an instance"
                if isinstance(each, type)
                else (f"it lacks {' and '.join(lacking) or '__call__(step)'}")
            )
            raise TypeError(
                "A regularizer must have a name, a weight and __call__(step), but got "
                f"{each!r}: {lacks}"
            )
        if not isinstance(each.name, str) or not each.name:
            raise TypeError(f"The name of a regularizer must be a string, but got {each.name!r}")
        check_weight(each.name, each.weight)
    replacing = [each for each in found if getattr(each, "replaces_kl", False)]
    for one, other in itertools.combinations(replacing, 2):
        if None in (one.sites, other.sites) or {*one.sites} & {*other.sites}:
            raise ValueError(
                f"regularizers must replace the KL of a site once, but {one.name!r} and "
                f"{other.name!r} both do: leave one out, or give each sites of its own"
            )
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"Two regularizers have the name {', '.join(map(repr, twice))}: give each its own, for "
            "terms.regularizers"
        )
    return found


def check_weight(name: str, weight: Any) -> None:
    """Raises unless it is a finite number, a tensor or a schedule."""
    if isinstance(weight, Tensor) or callable(weight):
        return
    if not isinstance(weight, (int, float)) or isinstance(weight, bool):
        raise TypeError(
            f"The weight of regularizer {name!r} must be a number, a tensor or a schedule such as "
            f"Warmup(0.0, 1.0, steps=1000), but got {weight!r}"
        )
    if not math.isfinite(weight):
        raise ValueError(f"The weight of regularizer {name!r} must be finite, but got {weight!r}")


def regularize(found: Contributions, regularizers: Sequence[Regularizer], step: Step) -> None:
    """Adds the regularizers' values, and the gradients of their own losses, to the terms."""
    if found.sequential:
        raise ValueError(
            f"The regularizers {[r.name for r in regularizers]} need a single trace, but the guide "
            'enumerates a site one value at a time. Mark it infer={"enumerate": "parallel"}.'
        )
    for regularizer in regularizers:
        own = getattr(regularizer, "own_loss", None) if isinstance(regularizer, nn.Module) else None
        parameters = list(regularizer.parameters()) if isinstance(regularizer, nn.Module) else []
        trained = [p for p in parameters if p.requires_grad]
        for parameter in trained if own is not None else ():
            parameter.requires_grad_(False)  # of the objective they follow no gradient
        try:
            value = regularizer(step)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        _check_value(regularizer.name, value, found)
        weight = regularizer.weight
        weight = weight() if callable(weight) else weight
        if isinstance(weight, Tensor) and weight.dim() and weight.shape != value.shape:
            raise ValueError(
                f"The weight of regularizer {regularizer.name!r} must be a number or have the "
                f"shape of its value, {tuple(value.shape)}, but got the shape {tuple(weight.shape)}"
            )
        found.regularizers[regularizer.name] = value, weight
        if own is not None and trained and torch.is_grad_enabled():
            zero = _gradient_only(own(step), trained, regularizer.name) * found.particles
            found.own_losses = zero if found.own_losses is None else found.own_losses + zero


def _gradient_only(loss: Any, parameters: list[nn.Parameter], name: str) -> Tensor:
    """A number that is 0, with the gradient of ``loss`` in the parameters and nowhere else."""
    if not isinstance(loss, Tensor) or loss.dim():
        raise TypeError(
            f"own_loss of regularizer {name!r} must return a scalar tensor, but got "
            + (f"the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss))
        )
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [
        (parameter * gradient).sum()
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    ]
    total = torch.stack(parts).sum() if parts else loss.new_zeros(())
    return total - total.detach()


def _check_value(name: str, value: Any, found: Contributions) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"Regularizer {name!r} must return a tensor in nats per datum, but got {value!r}"
        )
    each = [term.numel() for (kind, _), (term, *_) in found.sums.items() if kind == "kl"]
    sizes = {*each, sum(each), len(each)}
    per_datum = len(value) == found.num_data if value.dim() == 1 else False
    if value.dim() > 1 or (per_datum and len(value) not in sizes):
        raise ValueError(
            f"Regularizer {name!r} must return nats per datum, one value or one for each latent, "
            f"but got the shape {tuple(value.shape)}"
            + (": take the mean over the data" if per_datum or value.dim() > 1 else "")
        )


def register(regularizer: Any, found: dict[int, str]) -> None:
    """Lets ``SVI`` see the parameters of a regularizer.

    :param found: the names in Pyro's store that regularizers of this objective have.
    """
    if not any(
        isinstance(handler, TraceMessenger) and getattr(handler, "records_params", True)
        for handler in _PYRO_STACK
    ):
        return  # nobody listens
    store, name = pyro.get_param_store(), regularizer.name
    known = found.get(id(regularizer))
    prefixes = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(1)))
    for prefix in prefixes if known is None else [known]:
        named = {f"{prefix}.{n}": p for n, p in regularizer.named_parameters() if p.requires_grad}
        if known is None and any(n in store and store[n] is not p for n, p in named.items()):
            continue  # another instance has this name
        found[id(regularizer)] = prefix
        for full, parameter in named.items():
            pyro.param(full, parameter)
        return
