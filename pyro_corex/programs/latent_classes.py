"""Tables explained by discrete latents, each of which has columns of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import argument
from pyro_corex.programs.base import CorExProgram
from pyro_corex.programs.checks import warn_of_units
from pyro_corex.programs.plates import data_plate
from pyro_corex.programs.tables import TableSpec, as_table, observe

_NEVER = -60.0  # ln of a probability as good as 0


class LatentClasses(CorExProgram):
    r"""Independent latents with a few states each; every column hangs on one of them.

    Given its latent a column is categorical (binary, ordinal and nominal kinds: a table, which is
    as general as can be), normal (continuous) or negative binomial (counts).  The latents of a row
    are then independent given its observed entries, so that the factorised encoder is the exact
    posterior, and the bound of Eq. 10 is the likelihood.

    Sites: ``"z_0"``, ``"z_1"``, … enumerated in the guide, and for each latent and kind that
    occurs ``"<kind>_<latent>"``, in a plate of its columns.

    :param spec: the kinds of the columns.
    :param parents: the latent of each column.
    :param n_states: the number of states of each latent.
    """

    parents: Tensor

    def __init__(self, spec: TableSpec, parents: Sequence[int], n_states: Sequence[int]) -> None:
        super().__init__("normal")
        self.spec = spec
        self.n_states = [int(s) for s in n_states]
        if len(parents) != len(spec.kinds) or not all(0 <= p < len(self.n_states) for p in parents):
            raise ValueError(
                f"parents must name one of {len(self.n_states)} latents for each of "
                f"{len(spec.kinds)} columns, but got {list(parents)}"
            )
        if min(self.n_states) < 1:
            raise ValueError(f"n_states must be >= 1 for every latent, but got {self.n_states}")
        self.register_buffer("parents", torch.as_tensor(list(parents), dtype=torch.long))
        self.latent_dim = len(self.n_states)
        d, s = len(spec.kinds), max(self.n_states)
        k = max([2, *spec.n_levels])
        self.class_logits = nn.Parameter(torch.zeros(len(self.n_states), s))
        self.table = nn.Parameter(torch.zeros(d, s, k))
        self.loc = nn.Parameter(torch.zeros(d, s))
        self.log_scale = nn.Parameter(torch.zeros(d, s))
        self.log_size = nn.Parameter(torch.full((d,), 2.0))
        levels = torch.tensor([n if n else k for n in spec.n_levels])
        no_level = torch.arange(k) >= levels[:, None]
        self.register_buffer("_no_level", torch.where(no_level, _NEVER, 0.0))
        no_state = torch.arange(s) >= torch.tensor(self.n_states)[:, None]
        self.register_buffer("_no_state", torch.where(no_state, _NEVER, 0.0))

    def _arguments(self) -> dict[str, Any]:
        return {"parents": self.parents.tolist()}

    def members(self, latent: int) -> Iterator[tuple[str, list[int]]]:
        """Kind and columns of a latent; "levels" are the ordinal and nominal ones."""
        own = (self.parents == latent).nonzero().flatten().tolist()
        for kind in ("levels", "continuous", "counts"):
            of_kind = ("ordinal", "nominal") if kind == "levels" else (kind,)
            columns = [i for i in own if self.spec.kinds[i] in of_kind]
            if columns:
                yield kind, columns

    def prior(self) -> Tensor:
        """Log of the states' probabilities: ``(m, max n_states)``."""
        return (self.class_logits + self._no_state).log_softmax(-1)

    @property
    def n_points(self) -> int:
        """How many values of a latent are summed over."""
        return max(self.n_states)

    @property
    def site_columns(self) -> dict[str, list[int]]:
        """Observed site -> its columns."""
        latents = range(len(self.n_states))
        return {f"{kind}_{j}": columns for j in latents for kind, columns in self.members(j)}

    def column_distributions(self, z: Tensor) -> Iterator[tuple[str, list[int], Distribution]]:
        """Kind, columns and q(x|z), of batch shape ``(..., number of columns)``; z ``(..., m)``."""
        for j in range(len(self.n_states)):
            for kind, columns in self.members(j):
                yield kind, columns, self.column_distribution(kind, columns, z[..., j : j + 1])

    def column_distribution(self, kind: str, columns: list[int], state: Tensor) -> Distribution:
        """q(x|state) for columns of one kind; ``state`` broadcasts against them."""
        index = torch.as_tensor(columns, device=state.device)
        state = state.long()
        if kind == "levels":
            logits = self.table[index, state] + self._no_level[index]
            return dist.Categorical(logits=logits, validate_args=False)
        loc = self.loc[index, state]
        if kind == "continuous":
            return dist.Normal(loc, self.log_scale[index, state].exp(), validate_args=False)
        size = self.log_size[index]
        return dist.NegativeBinomial(size.exp(), logits=loc - size, validate_args=False)

    def check_data(self, x: Tensor) -> None:
        """Raises unless ``x`` is a table of these columns; NaN is what is missing."""
        self.spec.check(x)

    def check_units(self, x: Tensor) -> None:
        """Warns of continuous columns that are far from standardised."""
        warn_of_units(x, self.spec.columns("continuous"))

    def _check_batch(self, x: Tensor) -> None:
        self.spec.check_shape(x)

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """Draws a state for each latent and observes the table, ``(B, d)``, or draws it.

        :param x: NaN where a value is missing.
        :param n: without ``x``, the number of rows to draw.
        :returns: the table.
        """
        n = self._start(x, n)
        complete = x is None or not bool(x.isnan().any())
        prior = self.prior()
        parts: list[tuple[list[int], Tensor]] = []
        with data_plate(n):
            # latents do not see each other, so that one dimension enumerates each of them
            for j in pyro.markov(range(len(self.n_states)), history=0):
                fn = dist.Categorical(logits=prior[j, : self.n_states[j]], validate_args=False)
                state = pyro.sample(f"z_{j}", fn.expand([n, 1]))
                for kind, columns in self.members(j):
                    fn = self.column_distribution(kind, columns, state)
                    own = None if x is None else x[:, columns]
                    parts.append((columns, observe(f"{kind}_{j}", fn, own, complete)))
        return as_table(parts, self.loc.dtype)

    def guide(self, x: Tensor) -> None:
        """The exact posterior of each latent, marked for enumeration."""
        self._check_batch(x)
        self._register()
        posterior = self.log_posterior(x)
        with data_plate(len(x)):
            for j in pyro.markov(range(len(self.n_states)), history=0):
                fn = dist.Categorical(
                    logits=posterior[:, j : j + 1, : self.n_states[j]], validate_args=False
                )
                pyro.sample(f"z_{j}", fn, infer={"enumerate": "parallel"})

    def log_joint(self, x: Tensor) -> Tensor:
        """Log p(x of the latent's columns, state): ``(B, m, max n_states)``, nats."""
        parts = list(self.prior().expand(len(x), -1, -1).unbind(1))
        states = torch.arange(self.n_points, device=x.device)[:, None, None]
        for j in range(len(self.n_states)):
            for kind, columns in self.members(j):
                value = x[:, columns]
                log_p = self.column_distribution(kind, columns, states).log_prob(value.nan_to_num())
                parts[j] = parts[j] + log_p.masked_fill(value.isnan(), 0.0).sum(-1).T
        return torch.stack(parts, 1)

    def log_posterior(self, x: Tensor) -> Tensor:
        """Log of the states' probabilities given the observed entries: ``(B, m, max n_states)``."""
        return self.log_joint(x).log_softmax(-1)

    def encode(self, x: Tensor) -> dist.Categorical:
        """q(z|x): a categorical of batch shape ``(B, m)``."""
        return dist.Categorical(logits=self.log_posterior(argument(x, self)), validate_args=False)
