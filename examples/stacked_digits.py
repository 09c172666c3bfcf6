"""Section 6.1: two stacked layers on handwritten digits, the top one discrete.

    python examples/stacked_digits.py
    python examples/stacked_digits.py --dataset mnist --data-root DIR [--download]

By default it trains on the 1,797 digits that scikit-learn bundles, without a network, in less than
a minute.  It prints the terms of the bound and how well the top layer agrees with the digits, which
it has never seen, and writes figures to --output.

Pixels are binarised anew in each epoch, since the bound on TC(x) needs a proper likelihood.
Trained jointly from random weights, the paper's objective lets the top layer collapse; here it is
anchored (Eq. 21): --anchor is the weight of its KL, 1 for the paper's objective.  --warmup is the
share of training in which the weight of the first layer's KL rises from 0.1 to 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import pyro_corex as pc
from pyro_corex.datasets import Digits, bundled_digits, mnist
from pyro_corex.evaluation import cluster_accuracy
from pyro_corex.figures import image_grid, latent_bars

LAYERS = {
    "digits": [(64, 256, 256, 16), (16, 64, 64, 10)],
    "mnist": [(784, 512, 512, 64), (64, 32, 32, 16, 16, 10)],  # the paper's
}
EPOCHS = {"digits": 100, "mnist": 20}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--dataset", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of MNIST")
    parser.add_argument("--download", action="store_true", help="fetch MNIST if it is not there")
    parser.add_argument("--output", type=Path, default=Path("outputs/stacked_digits"))
    parser.add_argument("--epochs", type=int, help="100 for the digits, 20 for MNIST")
    parser.add_argument("--anchor", type=float, default=0.0, help="KL weight of the top layer")
    parser.add_argument(
        "--warmup", type=float, default=0.5, help="share of training in which KL weights rise"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--smoke", action="store_true", help="a run of seconds, to see that it works"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    args = parse(argv)
    if args.dataset == "mnist":
        data = mnist(args.data_root, download=args.download)
        test = mnist(args.data_root, train=False)
    else:
        data = test = bundled_digits()
    epochs = args.epochs or (2 if args.smoke else EPOCHS[args.dataset])
    args.output.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    warmup = pc.Warmup(0.1, 1.0, steps=max(1, round(args.warmup * epochs)))
    stack = pc.StackedCorEx(LAYERS[args.dataset], anchors={"z1": warmup, "z2": args.anchor})
    history = pc.fit(
        stack,
        data.x,
        epochs=epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        device=args.device,
        transform=torch.bernoulli,
        callback=lambda *_: warmup.step(),
    )

    x = torch.bernoulli(test.x, generator=torch.Generator().manual_seed(args.seed))
    x = x.to(next(stack.parameters()).device)
    terms = pc.CorExELBO().terms(stack.model, stack.guide, x)
    with torch.no_grad():
        clusters = stack.encode(x)[-1].logits.argmax(-1).cpu()
    accuracy = cluster_accuracy(test.labels, clusters)
    print(terms)
    for name, kl in terms.kl.items():
        print(f"KL of layer {name}: {float(kl.sum()):.3f} nats")
    print(f"Unsupervised accuracy of the top layer: {accuracy:.1%} ({args.dataset}, {len(x)} data)")
    draw(stack, test, x, terms, args.output)
    print(f"Figures: {args.output.resolve()}")
    return {"elbo": terms.elbo, "accuracy": accuracy, "epochs": len(history.epochs)}


@torch.no_grad()
def draw(
    stack: pc.StackedCorEx, test: Digits, x: torch.Tensor, terms: pc.CorExTerms, output: Path
) -> None:
    """Writes the figures: reconstructions, samples, traversals, and the KL of each latent."""
    side = test.side

    def show(images: torch.Tensor, rows: int, name: str, **labels: object) -> None:
        grid = images.reshape(rows, -1, side, side)
        ax = image_grid(grid, **labels)
        ax.figure.savefig(output / f"{name}.png", dpi=150)

    q = stack.encode(x)
    some = x[:12]
    means = stack.decode(q[0].mean[:12], layer=1).mean
    show(
        torch.cat([some, means]), 2, "reconstructions",
        row_labels=["data", "decoded"], title="Reconstructions",
    )  # fmt: skip

    classes = torch.arange(stack.dims[-1], device=x.device)
    prior = stack.given_top(classes)
    z = prior.sample((12,)).transpose(0, 1)  # classes, samples, latents
    rows = [str(int(c)) for c in classes]
    show(
        stack.decode(z.flatten(0, 1), layer=1).mean, len(classes), "samples",
        row_labels=rows, title="Samples for each value of the top layer",
    )  # fmt: skip

    kl = terms.kl["z1"]
    noise = torch.linspace(-2, 2, 9, device=x.device)
    for rank, latent in enumerate(kl.topk(2).indices.tolist(), 1):
        z = prior.mean.unsqueeze(1).repeat(1, len(noise), 1)
        z[:, :, latent] += noise * prior.stddev[:, latent, None]
        show(
            stack.decode(z.flatten(0, 1), layer=1).mean, len(classes), f"traversal_{rank}",
            row_labels=rows, column_labels=[f"{v:g}" for v in noise.tolist()],
            title=f"Latent {latent} of z1: {float(kl[latent]):.2f} nats",
        )  # fmt: skip
    ax = latent_bars(kl, title="KL of each latent of z1")
    ax.figure.savefig(output / "kl.png", dpi=150)


if __name__ == "__main__":
    main()
