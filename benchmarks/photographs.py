"""Section 6.2 at the paper's size: 2,048 latents of photographs, five of them anchored, or none.

    python benchmarks/photographs.py --photographs faces.zip --out photographs.jsonl [--capture]
    python benchmarks/photographs.py --out photographs.jsonl     # the table of what is there so far
    python benchmarks/photographs.py --smoke                     # seconds, on synthetic faces

Three convolutions, squared error (a normal of fixed scale), KL weights of 0.5 on five latents.  A
line is written for each run; what is there is not run again.  Nothing but numbers is kept of the
photographs.  The numbers of the table are I(z_j:x) in nats.  Beside them is what the spectrum of
the same images gives for a linear network, ln(eigenvalue / (weight scale²)) / 2.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyro_corex as pc
from pyro_corex.datasets import ImageFiles, synthetic_faces
from pyro_corex.programs import NormalLikelihood, conv_decoder, conv_encoder

ANCHORS, WEIGHT, BATCH = 5, 0.5, 128
PROGRAMS: dict[str, dict[int, float]] = {
    "plain": {},
    "anchored": dict.fromkeys(range(ANCHORS), WEIGHT),
}


def images_of(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Images to train on and a tenth that is held out, ``(n, 3, 64, 64)``."""
    if args.photographs is None:
        x = synthetic_faces(200, 0)[0]
    else:
        files = ImageFiles(args.photographs)
        x = torch.stack([files[i] for i in range(len(files))])
    held = len(x) // 10
    return x[held:], x[:held]


def predicted(x: Tensor, scale: float, anchors: dict[int, float]) -> list[float]:
    """Of a linear network at its optimum: the smallest weights take the largest eigenvalues."""
    flat = x.flatten(1).double()
    values = torch.linalg.svdvals(flat - flat.mean(0)).square() / len(flat)
    weights = torch.ones_like(values)
    weights[: len(anchors)] = torch.tensor(sorted(anchors.values()), dtype=values.dtype)
    found: Tensor = (values / (weights * scale**2)).log().clamp(min=0) / 2
    return found.tolist()


def run(args: argparse.Namespace, name: str, x: Tensor, held: Tensor) -> dict[str, Any]:
    """Trains one program, and says how its best latents came along."""
    torch.manual_seed(args.seed)
    latents, channels = (16, (8, 8, 8)) if args.smoke else (2048, (32, 64, 128))
    shape = (3, 64, 64)
    vae = pc.AnchorVAE(
        conv_encoder(shape, latents, channels),
        conv_decoder(latents, shape, channels),
        latents,
        anchors=PROGRAMS[name],
        likelihood=NormalLikelihood(args.scale),
    )
    per_epoch = -(-len(x) // BATCH)
    epochs = -(-args.steps // per_epoch)
    start = time.perf_counter()
    on_device = x.cuda() if torch.cuda.is_available() else x  # no copies during training
    pc.fit(
        vae,
        on_device,
        epochs=epochs,
        batch_size=BATCH,
        seed=args.seed,
        optimizer=pc.Optimization(
            lr_schedule=lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(
                adam, epochs * per_epoch
            )
        ),
        progress=False,
        devices=pc.Devices(capture=args.capture),
    )
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {}
    for part, images in (("", x), ("held_out_", held)):
        posterior = pc.AggregatePosterior.from_data(vae, images, batch_size=256)
        told = posterior.mutual_information()
        order = told.argsort(descending=True)[:8]
        found |= {
            f"{part}top": order.tolist(),
            f"{part}information": told[order].tolist(),
            f"{part}anchors": told[:ANCHORS].tolist(),
            f"{part}best_free": float(told[ANCHORS:].max()),
            f"{part}variances": posterior.variance[order].tolist(),
            f"{part}active": int((told > 0.05).sum()),
        }
    device = next(vae.parameters()).device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return found | {
        "name": name,
        "seed": args.seed,
        "scale": args.scale,
        "steps": epochs * per_epoch,
        "latents": latents,
        "data": len(x),
        "predicted": predicted(x, args.scale, PROGRAMS[name])[:8],
        "seconds": seconds,
        "device": card,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The best latents of each run, on images that it has not seen, beside the linear optimum."""
    lines = ["| 2,048 latents | scale | steps | best six | anchors | linear optimum |"]
    lines.append("| --- " * 6 + "|")
    for r in rows:
        best, own, linear = (
            ", ".join(f"{v:.2f}" for v in values)
            for values in (r["held_out_information"][:6], r["held_out_anchors"], r["predicted"][:6])
        )
        own = own if r["name"] == "anchored" else ""
        lines.append(
            f"| {r['name']} | {r['scale']:g} | {r['steps']:,} | {best} | {own} | {linear} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="folder or zip archive of images")
    parser.add_argument("--out", type=Path, help="a JSON line for each run")
    parser.add_argument("--scale", type=float, default=0.35)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--capture", action="store_true", help="CUDA graphs")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args(argv)
    args.steps = 8 if args.smoke else args.steps
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
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
