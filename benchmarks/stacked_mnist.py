"""Section 6.1 on MNIST: the paper's stack, and what makes its top find the digits.

    python benchmarks/stacked_mnist.py --data-root DIR
    python benchmarks/stacked_mnist.py --data-root DIR --variant anchor --seeds 10-14
    python benchmarks/stacked_mnist.py --table

Without MNIST under --data-root it takes the digits that scikit-learn bundles, and says so.  For
each variant and seed it appends a line to --results; a (variant, seed) that is there is skipped,
and a run that was interrupted goes on where it was.

The variants add one ingredient each:
  paper      the objective of the paper alone, trained jointly from random weights;
  layerwise  the first layer is trained alone before;
  mixture    and the top starts from a Gaussian mixture over the first layer;
  anchor     and I(z2:x) is rewarded with the weight --mi-weight;
  redrawn    and the mixture is one of more components that copies of a digit share, in which its
             pixels are drawn anew: all there is without augmentation;
  all        and z2 shall not tell how a digit was rotated, scaled, slanted and shifted, with the
             weight --invariance; the copies of the mixture, too, are such ones;
  bent       and how it was bent; the best of twice as many mixtures, each refined first, is taken,
             and joint training has larger batches, rate and weights, and more epochs.
Labels are for scoring only.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_corex as pc
from pyro_corex.datasets import Digits, RandomAffine, RandomElastic, bundled_digits, mnist
from pyro_corex.evaluation import cluster_accuracy
from pyro_corex.figures import image_grid
from pyro_corex.programs import mlp, mlp_decoder, mlp_encoder

SIZES = {
    "digits": [(64, 128, 16), (16, 32, 10)],
    "mnist": [(784, 512, 512, 64), (64, 32, 32, 16, 16, 10)],  # the paper's
}
# of dynamically binarised MNIST's test digits, in nats, and where it is from
BEST_NLL = (76.93, "CR-NVAE, Sinha and Dieng 2021; NVAE, Vahdat and Kautz 2020, has 78.01")
VARIANTS = ["paper", "layerwise", "mixture", "anchor", "redrawn", "all", "bent"]
BENT = {"epochs": 80, "batch_size": 1024, "lr": 2e-3}
"""Joint training of that variant."""
BENT_WEIGHT = 3.0
"""Its weights, as a multiple of those of the others."""


def seeds(text: str) -> range:
    """ "3" or "10-19"."""
    low, _, high = text.partition("-")
    try:
        found = range(int(low), int(high or low) + 1)
    except ValueError:
        found = range(0)
    if not found:
        raise argparse.ArgumentTypeError(f"give a seed such as 3, or 10-19, not {text!r}")
    return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-root", type=Path, default=Path("data"), help="folder of MNIST")
    add("--output", type=Path, default=Path("outputs/stacked_mnist"), help="stages and figures")
    add("--results", type=Path, help="default: results.jsonl in --output")
    add("--variant", choices=VARIANTS, default="bent")
    add("--seeds", type=seeds, default="0", help="e.g. 3 or 10-19")
    add("--mi-weight", type=float, default=100.0, help="reward for I(z2:x)")
    add("--invariance", type=float, default=200.0, help="penalty on I(z2:t|x)")
    add("--starts", type=int, default=4, help="mixtures to choose from")
    add("--start-steps", type=int, default=3000, help="towards the best mixture")
    add("--first-epochs", type=int, default=20, help="of the first layer alone")
    add("--epochs", type=int, default=30, help="of joint training")
    add("--batch-size", type=int, default=256)
    add("--precision", default="32-true", help="bf16-mixed is faster where the processor has it")
    add("--device", default="auto")
    add("--capture", action="store_true", help="record a step on CUDA and replay it")
    add("--table", action="store_true", help="print the table of the results and stop")
    add("--smoke", action="store_true", help="seconds, on the bundled digits")
    args = parser.parse_args(argv)
    args.results = args.results or args.output / "results.jsonl"
    if args.table and not args.results.exists():
        parser.error(f"--table prints what --results holds, but there is no file {args.results}")
    if args.smoke:
        args.first_epochs, args.epochs, args.starts, args.batch_size = 15, 3, 1, 64
        args.start_steps = 300
    return args


def load(args: argparse.Namespace) -> tuple[str, Digits, Digits]:
    if not args.smoke:
        try:
            return "mnist", mnist(args.data_root), mnist(args.data_root, train=False)
        except FileNotFoundError as error:
            print(f"{error}. Going on with the bundled digits.")
    data = bundled_digits()
    return "digits", data, data


def build(name: str) -> pc.StackedCorEx:
    first, top = SIZES[name]
    below = pc.Layer(mlp_encoder(list(first)), mlp_decoder(list(first[::-1])), first[-1])
    down = mlp([*top[::-1][:-1], 2 * top[0]])
    return pc.StackedCorEx([below, pc.Layer(mlp(list(top)), down, top[-1])])


def train(
    module: nn.Module, x: Tensor, epochs: int, seed: int, args: Any, *, lr: float = 1e-3,
    batch_size: int | None = None, **options: Any,
) -> None:  # fmt: skip
    """Adam, from ``lr`` down to a twentieth along a cosine; pixels are drawn in each epoch."""
    size = batch_size or args.batch_size
    steps = epochs * -(-len(x) // size)
    pc.fit(
        module, x, epochs=epochs, seed=seed, batch_size=size, device=args.device, lr=lr,
        optimizer=pc.Optimization(lr_schedule=lambda adam: CosineAnnealingLR(adam, steps, lr / 20)),
        devices=pc.Devices(precision=args.precision, capture=args.capture),
        transform=torch.bernoulli, **options,
    )  # fmt: skip


def stage(path: Path, module: nn.Module, work: Callable[[Path], Any]) -> float:
    """Does ``work`` on the module, or loads what it led to; returns the seconds that it took."""
    if path.exists():
        saved = torch.load(path, weights_only=True)
        module.load_state_dict(saved["state"])
        return float(saved["seconds"])
    checkpoint = path.with_suffix(".part")
    start = time.perf_counter()
    work(checkpoint)
    seconds = time.perf_counter() - start
    torch.save({"state": module.state_dict(), "seconds": seconds}, path)
    checkpoint.unlink(missing_ok=True)
    return seconds


def run(variant: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    name, data, test = load(args)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    stack = build(name)
    if args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available()):
        stack.to("cuda")
    level = VARIANTS.index(variant)
    affine = RandomAffine(data.side, rotation=0.35, scale=0.2, shear=0.3, shift=data.side / 14)
    row: dict[str, Any] = {"variant": variant, "seed": seed, "data": name, "seconds": 0.0}

    def at(stage_name: str) -> Path:
        return args.output / f"{name}_{stage_name}_{seed}.pt"

    elastic = RandomElastic(data.side, amount=data.side / 28)
    bent = variant == "bent"

    def copy(x: Tensor) -> Tensor:
        return torch.bernoulli(affine(x))

    def bent_copy(x: Tensor) -> Tensor:
        return torch.bernoulli(elastic(affine(x)))

    if level >= 1:
        first = pc.CorExVAE(stack.encoders[0], stack.decoders[0], stack.dims[0])
        row["seconds"] += stage(
            at("first"), stack,
            lambda path: train(first, data.x, args.first_epochs, seed, args,
                               checkpoint=pc.Checkpoint(path, resume="auto")),
        )  # fmt: skip
        row["z1_alone"] = measure_first(first, test, seed)
    if level >= 2:
        name_of_start = "start" if level < 4 else f"start_{variant}"
        redraw: Any = {"redrawn": torch.bernoulli, "all": copy, "bent": copy}.get(variant)
        row["seconds"] += stage(
            at(name_of_start), stack,
            lambda _: pc.start_top(
                stack, data.x if variant == "redrawn" else torch.bernoulli(data.x),
                transform=redraw, n_starts=(1 + bent) * args.starts, steps=args.start_steps,
                refine=args.start_steps // 2 if bent else 0, seed=seed,
            ),
        )  # fmt: skip
        row["start_accuracy"] = score(stack, test)["accuracy"]
    weight = BENT_WEIGHT if bent else 1.0
    elbo = pc.CorExELBO(
        mi_weight={"z2": weight * args.mi_weight} if level >= 3 else None,
        invariance=pc.Invariance(bent_copy if bent else copy, {"z2": weight * args.invariance})
        if level >= 5
        else None,
    )
    joint: dict[str, Any] = {"epochs": args.epochs + (args.first_epochs if level == 0 else 0)}
    if bent and not args.smoke:
        joint = BENT
    row["seconds"] += stage(
        at(variant), stack,
        lambda path: train(stack, data.x, seed=seed, args=args, elbo=elbo,
                           checkpoint=pc.Checkpoint(path, resume="auto"), **joint),
    )  # fmt: skip
    row |= (
        score(stack, test)
        | measure(stack, test, seed)
        | draw(stack, test, args.output / f"{name}_{variant}_{seed}")
    )
    return row


@torch.no_grad()
def score(stack: pc.StackedCorEx, test: Digits) -> dict[str, float]:
    """How the classes agree with the digits; the encoder sees the pixels' means."""
    clusters = stack.encode(test.x.to(next(stack.parameters()).device))[-1].logits.argmax(-1).cpu()
    return {
        "accuracy": cluster_accuracy(test.labels, clusters),
        "nmi": float(normalized_mutual_info_score(test.labels, clusters)),
        "ari": float(adjusted_rand_score(test.labels, clusters)),
    }


def binarised(test: Digits, module: nn.Module, seed: int) -> Tensor:
    x = torch.bernoulli(test.x, generator=torch.Generator().manual_seed(seed))
    return x.to(next(module.parameters()).device)


def tc_between(post: pc.AggregatePosterior) -> list[float]:
    """Both ends of the interval that contains TC(z)."""
    with warnings.catch_warnings():  # both ends are kept
        warnings.filterwarnings("ignore", "TC.z. can be bounded from above only loosely")
        found = post.total_correlation()
    return [found.lower, found.upper]


@torch.no_grad()
def measure_first(first: pc.CorExVAE, test: Digits, seed: int) -> dict[str, Any]:
    """Of the first layer before the second is there."""
    x = binarised(test, first, seed)
    bound, post = pc.tc_bound(first, x), pc.AggregatePosterior.from_data(first, x)
    return {
        "tc_bound": [bound.estimate, bound.stderr],
        "tc_z": tc_between(post),
    }


@torch.no_grad()
def measure(stack: pc.StackedCorEx, test: Digits, seed: int) -> dict[str, Any]:
    """The layer story on binarised test digits: shares of the bound, and I(x : z1_j) ranked."""
    x = binarised(test, stack, seed)
    bound = pc.tc_bound(stack, x)
    q = stack.encode(x)[0]
    post = pc.AggregatePosterior(q.mean, q.stddev)
    information, error = post.mutual_information(), post.mutual_information_stderr()
    best = information.argsort(descending=True)[:10]
    return {
        "elbo": bound.terms.elbo,
        "tc_bound": [bound.estimate, bound.stderr],
        "layers": [[layer.estimate, layer.stderr] for layer in bound.layers],
        "tc_z1": tc_between(post),
        "z1": [[int(j), float(information[j]), float(error[j])] for j in best],
    }


def shape(images: Tensor) -> Tensor:
    """The slant (a tangent) and the width (in pixels) of images, from their second moments.

    ``(..., side, side)`` to ``(..., 2)``.  The width is that of the image set upright.
    """
    side = images.shape[-1]
    mass = images / images.sum((-2, -1), keepdim=True).clamp_min(1e-6)
    at = torch.arange(side, dtype=images.dtype, device=images.device)
    across, down = mass.sum(-2), mass.sum(-1)
    x = at - (across * at).sum(-1, keepdim=True)
    y = at - (down * at).sum(-1, keepdim=True)
    xx, yy = (across * x * x).sum(-1), (down * y * y).sum(-1)
    xy = (mass * x.unsqueeze(-2) * y.unsqueeze(-1)).sum((-2, -1))
    slant = -xy / yy.clamp_min(1e-6)  # rows count downwards
    return torch.stack([slant, (xx - xy * xy / yy.clamp_min(1e-6)).clamp_min(0).sqrt()], -1)


@torch.no_grad()
def draw(stack: pc.StackedCorEx, test: Digits, path: Path) -> dict[str, Any]:
    """Fig. 3: a row for each class; columns move the two latents of z1 that tell most about x.

    The files' names begin with ``path``.  Returns, for each of the latents that tell most, how its
    moves change slant and width: correlations within a class, averaged over the classes; and the
    larger of those of the two figures.
    """
    q = stack.encode(test.x.to(next(stack.parameters()).device))
    information = pc.AggregatePosterior(q[0].mean, q[0].stddev).mutual_information()
    classes = torch.arange(stack.dims[-1], device=information.device)
    prior = stack.given_top(classes)
    noise = torch.linspace(-2, 2, 9, device=information.device)
    latents = information.topk(min(10, len(information))).indices.tolist()
    moved = []
    for latent in latents:
        z = prior.mean.unsqueeze(1).repeat(1, len(noise), 1)
        z[:, :, latent] += noise * prior.stddev[:, latent, None]
        images = stack.decode(z.flatten(0, 1), layer=1).mean
        images = images.reshape(len(classes), len(noise), test.side, test.side)
        found = shape(images)
        centred = found - found.mean(1, keepdim=True)
        spread = (centred.square().sum(1) * noise.square().sum()).sqrt().clamp_min(1e-9)
        moved.append(((centred * noise[:, None]).sum(1) / spread).mean(0).tolist())
        if len(moved) > 2:
            continue
        which = "ab"[len(moved) - 1]
        ax = image_grid(
            images,
            row_labels=[str(int(c)) for c in classes],
            column_labels=[f"{v:g}" for v in noise.tolist()],
            title=f"z_{which} (latent {latent}), I(x:z) = {float(information[latent]):.2f} nats",
        )
        ax.figure.savefig(f"{path}_figure3_{which}.png", dpi=100)
    clusters = q[-1].logits.argmax(-1).cpu()
    counts = torch.zeros(len(classes), 10, dtype=torch.long)
    counts.index_put_((clusters, test.labels.long()), torch.tensor(1), accumulate=True)
    order = counts.argmax(1).argsort()
    shown = ConfusionMatrixDisplay(counts[order].numpy()).plot(cmap="Blues", colorbar=False)
    shown.ax_.set(xlabel="digit", ylabel="class", yticklabels=order.tolist())
    shown.figure_.savefig(f"{path}_confusion.png", dpi=100)
    best = {what: max(abs(m[k]) for m in moved[:2]) for k, what in enumerate(("slant", "width"))}
    return {"moved": [[latent, *pair] for latent, pair in zip(latents, moved, strict=True)]} | best


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cell(values: list[float], digits: int = 2, scale: float = 1.0) -> str:
    """Mean ± standard deviation over the seeds."""
    found = torch.tensor(values, dtype=torch.double) * scale
    if not len(found):
        return ""
    sd = f" ± {float(found.std()):.{digits}f}" if len(found) > 1 else ""
    return f"{float(found.mean()):.{digits}f}{sd}"


def markdown(head: str, rows: list[list[str]]) -> str:
    columns = head.count(",") + 1
    lines = [" | ".join(head.split(",")), " | ".join(["---"] * columns), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" for line in lines)


def table(rows: list[dict[str, Any]]) -> str:
    """The tables of docs/mnist.md: agreement with the digits, the bound, and the latents."""
    found, bounds, latents = [], [], []
    for variant in VARIANTS:
        mine = [r for r in rows if r["variant"] == variant]
        if not mine:
            continue

        def of(key: str, *at: int, mine: list[dict[str, Any]] = mine) -> list[float]:
            values = [r[key] for r in mine if key in r]
            for i in at:
                values = [value[i] for value in values]
            return values

        found.append([
            variant, str(len(mine)), cell(of("accuracy"), scale=100),
            f"{100 * min(of('accuracy')):.2f}", cell(of("start_accuracy"), scale=100),
            cell(of("nmi"), 3), cell(of("ari"), 3), cell(of("seconds"), 1, 1 / 60),
        ])  # fmt: skip
        errors = [max(of("tc_bound", 1)), *(max(of("layers", i, 1)) for i in (0, 1))]
        bounds.append([
            variant, cell(of("elbo")), cell(of("tc_bound", 0)), cell(of("layers", 0, 0)),
            cell(of("layers", 1, 0)), " / ".join(f"{e:.2f}" for e in errors),
        ])  # fmt: skip
        latents.append([
            variant, *(cell(of("z1", i, 1)) for i in (0, 1)),
            f"{max(of('z1', 0, 2) + of('z1', 1, 2)):.3f}",
            *(cell([abs(v) for v in of("moved", i, k)]) for i in (0, 1) for k in (1, 2)),
            cell(of("slant")), cell(of("width")),
        ])  # fmt: skip
    parts = [
        markdown("variant,seeds,accuracy %,lowest,of the start,NMI,ARI,minutes", found),
        markdown("variant,ELBO,TC(x) ≥,L(1),L(2),standard errors", bounds),
        markdown("variant,I(x:z_a),I(x:z_b),standard error,z_a slant,z_a width,z_b slant,"
                 "z_b width,slant,width", latents),
    ]  # fmt: skip
    entropies = [r["tc_bound"][0] - r["elbo"] for r in rows if r["data"] == "mnist"]
    if entropies:
        best = [entropy - BEST_NLL[0] for entropy in entropies]
        parts.append(
            f"The entropies of the pixels add up to {cell(entropies)} nats. Less the best "
            f"published negative log-likelihood, {BEST_NLL[0]} nats ({BEST_NLL[1]}), they bound "
            f"TC(x) by {cell(best)} nats from below. So at least as much is there to explain."
        )
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if not args.table:
        for seed in args.seeds:
            done = {(r["variant"], r["seed"]) for r in rows_of(args.results)}
            if (args.variant, seed) in done:
                continue
            row = run(args.variant, seed, args)
            args.results.parent.mkdir(parents=True, exist_ok=True)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            bound, stderr = row["tc_bound"]
            print(
                f"{args.variant}, seed {seed}: accuracy {row['accuracy']:.1%}, TC(x) >= "
                f"{bound:.2f} ± {stderr:.2f} nats, {row['seconds']:.0f} s",
                flush=True,
            )
    rows = rows_of(args.results)
    print(table(rows) if rows else f"There are no results in {args.results}.")
    print(f"Results and figures: {args.output.resolve()}")


if __name__ == "__main__":
    main()
