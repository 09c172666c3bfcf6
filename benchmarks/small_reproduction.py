"""Sections 6.1 to 6.3 in the small, on the digits that scikit-learn bundles; no download.

    python benchmarks/small_reproduction.py --out docs/results/digits.jsonl   # ten seeds, resumes
    python benchmarks/small_reproduction.py --quick                           # one seed, an epoch

A line is written for each section and seed.  All pixels above 1/2 are ink; the 1,797 digits are
trained on and evaluated on.  Labels are for scoring only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

import pyro_corex as pc
from pyro_corex.datasets import bundled_digits
from pyro_corex.evaluation import cluster_accuracy, frechet_distance
from pyro_corex.programs import mlp_decoder, mlp_encoder

Row = dict[str, Any]


def stack(x: Tensor, labels: Tensor, seed: int, epochs: int) -> Iterator[Row]:
    """Sec. 6.1: two layers, the top discrete; the objective of the paper, or an anchored top."""
    for name, anchors in (("paper", {}), ("anchored top", {"z2": 0.0})):
        torch.manual_seed(seed)
        module = pc.StackedCorEx([(64, 128, 16), (16, 64, 10)], n_classes=10, anchors=anchors)
        pc.fit(module, x, epochs=epochs, lr=3e-3, seed=seed, progress=False)
        with torch.no_grad():
            clusters = module.encode(x)[-1].logits.argmax(-1)
        known = pc.AggregatePosterior.from_data(module, x, layer=0).mutual_information()
        bound = pc.tc_bound(module, x)
        yield {
            "section": "6.1",
            "name": name,
            "accuracy": cluster_accuracy(labels, clusters),
            "top_two": known.topk(2).values.tolist(),
            "tc_bound": bound.estimate,
            "layers": [part.estimate for part in bound.layers],
        }


def train(x: Tensor, anchors: dict[int, float], seed: int, epochs: int) -> pc.AnchorVAE:
    torch.manual_seed(seed)
    networks = mlp_encoder([64, 128, 16]), mlp_decoder([16, 128, 64])
    vae = pc.AnchorVAE(*networks, 16, anchors=anchors)
    pc.fit(vae, x, epochs=epochs, lr=3e-3, seed=seed, progress=False)
    return vae


def anchors(x: Tensor, labels: Tensor, seed: int, epochs: int) -> Iterator[Row]:
    """Sec. 6.2 with five anchors of weight 0.5, and Sec. 6.3 on it and on a plain VAE."""
    for name, weights in (("anchored", dict.fromkeys(range(5), 0.5)), ("plain", {})):
        vae = train(x, weights, seed, epochs)
        post = pc.AggregatePosterior.from_data(vae, x)
        known, variance = post.mutual_information(), post.variance
        row: Row = {"section": "6.2", "name": name, "top_two": known.topk(2).values.tolist()}
        if weights:
            row |= {
                "anchors": float(known[:5].mean()),
                "least_anchor": float(known[:5].min()),
                "best_free": float(known[5:].max()),
                "highest": float(known[:5].min() > known[5:].max()),
            }
        yield row
        generator = torch.Generator().manual_seed(seed)
        prior = torch.randn(len(x), 16, generator=generator)
        with torch.no_grad():
            drawn = {
                kind: frechet_distance(x, vae.decode(z).mean)
                for kind, z in (("prior", prior), ("product", post.sample(len(x), generator)))
            }
        yield {
            "section": "6.3",
            "name": name,
            "above_two": float((variance > 2).float().mean()),
            "largest_variance": float(variance.max()),
            "rank_correlation": float(spearmanr(variance, known)[0]),
            **drawn,
            "product_over_prior": drawn["product"] / drawn["prior"],
        }


SECTIONS: dict[str, Callable[..., Iterator[Row]]] = {"stack": stack, "anchors": anchors}


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="append a line of JSON for each run, and resume")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch")
    args = parser.parse_args(argv)
    seeds, epochs = (1, 1) if args.quick else (args.seeds, args.epochs)
    digits = bundled_digits()
    x = (digits.x > 0.5).float()
    done: list[Row] = []
    if args.out and args.out.exists():
        done = [json.loads(line) for line in args.out.read_text().splitlines()]
    for seed in range(seeds):
        for part, run in SECTIONS.items():
            if any((row["part"], row["seed"]) == (part, seed) for row in done):
                continue
            for row in list(run(x, digits.labels, seed, epochs)):  # all or nothing
                row = {"part": part, "seed": seed, "epochs": epochs, **row}
                done.append(row)
                print(json.dumps(row), flush=True)
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    return done


if __name__ == "__main__":
    main()
