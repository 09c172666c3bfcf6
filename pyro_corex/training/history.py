"""What a training run was like."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyro_corex.objective import CorExTerms


@dataclass
class History:
    """What a training run was like, epoch by epoch: what :func:`fit` returns."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    """For each epoch: "objective", "elbo", "kl_<site>" and each regularizer by its name, in nats
    per datum, and "seconds"; with validation data "val_elbo" and so on."""

    terms: CorExTerms | None = None
    """The terms of the last training step."""

    losses: list[float] = field(default_factory=list)
    """The loss of each training step of the finished epochs, in nats summed over the batch: what
    ``svi.step`` would return."""

    steps: int = 0
    """The number of training steps."""

    best_epoch: int | None = None
    """The epoch, from 1, with the highest "val_objective"."""

    stopped_early: bool = False
    """Whether ``patience`` ended the run."""

    def __getitem__(self, key: str) -> list[float]:
        """The values of one quantity over the epochs, e.g. ``history["elbo"]``."""
        return [epoch[key] for epoch in self.epochs]

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        last = ", ".join(f"{key}={value:.4g}" for key, value in self.epochs[-1].items())
        return f"History({len(self.epochs)} epochs; the last: {last})"
