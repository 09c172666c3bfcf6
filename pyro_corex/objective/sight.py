"""Sight: what the model's densities depend on beside the latents, once it is known.

It is found out in :mod:`pyro_corex.objective.inputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_CONDITIONAL = (
    "The model is conditional on y = {of}: its densities depend on more of that than is observed. "
    "The terms would bound TC(x) + I(x : y), which is more than TC(x)"
)
_MEND = (
    ". Make y an observed site, pyro.sample(..., obs=y), for a bound on the total correlation of "
    "all that is observed; or evaluate the data of each value of y on their own, for bounds on "
    "TC(x) given that value."
)
_REPEATS = 10
"""How many data to the distinct value of y, on average, its entropy takes."""
_NO_ENTROPY = (
    ", and H(y), which would make up for it, is not known: y has {distinct} distinct values in "
    f"{{size}} data, and at most one in {_REPEATS} may be distinct"
)
_TOLD = (
    ", and what y tells is not what the latents explain. tc_bound takes H(y) off; for the rest "
    "make y an observed site, or evaluate the data of each value of y on their own."
)


def conditional(y: str, why: str = "") -> str:
    """Why there is no bound where the model is told y."""
    return _CONDITIONAL.format(of=y) + why + _MEND


class Told(NamedTuple):
    """Columns of an argument that the model's densities depend on, and that are not observed."""

    name: str
    place: int
    """The number of the tensor among those of the arguments."""
    columns: Tensor
    """A mask ``(d,)``."""


class Sight(NamedTuple):
    """What the model's densities depend on beside the latents: reasons, empty where it doesn't."""

    problem: str = ""
    """Why there is no bound on TC(x)."""
    own: str = ""
    """Why the bound on TC(x) is not on what the latents explain, as the decoder sees x."""
    told: tuple[Told, ...] = ()
    """What the model is given beside what is observed: the covariate y."""

    @property
    def y(self) -> str:
        """The names of what the model is told."""
        return " and ".join(each.name for each in self.told)

    @property
    def unexplained(self) -> str:
        """Why the bound on TC(x) is not on what the latents explain."""
        return _CONDITIONAL.format(of=self.y) + _TOLD if self.told else self.own

    def values(self, given: Mapping[int, Tensor], size: int) -> Tensor | None:
        """The number of the distinct value of y that each datum has, ``(N, 1)``, if there is a y.

        :param given: what the programs were given of ``size`` data: see ``Evidence.given``.
        :raises ValueError: where y has too many values for an entropy.
        """
        if not self.told:
            return None
        known = [given[at][:, which] for _, at, which in self.told if at in given]
        codes = [of.unique(dim=0, return_inverse=True)[1] for of in known if len(of) == size]
        distinct, found = size, None
        if len(codes) == len(self.told):
            values, found = torch.stack(codes, 1).unique(dim=0, return_inverse=True)
            distinct = len(values)
        if found is None or distinct * _REPEATS > size:
            raise ValueError(conditional(self.y, _NO_ENTROPY.format(distinct=distinct, size=size)))
        return found[:, None]

    @staticmethod
    def join(parts: Iterable[Sight]) -> Sight:
        """What any of several batches has shown."""
        problems, owns, every = zip(*parts, strict=True)
        told: dict[int, Told] = {}
        for each in (each for several in every for each in several):
            known = told.get(each.place, each)
            told[each.place] = each._replace(columns=each.columns | known.columns)
        problem, own = (next(filter(None, reasons), "") for reasons in (problems, owns))
        return Sight(problem, own, tuple(told[place] for place in sorted(told)))
