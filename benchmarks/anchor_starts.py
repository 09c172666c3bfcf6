"""Do anchors lead after start_anchors and 750 steps?  Synthetic faces and photographs.

    python benchmarks/anchor_starts.py --out anchor_starts.jsonl [--photographs faces.zip]
    python benchmarks/anchor_starts.py --out anchor_starts.jsonl --table    # what is there so far
    python benchmarks/anchor_starts.py --smoke                              # seconds
    python benchmarks/anchor_starts.py --out anchor_starts.jsonl --figures docs/images

Three convolutions, 32 latents, squared error at a scale of 0.3, KL weights of 0.5 on five, Adam at
its usual rate.  For each seed faces are drawn anew, or 4,000 of the photographs are chosen.  The
margin is what the weakest anchor has above the best free latent, in nats; where it is positive, all
anchors lead.  A line is written for each run; what is there is not run again.  ``--keep`` leaves
the program of the first faces, whose anchors ``--figures`` draws, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_corex as pc
from pyro_corex.datasets import ImageFiles, synthetic_faces
from pyro_corex.figures import image_grid, latent_bars, traversal
from pyro_corex.information import linear_optimum
from pyro_corex.programs import NormalLikelihood, conv_decoder, conv_encoder

ANCHORS, WEIGHT, SCALE, BATCH, EPOCHS, DATA = 5, 0.5, 0.3, 64, 12, 4000
FACES, PHOTOGRAPHS = "synthetic faces", "photographs"
STARTS = ("start_anchors", "random weights")


def images_of(kind: str, seed: int, args: argparse.Namespace) -> Tensor:
    """Images to train on, ``(n, 3, 64, 64)``."""
    n = 150 if args.smoke else args.images
    if kind == FACES:
        return synthetic_faces(n, seed, size=args.size)[0]
    files = ImageFiles(args.photographs)
    chosen = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))[:n]
    return torch.stack([files[int(i)] for i in chosen])


def program(shape: tuple[int, int, int], seed: int, args: argparse.Namespace) -> pc.AnchorVAE:
    """The networks at random weights."""
    torch.manual_seed(seed)
    latents, channels = (8, (8, 8, 8)) if args.smoke else (32, (32, 64, 128))
    return pc.AnchorVAE(
        conv_encoder(shape, latents, channels),
        conv_decoder(latents, shape, channels),
        latents,
        anchors=dict.fromkeys(range(ANCHORS), WEIGHT),
        likelihood=NormalLikelihood(SCALE),
    )


def run(kind: str, start: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Starts and trains a program, and says which of its latents lead."""
    x = images_of(kind, seed, args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = x.to(device)  # once, and not batch by batch
    vae = program((x.shape[1], x.shape[2], x.shape[3]), seed, args).to(device)
    began = time.perf_counter()
    if start == "start_anchors":
        pc.start_anchors(vae, x, steps=3 if args.smoke else 300, progress=False)
    before = pc.AggregatePosterior.from_data(vae, x).mutual_information()
    epochs = 1 if args.smoke else EPOCHS
    pc.fit(vae, x, epochs=epochs, batch_size=BATCH, seed=seed, progress=False)
    seconds = time.perf_counter() - began
    after = pc.AggregatePosterior.from_data(vae, x).mutual_information()
    if args.keep and not args.keep.exists() and (kind, start) == (FACES, "start_anchors"):
        pc.save(vae, args.keep)
    predicted = linear_optimum(x, SCALE, vae.kl_weights).information
    return {
        "kind": kind,
        "start": start,
        "seed": seed,
        "steps": epochs * -(-len(x) // BATCH),
        "anchors_at_first": before[:ANCHORS].tolist(),
        "anchors": after[:ANCHORS].tolist(),
        "free": after[ANCHORS:].sort(descending=True).values[:5].tolist(),
        "margin": float(after[:ANCHORS].min() - after[ANCHORS:].max()),
        "leading": int((after[:ANCHORS] > after[ANCHORS:].max()).sum()),
        "predicted": predicted[: ANCHORS + 1].tolist(),
        "seconds": seconds,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }


def draw_information(rows: list[dict[str, Any]], path: Path) -> None:
    """What the anchors and the best other latents carry, on the faces of the first seed."""
    ax = Figure(figsize=(6.4, 2.6), layout="constrained").subplots(1, 2, sharey=True)
    for axes, start in zip(ax, STARTS, strict=True):
        first = next(r for r in rows if (r["kind"], r["start"], r["seed"]) == (FACES, start, 1))
        values = torch.tensor(first["anchors"] + first["free"])
        latent_bars(values, ax=axes, anchors=range(ANCHORS), title=f"from {start}")
    ax[1].set_ylabel("")
    ax[0].figure.savefig(path, dpi=120)


def draw_anchors(args: argparse.Namespace, path: Path) -> None:
    """What the anchors of the program that was kept change."""
    x = images_of(FACES, args.seeds[0], args)
    vae = program((x.shape[1], x.shape[2], x.shape[3]), args.seeds[0], args)
    pc.start_anchors(vae, x, steps=1, progress=False)  # for its encoder
    pc.load(args.keep, vae)
    information = pc.AggregatePosterior.from_data(vae, x).mutual_information()
    values = torch.linspace(-3, 3, 7)
    with torch.no_grad():
        z = vae.encode(x[:1]).mean
        walks = torch.cat([traversal(vae, z, j, values) for j in range(ANCHORS)])
    ax = image_grid(
        walks,
        row_labels=[f"z{j}, {float(information[j]):.1f} nats" for j in range(ANCHORS)],
        column_labels=[f"{v:g}" for v in values.tolist()],
    )
    ax.figure.savefig(path, dpi=120)


def table(rows: list[dict[str, Any]]) -> str:
    """How many anchors lead, and by how much the weakest does."""
    columns = (
        "images",
        "from",
        "seeds",
        "all five lead",
        "least lead",
        "anchors, mean",
        "closed form",
    )
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for kind in (FACES, PHOTOGRAPHS):
        for start in STARTS:
            mine = [r for r in rows if (r["kind"], r["start"]) == (kind, start)]
            if len(mine) > 1:
                all_lead = sum(r["leading"] == ANCHORS for r in mine)
                means, predicted = (
                    [statistics.fmean(r[key][:ANCHORS]) for r in mine]
                    for key in ("anchors", "predicted")
                )
                lines.append(
                    f"| {kind} | {start} | {len(mine)} | {all_lead} of {len(mine)} "
                    f"| {min(r['margin'] for r in mine):.2f} | {statistics.fmean(means):.2f} "
                    f"± {statistics.stdev(means):.2f} | {statistics.fmean(predicted):.2f} |"
                )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON line for each run")
    parser.add_argument("--photographs", type=Path, help="folder or zip archive of images")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--splits", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--start", nargs="*", choices=STARTS, default=list(STARTS))
    parser.add_argument("--keep", type=Path, help="file for the program of the first faces")
    parser.add_argument("--figures", type=Path, help="folder to draw what was kept to")
    parser.add_argument("--images", type=int, default=DATA)
    parser.add_argument("--size", type=int, default=64, help="of the faces")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args(argv)
    if args.table and not (args.out and args.out.exists()):
        parser.error(f"--table prints what --out holds, but there is no file {args.out}")
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(r["kind"], r["start"], r["seed"]) for r in rows}
    wanted = [(FACES, start, seed) for seed in args.seeds for start in args.start]
    if args.photographs:
        wanted += [(PHOTOGRAPHS, start, seed) for seed in args.splits for start in args.start]
    if args.figures:
        draw_information(rows, args.figures / "faces_information.png")
        if args.keep and args.keep.exists():
            draw_anchors(args, args.figures / "faces_anchors.png")
    for key in [] if args.table or args.figures else wanted[:2] if args.smoke else wanted:
        if key not in done:
            rows.append(run(*key, args))
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
