"""tc_bound of fitted programs against TC(x) in closed form.

    python benchmarks/closed_forms.py                       # 20 linear-Gaussian and 6 binary models
    python benchmarks/closed_forms.py --out results.jsonl   # also a line for each model; resumes
    python benchmarks/closed_forms.py --quick               # three of them

A CorExVAE is fitted to one sample of each model and evaluated on another. "error" is bound / truth
less 1, in per cent; "sigmas" is how many standard errors the bound is above the truth.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

import pyro_corex as pc
from pyro_corex.datasets import linear_gaussian, noisy_coins
from pyro_corex.programs import LearnedNormalLikelihood, mlp_decoder, mlp_encoder

N_TRAIN, N_TEST, BATCH = 20_000, 50_000, 256


def models() -> list[dict[str, Any]]:
    """The models: drawn at random, but always the same ones."""
    rng = random.Random(0)
    found: list[dict[str, Any]] = []
    for i in range(20):
        d = round(10 ** rng.uniform(1, 2.302))
        d = (10, 200)[i] if i < 2 else d
        m = rng.randint(1, max(1, min(20, d // 5)))
        noise = round(rng.uniform(0.3, 1.0), 2)
        found.append({"kind": "gaussian", "d": d, "m": m, "noise": noise, "groups": i % 4 == 3})
    for groups, copies, flip in [
        (2, 8, 0.05),
        (3, 8, 0.05),
        (5, 8, 0.05),
        (5, 10, 0.02),
        (8, 8, 0.05),
        (10, 10, 0.02),
    ]:
        found.append({"kind": "coins", "groups": groups, "copies": copies, "flip": flip})
    return [{"seed": seed, **model} for seed, model in enumerate(found)]


def gaussian(seed: int, d: int, m: int, noise: float, groups: bool) -> dict[str, float]:
    """A linear program, which can be exact."""
    options: dict[str, Any] = {"noise": noise, "groups": groups, "seed": seed}
    train = linear_gaussian(N_TRAIN, d, m, **options)
    test = linear_gaussian(N_TEST, d, m, **options, sample_seed=10_000 + seed)
    torch.manual_seed(seed)
    vae = pc.CorExVAE(
        mlp_encoder([d, m]), mlp_decoder([m, d]), m, likelihood=LearnedNormalLikelihood(d)
    )
    start = time.perf_counter()
    fit(vae, train.x, [(10, 1e-2), (10, 2e-3), (10, 3e-4)])
    result = evaluate(vae, test.x, train.total_correlation)
    return {**result, "seconds": time.perf_counter() - start}


def coins(seed: int, groups: int, copies: int, flip: float) -> dict[str, float]:
    """One Gaussian latent for a coin, under a prior that may have two humps.

    Training may end with a coin in three humps instead of two; of three fits the best on the
    training data is taken.
    """
    train = noisy_coins(N_TRAIN, groups, copies, flip=flip, seed=seed)
    test = noisy_coins(N_TEST, groups, copies, flip=flip, seed=10_000 + seed)
    d = groups * copies
    schedule = [(60, 1e-2), (20, 2e-3), (10, 4e-4)]
    start = time.perf_counter()
    fitted = []
    for restart in range(3):
        torch.manual_seed(100 * seed + restart)
        vae = pc.CorExVAE(
            mlp_encoder([d, 256, groups]), mlp_decoder([groups, d]), groups, prior="learned_mixture"
        )
        fit(vae, train.x, schedule)
        fitted.append((pc.tc_bound(vae, train.x).estimate, restart, vae))
    result = evaluate(max(fitted)[2], test.x, train.total_correlation)
    return {**result, "seconds": time.perf_counter() - start}


def fit(vae: pc.CorExVAE, x: torch.Tensor, schedule: list[tuple[int, float]]) -> None:
    """Trains with a falling rate."""
    for epochs, lr in schedule:
        pc.fit(vae, x, epochs=epochs, lr=lr, batch_size=BATCH, progress=False)


def evaluate(vae: pc.CorExVAE, x: torch.Tensor, truth: float) -> dict[str, float]:
    """The bound on data that were not trained on, beside the truth."""
    bound = pc.tc_bound(vae, x)
    return {
        "truth": truth,
        "bound": bound.estimate,
        "stderr": bound.stderr,
        "error": 100 * (bound.estimate / truth - 1),
        "sigmas": (bound.estimate - truth) / bound.stderr,
    }


def describe(model: dict[str, Any]) -> str:
    """A model in few words."""
    if model["kind"] == "coins":
        return f"{model['groups']} coins x {model['copies']} copies, flip {model['flip']}"
    loading = "groups" if model["groups"] else "dense"
    return f"d={model['d']} m={model['m']} noise={model['noise']} {loading}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="append a JSON line for each model, and resume")
    parser.add_argument("--quick", action="store_true", help="three models")
    args = parser.parse_args()
    known: dict[str, dict[str, Any]] = {}
    if args.out and args.out.exists():
        for line in args.out.read_text().splitlines():
            row = json.loads(line)
            known[json.dumps(row["model"])] = row
    todo = models()
    todo = [todo[0], todo[4], todo[20]] if args.quick else todo
    titles = f"{'model':<38} {'truth':>9} {'bound':>9} {'stderr':>7}"
    print(titles + f" {'error %':>8} {'sigmas':>7} {'s':>6}")
    rows = []
    for model in todo:
        row = known.get(json.dumps(model))
        if row is None:
            arguments = {key: value for key, value in model.items() if key != "kind"}
            result = (coins if model["kind"] == "coins" else gaussian)(**arguments)
            row = {"model": model, **result}
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(
            f"{describe(model):<38} {row['truth']:>9.3f} {row['bound']:>9.3f} "
            f"{row['stderr']:>7.3f} {row['error']:>8.2f} {row['sigmas']:>7.2f} "
            f"{row['seconds']:>6.1f}",
            flush=True,
        )
    worst = max(abs(row["error"]) for row in rows)
    above = max(row["sigmas"] for row in rows)
    print(f"largest error {worst:.2f} %; highest above the truth {above:.2f} standard errors")


if __name__ == "__main__":
    main()
