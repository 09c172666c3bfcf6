"""Samples from the product of the p(z_j) (Sec. 6.3), and five anchors of 2,048 latents (Sec. 6.2).

    python benchmarks/samples.py sampling --out samples.jsonl --mnist DIR --photographs faces.zip
    python benchmarks/samples.py anchors --out samples.jsonl --photographs faces.zip [--conv]
    python benchmarks/samples.py --out samples.jsonl            # the tables of what is there so far

A line is written for each run; what is there already is not run again.  Of photographs nothing but
numbers is kept.

sampling: from a standard normal and from the product of the p(z_j) of one and the same plain VAE of
32 latents, scored against images that neither it nor the features have seen, and against the VAE's
reconstructions of these, which is to leave out what the decoder cannot draw.
anchors: squared error and a KL weight of 0.5 on five latents of 2,048, or on none; on principal
components, or with --conv in the paper's three convolutions, which takes hours on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from anchors import BATCH, COMPONENTS, Rows, Setting, spread, train
from sample_quality import sample_quality, train_features
from torch import Tensor

import pyro_corex as pc
from pyro_corex.datasets import ImageFiles, PrincipalComponents, mnist, synthetic_faces
from pyro_corex.programs import NormalLikelihood, conv_decoder, conv_encoder

SEEDS, STEPS = range(10, 13), 800


def photographs_in(path: Path) -> Tensor:
    files = ImageFiles(path)
    return torch.stack([files[i] for i in range(len(files))])


def sampling_data(data: Path | None, photographs: Path | None) -> Iterator[tuple[str, Any, float]]:
    """Name, images to train on and to score against, scale."""
    if data:
        x = mnist(data).x[:20_000].unflatten(1, (1, 28, 28))
        yield "MNIST", torch.nn.functional.pad(x, (2, 2, 2, 2)), 0.3
    if photographs:
        yield "photographs", photographs_in(photographs), 0.1
    yield "synthetic faces", synthetic_faces(8000, 30)[0], 0.1


def sampling(rows: Rows, data: Path | None, photographs: Path | None, quick: bool) -> None:
    """Scores samples of both kinds against images that neither network has seen."""
    for name, images, scale in sampling_data(data, photographs):
        seeds = [
            s
            for s in SEEDS
            if not rows.has("sampling", f"{name}, reconstructions against images", s)
        ]
        if not seeds:
            continue
        held = min(2000, len(images) // 4)
        seen, unseen = images[held:], images[:held]
        components = PrincipalComponents.of(seen[:2000], COMPONENTS)
        features = train_features(seen, steps=20 if quick else 300)
        x = components.project(seen)
        epochs = 1 if quick else -(-STEPS * BATCH // len(x))
        for seed in seeds:
            vae = train(x, Setting(), seed, latents=32, scale=scale, epochs=epochs)
            posterior = pc.AggregatePosterior.from_data(vae, x)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                own = vae.encode(components.project(unseen))
                codes = {
                    "prior": torch.randn(held, 32, generator=generator),
                    "product": posterior.sample(held, generator),
                    "reconstructions": own.mean,
                }
                drawn = {
                    kind: components.images(vae.decode(z).mean).clamp(0, 1)
                    for kind, z in codes.items()
                }
            for kind, images in drawn.items():
                against = {"images": unseen}
                if kind != "reconstructions":
                    against["reconstructions"] = drawn["reconstructions"]
                for what, reference in against.items():
                    quality = sample_quality(features, reference, images)
                    rows.add(
                        section="sampling",
                        name=f"{name}, {kind} against {what}",
                        seed=seed,
                        scale=scale,
                        images=held,
                        variances=posterior.variance.quantile(
                            torch.tensor([0.0, 0.5, 1.0])
                        ).tolist(),
                        mutual_information=float(posterior.mutual_information().sum()),
                        **{key: [s.estimate, s.stderr] for key, s in vars(quality).items()},
                    )


def anchors(rows: Rows, photographs: Path | None, conv: bool, quick: bool) -> None:
    """2,048 latents, squared error; weights of 0.5 on five, or on none."""
    shape, channels, latents = (3, 64, 64), (16, 32, 64), 16 if quick else 2048
    epochs = 1 if quick else 20
    what = "photographs" if photographs else "synthetic faces"
    images = photographs_in(photographs) if photographs else synthetic_faces(400, 0)[0]
    components = None if conv else PrincipalComponents.of(images[:2000], COMPONENTS)
    x = images if components is None else components.project(images)
    for scale in (0.5, 0.3, 0.1):
        for name, setting in (("anchored", Setting(5, 0.5)), ("plain", Setting())):
            full = f"{what}, {'conv' if conv else 'small'}, scale {scale:g}, {name}"
            if rows.has("anchors", full, 10):
                continue
            start = time.process_time()
            if components is None:
                torch.manual_seed(10)
                vae = pc.AnchorVAE(
                    conv_encoder(shape, latents, channels),
                    conv_decoder(latents, shape, channels),
                    latents,
                    anchors=setting.weights(0.0)[0],
                    likelihood=NormalLikelihood(scale),
                )
                pc.fit(vae, x, epochs=epochs, batch_size=64, seed=10, progress=False)
            else:
                vae = train(x, setting, 10, latents=latents, scale=scale, epochs=epochs)
            posterior = pc.AggregatePosterior.from_data(vae, x, batch_size=256)
            information = posterior.mutual_information()
            order = information.argsort(descending=True)[:8]
            rows.add(
                section="anchors",
                name=full,
                seed=10,
                top=order.tolist(),
                information=information[order].tolist(),
                anchors=information[:5].tolist(),
                best_free=float(information[5:].max()),
                active=int((information > 0.05).sum()),
                latents=latents,
                data=len(x),
                epochs=epochs,
                seconds=time.process_time() - start,
            )


def table(rows: Rows) -> None:
    """Everything that has been run."""
    print("\n| samples | seeds | Frechet distance | precision | recall |")
    print("| --- | --- | --- | --- | --- |")
    for name in sorted({r["name"] for r in rows.rows if r["section"] == "sampling"}):
        runs = rows.of("sampling", name)
        cells = []
        for key in ("frechet", "precision", "recall"):
            error = statistics.mean(r[key][1] for r in runs)
            cells.append(f"{spread([r[key][0] for r in runs])} ({1.96 * error:.3f})")
        print(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    print("\n| 2,048 latents | top five by I | anchors, nats | best free | active |")
    print("| --- | --- | --- | --- | --- |")
    for r in rows.rows:
        if r["section"] == "anchors":
            best = ", ".join(f"z{j} {v:.2f}" for j, v in zip(r["top"], r["information"]))  # noqa: B905
            own = ", ".join(f"{v:.2f}" for v in r["anchors"])
            print(f"| {r['name']} | {best} | {own} | {r['best_free']:.2f} | {r['active']} |")


def main(argv: list[str] | None = None) -> None:
    """Run sections, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=["sampling", "anchors", []])
    parser.add_argument("--out", type=Path, help="append a JSON line for each run, and resume")
    parser.add_argument("--mnist", type=Path, help="folder that holds MNIST")
    parser.add_argument("--photographs", type=Path, help="folder or zip archive of images")
    parser.add_argument("--conv", action="store_true", help="the paper's network")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args(argv)
    rows = Rows(args.out)
    if "sampling" in args.sections:
        sampling(rows, args.mnist, args.photographs, args.quick)
    if "anchors" in args.sections:
        anchors(rows, args.photographs, args.conv, args.quick)
    table(rows)


if __name__ == "__main__":
    main()
