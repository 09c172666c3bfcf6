"""What a training step costs, as ratios to the same network written by hand in PyTorch.

    python benchmarks/step_time.py [--threads 1] [--rounds 30]

The paper's MNIST network (784-512-512-64, 64-32-32-16-16-10, mirrored decoders), batch 128, random
binary data, Adam, Pyro's validation off.  The contestants take turns within one run, so that a
machine whose speed drifts does the same to all of them; a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

import pyro_corex as pc

Step = Callable[[], object]


def hand_written_loss(stack: pc.StackedCorEx, x: Tensor) -> Tensor:
    """Minus the bound of the two-layer stack, with nothing but tensors."""
    loc, log_scale = stack.encoders[0](x).chunk(2, dim=-1)
    scale = log_scale.exp()
    z = loc + scale * torch.randn_like(loc)
    log_q = functional.log_softmax(stack.encoders[1](z), dim=-1)
    q = log_q.exp()
    classes = torch.eye(stack.dims[-1])
    prior_loc, prior_log_scale = stack.decoders[1](classes).chunk(2, dim=-1)
    prior = Normal(prior_loc, prior_log_scale.exp(), validate_args=False)
    log_prior = functional.log_softmax(stack.prior.logits, dim=-1)
    log_p = prior.log_prob(z.unsqueeze(1)).sum(-1) + log_prior
    log_q1 = Normal(loc, scale, validate_args=False).log_prob(z).sum()
    reconstruction = -functional.binary_cross_entropy_with_logits(
        stack.decoders[0](z), x, reduction="sum"
    )
    return -(reconstruction + (q * (log_p - log_q)).sum() - log_q1)


def torch_step(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def svi_step(module: pc.StackedCorEx, elbo: object, x: Tensor) -> Step:
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    return lambda: svi.step(x)


def measure(steps: dict[str, Step], rounds: int, per_round: int = 10) -> dict[str, list[float]]:
    for step in steps.values():
        for _ in range(per_round):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(per_round):
                step()
            seconds[name].append((time.perf_counter() - start) / per_round)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((args.batch_size, 784), 0.5))
    stack = pc.StackedCorEx([(784, 512, 512, 64), (64, 32, 32, 16, 16, 10)])
    copies = [copy.deepcopy(stack) for _ in range(4)]
    by_hand, corex, by_svi, by_pyro = copies
    elbo = pc.CorExELBO()
    steps = {
        "PyTorch by hand": torch_step(by_hand, lambda: hand_written_loss(by_hand, x)),
        "CorExELBO, torch.optim": torch_step(
            corex, lambda: elbo.differentiable_loss(corex.model, corex.guide, x)
        ),
        "CorExELBO, SVI": svi_step(by_svi, pc.CorExELBO(), x),
        "TraceEnum_ELBO, SVI": svi_step(by_pyro, TraceEnum_ELBO(), x),
    }
    with pyro.validation_enabled(False):
        seconds = measure(steps, args.rounds)
    base = seconds["PyTorch by hand"]
    print(f"{args.threads} thread(s), batch {args.batch_size}, {args.rounds} rounds of 10 steps")
    print(f"{'':28}{'ms a step':>10}{'ratio':>8}{'  (quartiles)'}")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(times) * 1e3
        print(f"{name:28}{median:10.2f}{middle:8.3f}  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
