"""Linear AnchorVAEs against their closed form: ten spectra, three patterns of KL weights.

    python benchmarks/linear.py --out linear.jsonl               # from random weights, minutes
    python benchmarks/linear.py --out linear.jsonl --start leading      # seconds, by start_anchors
    python benchmarks/linear.py --out linear.jsonl --table       # what is there so far
    python benchmarks/linear.py --out linear.jsonl --figure docs/images/linear.png

The data are normal, and their covariance has the spectrum exactly.  Encoder and decoder are one
linear layer each, trained on draws of z, with the whole data set in a batch.  A line is written for
each program.
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
STARTS = {"leading": (30, 1e-3), "random": (20_000, 3e-2)}  # -> steps, learning rate at first


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


class Blocks(nn.Module):
    """Linear layers side by side, one for each group of the inputs, which share nothing."""

    def __init__(self, n: int, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, outputs) for _ in range(n)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, n, outputs)`` for ``(B, n * inputs)``."""
        groups = x.unflatten(-1, (len(self.weight), -1))
        return torch.einsum("bni,noi->bno", groups, self.weight) + self.bias


class Encoder(nn.Module):
    """Locations and scales of the latents of several linear programs."""

    def __init__(self, n: int, latents: int) -> None:
        super().__init__()
        self.blocks = Blocks(n, INPUTS, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shape ``(B, n * latents)`` each."""
        loc, log_scale = self.blocks(x).chunk(2, -1)
        return loc.flatten(1), log_scale.flatten(1).exp()


def train(vae: pc.AnchorVAE, x: Tensor, start: str) -> list[float]:
    """I(z_j:x) of each latent after training."""
    steps, lr = STARTS[start]
    elbo, adam = pc.CorExELBO(), torch.optim.Adam(vae.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            adam.zero_grad()
            elbo.differentiable_loss(vae.model, vae.guide, x).backward()
            adam.step()
            falling.step()
    information: Tensor = pc.AggregatePosterior.from_data(vae, x).mutual_information()
    return information.tolist()


def from_random_weights(seeds: list[int]) -> list[tuple[int, str, list[float]]]:
    """All programs at once.  Adam moves each parameter by itself, so each is trained as alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keys = [(seed, name) for seed in seeds for name in WEIGHTS]
    x = torch.cat([data(seed)[0] for seed, _ in keys], 1).to(device)
    weights = [w for _, name in keys for w in WEIGHTS[name]]
    torch.manual_seed(0)
    n, m = len(keys), len(weights)
    decoder = nn.Sequential(Blocks(n, m // n, INPUTS), nn.Flatten(1))
    networks = Encoder(n, m // n), decoder
    anchors, likelihood = dict(enumerate(weights)), NormalLikelihood(SCALE)
    vae = pc.AnchorVAE(*networks, m, anchors=anchors, likelihood=likelihood)
    found = iter(train(vae.to(device, torch.float64), x, "random"))
    return [(seed, name, [next(found) for _ in WEIGHTS[name]]) for seed, name in keys]


def from_the_leading(seed: int, name: str) -> list[float]:
    """One program, from ``start_anchors``."""
    torch.manual_seed(seed)
    x, m = data(seed)[0], len(WEIGHTS[name])
    anchors, likelihood = dict(enumerate(WEIGHTS[name])), NormalLikelihood(SCALE)
    networks = nn.Linear(INPUTS, 2 * m), nn.Linear(m, INPUTS)
    vae = pc.AnchorVAE(*networks, m, anchors=anchors, likelihood=likelihood).double()
    pc.start_anchors(vae, x, steps=100, batch_size=256, lr=0.1, seed=seed, progress=False)
    return train(vae, x, "leading")


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
        "steps": STARTS[start][0],
        "spectrum": spectrum.tolist(),
        "found": found.tolist(),
        "predicted": wanted.tolist(),
        "off": float((found - wanted).abs().max()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The largest difference of any latent from the closed form."""
    lines = ["| start | KL weights | spectra | steps | largest difference, nats | within 0.02 |"]
    lines.append("| --- " * 6 + "|")
    for start in STARTS:
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
    parser.add_argument("--start", nargs="*", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SPECTRA))
    parser.add_argument("--figure", type=Path, help="draw those from random weights to this file")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    missing = [] if args.table or args.figure else args.start
    for start in (s for s in missing if s not in {r["start"] for r in rows}):
        if start == "random":
            found = from_random_weights(args.seeds)
        else:
            found = [(s, name, from_the_leading(s, name)) for s in args.seeds for name in WEIGHTS]
        rows += [row(seed, name, start, values) for seed, name, values in found]
        if args.out:
            args.out.write_text("".join(json.dumps(r) + "\n" for r in rows))
    if args.figure:
        figure([r for r in rows if r["start"] == "random"], args.figure)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
