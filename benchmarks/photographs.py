"""Section 6.2 at the paper's size: 2,048 latents of photographs, five of them anchored, or none.

    python benchmarks/photographs.py --photographs faces.zip --out photographs.jsonl [--capture]
    python benchmarks/photographs.py --out photographs.jsonl     # the tables of what is there
    python benchmarks/photographs.py --smoke                     # seconds, on synthetic faces

Three convolutions, squared error (a normal of fixed scale), KL weights of 0.5 on five latents, from
random weights.  Beside these, linear programs of 64 latents on the first 256 principal components
of the same images, for which the closed form is exact.  A line is written for each run; what is
there is not run again, and ``--checkpoints FOLDER`` goes on with one that was stopped.  Nothing but
numbers is kept of the photographs.  All information is I(z_j:x) in nats.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex.datasets import ImageFiles, PrincipalComponents, synthetic_faces
from pyro_corex.information import linear_optimum
from pyro_corex.programs import NormalLikelihood, conv_decoder, conv_encoder

ANCHORS, WEIGHT, COMPONENTS = 5, 0.5, 256
SHAPE = (3, 64, 64)
PROGRAMS = ("plain", "anchored", "anchored, started", "linear, plain", "linear, anchored")


def images_of(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Images to train on and a tenth that is held out, ``(n, 3, 64, 64)``."""
    if args.photographs is None:
        x = synthetic_faces(200, 0)[0]
    else:
        files = ImageFiles(args.photographs)
        x = torch.stack([files[i] for i in range(len(files))])
    held = len(x) // 10
    return x[held:], x[:held]


def program(name: str, args: argparse.Namespace) -> pc.AnchorVAE:
    """The networks at random weights."""
    torch.manual_seed(args.seed)
    if name.startswith("linear"):
        m = 64
        networks: tuple[nn.Module, nn.Module] = (
            nn.Linear(COMPONENTS, 2 * m),
            nn.Linear(m, COMPONENTS),
        )
    else:
        m, channels = (16, (8, 8, 8)) if args.smoke else (2048, (32, 64, 128))
        networks = conv_encoder(SHAPE, m, channels), conv_decoder(m, SHAPE, channels)
    anchors = {} if "plain" in name else dict.fromkeys(range(ANCHORS), WEIGHT)
    return pc.AnchorVAE(*networks, m, anchors=anchors, likelihood=NormalLikelihood(args.scale))


def ranked(information: Tensor) -> dict[str, Any]:
    """The best latents, the anchors, and how many are used."""
    order = information.argsort(descending=True)[:8]
    return {
        "top": order.tolist(),
        "information": information[order].tolist(),
        "anchors": information[:ANCHORS].tolist(),
        "best_free": float(information[ANCHORS:].max()),
        "active": int((information > 0.05).sum()),
        "sum": float(information.sum()),
    }


def told(vae: pc.AnchorVAE, x: Tensor) -> dict[str, Any]:
    """What the latents tell of images."""
    posterior = pc.AggregatePosterior.from_data(vae, x, batch_size=256)
    information = posterior.mutual_information()
    found = ranked(information)
    return {**found, "variances": posterior.variance[found["top"]].tolist()}


class Course:
    """A logger of ``fit`` that looks at the best latents after each quarter of the training.

    A function in its place would have steps recorded anew after each epoch.
    """

    def __init__(self, vae: pc.AnchorVAE, x: Tensor, per_epoch: int, epochs: int) -> None:
        self.vae, self.x, self.every = vae, x, per_epoch * max(1, epochs // 4)
        self.seen: list[list[float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Called after each epoch."""
        if step % self.every == 0:
            self.seen.append(told(self.vae, self.x)["information"][:6])
            print(step, self.seen[-1], metrics, file=sys.stderr, flush=True)

    def finalize(self, status: str) -> None:
        """Called at the end."""


def run(args: argparse.Namespace, name: str, x: Tensor, held: Tensor) -> dict[str, Any]:
    """Trains one program, and says how its best latents came along."""
    if name.startswith("linear"):
        components = PrincipalComponents.of(x, min(COMPONENTS, len(x)))
        x, held = components.project(x), components.project(held)
        x, held = (nn.functional.pad(v, (0, COMPONENTS - v.shape[1])) for v in (x, held))
    vae = program(name, args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, vae = x.to(device), vae.to(device)  # no copies during training
    path = args.checkpoints and args.checkpoints / f"{name}_{args.scale:g}_{args.seed}.pt"
    if "started" in name:
        again = args.smoke or (path and path.exists())  # what training had come to is read
        pc.start_anchors(vae, x, steps=1 if again else 300, seed=args.seed, progress=False)
    per_epoch = -(-len(x) // args.batch_size)
    epochs = -(-args.steps // per_epoch)
    course = Course(vae, x, per_epoch, epochs)
    begin = time.perf_counter()
    pc.fit(
        vae,
        x,
        epochs=epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        optimizer=pc.Optimization(
            lr_schedule=lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(
                adam, epochs * per_epoch
            )
        ),
        progress=False,
        devices=pc.Devices(capture=args.capture),
        checkpoint=pc.Checkpoint(path, every=100, resume="auto") if path else None,
        callback=course,
    )
    seconds = time.perf_counter() - begin
    optimum = linear_optimum(x, args.scale, vae.kl_weights).information
    return {
        "name": name,
        "seed": args.seed,
        "scale": args.scale,
        "steps": epochs * per_epoch,
        "batch_size": args.batch_size,
        "latents": vae.latent_dim,
        "data": len(x),
        **told(vae, x),
        "held_out": told(vae, held.to(device)),
        "course": course.seen,
        "optimum": ranked(optimum),
        "seconds": seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }


def paper_table(rows: list[dict[str, Any]]) -> str:
    """Figures 4 and 6 as numbers: the paper's, those of the closed form, and ours."""
    columns: tuple[str, ...] = (
        "",
        "paper, CelebA",
        "closed form",
        "linear program",
        "convolutions",
        "held out",
    )
    columns += ("started",) if any("started" in r["name"] for r in rows) else ()
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    wanted: list[tuple[str, str, str, Callable[[Any], float]]] = [
        ("Fig. 4, the five anchors", "around 3.5", "anchored", lambda r: fmean(r["anchors"])),
        ("Fig. 4, the best other latent", "less", "anchored", lambda r: r["best_free"]),
        ("Fig. 6, plain, the best latent", "3.1", "plain", lambda r: r["information"][0]),
        ("Fig. 6, plain, the second", "2.8", "plain", lambda r: r["information"][1]),
    ]
    for what, paper, name, number in wanted:
        mine, linear, started = (
            [r for r in rows if r["name"] == n]
            for n in (name, f"linear, {name}", f"{name}, started")
        )
        optimum, held = ([r[key] for r in mine] for key in ("optimum", "held_out"))
        cells = [
            f"{fmean(map(number, column)):.2f}" if column else ""
            for column in (optimum, linear, mine, held, started)
        ][: len(columns) - 2]
        lines.append(f"| {what} | {paper} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_table(rows: list[dict[str, Any]]) -> str:
    """Each run: its best latents on the images of training and on others, and the optimum."""
    columns = "program", "latents", "scale", "steps", "best six", "held out", "at 3/4", "optimum"
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for r in sorted(rows, key=lambda r: (PROGRAMS.index(r["name"]), r["seed"])):
        best, held, before, linear = (
            ", ".join(f"{v:.2f}" for v in values)
            for values in (
                r["information"][:6],
                r["held_out"]["information"][:6],
                r["course"][2] if len(r["course"]) > 2 else [],
                r["optimum"]["information"][:6],
            )
        )
        lines.append(
            f"| {r['name']} | {r['latents']:,} | {r['scale']:g} | {r['steps']:,} | {best} | {held} "
            f"| {before} | {linear} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="folder or zip archive of images")
    parser.add_argument("--out", type=Path, help="a JSON line for each run")
    parser.add_argument("--scale", type=float, default=0.35)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--capture", action="store_true", help="CUDA graphs")
    parser.add_argument("--checkpoints", type=Path, help="folder, for runs that go on")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args(argv)
    args.steps = 8 if args.smoke else args.steps
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    if args.photographs or args.smoke:
        x, held = images_of(args)
        for name in args.only:
            key = (name, args.scale, args.seed)
            if any((r["name"], r["scale"], r["seed"]) == key for r in rows):
                continue
            rows.append(run(args, name, x, held))
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(paper_table(rows), run_table(rows), sep="\n\n")
    return rows


if __name__ == "__main__":
    main()
