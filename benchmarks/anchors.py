"""What separates the factors of synthetic faces: objectives on equal terms.

    python benchmarks/anchors.py --out anchors.jsonl            # about an hour on one idle core
    python benchmarks/anchors.py --out anchors.jsonl --table    # what is there so far

A line is written for each run; what is there already is not run again.  All objectives have the
same network, data and steps, on seeds 20 to 24, for each of which the data are drawn anew.  The
settings were chosen on seeds 0, 1 and 2 with their factors in sight; these seeds are not reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex.datasets import (
    FACE_FACTORS,
    PrincipalComponents,
    independent_directions,
)
from pyro_corex.datasets import synthetic_faces as faces
from pyro_corex.evaluation import (
    dci,
    matched_information,
    mutual_information_gap,
)
from pyro_corex.programs import (
    Flat,
    LinearStart,
    NormalLikelihood,
    mlp_decoder,
    mlp_encoder,
)

SEEDS, ENDS = range(20, 25), ("lower", "upper")
COMPONENTS, HIDDEN, LATENTS, SCALE, EPOCHS, BATCH = 256, 256, 10, 0.1, 20, 256


@dataclass(frozen=True)
class Setting:
    """An objective: KL weights, a penalty and its weight, prior; and how training begins."""

    anchors: int = 0
    weight: float = 1.0
    free: float = 1.0
    minibatch: float = 0.0
    correlation: float = 0.0
    critic: float = 0.0
    flat: int = 0
    ica: bool = False
    begin: float = 1.0
    """All weights start as so many times what they become when 4/5 of training is done."""
    epochs: int = EPOCHS

    def times(self, done: float) -> float:
        """What the weights are multiplied by when a share of training is done."""
        return self.begin ** max(0.0, 1 - done / 0.8)

    def weights(self, done: float) -> tuple[dict[int, float], float]:
        """The KL weights of the anchors and of the others."""
        times = self.times(done)
        return dict.fromkeys(range(self.anchors), self.weight * times), self.free * times


SETTINGS = {
    "plain VAE": Setting(),
    **{f"beta-VAE, {b:g}": Setting(free=b) for b in (4.0, 16.0, 64.0)},
    **{f"minibatch penalty, {w:g}": Setting(minibatch=w) for w in (30.0, 100.0)},
    **{f"TC(z) by correlations, {w:g}": Setting(correlation=w) for w in (30.0, 100.0)},
    **{f"TC(z) by a critic, {w:g}": Setting(critic=w) for w in (30.0, 100.0)},
    "beta-VAE, 16, TC(z) by a critic, 30": Setting(free=16.0, critic=30.0),
    "5 anchors, weight 0.5": Setting(5, 0.5),
    "5 anchors, weight 0.1": Setting(5, 0.1),
    "5 anchors, 0.5, others 4": Setting(5, 0.5, 4.0),
    **{
        f"5 flat anchors from ICA, 0.5, others 4, {name}, annealed": Setting(
            5, 0.5, 4.0, **penalty, flat=5, ica=True, begin=9.0
        )
        for name, penalty in (
            ("minibatch 30", {"minibatch": 30.0}),
            ("critic 30", {"critic": 30.0}),
            ("no penalty", {}),
        )
    },
    "5 flat anchors from ICA, 0.5, others 4, minibatch 30, annealed, 4 x the steps": Setting(
        5, 0.5, 4.0, minibatch=30.0, flat=5, ica=True, begin=9.0, epochs=4 * EPOCHS
    ),
    "minibatch penalty, 30, from ICA, annealed": Setting(minibatch=30.0, ica=True, begin=9.0),
}


@dataclass
class Rows:
    """Lines of JSON, one for each run."""

    path: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path and self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def has(self, section: str, name: str, seed: int) -> bool:
        return any(
            (row["section"], row["name"], row["seed"]) == (section, name, seed) for row in self.rows
        )

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def of(self, section: str, name: str) -> list[dict[str, Any]]:
        return [r for r in self.rows if r["section"] == section and r["name"] == name]


def train(
    x: Tensor,
    setting: Setting,
    seed: int,
    *,
    latents: int = LATENTS,
    scale: float = SCALE,
    epochs: int = EPOCHS,
) -> pc.AnchorVAE:
    """The small network on coordinates ``(N, d)``."""
    torch.manual_seed(seed)
    d = x.shape[1]
    start = independent_directions(x, 5, further=latents - 5, seed=seed) if setting.ica else None
    vae = pc.AnchorVAE(
        LinearStart(mlp_encoder([d, *[HIDDEN] * 3, latents], nn.GELU), d, start),
        mlp_decoder([latents, *[HIDDEN] * 4, d], activation=nn.GELU),
        latents,
        anchors={},
        likelihood=NormalLikelihood(scale),
        prior=Flat(latents, range(setting.flat)) if setting.flat else "standard_normal",
    )
    penalties: list[tuple[Any, float]] = [
        (pc.regularizers.MinibatchTotalCorrelation(1.0), setting.minibatch),
        (pc.regularizers.TotalCorrelation(1.0), setting.correlation),
        (pc.regularizers.DensityRatio(1.0, latents), setting.critic),
    ]
    penalties = [(penalty, weight) for penalty, weight in penalties if weight]
    elbo = pc.CorExELBO(regularizers=[penalty for penalty, _ in penalties])

    def set_weights(done: float) -> None:
        vae.set_anchors(*setting.weights(done))
        for penalty, weight in penalties:
            penalty.weight = weight * setting.times(done)

    set_weights(0.0)
    steps = epochs * -(-len(x) // BATCH)
    with warnings.catch_warnings():  # what the minibatch penalty measures is the subject here
        warnings.filterwarnings("ignore", "MinibatchTotalCorrelation does not see")
        pc.fit(
            vae,
            x,
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            elbo=elbo,
            callback=lambda epoch, *_: set_weights(epoch / epochs),
            optimizer=pc.Optimization(
                lr_schedule=lambda adam: torch.optim.lr_scheduler.OneCycleLR(
                    adam, 2e-3, total_steps=steps, pct_start=0.05
                )
            ),
            progress=False,
        )
    return vae


def coordinates(n: int, seed: int, components: PrincipalComponents) -> tuple[Tensor, Tensor]:
    """Synthetic faces, drawn and projected in parts that are small enough for memory."""
    parts = [faces(min(2000, n - i), 1000 * seed + i // 2000) for i in range(0, n, 2000)]
    return torch.cat([components.project(x) for x, _ in parts]), torch.cat([f for _, f in parts])


@lru_cache(1)
def face_data(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates to train on, and others to test on with their factors."""
    components = PrincipalComponents.of(faces(min(n, 2000), seed)[0], COMPONENTS)
    test, factors = coordinates(n // 5, seed + 500, components)
    return coordinates(n, seed, components)[0], test, factors


def objectives(rows: Rows, names: list[str], seeds: range, quick: bool) -> None:
    """Each objective on the same network, data and steps."""
    n = 600 if quick else 20_000
    for seed in seeds:
        for name in names:
            if rows.has("objectives", name, seed):
                continue
            x, test, factors = face_data(seed, n)
            start = time.process_time()
            setting = SETTINGS[name]
            vae = train(x, setting, seed, epochs=2 if quick else setting.epochs)
            seconds = time.process_time() - start
            posterior = pc.AggregatePosterior.from_data(vae, test)
            information = posterior.mutual_information()
            with torch.no_grad():
                codes = vae.encode(test).mean
                error = (vae.decode(codes).mean - test).square().sum(1).mean()
            bound = pc.tc_bound(vae, test)
            with warnings.catch_warnings():  # the table shows both ends
                warnings.filterwarnings("ignore", "TC.z. can be bounded from above only loosely")
                tc = posterior.total_correlation()
            best = information.argsort(descending=True)[:5].tolist()
            matched = matched_information(codes, factors)
            anchored = matched_information(codes, factors, latents=range(5))
            rows.add(
                section="objectives",
                name=name,
                seed=seed,
                matched=matched.mean,
                factors=matched.values.tolist(),
                anchored=anchored.mean if setting.anchors == 5 else None,
                anchored_factors=anchored.values.tolist() if setting.anchors == 5 else None,
                mig=mutual_information_gap(codes, factors),
                dci=dci(codes, factors, n_estimators=10).disentanglement,
                information=information.tolist(),
                top=best,
                tc_lower=tc.lower,
                tc_upper=tc.upper,
                tc_held_out=tc.held_out.value,
                elbo=bound.terms.elbo,
                error=float(error),
                seconds=seconds,
            )


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation over seeds."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def table(rows: Rows) -> None:
    """Everything that has been run."""
    print(
        "| objective | seeds | ELBO | sum I | TC(z), between | matched, all latents | anchors "
        "| MIG | top five |"
    )
    print("| --- " * 9 + "|")
    for name, setting in SETTINGS.items():
        runs = rows.of("objectives", name)
        if not runs:
            continue
        own = setting.anchors == 5
        held = [set(r["top"]) == set(range(5)) for r in runs]
        information = spread([sum(r["information"]) for r in runs], 1)
        elbo = spread([r["elbo"] for r in runs], 1) if "elbo" in runs[0] else ""
        ends = ""
        if "tc_lower" in runs[0]:
            ends = " and ".join(spread([r[f"tc_{end}"] for r in runs], 2) for end in ENDS)
        print(
            f"| {name} | {len(runs)} | {elbo} | {information} | {ends} "
            f"| {spread([r['matched'] for r in runs])} "
            f"| {spread([r['anchored'] for r in runs]) if own else ''} "
            f"| {spread([r['mig'] for r in runs])} "
            f"| {f'{sum(held)} of {len(held)}' if own else ''} |"
        )
    print(f"\n| objective | {' | '.join(FACE_FACTORS)} | anchors' excess over the best free |")
    print("| --- |" + " --- |" * (len(FACE_FACTORS) + 1))
    for name, setting in SETTINGS.items():
        runs = rows.of("objectives", name)
        if not runs:
            continue
        key = "anchored_factors" if setting.anchors == 5 else "factors"
        values = [spread([r[key][k] for r in runs], 2) for k in range(len(FACE_FACTORS))]
        excess = [min(r["information"][:5]) - max(r["information"][5:]) for r in runs]
        last = spread(excess, 2) if setting.anchors == 5 else ""
        print(f"| {name} | {' | '.join(values)} | {last} |")


def main(argv: list[str] | None = None) -> None:
    """Run sections, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="append a JSON line for each run, and resume")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), help="objectives")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    parser.add_argument("--table", action="store_true", help="print what --out holds")
    args = parser.parse_args(argv)
    if args.table and not (args.out and args.out.exists()):
        parser.error(f"--table prints what --out holds, but there is no file {args.out}")
    rows = Rows(args.out)
    if not args.table:
        names = args.only or list(SETTINGS)
        objectives(rows, names, range(SEEDS[0], SEEDS[0] + args.seeds), args.quick)
    table(rows)


if __name__ == "__main__":
    main()
