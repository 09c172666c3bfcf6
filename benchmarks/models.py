"""One bound, many models: the systems that the paper builds on or compares itself with.

    python benchmarks/models.py                                # prints the tables of docs/models.md
    python benchmarks/models.py --run mnist faces --data-root DIR     # runs what is missing
    python benchmarks/models.py --run labels published --data-root DIR
    python benchmarks/models.py --smoke                        # seconds, on data that need nothing

A line is appended to docs/results/models.jsonl for each run, and what is there is not run again.
All systems have the same data, networks (784-300-300-40 and back on MNIST), budget and seeds.  On
MNIST the pixels are drawn anew in each epoch, with their grey level as probability; the test digits
are drawn once.  Labels are for scoring only, except of the supervised systems.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from systems import SYSTEMS, Problem, System
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex.datasets import PrincipalComponents, mnist, synthetic_faces
from pyro_corex.evaluation import cluster_accuracy, matched_information
from pyro_corex.programs import (
    LadderVAE,
    LogNormalEncoder,
    NormalLikelihood,
    Vamp,
    mlp,
    mlp_encoder,
)

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "models.jsonl"
SEEDS = range(5)
BATCH, LR = 128, 1e-3
BETAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
Row = dict[str, Any]


class Runs:
    """How runs are made: sizes, device, and the rows that are there."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.smoke = args, args.smoke
        self.out: Path | None = None if args.smoke else args.out
        self.rows: list[Row] = read(self.out)

    def missing(self, section: str, names: Any) -> Iterator[tuple[str, int]]:
        """The runs of a section that are not there, a seed of all systems before the next."""
        seeds = range(1) if self.smoke else self.args.seeds
        for seed in seeds:
            for name in names:
                if self.args.only and name not in self.args.only:
                    continue
                key = (section, name, seed)
                if not any((r["section"], r["name"], r["seed"]) == key for r in self.rows):
                    yield name, seed

    def add(self, **row: Any) -> None:
        """Keeps a row, on disk at once."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.out:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with self.out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def fit(self, module: nn.Module, data: Any, epochs: int, seed: int, **options: Any) -> None:
        """The budget that all have: Adam with a cosine to zero."""
        x = data if isinstance(data, Tensor) else data[0]
        size = 40 if self.smoke else BATCH
        steps = epochs * -(-len(x) // size)
        schedule = pc.Optimization(
            lr_schedule=lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        )
        if torch.cuda.is_available():  # all data at once, in place of a batch at each step
            data = data.cuda() if isinstance(data, Tensor) else tuple(each.cuda() for each in data)
        options |= {"epochs": epochs, "batch_size": size, "seed": seed, "optimizer": schedule}
        options |= {"lr": 1e-2 if self.smoke else LR, "progress": False}
        before = copy.deepcopy(module.state_dict())
        try:
            pc.fit(module, data, **options, devices=pc.Devices(capture=self.args.capture))
        except RuntimeError as error:
            if "cannot be recorded" not in str(error):
                raise
            print(error, file=sys.stderr)
            module.load_state_dict(before)
            pc.fit(module, data, **options)


def read(path: Path | None) -> list[Row]:
    """The rows of a file of JSON lines."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    return [json.loads(line) for line in lines]


# ---------------------------------------------------------------------- without labels


def train(runs: Runs, system: System, problem: Problem, epochs: int, seed: int, **options: Any):
    """A trained system; one that begins at a trained VAE has half of the budget for that."""
    torch.manual_seed(seed)
    module = system.make(problem)
    if hasattr(module, "begin"):
        epochs = max(epochs // 2, 1)
        first = problem.vae()
        runs.fit(first, problem.x, 12 if runs.smoke else epochs, seed, **options)
        device = next(first.parameters()).device
        x = problem.x.to(device)
        x = x.bernoulli() if "transform" in options else x
        module.to(device).begin(first, x, seed, 20 if runs.smoke else 3000)
    elbo = pc.CorExELBO(regularizers=system.terms(problem))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "MinibatchTotalCorrelation does not see")
        runs.fit(module, problem.x, epochs, seed, elbo=elbo, **options)
    return module


def codes(module: Any, x: Tensor) -> Tensor:
    """The means of the first layer."""
    with torch.no_grad():
        x = x.to(next(module.parameters()).device)
        q = [module.encode(part) for part in x.split(2000)]
        return torch.cat([(each[0] if isinstance(each, list) else each).mean for each in q]).cpu()


def measured(module: Any, test: Tensor, samples: int) -> Row:
    """What the table says of a system, on data that it was not trained on, in nats."""
    bound = pc.tc_bound(module, test)
    tight = pc.tc_bound(module, test, importance_samples=samples, batch_size=128)
    entropies = bound.estimate - bound.terms.elbo
    return {
        "bound": bound.estimate,
        "bound_error": bound.stderr,
        "importance": tight.estimate,
        "samples": samples,
        "log_p": tight.estimate - entropies,
        **aggregated(module, test),
        "active": int((codes(module, test).var(0) > 0.01).sum()),
    }


def aggregated(module: Any, test: Tensor) -> Row:
    """Of the first layer; where that is drawn given a layer above, q(z|x) is no normal."""
    if isinstance(module, LadderVAE):
        return {}
    posterior = pc.AggregatePosterior.from_data(module, test, layer=0)
    with warnings.catch_warnings():  # the table shows both ends
        warnings.filterwarnings("ignore", "TC.z. can be bounded from above only loosely")
        tc = posterior.total_correlation()
    information = float(posterior.mutual_information().sum())
    return {"information": information, "tc_lower": tc.lower, "tc_upper": tc.upper}


def clusters(module: Any, x: Tensor, labels: Tensor) -> float | None:
    """How well the classes of a system agree with the labels, where it has classes."""
    if not hasattr(module, "clusters"):
        return None
    with torch.no_grad():
        found = module.clusters(x.to(next(module.parameters()).device)).cpu()
    return cluster_accuracy(labels, found)


@lru_cache(1)
def digits(root: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey levels and labels to train on, black and white and labels to test on.

    Without a folder they are patterns that seconds of training find.
    """
    torch.manual_seed(0)
    if root is None:
        labels = torch.randint(10, (300,))
        x = torch.where(torch.rand(10, 64) < 0.5, 0.95, 0.05)[labels]  # ten patterns, and noise
        return x[:200], labels[:200], x[200:].bernoulli(), labels[200:]
    data, test = mnist(root), mnist(root, train=False)
    return data.x, data.labels, test.x.bernoulli(), test.labels


def on_digits(x: Tensor, smoke: bool) -> Problem:
    return Problem(x, (32, 32) if smoke else (300, 300), 6 if smoke else 40, lambda: "bernoulli")


def run_mnist(runs: Runs) -> None:
    """The comparison on digits."""
    x, labels, test, test_labels = digits(None if runs.smoke else runs.args.data_root)
    problem = on_digits(x, runs.smoke)
    for name, seed in runs.missing("mnist", SYSTEMS):
        start = time.perf_counter()
        epochs = runs.args.epochs
        module = train(runs, SYSTEMS[name], problem, epochs, seed, transform=torch.bernoulli)
        seconds = time.perf_counter() - start
        some = slice(0, 10_000)
        torch.manual_seed(seed)
        probe = LogisticRegression(max_iter=2000)
        probe.fit(codes(module, x[some].bernoulli()), labels[some])
        runs.add(
            section="mnist",
            name=name,
            seed=seed,
            **measured(module, test, 2 if runs.smoke else 64),
            probe=float(probe.score(codes(module, test), test_labels)),
            clusters=clusters(module, test, test_labels),
            epochs=epochs,
            seconds=seconds,
            device=device_name(module),
        )


@lru_cache(1)
def faces(seed: int, smoke: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of synthetic faces to train on, and others with their factors."""
    n = 300 if smoke else 10_000
    x, _ = synthetic_faces(n, seed=100 + seed)
    test, factors = synthetic_faces(n // 5, seed=500 + seed)
    components = PrincipalComponents.of(x[:2000], 16 if smoke else 256)
    return components.project(x), components.project(test), factors


def run_faces(runs: Runs) -> None:
    """Which factor of synthetic faces a latent tells, on seeds that no setting was chosen on."""
    for name, seed in runs.missing("faces", SYSTEMS):
        x, test, factors = faces(seed, runs.smoke)
        hidden = (32, 32) if runs.smoke else (256, 256)
        problem = Problem(x, hidden, 10, lambda: NormalLikelihood(0.1))
        module = train(runs, SYSTEMS[name], problem, 1 if runs.smoke else 40, seed)
        matched = matched_information(codes(module, test), factors)
        runs.add(
            section="faces",
            name=name,
            seed=seed,
            matched=matched.mean,
            factors=matched.values.tolist(),
            elbo=pc.tc_bound(module, test).terms.elbo,
            device=device_name(module),
        )


def device_name(module: Any) -> str:
    device = next(module.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


# ---------------------------------------------------------------------- with labels


def bottleneck(beta: float, d: int, smoke: bool, dropout: bool = False) -> pc.Bottleneck:
    """784-1024-1024 to 256 latents, and a linear head, as Alemi et al. have it."""
    m, wide = (4, 16) if smoke else (256, 1024)
    encoder: nn.Module = mlp_encoder([d, wide, wide, m])
    options: Any = {"prior": "log_uniform"} if dropout else {}
    encoder = LogNormalEncoder(encoder, max_scale=0.7) if dropout else encoder
    return pc.Bottleneck(encoder, mlp([m, 10]), m, labels=10, beta=beta, **options)


PLAIN = "no bottleneck, β 0"
LABELLED: dict[str, tuple[float, bool]] = {
    PLAIN: (0.0, False),
    **{f"VIB, β {beta:g}": (beta, False) for beta in BETAS},
    "Information Dropout, β 0.001": (1e-3, True),
}


def run_labels(runs: Runs) -> None:
    """VIB and Information Dropout: test error, and the information plane."""
    x, labels, test, test_labels = digits(None if runs.smoke else runs.args.data_root)
    grey = test if runs.smoke else mnist(runs.args.data_root, train=False).x
    for name, seed in runs.missing("labels", LABELLED):
        torch.manual_seed(seed)
        beta, dropout = LABELLED[name]
        module = bottleneck(beta, x.shape[1], runs.smoke, dropout)
        start = time.perf_counter()
        runs.fit(module, (x, labels), runs.args.epochs, seed)
        seconds = time.perf_counter() - start
        at = grey.to(next(module.parameters()).device), test_labels
        with torch.no_grad():
            found = module.predict(at[0]).argmax(-1).cpu()
            told = pc.CorExELBO().terms(module.model, module.guide, at[0], at[1].to(at[0].device))
        runs.add(
            section="labels",
            name=name,
            seed=seed,
            beta=beta,
            error=float((found != test_labels).double().mean()),
            relevance=float(told.relevance["y"].sum()),
            kl=float(told.kl["z"].sum()),
            epochs=runs.args.epochs,
            seconds=seconds,
            device=device_name(module),
        )


# ---------------------------------------------------------------------- published numbers

LONG: dict[str, Callable[[Problem], Any]] = {
    "VAE": lambda p: p.vae(),
    "VampPrior": lambda p: p.vae(prior=Vamp(p.x[:500], joint=True)),
}


def run_published(runs: Runs) -> None:
    """-ln p(x) of test digits by many importance samples, after longer training."""
    x, _, test, _ = digits(None if runs.smoke else runs.args.data_root)
    problem = on_digits(x, runs.smoke)
    for name, seed in runs.missing("published", LONG):
        system, epochs = System("", LONG[name]), (1 if runs.smoke else 4) * runs.args.epochs
        start = time.perf_counter()
        module = train(runs, system, problem, epochs, seed, transform=torch.bernoulli)
        seconds = time.perf_counter() - start
        found = measured(module, test, 2 if runs.smoke else 1000)
        where = {"epochs": epochs, "seconds": seconds, "device": device_name(module)}
        runs.add(section="published", name=name, seed=seed, **found, **where)


# ---------------------------------------------------------------------- tables


def spread(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation over seeds; nothing, where there is nothing."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def column(rows: list[Row], section: str, name: str, field: str, times: float = 1) -> list[float]:
    """The values of a field, one for each seed."""
    found = [r for r in rows if (r["section"], r["name"]) == (section, name)]
    return [times * r[field] for r in found if r.get(field) is not None]


def of_models(rows: list[Row]) -> list[str]:
    """The comparison."""
    head = (
        "| system | changes | seeds | TC(x) ≥ | by importance | Σ I(z_j:x) | TC(z), between "
        "| active | probe, % | classes, % | matched, faces |"
    )
    lines = [head, "| --- " * 11 + "|"]
    for name, system in SYSTEMS.items():
        get = lambda field, times=1.0: column(rows, "mnist", name, field, times)  # noqa: B023, E731
        if not get("bound"):
            continue
        ends = " and ".join(filter(None, (spread(get(f"tc_{end}")) for end in ("lower", "upper"))))
        lines.append(
            f"| {name} | {system.changes} | {len(get('bound'))} | {spread(get('bound'))} "
            f"| {spread(get('importance'))} | {spread(get('information'))} | {ends} "
            f"| {spread(get('active'))} | {spread(get('probe', 100))} "
            f"| {spread(get('clusters', 100))} "
            f"| {spread(column(rows, 'faces', name, 'matched'), 2)} |"
        )
    return lines


# what is wanted, what does it, and the system of the comparison that it is
CHOICES = [
    ("a bound for each latent, and samples", "`CorExVAE`", "VAE"),
    ("chosen latents that carry more", "`AnchorVAE`", "AnchorVAE, 0.5 on five"),
    ("fewer nats in the code", "`AnchorVAE(anchors={}, free_weight=4)`", "β-VAE, 4"),
    ("latents that share less", "`regularizers.TotalCorrelation`", "TC(z) penalty, 10"),
    ("the same, by a critic", "`regularizers.DensityRatio`", "FactorVAE, 10"),
    (
        "codes that look like the prior",
        "`regularizers.MaximumMeanDiscrepancy`",
        "InfoVAE, α 0.5, λ 100",
    ),
    ("tighter bounds for each latent", '`prior="learned_mixture"`', "mixture for each latent"),
    ("the same, from data", "`programs.Vamp(x[:500])`", "VampPrior for each latent"),
    ("a better bound with one layer", "`programs.Vamp(x[:500], joint=True)`", "VampPrior"),
    ("classes", "`programs.GaussianMixture`", "VaDE"),
    ("classes over independent latents", "`StackedCorEx(n_classes=10)`", "CorEx stack"),
    ("what the latents share, explained", "`StackedCorEx(n_classes=None)`", "DLGM"),
    ("the same, in closed form", "`programs.LadderVAE`", "Ladder VAE"),
    ("detail apart from gist", "networks of your own", "VLAE"),
    ("the best density, whatever the code", "a decoder that sees x", "PixelVAE"),
]


def of_choices(rows: list[Row]) -> list[str]:
    """What to use for what, and what that changes, in nats."""
    head = "| if you want | use | bound on TC(x) | Σ I(z_j:x) | TC(z), at least | TC(z), at most |"
    lines = [head, "| --- " * 6 + "|"]
    fields = ("bound", "information", "tc_lower", "tc_upper")
    plain = {f: column(rows, "mnist", "VAE", f) for f in fields}
    for want, use, name in CHOICES:
        cells = []
        for field in fields:
            own = column(rows, "mnist", name, field)
            known = bool(own and plain[field])
            value = statistics.fmean(own) if known else 0.0
            less = statistics.fmean(plain[field]) if known and name != "VAE" else 0.0
            cells.append(f"{value - less:{'.1f' if name == 'VAE' else '+.1f'}}" if known else "")
        if any(cells):
            lines.append(f"| {want} | {use} | {' | '.join(cells)} |")
    return lines


def of_labels(rows: list[Row]) -> list[str]:
    """The supervised systems."""
    lines = ["| system | seeds | test error, % | I(z:y) ≥ | KL |", "| --- " * 5 + "|"]
    for name in LABELLED:
        errors = column(rows, "labels", name, "error", 100)
        if errors:
            relevance = spread(column(rows, "labels", name, "relevance"), 3)
            kl = spread(column(rows, "labels", name, "kl"))
            kl = "up to a constant" if LABELLED[name][1] else kl  # to an improper prior
            lines.append(f"| {name} | {len(errors)} | {spread(errors, 2)} | {relevance} | {kl} |")
    return lines


@dataclass(frozen=True)
class Published:
    """A number that others published, and the field of our rows that is beside it."""

    what: str
    number: str
    source: str
    section: str
    name: str
    field: str
    times: float
    digits: int


PUBLISHED = [
    Published("VAE, −ln p(x), nats", "89.8", "pythae", "published", "VAE", "log_p", -1, 2),
    Published(
        "VampPrior, −ln p(x), nats", "85.57", "its paper", "published", "VampPrior", "log_p", -1, 2
    ),
    Published(
        "VIB, β 1e-3, error, %", "1.13", "its paper", "labels", "VIB, β 0.001", "error", 100, 2
    ),
    Published("no bottleneck, error, %", "1.38", "VIB's paper", "labels", PLAIN, "error", 100, 2),
    Published("VaDE, accuracy, %", "94.46", "its paper", "mnist", "VaDE", "clusters", 100, 1),
    Published(
        "GMVAE, accuracy, best run, %", "96.92", "its paper", "mnist", "GMVAE", "clusters", 100, 1
    ),
]  # fmt: skip


def of_published(rows: list[Row]) -> list[str]:
    """Published numbers beside ours."""
    lines = ["| number | published | source | ours | epochs | seeds |", "| --- " * 6 + "|"]
    for p in PUBLISHED:
        longest = [s for s in (p.section, "mnist") if column(rows, s, p.name, p.field)]
        section = longest[0] if longest else p.section
        found = column(rows, section, p.name, p.field, p.times)
        ours = spread(found, p.digits) or "not run"
        epochs = f"{column(rows, section, p.name, 'epochs')[0]:g}" if found else ""
        lines.append(f"| {p.what} | {p.number} | {p.source} | {ours} | {epochs} | {len(found)} |")
    return lines


def tables(rows: list[Row]) -> str:
    """All of them, as Markdown."""
    parts = {
        "models": of_models,
        "choices": of_choices,
        "labels": of_labels,
        "published": of_published,
    }
    lines = [[f"<!-- {name} -->", *of(rows), ""] for name, of in parts.items()]
    return "\n".join([*(line for part in lines for line in part), "<!-- end -->"])


def figure(rows: list[Row], path: Path) -> None:
    """The bound of each system over what its latents share, on MNIST."""
    import matplotlib.pyplot as plt

    found = []
    for name in SYSTEMS:
        bound = column(rows, "mnist", name, "bound")
        ends = [column(rows, "mnist", name, f"tc_{end}") for end in ("lower", "upper")]
        if bound and ends[0]:
            error = statistics.stdev(bound) if len(bound) > 1 else 0.0
            found.append((statistics.fmean(bound), error, *map(statistics.fmean, ends), name))
    found.sort()
    gap = (found[-1][0] - found[0][0]) / 24
    places = [found[0][0]]
    for y, *_ in found[1:]:  # names one above the other
        places.append(max(y, places[-1] + gap))
    right = 1.06 * max(high for _, _, _, high, _ in found)
    _, ax = plt.subplots(figsize=(8.5, 6), layout="constrained")
    for i, ((y, error, low, high, name), place) in enumerate(zip(found, places, strict=True)):
        colour = f"C{i % 10}"
        ax.plot([low, high], [y, y], color=colour, lw=2.5, alpha=0.6, solid_capstyle="butt")
        ax.errorbar(low, y, yerr=error, fmt="o", color=colour, ms=5, capsize=2)
        ax.plot([high, right], [y, place], color=colour, lw=0.6, ls=":")
        ax.text(1.01 * right, place, name, va="center", fontsize=9, color=colour)
    ax.set(xlabel="TC(z), between its two ends (nats)", ylabel="lower bound on TC(x) (nats)")
    ax.set_xlim(-0.3, 1.45 * right)
    ax.spines[["top", "right"]].set_visible(False)
    plt.savefig(path, dpi=110)
    plt.close()


SECTIONS = {
    "mnist": run_mnist,
    "faces": run_faces,
    "labels": run_labels,
    "published": run_published,
}


def main(argv: list[str] | None = None) -> None:
    """Runs sections, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="*", choices=SECTIONS, default=[], help="what is missing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a JSON line for each run")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="holds MNIST")
    parser.add_argument("--only", nargs="*", help="names of systems")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=20, help="over MNIST")
    parser.add_argument("--capture", action="store_true", help="CUDA graphs")
    parser.add_argument("--figure", type=Path, help="draw the bounds over TC(z) to this file")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args(argv)
    args.epochs = 1 if args.smoke else args.epochs
    runs = Runs(args)
    for section in SECTIONS if args.smoke else args.run:
        SECTIONS[section](runs)
    print(tables(runs.rows))
    if args.figure:
        figure(runs.rows, args.figure)


if __name__ == "__main__":
    main()
