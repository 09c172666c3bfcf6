"""What penalties on TC(z) press on: their gradients in the encoder's scale, and closed forms.

    python benchmarks/tc_gradients.py            # about ten minutes on one core
    python benchmarks/tc_gradients.py --quick    # seconds, to see that it works

Encoders are z = A x + s eps of Gaussian data, with one correlation among the latents.  TC(z) and
sum_j I(z_j:x) are known, and so are their derivatives in ln s.  The minibatch penalty follows the
second, and the others the first.
"""

from __future__ import annotations

import argparse
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex.information import gaussian_total_correlation
from pyro_corex.regularizers import DensityRatio, MinibatchTotalCorrelation, TotalCorrelation

N, BATCH = 10_000, 128
CASES = ((20, 0.0, 0.3), (20, 0.0, 1.0), (5, 0.8, 0.3), (20, 0.5, 0.5))


class Linear(nn.Module):
    """z = A x + s eps; only ln s is trained."""

    def __init__(self, m: int, rho: float, scale: float) -> None:
        super().__init__()
        self.cov = torch.full((m, m), rho, dtype=torch.double).fill_diagonal_(1.0)
        self.factor = torch.linalg.cholesky(self.cov).float()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x @ self.factor.T
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))

    def truth(self) -> tuple[float, float]:
        """The derivatives of TC(z) and of sum_j I(z_j:x) in ln s."""
        s = self.log_scale.detach().double().requires_grad_(True)
        m = len(self.cov)
        tc = gaussian_total_correlation(self.cov + (2 * s).exp() * torch.eye(m))
        tc_slope = torch.autograd.grad(tc, s)[0]
        return float(tc_slope), -m / (1 + float(s.detach().exp()) ** 2)


def slope(program: Linear, penalty: Any, data: Tensor, batches: int) -> str:
    """The mean gradient of the penalty alone, and its standard error."""
    elbos = pc.CorExELBO(regularizers=[penalty]), pc.CorExELBO()
    elbos[0].num_data = N
    found = []
    for seed in range(batches):
        x = data[torch.randint(len(data), (BATCH,))]
        grads = []
        for elbo in elbos:  # with the same draws
            pyro.set_rng_seed(seed)
            loss = elbo.differentiable_loss(program.model, program.guide, x) / BATCH
            grads.append(float(torch.autograd.grad(loss, program.log_scale)[0]))
        found.append(grads[0] - grads[1])
    values = torch.tensor(found)
    return f"{values.mean():.3f} ± {values.std() / math.sqrt(batches):.3f}"


def trained(program: Linear, critic: DensityRatio, data: Tensor, steps: int) -> DensityRatio:
    """The critic, after steps of its own with the encoder held still."""
    elbo = pc.CorExELBO(regularizers=[critic])
    optimiser = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        x = data[torch.randint(len(data), (BATCH,))]
        elbo.differentiable_loss(program.model, program.guide, x).backward()
        optimiser.step()
    return critic


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few batches and steps")
    args = parser.parse_args(argv)
    batches, steps = (3, 3) if args.quick else (200, 1500)
    print("| latents, correlation, s | TC(z) | sum I | minibatch | correlations | critic |")
    print("| --- " * 6 + "|")
    for m, rho, scale in CASES:
        torch.manual_seed(0)
        program, data = Linear(m, rho, scale), torch.randn(N, m)
        tc, information = program.truth()
        with warnings.catch_warnings():  # what it measures is the subject here
            warnings.filterwarnings("ignore", "MinibatchTotalCorrelation does not see")
            minibatch = slope(program, MinibatchTotalCorrelation(1.0), data, batches)
        correlations = slope(program, TotalCorrelation(1.0), data, batches)
        critic = trained(program, DensityRatio(1.0, m), data, steps)
        told = " | ".join([minibatch, correlations, slope(program, critic, data, batches)])
        print(
            f"| {m}, {rho:g}, {scale:g} | {round(tc, 3) + 0.0:.3f} | {information:.2f} | {told} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
