"""Samples of a plain VAE (Sec. 6.3), and how far its latents spread (Fig. 7).

    python benchmarks/samples.py sampling --photographs faces.zip --mnist DIR --out samples.jsonl
    python benchmarks/samples.py variances --photographs faces.zip --out samples.jsonl
    python benchmarks/samples.py --out samples.jsonl [--figure spread.svg]   # what is there so far
    python benchmarks/samples.py sampling variances --smoke                  # seconds

A line is written for each run; what is there already is not run again.  --only and --seeds split
the runs among processes, and --capture records the training step as a CUDA graph.  Of photographs
nothing but numbers is kept.  Three convolutions, a normal of fixed scale, Adam with a cosine to
zero, batches of 64.

sampling: latents from a standard normal, from the product of the p(z_j), from a Gaussian and from a
mixture over all of them, decoded by one and the same VAE, and scored against images that neither it
nor the features have seen, and against the VAE's reconstructions of these, which is to leave out
what the decoder cannot draw.
variances: the same after four times the steps, with the variances on the way there.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from anchors import Rows, spread
from sample_quality import sample_quality, train_features
from scipy.stats import spearmanr
from torch import Tensor

import pyro_corex as pc
from pyro_corex.datasets import ImageFiles, mnist, synthetic_faces
from pyro_corex.programs import NormalLikelihood, conv_decoder, conv_encoder

BATCH = 64
STEPS = {"sampling": 8_000, "variances": 32_000}
SEEDS = {"sampling": range(10, 13), "variances": range(10, 12)}
SMALL = "photographs, 16 × 16"  # of which the decoder blurs little
SIZES = {
    "MNIST": (32, 0.1),
    "photographs": (128, 0.1),
    SMALL: (128, 0.05),
    "synthetic faces": (128, 0.1),
}
"""Of each data set the latents and the scale of the likelihood."""
COMPONENTS = (1, 4, 16, 64) if torch.cuda.is_available() else (1, 4, 16)
KINDS = ("prior", "product", "Gaussian", "mixture", "reconstructions")
WIDE = 2.0  # the paper's "variance greater than two"


def images_of(args: argparse.Namespace) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, images to train on, images that are held out."""
    if args.smoke:
        yield (
            "synthetic faces",
            synthetic_faces(128, 30, size=16)[0],
            synthetic_faces(100, 31, size=16)[0],
        )
        return
    if "MNIST" in args.only and args.mnist:
        x = torch.nn.functional.pad(mnist(args.mnist).x.unflatten(1, (1, 28, 28)), (2, 2, 2, 2))
        yield "MNIST", x[2000:20_000], x[:2000]
    for name in args.only if args.photographs else ():
        if name not in ("photographs", SMALL):
            continue
        files = ImageFiles(args.photographs)
        x = torch.stack([files[i] for i in range(len(files))])
        x = torch.nn.functional.avg_pool2d(x, 4) if name == SMALL else x
        held = len(x) // 4
        yield name, torch.cat([x[held:], x[held:].flip(-1)]), x[:held]
    if "synthetic faces" in args.only:
        yield "synthetic faces", synthetic_faces(8000, 30)[0], synthetic_faces(2000, 31)[0]


def train(
    x: Tensor, size: tuple[int, float], steps: int, seed: int, capture: bool, marks: list[int]
) -> tuple[pc.CorExVAE, list[dict[str, Any]]]:
    """A plain VAE, and how its latents spread after each of so many steps."""
    torch.manual_seed(seed)
    shape, (latents, scale) = tuple(x.shape[1:]), size
    vae = pc.CorExVAE(
        conv_encoder(shape, latents),
        conv_decoder(latents, shape),
        latents,
        likelihood=NormalLikelihood(scale),
    )
    if marks:  # long epochs, after which one can look
        some, x = x[:4000], x.repeat(-(-min(marks) * BATCH // len(x)), *[1] * (x.dim() - 1))
    per_epoch = -(-len(x) // BATCH)
    epochs = -(-steps // per_epoch)
    on_the_way: list[dict[str, Any]] = []
    left = sorted(marks)

    def look(epoch: int, *_: Any) -> None:
        if left and epoch * per_epoch >= left[0]:
            left.pop(0)
            posterior = pc.AggregatePosterior.from_data(vae, some, batch_size=500)
            on_the_way.append({"step": epoch * per_epoch, **spread_of(posterior)})

    pc.fit(
        vae,
        x,
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        optimizer=pc.Optimization(
            lr_schedule=lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(
                adam, epochs * per_epoch
            )
        ),
        callback=look if marks else None,
        progress=False,
        devices=pc.Devices(capture=capture),
    )
    return vae, on_the_way


def spread_of(posterior: pc.AggregatePosterior) -> dict[str, Any]:
    """Variances and information of the latents, the most telling first; and what a change of their
    scales alone would add to the ELBO at no cost of the decoder (docs/theory/aggregate.md)."""
    information, variance = posterior.mutual_information(), posterior.variance
    second = variance + posterior.mean.square()
    order = information.argsort(descending=True)
    return {
        "above_two": float((variance > WIDE).double().mean()),
        "rank_correlation": float(spearmanr(variance.cpu(), information.cpu()).statistic),
        "information": [round(float(v), 4) for v in information[order]],
        "variance": [round(float(v), 4) for v in variance[order]],
        "to_gain": float((second - 1 - second.log()).sum() / 2),
    }


def scored(
    vae: pc.CorExVAE, features: Any, seen: Tensor, unseen: Tensor, seed: int
) -> dict[str, Any]:
    """The quality of samples of all kinds, and the densities that they are from."""
    posterior = pc.AggregatePosterior.from_data(vae, seen, batch_size=500)
    n, generator = len(unseen), torch.Generator(seen.device).manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TC.z. can be bounded from above only loosely")
        tc = posterior.total_correlation()
        gaussian, mixture = posterior.fit_joint(1), posterior.fit_joint(COMPONENTS)
    with torch.no_grad():
        own = torch.cat([vae.encode(part).mean for part in unseen.split(500)])
        codes = {
            "prior": torch.randn(own.shape, generator=generator, device=own.device),
            "product": posterior.sample(n, generator),
            "Gaussian": gaussian.sample(n, generator),
            "mixture": mixture.sample(n, generator),
            "reconstructions": own,
        }
        drawn = {
            kind: torch.cat([vae.decode(part).mean for part in z.split(500)]).clamp(0, 1)
            for kind, z in codes.items()
        }
    found: dict[str, Any] = {}
    for what, reference in (("images", unseen), ("reconstructions", drawn["reconstructions"])):
        scores = {kind: sample_quality(features, reference, drawn[kind]) for kind in KINDS}
        found[what] = {
            kind: {key: [s.estimate, s.stderr] for key, s in vars(quality).items()}
            for kind, quality in scores.items()
        }
    kept = {"Gaussian": gaussian, "mixture": mixture}
    return {
        **found,
        **spread_of(posterior),
        "tc": [tc.lower, tc.upper],
        "kept": {kind: [q.gain.value, q.gain.stderr] for kind, q in kept.items()},
        "components": len(mixture.mixture.weights),
    }


def run(rows: Rows, section: str, args: argparse.Namespace) -> None:
    """Trains what is missing, and scores it."""
    steps = 16 if args.smoke else STEPS[section]
    looks = [steps // 2**k for k in range(3 if args.smoke else 7)] if section == "variances" else []
    for name, seen, unseen in images_of(args):
        seeds = [s for s in args.seeds or SEEDS[section] if not rows.has(section, name, s)]
        if not seeds:
            continue
        if torch.cuda.is_available():  # all data at once, in place of a batch at each step
            seen, unseen = seen.cuda(), unseen.cuda()
        features = train_features(seen, steps=10 if args.smoke else 1000)
        for seed in seeds[:1] if args.smoke else seeds:
            start = time.perf_counter()
            size = (4, 0.1) if args.smoke else SIZES[name]
            vae, on_the_way = train(seen, size, steps, seed, args.capture, looks)
            trained = time.perf_counter()
            rows.add(
                section=section,
                name=name,
                seed=seed,
                latents=size[0],
                scale=size[1],
                steps=steps,
                data=len(seen),
                held_out=len(unseen),
                **scored(vae, features, seen, unseen, seed),
                on_the_way=on_the_way,
                seconds=[trained - start, time.perf_counter() - trained],
                device=torch.cuda.get_device_name() if seen.is_cuda else "CPU",
            )


# ---------------------------------------------------------------------- tables


def of_samples(rows: list[dict[str, Any]]) -> list[str]:
    """The quality of samples."""
    head = (
        "| samples | steps | seeds | to the images | of the product's | to reconstructions "
        "| of the product's | precision | recall |"
    )
    lines = [head, "| --- " * 9 + "|"]
    for name, steps in settings(rows):
        runs = [r for r in rows if (r["name"], r["steps"]) == (name, steps)]
        for kind in KINDS:
            cells = distances(runs, "images", kind) + distances(runs, "reconstructions", kind)
            cells += [
                spread([r["reconstructions"][kind][key][0] for r in runs], 2)
                for key in ("precision", "recall")
            ]
            if kind == "reconstructions":
                cells[2:] = [""] * 4
            lines.append(f"| {name}, {kind} | {steps:,} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def settings(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The data sets and numbers of steps that there are."""
    return sorted({(r["name"], r["steps"]) for r in rows})


def distances(runs: list[dict[str, Any]], what: str, kind: str) -> list[str]:
    """Frechet distances, and their share of the product's; in brackets half the 95 % interval of a
    seed, and in how many seeds the intervals of the two do not overlap."""
    own, product = ([r[what][k]["frechet"] for r in runs] for k in (kind, "product"))
    values = [value for value, _ in own]
    digits = 0 if max(values) >= 100 else 1
    error = 1.96 * statistics.mean(error for _, error in own)
    found = f"{spread(values, digits)} ({error:.{digits}f})"
    if kind == "product":
        return [found, ""]
    pairs = list(zip(own, product, strict=True))
    share = spread([100 * mine[0] / other[0] for mine, other in pairs], 0)
    apart = [abs(v - w) > 1.96 * (e + f) for (v, e), (w, f) in pairs]
    return [found, f"{share} % ({sum(apart)} of {len(apart)})"]


def of_densities(rows: list[dict[str, Any]]) -> list[str]:
    """What the joint densities keep."""
    head = (
        "| nats | steps | seeds | TC(z), between | the Gaussian keeps | the mixture keeps "
        "| components |"
    )
    lines = [head, "| --- " * 7 + "|"]
    for name, steps in settings(rows):
        runs = [r for r in rows if (r["name"], r["steps"]) == (name, steps)]
        ends = " and ".join(spread([r["tc"][i] for r in runs], 1) for i in (0, 1))
        kept = " | ".join(
            spread([r["kept"][k][0] for r in runs], 1) for k in ("Gaussian", "mixture")
        )
        many = ", ".join(str(k) for k in sorted({r["components"] for r in runs}))
        lines.append(f"| {name} | {steps:,} | {len(runs)} | {ends} | {kept} | {many} |")
    return lines


def of_variances(rows: list[dict[str, Any]]) -> list[str]:
    """How far latents spread, on the way and at the end."""
    head = (
        "| 128 latents | steps | seeds | variance above 2, % | quartiles of variance | largest "
        "| rank correlation with I(z_j:x) | ELBO to gain by scales, nats |"
    )
    lines = [head, "| --- " * 8 + "|"]
    for name in sorted({r["name"] for r in rows}):
        runs = [r for r in rows if r["name"] == name]
        for at in range(len(runs[0]["on_the_way"])):
            stage = [r["on_the_way"][at] for r in runs]
            each = [torch.tensor(s["variance"]) for s in stage]
            quarters = torch.stack([v.quantile(torch.tensor([0.25, 0.5, 0.75])) for v in each])
            cells = [
                spread([100 * s["above_two"] for s in stage], 0),
                ", ".join(f"{float(q):.2f}" for q in quarters.mean(0)),
                spread([float(v.max()) for v in each], 2),
                spread([s["rank_correlation"] for s in stage], 2),
                spread([s["to_gain"] for s in stage], 1),
            ]
            lines.append(f"| {name} | {stage[0]['step']:,} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Fig. 7 on the way and at the end, of photographs (or of what there is)."""
    from matplotlib.figure import Figure

    names = sorted({r["name"] for r in rows})
    drawn = Figure(figsize=(8, 3.4 * len(names)), layout="constrained")
    axes = drawn.subplots(len(names), 2, squeeze=False)
    for name, (left, right) in zip(names, axes, strict=True):
        stages = next(r for r in rows if r["name"] == name)["on_the_way"][::2]
        for k, stage in enumerate(stages):
            colour = (0.1, 0.25, 0.45, 1 - 0.8 * (1 - k / max(1, len(stages) - 1)))
            values = torch.tensor(stage["variance"]).sort().values
            share = torch.arange(1, len(values) + 1) / len(values)
            left.step(values, share, where="post", color=colour, label=f"{stage['step']:,} steps")
            if k in (0, len(stages) - 1):
                mark = "D" if k else "o"
                right.scatter(
                    stage["variance"],
                    stage["information"],
                    s=14,
                    marker=mark,
                    color=colour,
                    label=f"{stage['step']:,} steps",
                )
        for ax in (left, right):
            ax.axvline(1.0, color="0.6", linewidth=0.8, zorder=0)
            ax.axvline(WIDE, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            ax.set(xlabel="variance of $p(z_j)$", title=name)
            ax.legend(fontsize=8, frameon=False)
            ax.spines[["top", "right"]].set_visible(False)
        left.set_ylabel("share of the latents")
        right.set_ylabel("$I(z_j : x)$, nats")
    drawn.savefig(path, dpi=120)


def table(rows: Rows) -> str:
    """Everything that has been run."""
    wide = [r for r in rows.rows if r["section"] == "variances"]
    known = [r for r in rows.rows if r["section"] in STEPS]
    if not known:
        return ""
    parts = [
        *of_samples(known),
        "\n<!-- densities -->\n",
        *of_densities(known),
        "\n<!-- variances -->\n",
        *of_variances(wide),
    ]
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Run sections, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*STEPS, []])
    parser.add_argument("--out", type=Path, help="append a JSON line for each run, and resume")
    parser.add_argument("--mnist", type=Path, help="folder that holds MNIST")
    parser.add_argument("--photographs", type=Path, help="folder or zip archive of images")
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--capture", action="store_true", help="CUDA graphs")
    parser.add_argument("--figure", type=Path, help="draw Fig. 7 there")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args(argv)
    rows = Rows(args.out)
    for section in args.sections:
        run(rows, section, args)
    print(table(rows))
    if args.figure:
        figure([r for r in rows.rows if r["section"] == "variances"], args.figure)


if __name__ == "__main__":
    main()
