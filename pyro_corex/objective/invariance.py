"""Latents that shall not tell how a datum was transformed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_corex.objective.discrete import check_weights


@dataclass(frozen=True)
class Invariance:
    r"""Asks discrete latents to give the same answer for transformed copies of a datum.

    What is penalised is :math:`I(z_j : t \mid x)`, the information that the latent keeps about
    which copy :math:`t(x)` of a datum it was given, in nats: the generalised Jensen-Shannon
    divergence (Lin 1991) of :math:`p(z_j|t(x))` over the datum itself and its ``copies``.  Where
    the guide draws the site given another latent, a draw of that is a part of the copy.  By the
    chain rule :math:`I(z_j : x, t) - I(z_j : t|x) = I(z_j : x)`, so that with equal weights on
    this and on ``mi_weight`` the information about x *up to* the transformations is rewarded.

    Example::

        slight = RandomAffine(28, rotation=0.26, scale=0.15, shift=2.0)
        invariance = Invariance(lambda x: torch.bernoulli(slight(x)), {"z2": 100.0})
        elbo = CorExELBO(mi_weight={"z2": 100.0}, invariance=invariance)

    :param transform: from the programs' first argument to a transformed one of the same shape.  It
        is called at every evaluation; its randomness is torch's.
    :param weights: latent site -> weight, a finite number >= 0; 0 reports only.  The site has to
        qualify for ``mi_weight`` of :class:`~pyro_corex.CorExELBO`.
    :param copies: transformed copies of each datum; the guide runs once for each.
    :raises TypeError: where ``transform`` is no function, or ``weights`` no mapping to numbers.
    :raises ValueError: where a weight is negative or not finite, or ``copies`` less than 1.
    """

    transform: Callable[[Tensor], Tensor]
    weights: Mapping[str, float]
    copies: int = 1

    def __post_init__(self) -> None:
        if not callable(self.transform):
            raise TypeError(
                "transform must be a function from a batch to a transformed one, but got "
                f"{self.transform!r}"
            )
        if not isinstance(self.copies, int) or self.copies < 1:
            raise ValueError(f"copies must be an integer >= 1, but got {self.copies!r}")
        object.__setattr__(self, "weights", check_weights("Invariance.weights", self.weights))

    def copy(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The programs' arguments with the first one transformed.

        :raises TypeError: where there is no tensor to transform.
        :raises ValueError: where the transformed one has another shape.
        """
        if not args or not isinstance(args[0], Tensor):
            got = type(args[0]).__name__ if args else "no positional argument"
            raise TypeError(
                f"Invariance transforms the programs' first argument, a batch, but got {got}"
            )
        copy = self.transform(args[0])
        if not isinstance(copy, Tensor) or copy.shape != args[0].shape:
            given = str(tuple(copy.shape)) if isinstance(copy, Tensor) else type(copy).__name__
            raise ValueError(
                f"The transform of Invariance must keep the batch's shape {tuple(args[0].shape)}, "
                f"but gives {given}"
            )
        return (copy, *args[1:])
