"""Linear AnchorVAEs against their closed form: ten spectra, three patterns of KL weights.

    python benchmarks/linear.py --out linear.jsonl                      # minutes
    python benchmarks/linear.py --out linear.jsonl --start leading      # seconds, by start_anchors
    python benchmarks/linear.py --out linear.jsonl --table       # what is there so far
    python benchmarks/linear.py --out linear.jsonl --figure docs/images/linear.png

The data are normal, and their covariance has the spectrum exactly.  Encoder and decoder are one
linear layer each, trained on draws of z, with the whole data set in a batch.  A line is written for
each program; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex.information import linear_optimum
from pyro_corex.programs import NormalLikelihood

SPECTRA, INPUTS, DATA, SCALE = range(10), 6, 3000, 0.3
WEIGHTS = {
    "none": (1.0, 1.0, 1.0, 1.0),
    "two of 0.5": (0.5, 0.5, 1.0, 1.0),
    "four": (1.0, 0.25, 2.0, 0.5),
}
STEPS = {"leading": 30, "random": 100}  # of Adam, the last ones
LBFGS_STEPS = 500


def data(seed: int) -> tuple[Tensor, Tensor]:
    """Normal draws, rotated, whose covariance has the spectrum exactly; and the spectrum.

    From a variance of 2 to 6 downwards, each eigenvalue is 0.4 to 0.8 of the one before.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    shares = 0.4 + 0.4 * torch.rand(INPUTS - 1, **draw)
    first = 2 + 4 * torch.rand(1, **draw)
    spectrum = torch.cat([first, first * shares.cumprod(0)])
    x = torch.randn(DATA, INPUTS, **draw)
    x = torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(DATA)
    rotation = torch.linalg.qr(torch.randn(INPUTS, INPUTS, **draw)).Q
    return x * spectrum.sqrt() @ rotation, spectrum


def program(seed: int, name: str) -> tuple[pc.AnchorVAE, Tensor]:
    """A linear program at random weights, and its data."""
    torch.manual_seed(seed)
    x, m = data(seed)[0], len(WEIGHTS[name])
    anchors, likelihood = dict(enumerate(WEIGHTS[name])), NormalLikelihood(SCALE)
    networks = nn.Linear(INPUTS, 2 * m), nn.Linear(m, INPUTS)
    vae = pc.AnchorVAE(*networks, m, anchors=anchors, likelihood=likelihood)
    return vae.double(), x


def train(seed: int, name: str, start: str) -> list[float]:
    """I(z_j:x) of each latent after training from the start.

    From random weights most of the way is L-BFGS's, on the same draws at each step.
    """
    vae, x = program(seed, name)
    elbo, steps = pc.CorExELBO(), STEPS[start]

    def loss() -> Tensor:
        value = elbo.differentiable_loss(vae.model, vae.guide, x) / len(x)
        vae.zero_grad()
        value.backward()
        return value

    def on_kept_draws() -> Tensor:
        torch.manual_seed(seed)
        return loss()

    with pyro.validation_enabled(False):
        if start == "leading":
            pc.start_anchors(vae, x, steps=100, batch_size=256, lr=0.1, seed=seed, progress=False)
        else:
            options = {"max_iter": LBFGS_STEPS, "max_eval": 2 * LBFGS_STEPS, "history_size": 50}
            torch.optim.LBFGS(
                vae.parameters(),
                line_search_fn="strong_wolfe",
                tolerance_grad=1e-7,
                tolerance_change=0,
                **options,
            ).step(on_kept_draws)
        adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        torch.manual_seed(seed)
        for _ in range(steps):
            loss()
            adam.step()
            falling.step()
    information: Tensor = pc.AggregatePosterior.from_data(vae, x).mutual_information()
    return information.tolist()


def row(seed: int, name: str, start: str, information: list[float]) -> dict[str, Any]:
    """What each latent has and should have, equal weights sorted."""
    x, spectrum = data(seed)
    weights, found = torch.tensor(WEIGHTS[name]), torch.tensor(information)
    wanted = linear_optimum(x, SCALE, weights).information.float()
    for weight in set(WEIGHTS[name]):  # whose order among themselves is open
        same = weights == weight
        for values in (found, wanted):
            values[same] = values[same].sort(descending=True).values
    return {
        "start": start,
        "weights": name,
        "seed": seed,
        "steps": STEPS[start] + (LBFGS_STEPS if start == "random" else 0),
        "spectrum": spectrum.tolist(),
        "found": found.tolist(),
        "predicted": wanted.tolist(),
        "off": float((found - wanted).abs().max()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The largest difference of any latent from the closed form."""
    lines = ["| start | KL weights | spectra | steps | largest difference, nats | within 0.02 |"]
    lines.append("| --- " * 6 + "|")
    for start in STEPS:
        for name, weights in WEIGHTS.items():
            mine = [r for r in rows if (r["start"], r["weights"]) == (start, name)]
            if mine:
                shown = ", ".join(f"{w:g}" for w in weights)
                off = [r["off"] for r in mine]
                lines.append(
                    f"| {start} | {shown} | {len(mine)} | {mine[0]['steps']:,} | {max(off):.4f} "
                    f"| {sum(v < 0.02 for v in off)} of {len(mine)} |"
                )
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """What was measured over what is predicted, a point for each latent."""
    from matplotlib.figure import Figure

    ax = Figure(figsize=(4.2, 4.0), layout="constrained").subplots()
    last = max(max(r["predicted"]) for r in rows) * 1.05
    ax.axline((0, 0), slope=1, color="0.8", zorder=0)
    for (name, weights), marker in zip(WEIGHTS.items(), "o^s", strict=True):
        mine = [r for r in rows if r["weights"] == name]
        x, y = ([v for r in mine for v in r[key]] for key in ("predicted", "found"))
        shown = ", ".join(f"{w:g}" for w in weights)
        ax.plot(x, y, marker, markersize=4, alpha=0.7, markeredgewidth=0, label=f"weights {shown}")
    ax.set(xlim=(0, last), ylim=(0, last), aspect="equal")
    ax.set(xlabel="nats of the closed form", ylabel="nats of the trained program")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    ax.figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON line for each run")
    parser.add_argument("--start", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SPECTRA))
    parser.add_argument("--figure", type=Path, help="draw what there is to this file")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    if args.table and not (args.out and args.out.exists()):
        parser.error(f"--table prints what --out holds, but there is no file {args.out}")
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(r["seed"], r["weights"], r["start"]) for r in rows}
    wanted = [
        (seed, name, start) for start in args.start for seed in args.seeds for name in WEIGHTS
    ]
    for key in [] if args.table or args.figure else wanted:
        if key not in done:
            rows.append(row(*key, train(*key)))
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    if args.figure:
        figure(rows, args.figure)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
