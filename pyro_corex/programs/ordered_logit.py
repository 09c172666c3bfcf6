"""The distribution of levels that have an order."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn import functional

FAR = 40.0  # a logit as good as infinite


class OrderedLogit(dist.TorchDistribution):
    r"""Levels 0 to K - 1 with :math:`P(x \le k) = \sigma(c_k - \eta)`.

    :param predictor: :math:`\eta`.
    :param thresholds: :math:`c_0 < c_1 < \ldots`, last axis; ends that a column with fewer levels
        does not need are far away.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.nonnegative_integer

    def __init__(self, predictor: Tensor, thresholds: Tensor) -> None:
        self.predictor = predictor
        low = functional.pad(thresholds, (1, 0), value=-FAR)
        self.edges = functional.pad(low, (0, 1), value=FAR)  # (d, K + 1)
        super().__init__(predictor.shape, torch.Size(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedLogit:
        """See :class:`torch.distributions.Distribution`."""
        return OrderedLogit(self.predictor.expand(batch_shape), self.edges[..., 1:-1])

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, in the batch shape."""
        level = value.long().clamp(0, self.edges.shape[-1] - 2)
        column = torch.arange(self.edges.shape[0], device=level.device)
        low, high = self.edges[column, level], self.edges[column, level + 1]
        up = functional.logsigmoid(high - self.predictor)
        down = functional.logsigmoid(self.predictor - low)
        return up + down + torch.log(-torch.expm1(low - high))

    @property
    def probs(self) -> Tensor:
        """Of each level: the batch shape and one axis of levels, summing to 1."""
        below = torch.sigmoid(self.edges[..., 1:-1] - self.predictor.unsqueeze(-1))
        first = functional.pad(below, (1, 0))
        return functional.pad(first, (0, 1), value=1.0).diff(dim=-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Levels, as floats."""
        levels = dist.Categorical(self.probs.clamp(min=0), validate_args=False)
        return levels.sample(sample_shape).to(self.predictor.dtype)
