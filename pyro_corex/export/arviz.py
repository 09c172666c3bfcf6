"""A trained program as ArviZ reads it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_corex.batches import Batch, Data, Transform, check_count, read_batches
from pyro_corex.evaluation.bound import evaluating
from pyro_corex.evaluation.importance import sampled
from pyro_corex.export.evaluated import collect, evaluate
from pyro_corex.objective import CorExELBO, CorExTerms
from pyro_corex.objective.evidence import Evidence
from pyro_corex.objective.term import layout

Key = tuple[str, str]  # a group and a variable
Variable = tuple[tuple[str, ...], np.ndarray[Any, Any]]  # dimensions and values


def to_arviz(
    module: Any,
    data: Data,
    *,
    num_draws: int = 100,
    num_chains: int = 4,
    num_predictive: int = 10,
    batch_size: int = 1024,
    transform: Transform | None = None,
    data_plates: Collection[str] | None = None,
    seed: int = 0,
) -> Any:
    r"""A trained program and its data for ArviZ, in version 0.23 or 1.x.

    ``az.summary``, ``az.plot_forest``, ``az.plot_ppc`` and ``az.loo`` take it as it is.  The
    groups:

    - ``posterior``: draws from the guide for each datum, one variable a latent site, with the
      dimensions ``(chain, draw, datum, <site>_dim)``.
    - ``log_likelihood``: :math:`\ln q_\phi(x|z)` of each datum at each draw, summed over its input
      dimensions, one variable an observed site, ``(chain, draw, datum)``.
    - ``posterior_predictive``: draws of :math:`q_\phi(x|z)` at the first ``num_predictive`` draws
      of each chain, one variable an observed site, ``(chain, draw, datum, <site>_dim)``: data as
      the program reconstructs them, with their noise.
    - ``sample_stats``: ``elbo``, that is :math:`\ln q_\phi(x, z) - \ln p_\theta(z|x)` at each draw,
      and ``log_ratio_<site>``, :math:`\ln p_\theta(z|x) - \ln r_\alpha(z)`, of the same dimensions.
      KL weights (anchors) have no part in them.
    - ``observed_data``: the data, one variable an observed site, ``(datum, <site>_dim)``.
    - ``bound``: the terms of the bound in nats per datum: ``reconstruction_<site>``, ``kl_<site>``,
      ``kl_weight_<site>``, and ``entropy_<site>`` and ``relevance_<site>`` where the likelihood is
      a proper one of the data.

    The attributes are ``program``, ``num_data``, ``elbo``, ``objective``, ``tc_bound`` and
    ``tc_bound_stderr`` (of :func:`~pyro_corex.tc_bound`), in nats per datum; where the bound cannot
    be stated, ``tc_bound_problem`` says why.

    A guide gives independent draws.  They are dealt to ``num_chains`` chains since diagnostics
    compare chains: an R-hat near 1 says that there are enough draws, nothing about the guide.  In
    ``az.loo`` (Vehtari et al. 2017), the parameters are fixed and a datum's latents are its own,
    so that leaving a datum out leaves its latents to the prior: where the guide is the
    posterior, ``elpd_loo`` estimates
    :math:`\sum_n \ln q_\phi(x_n)`, by weights that are heavy-tailed where latents tell much about
    the data.  Heed its warning about Pareto k.

    :param module: a program with ``.model(*batch)`` and ``.guide(*batch)``.
    :param data: as :func:`~pyro_corex.tc_bound` takes it.
    :param num_draws: draws from the guide for each datum and chain.
    :param num_chains: how many chains the draws are dealt to.
    :param num_predictive: at how many draws of each chain data are drawn again; 0 for none.  Each
        takes as much memory as the data.
    :param batch_size: of tensors, arrays and data sets.
    :param transform: as :func:`~pyro_corex.tc_bound` takes it, applied once to each batch.
    :param data_plates: see :class:`~pyro_corex.CorExELBO`.
    :param seed: of the draws and of ``transform``; torch's random state is put back afterwards.
    :returns: an ``arviz.InferenceData`` with ArviZ 0.23, an ``xarray.DataTree`` with ArviZ 1.x.
    :raises ValueError: for numbers of draws or chains that are too small, data that are empty, and
        programs whose terms are not known for each datum.
    :raises TypeError: for a module without ``.model`` and ``.guide``.
    :raises ImportError: where ArviZ is not installed.

    >>> from pyro_corex.programs import CorExVAE, mlp_decoder, mlp_encoder
    >>> vae = CorExVAE(mlp_encoder([20, 4]), mlp_decoder([4, 20]), 4)
    >>> x = torch.bernoulli(torch.full((10, 20), 0.3))
    >>> idata = to_arviz(vae, x, num_draws=50)
    >>> idata.posterior["z"].shape  # chains, draws, data, latents
    (4, 50, 10, 4)
    """
    check_count("num_draws", num_draws)
    check_count("num_chains", num_chains)
    check_count("num_predictive", num_predictive, least=0)
    again = min(num_predictive, num_draws)
    whole = collect(module, data, batch_size, transform, seed)
    options: Any = {"batch_size": batch_size, "data_plates": data_plates, "seed": seed}
    predicted = [k < again for _ in range(num_chains) for k in range(num_draws)]
    draws = _draw(module, whole, predicted, **options)
    found = evaluate(module, whole, **options)
    terms, bound = found.terms, found.bound
    attributes: dict[str, float | str] = {
        "program": type(module).__name__,
        "unit": "nats per datum",
        "num_data": terms.num_data,
        "elbo": terms.elbo,
        "objective": terms.objective,
    }
    if bound is None:
        attributes["tc_bound_problem"] = found.problem
    else:
        attributes |= {"tc_bound": bound.estimate, "tc_bound_stderr": bound.stderr}
    variables: dict[str, dict[str, Variable]] = {}
    for (group, name), values in draws.items():
        dealt = values.unflatten(0, (num_chains, -1)).cpu().numpy()
        dims = ("chain", "draw", "datum", f"{name}_dim")[: dealt.ndim]
        variables.setdefault(group, {})[name] = (dims, dealt)
    variables["observed_data"] = {
        name: (("datum", f"{name}_dim"), inputs.values.cpu().numpy())
        for name, inputs in terms.evidence.inputs.items()
    }
    variables["bound"] = _of_dimensions(terms, proper=bound is not None)
    return _wrap(variables, attributes)


def _draw(
    module: Any,
    data: Batch,
    predicted: Sequence[bool],
    *,
    batch_size: int,
    data_plates: Collection[str] | None,
    seed: int,
) -> dict[Key, Tensor]:
    """For each group and variable, draws for all data: shape ``(draws, N, ...)``.

    :param predicted: for each draw, whether data are drawn again, too.
    """
    model, guide = sampled(module)
    again = _Again()
    elbo = CorExELBO(data_plates=data_plates, strict_enumeration_warning=False)
    parts: dict[Key, list[Tensor]] = {}
    with evaluating(module, seed), torch.no_grad():
        for batch in read_batches(data, batch_size):
            draws: dict[Key, list[Tensor]] = {}
            for predict in predicted:
                with again if predict else nullcontext():
                    elbo.loss(model, guide, *batch.args, **batch.kwargs)
                evidence = elbo.last_terms.evidence
                found = _variables(evidence) | (again.variables(evidence) if predict else {})
                for key, value in found.items():
                    draws.setdefault(key, []).append(value)
            for key, values in draws.items():
                parts.setdefault(key, []).append(torch.stack(values))
    return {key: torch.cat(values, 1) for key, values in parts.items()}


class _Again(Messenger):
    """Draws each observed site from what it is observed under."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not site_is_subsample(msg):
            self._drawn[msg["name"]] = msg["fn"].sample().expand_as(msg["value"])

    def variables(self, evidence: Evidence) -> dict[Key, Tensor]:
        """The draws, ``(B, d)`` for each site."""
        terms = {t.site: t for t in evidence.sources[0].terms if t.kind == "reconstruction"}
        return {
            ("posterior_predictive", name): layout(self._drawn[name], term.event_dims, term)
            for name, term in terms.items()
            if evidence.inputs[name].values.numel()
        }


def _variables(evidence: Evidence) -> dict[Key, Tensor]:
    """What one draw for each datum of a batch amounts to."""
    terms, draws = evidence.per_datum, evidence.draws
    if not terms or any(kind == "kl" and name not in draws for kind, name in terms):
        raise ValueError(
            "The terms are not known for each datum, which ArviZ needs: some sites are outside of "
            "the data plate, or summed out in the model"
        )
    found: dict[Key, Tensor] = {("posterior", name): z for name, z in draws.items()}
    for (kind, name), value in terms.items():
        if kind == "reconstruction":
            found["log_likelihood", name] = value
        else:
            found["sample_stats", f"log_ratio_{name}"] = value
    found["sample_stats", "elbo"] = evidence.shares()
    return found


def _of_dimensions(terms: CorExTerms, *, proper: bool) -> dict[str, Variable]:
    """The terms of the bound, one value for each dimension of a site."""
    kinds = {"reconstruction": terms.reconstruction, "kl": terms.kl, "kl_weight": terms.kl_weight}
    if proper:
        kinds["entropy"] = terms.entropy
    if proper and not terms.evidence.sight().unexplained:
        kinds["relevance"] = terms.relevance
    return {
        f"{kind}_{name}": ((f"{name}_dim",), value.flatten().cpu().numpy())
        for kind, values in kinds.items()
        for name, value in values.items()
    }


def _wrap(variables: dict[str, dict[str, Variable]], attributes: dict[str, float | str]) -> Any:
    """The object that the installed ArviZ works with."""
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ, 0.23 or later: pip install arviz") from error
    groups = {}
    for group, found in variables.items():
        sizes = {d: n for dims, v in found.values() for d, n in zip(dims, v.shape, strict=True)}
        coordinates = {dim: np.arange(size) for dim, size in sizes.items()}
        groups[group] = xarray.Dataset(found, coordinates, attributes)
    if int(arviz.__version__.split(".")[0]) >= 1:
        tree = xarray.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
        tree.attrs = attributes
        return tree
    return arviz.InferenceData(attrs=attributes, warn_on_custom_groups=False, **groups)
