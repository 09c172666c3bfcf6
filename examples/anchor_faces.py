"""Sections 6.2 and 6.3 of the paper: latents that are anchored to carry more, on faces.

    python examples/anchor_faces.py
    python examples/anchor_faces.py --dataset folder --data-root photographs.zip
    python examples/anchor_faces.py --dataset celeba --data-root DIR [--download] --paper

By default it draws synthetic faces with five known factors and trains two small networks on their
principal components, without a download, in less than a minute: one with five anchored latents, and
a plain VAE.  It prints what each latent knows about the images and, on synthetic faces, about the
factors, which training has never seen; and it draws the paper's Figures 4 to 8.  With --images
20000 --epochs 20 it takes five minutes, and more of the factors have a latent of their own.

The anchors have a smaller KL weight than the other latents, as in the paper.  Here they also have a
flat prior, which fixes their rotation, and start as independent components.  All KL weights are
large, so that there is less room to mix factors.  The objective has a penalty on correlated
latents.  Weights and penalty begin nine times as large, so that what is coarse is settled first.

--paper takes what the paper states and no more: three convolutional layers, 2,048 latents, squared
error, and a KL weight of 0.5 on the first five.  The paper does not state by which standard
deviation the error of a pixel is divided; --scale gives it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import pyro_corex as pc
from pyro_corex.datasets import (
    FACE_FACTORS,
    CelebA,
    ImageFiles,
    PrincipalComponents,
    independent_directions,
    synthetic_faces,
)
from pyro_corex.evaluation import matched_information
from pyro_corex.figures import (
    image_grid,
    latent_bars,
    traversal,
    variance_against_information,
    variance_distribution,
)
from pyro_corex.programs import (
    Flat,
    LinearStart,
    NormalLikelihood,
    conv_decoder,
    conv_encoder,
    mlp_decoder,
    mlp_encoder,
)

SIZE, COMPONENTS, HIDDEN = 64, 256, 256
SHAPE, CHANNELS = (3, SIZE, SIZE), (16, 32, 64)  # the paper does not state its channels
# what differs between the small network and the paper's
SETTINGS: dict[bool, dict[str, Any]] = {
    False: {"latents": 10, "scale": 0.1, "epochs": 14}
    | {"anchor_weight": 16.0, "free_weight": 64.0, "tc_weight": 30.0, "begin": 9.0},
    True: {"latents": 2048, "scale": 0.5, "epochs": 10}
    | {"anchor_weight": 0.5, "free_weight": 1.0, "tc_weight": 0.0, "begin": 1.0},
}

REAL = """
These faces were drawn.  On photographs of your own, a folder or a zip archive:
    python examples/anchor_faces.py --dataset folder --data-root photographs.zip --images 20000
On the paper's data, of which torchvision fetches 1.4 GB, with the paper's network (a GPU helps):
    python examples/anchor_faces.py --dataset celeba --data-root data --download --paper"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--dataset", choices=["synthetic", "celeba", "folder"], default="synthetic")
    parser.add_argument(
        "--data-root", type=Path, default=Path("data"), help="of CelebA; or a folder or zip archive"
    )
    parser.add_argument("--download", action="store_true", help="fetch CelebA if it is not there")
    parser.add_argument("--output", type=Path, default=Path("outputs/anchor_faces"))
    parser.add_argument("--paper", action="store_true", help="the paper's network and weights")
    parser.add_argument("--images", type=int, default=4000, help="at most so many are taken")
    parser.add_argument("--anchors", type=int, default=5, help="the number of anchored latents")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--smoke", action="store_true", help="a run of seconds, to see that it works"
    )
    for name, value in SETTINGS[False].items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            default=argparse.SUPPRESS,
            help=f"{value}, or {SETTINGS[True][name]} with --paper",
        )
    args = parser.parse_args(argv)
    settings = dict(SETTINGS[args.paper])
    if args.smoke:
        args.images, settings = 400, settings | {"epochs": 2, "latents": 10}
    for name, value in settings.items():
        setattr(args, name, getattr(args, name, value))
    return args


@dataclass
class Faces:
    """Images as a network sees them."""

    x: Any
    """Images or coordinates, of shape ``(N, ...)``."""

    factors: Tensor | None
    components: PrincipalComponents | None

    def show(self, x: Tensor) -> Tensor:
        return x if self.components is None else self.components.images(x)


def load(args: argparse.Namespace) -> Faces:
    factors = None
    if args.dataset == "synthetic":
        images, factors = synthetic_faces(args.images, args.seed, size=SIZE)
    elif args.dataset == "celeba":
        images = CelebA(args.data_root, size=SIZE, download=args.download)
    else:
        images = ImageFiles(args.data_root, size=SIZE)
    images = images if factors is not None else Subset(images, range(min(args.images, len(images))))
    if args.paper:
        return Faces(images, factors, None)
    some = images[:2000] if factors is not None else stack(images, 2000)
    components = PrincipalComponents.of(some, min(COMPONENTS, len(some)), seed=args.seed)
    print(f"{components.basis.shape[1]} components keep {components.explained:.1%} of the variance")
    return Faces(components.project(images, batch_size=256), factors, components)


def stack(images: Any, n: int) -> Tensor:
    """The first n images as a tensor."""
    return torch.stack([images[i] for i in range(min(n, len(images)))])


def train(args: argparse.Namespace, faces: Faces, anchored: bool) -> tuple[pc.AnchorVAE, Any]:
    """A VAE with anchors or a plain one, on equal terms, and its aggregate posterior."""
    torch.manual_seed(args.seed)
    m, k = args.latents, args.anchors
    if faces.components is None:
        networks = conv_encoder(SHAPE, m, CHANNELS), conv_decoder(m, SHAPE, CHANNELS)
    else:
        n = faces.components.basis.shape[1]
        start = (
            independent_directions(faces.x, k, further=min(m, n) - k, seed=args.seed)
            if anchored
            else None
        )
        encoder = LinearStart(mlp_encoder([n, *[HIDDEN] * 3, m], nn.GELU), n, start)
        networks = encoder, mlp_decoder([m, *[HIDDEN] * 4, n], activation=nn.GELU)
    anchors = range(k) if anchored else ()
    vae = pc.AnchorVAE(
        *networks,
        m,
        anchors={},
        likelihood=NormalLikelihood(args.scale),
        prior="standard_normal" if args.paper or not anchored else Flat(m, anchors),
    )
    penalty = pc.regularizers.TotalCorrelation(args.tc_weight)
    elbo = pc.CorExELBO(regularizers=[penalty] if anchored and args.tc_weight else [])

    def set_weights(done: float) -> None:
        """When a share of training is done: all fall together until 4/5 of it is."""
        if anchored:
            times = args.begin ** max(0.0, 1 - done / 0.8)
            vae.set_anchors(
                dict.fromkeys(anchors, args.anchor_weight * times), args.free_weight * times
            )
            penalty.weight = args.tc_weight * times

    set_weights(0.0)
    steps = args.epochs * -(-len(faces.x) // args.batch_size)
    pc.fit(
        vae,
        faces.x,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        device=args.device,
        elbo=elbo,
        callback=lambda epoch, *_: set_weights(epoch / args.epochs),
        optimizer=pc.Optimization(
            lr_schedule=lambda adam: torch.optim.lr_scheduler.OneCycleLR(
                adam, 2e-3, total_steps=steps, pct_start=0.05
            )
        ),
    )
    vae.cpu()
    return vae, pc.AggregatePosterior.from_data(vae, faces.x, batch_size=256)


def main(argv: list[str] | None = None) -> dict[str, float]:
    args = parse(argv)
    try:
        faces = load(args)
    except FileNotFoundError as error:
        print(f"{error}.\nWithout --dataset it draws faces of its own.")
        return {}
    args.output.mkdir(parents=True, exist_ok=True)
    anchors = list(range(args.anchors))
    results: dict[str, float] = {}
    trained = {}
    for name, anchored in (("anchored", True), ("plain", False)):
        vae, posterior = train(args, faces, anchored)
        information = posterior.mutual_information().cpu()
        best = information.argsort(descending=True)[: args.anchors].tolist()
        shown = ", ".join(f"z{j} {float(information[j]):.2f}" for j in best)
        print(f"{name}: I(z_j : x) in nats, highest first: {shown}")
        if anchored:
            held = len(set(best) & set(anchors))
            print(f"  {held} of the {len(anchors)} anchors are among these {len(best)}")
        if faces.factors is not None and args.latents >= len(FACE_FACTORS):
            with torch.no_grad():
                matching = matched_information(vae.encode(faces.x).mean, faces.factors)
            pairs = zip(FACE_FACTORS, matching.values, matching.latents, strict=True)
            shown = ", ".join(f"{f} {float(v):.2f} (z{int(j)})" for f, v, j in pairs)
            told = "what single latents tell of the factors, from 0 to 1"
            print(f"  {told}: {shown}; mean {matching.mean:.2f}")
            results[f"{name} matched"] = matching.mean
        results[f"{name} largest"] = float(information.max())
        trained[name] = vae, posterior, information
    draw(trained, faces, args)
    print(f"Figures: {args.output.resolve()}")
    if args.dataset == "synthetic":
        print(REAL)
    return results


@torch.no_grad()
def draw(trained: dict[str, Any], faces: Faces, args: argparse.Namespace) -> None:
    """Writes the figures."""
    vae, posterior, information = trained["anchored"]
    anchors = list(range(args.anchors))
    ax = latent_bars(information, anchors=anchors, title="Fig. 4: what each latent carries")
    save(ax, args, "information")
    x = next(iter(DataLoader(faces.x, batch_size=5)))  # the same seed images in all figures
    for name, latents in (("anchored", anchors), ("plain", None)):
        program, _, carried = trained[name]
        if latents is None:
            latents = carried.topk(2).indices.tolist()
        for rank, latent in enumerate(latents, 1):
            values = torch.linspace(-3, 3, 7) * (1.6 / 3 if flat(program, latent) else 1)
            walk = faces.show(traversal(program, program.encode(x).mean, latent, values))
            title = f"{name}, z{latent}: {float(carried[latent]):.2f} nats"
            ax = image_grid(walk, column_labels=[f"{v:.2g}" for v in values.tolist()], title=title)
            save(ax, args, f"{name}_{rank}")

    vae, posterior, information = trained["plain"]
    ax = variance_distribution(posterior.variance, title="Fig. 7a")
    save(ax, args, "variances")
    ax = variance_against_information(posterior.variance, information, title="Fig. 7b")
    save(ax, args, "variance_information")
    generator = torch.Generator().manual_seed(args.seed)
    noise = torch.randn(20, args.latents, generator=generator)
    for name, z in (("prior", noise), ("product", posterior.sample(20, generator))):
        samples = faces.show(vae.decode(z).mean).unflatten(0, (2, 10))
        where = "a standard normal" if name == "prior" else "the product of the p(z_j)"
        save(image_grid(samples, title=f"Fig. 8: from {where}"), args, f"samples_{name}")


def flat(program: pc.AnchorVAE, latent: int) -> bool:
    return isinstance(program.prior, Flat) and latent in program.prior.latents


def save(ax: Any, args: argparse.Namespace, name: str) -> None:
    ax.figure.savefig(args.output / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
