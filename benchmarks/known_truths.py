"""Numbers against known truths: is what is printed as a bound one, and where is it refused?

    python benchmarks/known_truths.py --out known.jsonl            # about 20 minutes on two cores
    python benchmarks/known_truths.py --out known.jsonl --table    # what is there so far

Each situation has a truth in closed form, and 20 seeds with data of their own.  Programs are not
trained: they have the parameters of the distribution that the data are from, so that a bound is as
close to the truth, and as likely to pass it, as it can be.  Tables are fitted.  A line
is written for each run; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex.information import gaussian_total_correlation

SEEDS = 20
ERRORS = 3.0


class Shown(NamedTuple):
    """What was printed, and the truth."""

    truth: float
    value: float
    stderr: float = 0.0
    upper: float | None = None
    """Of a bracket, whose lower end is ``value``."""


@dataclass(frozen=True)
class Situation:
    """A kind of data, and what is asked about it."""

    what: str
    asked: str
    n: int
    run: Callable[[int, int], Shown]


# ---------------------------------------------------------------------- bounds of exact programs


class Factors(nn.Module):
    """x = W z + noise with the exact posterior: the bound is TC(x) less what latents share."""

    def __init__(self, weight: Tensor, noise: float) -> None:
        super().__init__()
        self.weight, self.noise = weight, noise
        m = weight.shape[1]
        precision = torch.eye(m) + weight.T @ weight / noise**2
        self.scale = precision.diagonal().rsqrt()
        self.up = torch.linalg.solve(precision, weight.T) / noise**2
        self.tc = float(
            gaussian_total_correlation(weight @ weight.T + noise**2 * torch.eye(len(weight)))
        )

    def draw(self, n: int) -> Tensor:
        z = torch.randn(n, self.weight.shape[1])
        return z @ self.weight.T + self.noise * torch.randn(n, len(self.weight))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.weight.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.up.T, self.scale).to_event(1))


def factors(d: int, m: int, noise: float = 0.5) -> Callable[[int, int], Shown]:
    """Each latent has columns of its own, so that the posterior factorises and is exact."""

    def run(n: int, seed: int) -> Shown:
        weight = torch.zeros(d, m)
        weight[torch.arange(d), torch.arange(d) % m] = 1.0
        program = Factors(weight, noise)
        return bounded(program, program.draw(n), program.tc)

    return run


def bounded(program: nn.Module, data: Any, truth: float) -> Shown:
    bound = pc.tc_bound(program, data)
    return Shown(truth, bound.estimate, bound.stderr)


class Classes(nn.Module):
    """Columns that are independent given a class: clusters, coins or levels."""

    def __init__(self, likelihood: Callable[[Tensor], Any], classes: int) -> None:
        super().__init__()
        self.likelihood, self.classes = likelihood, classes

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(self.classes) / self.classes))
            pyro.sample("x", self.likelihood(z).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        classes = torch.arange(self.classes)[:, None]
        logits = self.likelihood(classes).log_prob(x).sum(-1).T  # (N, K): the exact posterior
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def clusters(d: int, classes: int, gap: float, uneven: bool = False) -> Callable[[int, int], Shown]:
    """Far apart: TC(x) = (d - 1) ln K."""
    scales = torch.logspace(-1, 0, classes) if uneven else torch.ones(classes)

    def run(n: int, seed: int) -> Shown:
        program = Classes(
            lambda z: dist.Normal(gap * z[..., None].expand(*z.shape, d), scales[z][..., None]),
            classes,
        )
        z = torch.randint(classes, (n,))
        x = gap * z[:, None] + scales[z][:, None] * torch.randn(n, d)
        return bounded(program, x, (d - 1) * math.log(classes))

    return run


def coins(d: int, flip: float) -> Callable[[int, int], Shown]:
    """Copies of a fair coin, each flipped with a probability."""

    def run(n: int, seed: int) -> Shown:
        probs = torch.tensor([flip, 1 - flip])
        program = Classes(lambda z: dist.Bernoulli(probs[z][..., None].expand(*z.shape, d)), 2)
        x = torch.bernoulli(probs[torch.randint(2, (n,))][:, None].expand(n, d))
        ones = torch.arange(d + 1.0, dtype=torch.double)
        log = [ones * math.log(p) + (d - ones) * math.log(1 - p) for p in (flip, 1 - flip)]
        pattern = torch.logaddexp(*log) - math.log(2)
        count = torch.lgamma(torch.tensor(d + 1.0)) - (ones + 1).lgamma() - (d - ones + 1).lgamma()
        entropy = -float(((count + pattern).exp() * pattern).sum())
        return bounded(program, x, d * math.log(2) - entropy)

    return run


class Chain(nn.Module):
    """A Markov chain of bits whose decoder sees the bit before; z knows nothing."""

    def __init__(self, flip: float) -> None:
        super().__init__()
        self.logit = math.log((1 - flip) / flip)

    def model(self, x: Tensor) -> None:
        before = nn.functional.pad((2 * x[:, :-1] - 1) * self.logit, (1, 0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=before).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def chain(ask: str) -> Callable[[int, int], Shown]:
    def run(n: int, seed: int) -> Shown:
        d, flip = 20, 0.1
        flips = torch.bernoulli(torch.full((n, d), flip))
        flips[:, 0] = torch.bernoulli(torch.full((n,), 0.5))
        x = flips.cumsum(1) % 2
        bound = pc.tc_bound(Chain(flip), x)
        if ask == "informativeness":
            return Shown(0.0, bound.terms.informativeness, bound.stderr)
        own = -(flip * math.log(flip) + (1 - flip) * math.log(1 - flip))
        return Shown((d - 1) * (math.log(2) - own), bound.estimate, bound.stderr)

    return run


class Given(nn.Module):
    """p(x | z, y), where z knows nothing."""

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(20.0 * y[:, None], 1.0).expand(x.shape).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def given(n: int, seed: int) -> Shown:
    y = torch.randint(3, (n,))
    x = 20.0 * y[:, None] + torch.randn(n, 4)
    return bounded(Given(), (x, y), 3 * math.log(3))


class Weighed(Factors):
    """The same with a factor in the guide."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.up.T, self.scale).to_event(1))
            pyro.factor("more", x.new_full((len(x),), -5.0), has_rsample=True)


def weighed(n: int, seed: int) -> Shown:
    program = Weighed(torch.ones(6, 1), 0.5)
    return bounded(program, program.draw(n), program.tc)


class Genes(nn.Module):
    """A latent for each column beside one for each row: both plates are around x."""

    def __init__(self, means: Tensor, loading: float) -> None:
        super().__init__()
        self.means, self.loading = means, loading
        precision = 1 + len(means) * loading**2 / 0.25
        self.up, self.scale = loading / 0.25 / precision, precision**-0.5

    def model(self, x: Tensor) -> None:
        genes = pyro.plate("genes", x.shape[1], dim=-1)
        with genes:
            b = pyro.sample("b", dist.Normal(0.0, 20.0))
        with pyro.plate("cells", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x), 1]))
            with genes:
                pyro.sample("x", dist.Normal(self.loading * z + b, 0.5), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("genes", x.shape[1], dim=-1):
            pyro.sample("b", dist.Normal(self.means, 0.02))
        with pyro.plate("cells", len(x), dim=-2):
            loc = self.up * (x - self.means).sum(-1, keepdim=True)
            pyro.sample("z", dist.Normal(loc, self.scale))


def genes(loading: float) -> Callable[[int, int], Shown]:
    def run(n: int, seed: int) -> Shown:
        means = torch.linspace(-20, 20, 5)
        x = means + loading * torch.randn(n, 1) + 0.5 * torch.randn(n, 5)
        cov = loading**2 * torch.ones(5, 5) + 0.25 * torch.eye(5)
        return bounded(Genes(means, loading), x, float(gaussian_total_correlation(cov)))

    return run


class Levels(nn.Module):
    """Two layers: four groups of three columns, whose causes have a cause."""

    def __init__(self) -> None:
        super().__init__()
        own = torch.zeros(12, 4)
        own[torch.arange(12), torch.arange(12) // 3] = 1.0
        self.own = own
        cov = own @ (torch.ones(4, 4) + 0.25 * torch.eye(4)) @ own.T + 0.25 * torch.eye(12)
        self.tc = float(gaussian_total_correlation(cov))

    def draw(self, n: int) -> Tensor:
        z1 = torch.randn(n, 1) + 0.5 * torch.randn(n, 4)
        return z1 @ self.own.T + 0.5 * torch.randn(n, 12)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2.expand(len(x), 4), 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ self.own.T, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        precision = 3 / 0.25 + 1 / 1.25  # of z1_j given its own columns and its marginal
        with pyro.plate("data", len(x)):
            loc = (x @ self.own) / 0.25 / precision
            z1 = pyro.sample("z1", dist.Normal(loc, precision**-0.5).to_event(1))
            up = 1 + 4 / 0.25
            pyro.sample(
                "z2", dist.Normal(z1.sum(-1, keepdim=True) / 0.25 / up, up**-0.5).to_event(1)
            )


def levels(n: int, seed: int) -> Shown:
    program = Levels()
    return bounded(program, program.draw(n), program.tc)


# ---------------------------------------------------------------------- tables


def table(make: Callable[[np.random.Generator, int], tuple[Any, float]], **options: Any) -> Any:
    def run(n: int, seed: int) -> Shown:
        x, truth = make(np.random.default_rng(seed), n)
        corex = pc.CorEx(random_state=seed, **options).fit(x)
        return Shown(truth, float(corex.tc_), float(corex.tc_stderr_))

    return run


def noise(d: int) -> Any:
    return lambda rng, n: (rng.normal(size=(n, d)), 0.0)


def coin_noise(d: int) -> Any:
    return lambda rng, n: (rng.integers(2, size=(n, d)), 0.0)


def factor_table(rng: np.random.Generator, n: int) -> tuple[Any, float]:
    x = rng.normal(size=(n, 2)).repeat(5, 1) + 0.7 * rng.normal(size=(n, 10))
    cov = torch.block_diag(*[torch.ones(5, 5)] * 2) + 0.49 * torch.eye(10)
    return x, float(gaussian_total_correlation(cov))


def zero_inflated(rng: np.random.Generator, n: int) -> tuple[Any, float]:
    """Six columns, all zero or all normal and independent: the truth is 5 ln 2."""
    on = rng.integers(2, size=(n, 1))
    return on * rng.normal(3.0, 1.0, size=(n, 6)), 5 * math.log(2)


# ---------------------------------------------------------------------- TC(z) as a bracket


def bracket(post: pc.AggregatePosterior, truth: float) -> Shown:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = post.total_correlation()
    return Shown(truth, found.lower, upper=found.upper)


def latents(m: int, rho: float, scale: float) -> Callable[[int, int], Shown]:
    """Gaussian latents with one correlation, and an encoder's noise."""
    cov = torch.full((m, m), rho, dtype=torch.double).fill_diagonal_(1.0)
    truth = float(gaussian_total_correlation(cov + scale**2 * torch.eye(m)))

    def run(n: int, seed: int) -> Shown:
        loc = torch.randn(n, m) @ torch.linalg.cholesky(cov).T.float()
        return bracket(pc.AggregatePosterior(loc, torch.full((n, m), scale)), truth)

    return run


def grouped_latents(m: int, classes: int) -> Callable[[int, int], Shown]:
    """Latents that share a cluster, far apart: TC(z) = (m - 1) ln K."""

    def run(n: int, seed: int) -> Shown:
        loc = 20.0 * torch.randint(classes, (n, 1)) + torch.randn(n, m)
        truth = (m - 1) * math.log(classes)
        return bracket(pc.AggregatePosterior(loc, torch.full((n, m), 0.3)), truth)

    return run


def two_sided(m: int) -> Callable[[int, int], Shown]:
    """Independent latents, each of two clusters."""

    def run(n: int, seed: int) -> Shown:
        loc = 2.0 * torch.randint(2, (n, m)) - 1
        return bracket(pc.AggregatePosterior(loc, torch.full((n, m), 0.2)), 0.0)

    return run


def discrete_latents(m: int, copies: bool) -> Callable[[int, int], Shown]:
    """Known coins: copies of one, or independent ones."""

    def run(n: int, seed: int) -> Shown:
        coin = torch.randint(2, (n, 1 if copies else m)).expand(n, m)
        probs = 0.05 + 0.9 * nn.functional.one_hot(coin, 2).double()
        if not copies:
            return bracket(pc.AggregatePosterior.from_probs(probs), 0.0)
        ones = torch.arange(m + 1.0, dtype=torch.double)
        log = [ones * math.log(p) + (m - ones) * math.log(1 - p) for p in (0.05, 0.95)]
        pattern = torch.logaddexp(*log) - math.log(2)
        count = torch.lgamma(torch.tensor(m + 1.0)) - (ones + 1).lgamma() - (m - ones + 1).lgamma()
        entropy = -float(((count + pattern).exp() * pattern).sum())
        return bracket(pc.AggregatePosterior.from_probs(probs), m * math.log(2) - entropy)

    return run


BOUND, TC, TABLE = "tc_bound", "TC(z)", "CorEx.tc_"
SITUATIONS = [
    *(
        Situation("normal factors, 8 columns", BOUND, n, factors(8, 2))
        for n in (100, 1000, 10_000, 200_000)
    ),
    Situation("normal factors, 64 columns, 4 latents", BOUND, 1000, factors(64, 4)),
    Situation("independent normal columns", BOUND, 1000, factors(8, 8)),
    *(
        Situation("3 clusters a column", BOUND, n, clusters(8, 3, 12.0))
        for n in (200, 1000, 10_000)
    ),
    Situation("10 clusters a column, far apart", BOUND, 10_000, clusters(8, 10, 1e4)),
    Situation(
        "4 clusters a column, unequal widths", BOUND, 10_000, clusters(4, 4, 30.0, uneven=True)
    ),
    *(
        Situation("10 copies of a coin, flipped by 0.1", BOUND, n, coins(10, 0.1))
        for n in (100, 1000, 10_000)
    ),
    Situation("independent coins", BOUND, 1000, coins(10, 0.5 - 1e-6)),
    Situation("two layers", BOUND, 1000, levels),
    Situation("two layers", BOUND, 10_000, levels),
    Situation("decoder that sees x, chain of 20 bits", BOUND, 2000, chain("bound")),
    Situation(
        "decoder that sees x: what z explains", "informativeness", 2000, chain("informativeness")
    ),
    Situation("conditional on y", BOUND, 1000, given),
    Situation("factor in the guide", BOUND, 1000, weighed),
    Situation("a latent for each column, independent", BOUND, 1000, genes(0.0)),
    Situation("a latent for each column, one cause", BOUND, 1000, genes(1.0)),
    Situation("normal noise, 200 columns", TABLE, 60, table(noise(200))),
    Situation("normal noise, 20 columns", TABLE, 100, table(noise(20))),
    Situation("normal noise, 5 columns", TABLE, 300, table(noise(5), n_hidden=2)),
    Situation(
        "independent coins, 50 columns", TABLE, 60, table(coin_noise(50), latent="categorical")
    ),
    Situation("normal factors, 10 columns", TABLE, 60, table(factor_table, n_hidden=2)),
    Situation("normal factors, 10 columns", TABLE, 1000, table(factor_table, n_hidden=2)),
    Situation(
        "zero-inflated, one switch",
        TABLE,
        1000,
        table(zero_inflated, n_hidden=1, latent="categorical"),
    ),
    *(
        Situation("2 independent latents, noise 0.3", TC, n, latents(2, 0.0, 0.3))
        for n in (100, 1000, 200_000)
    ),
    *(
        Situation("2 latents, correlation 0.8, noise 0.3", TC, n, latents(2, 0.8, 0.3))
        for n in (100, 1000)
    ),
    *(
        Situation("20 independent latents, noise 0.3", TC, n, latents(20, 0.0, 0.3))
        for n in (100, 2000)
    ),
    *(
        Situation("20 latents, correlation 0.5, noise 0.3", TC, n, latents(20, 0.5, 0.3))
        for n in (100, 2000)
    ),
    Situation("64 independent latents, noise 0.1", TC, 1000, latents(64, 0.0, 0.1)),
    Situation("64 latents, correlation 0.3, noise 1", TC, 1000, latents(64, 0.3, 1.0)),
    Situation("5 latents that share one of 3 clusters", TC, 1000, grouped_latents(5, 3)),
    Situation("8 independent latents of two clusters", TC, 1000, two_sided(8)),
    Situation("5 discrete latents, copies of a coin", TC, 1000, discrete_latents(5, True)),
    Situation("12 independent discrete latents", TC, 500, discrete_latents(12, False)),
]


# ---------------------------------------------------------------------- running and showing


def run(out: Path | None, seeds: int, only: str) -> list[dict[str, Any]]:
    """All situations that are not there yet."""
    rows = []
    if out and out.exists():
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    known = {(row["what"], row["asked"], row["n"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for s in SITUATIONS:
            if (s.what, s.asked, s.n, seed) in known or only not in s.what:
                continue
            torch.manual_seed(1000 + seed)
            pyro.clear_param_store()
            row: dict[str, Any] = {"what": s.what, "asked": s.asked, "n": s.n, "seed": seed}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                try:
                    row |= s.run(s.n, seed)._asdict()
                except ValueError as error:
                    row["refused"] = str(error).split(". ")[0]
            rows.append(row)
            if out:
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return rows


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a bound is above the truth by more than its error allows, or a bracket misses it."""
    if row["upper"] is not None:
        return not row["value"] <= row["truth"] <= row["upper"]
    return bool(row["value"] > row["truth"] + ERRORS * row["stderr"] + 1e-9)


def show(rows: list[dict[str, Any]]) -> str:
    """The table of docs/results/known_truths.md."""
    lines = [
        "| situation | asked | N | truth | printed, mean | error, mean | wrong |",
        "| --- " * 7 + "|",
    ]
    wrong = {"bound": [0, 0], "bracket": [0, 0]}
    for s in SITUATIONS:
        mine = [r for r in rows if (r["what"], r["asked"], r["n"]) == (s.what, s.asked, s.n)]
        if not mine:
            continue
        refused = [r for r in mine if "refused" in r]
        told = [r for r in mine if "refused" not in r]
        head = f"| {s.what} | `{s.asked}` | {s.n:,} "
        if not told:
            lines.append(f"{head}| | refused: {refused[0]['refused']} | | 0 of {len(mine)} |")
            continue
        value = np.mean([r["value"] for r in told])
        bad = sum(is_wrong(r) for r in told)
        kind = "bracket" if told[0]["upper"] is not None else "bound"
        wrong[kind][0] += bad
        wrong[kind][1] += len(told)
        shown, error = f"{value:.3f}", f"{np.mean([r['stderr'] for r in told]):.3f}"
        if kind == "bracket":
            shown, error = f"{shown} to {np.mean([r['upper'] for r in told]):.3f}", ""
        if refused:
            shown += f"; refused {len(refused)} times: {refused[0]['refused']}"
        truth = round(told[0]["truth"], 3) + 0.0  # not "-0.000"
        lines.append(f"{head}| {truth:.3f} | {shown} | {error} | {bad} of {len(told)} |")
    bound, inside = wrong["bound"], wrong["bracket"]
    lines += [
        "",
        f"Bounds above the truth by more than three standard errors: {bound[0]} of {bound[1]}. "
        f"Brackets without the truth: {inside[0]} of {inside[1]}.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run situations, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="append a JSON line for each run, and resume")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", default="", help="situations whose name holds this")
    parser.add_argument("--table", action="store_true", help="print what --out holds")
    args = parser.parse_args(argv)
    if args.table and not (args.out and args.out.exists()):
        parser.error(f"--table prints what --out holds, but there is no file {args.out}")
    if args.table:
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    else:
        rows = run(args.out, args.seeds, args.only)
    print(show(rows))


if __name__ == "__main__":
    main()
