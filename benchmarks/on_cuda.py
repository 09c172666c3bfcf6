"""What a training step costs on a GPU: fit and the same loop by hand, recorded and not, and SVI.

    python benchmarks/on_cuda.py --out docs/results/on_cuda.jsonl
    python benchmarks/on_cuda.py --table --out docs/results/on_cuda.jsonl

Networks: the paper's MNIST stack (784-512-512-64 and 64-32-32-16-16-10, the top summed over), and a
convolutional AnchorVAE of 2,048 latents on images of 3 x 64 x 64; batches of 128 of random binary
data, which lie on the GPU; fused Adam (SVI has Pyro's own).  The contestants take turns within one
run: times are medians over the rounds, and so are the ratios, with quartiles.  "Recorded" is the
whole step as a CUDA graph: ``fit(devices=Devices(capture=True))``, and by hand.

``--smoke`` is a run of seconds, without recorded steps where there is no GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from by_hand import anchor_loss, stack_loss
from pyro.infer import SVI, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from training import BATCH, BY_HAND, LR, Epochs, by_fit, paper_stack, take_turns

import pyro_corex as pc
from pyro_corex.programs import conv_decoder, conv_encoder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WEIGHTS = {0: 0.1, 1: 0.1, 2: 0.0}


def timed(epochs: int, one: Callable[[], None]) -> list[float]:
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - start)
    return seconds


def anchor_vae(latents: int, image: tuple[int, int, int]) -> tuple[pc.AnchorVAE, tuple[int, ...]]:
    networks = conv_encoder(image, latents), conv_decoder(latents, image)
    return pc.AnchorVAE(*networks, latents, anchors=WEIGHTS), image


Make = Callable[[], tuple[Any, tuple[int, ...]]]

# name: the program, and the shape of a datum
PROGRAMS: dict[str, Make] = {
    "stack": lambda: (paper_stack(), (784,)),
    "AnchorVAE": lambda: anchor_vae(2048, (3, 64, 64)),
}
SMALL: dict[str, Make] = {
    "stack": lambda: (pc.StackedCorEx([(12, 8), (8, 4)], n_classes=4), (12,)),
    "AnchorVAE": lambda: anchor_vae(8, (3, 8, 8)),
}
# name: the loss by hand, and Pyro's
LOSSES = {"stack": (stack_loss, TraceEnum_ELBO), "AnchorVAE": (anchor_loss, TraceMeanField_ELBO)}


def by_hand(module: nn.Module, loss: Any, x: Tensor, recorded: bool) -> Epochs:
    """Epochs of plain PyTorch; with ``recorded`` a step is recorded before the first."""
    own = torch.optim.Adam(module.parameters(), lr=LR, fused=True, capturable=recorded)
    static, graph = x[:BATCH].clone(), None

    def step(batch: Tensor) -> None:
        own.zero_grad(set_to_none=True)
        loss(module, batch).backward()
        own.step()

    def record() -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                step(static)
            own.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(stream)
        made = torch.cuda.CUDAGraph()
        with torch.cuda.graph(made, stream=stream):
            step(static)
        return made

    def epoch() -> None:
        for rows in torch.randperm(len(x)).to(DEVICE).split(BATCH):
            if graph is None:
                step(x[rows])
            else:
                static.copy_(x[rows])
                graph.replay()
        wait()

    def run(epochs: int) -> list[float]:
        nonlocal graph
        if recorded and graph is None:
            graph = record()
        return timed(epochs, epoch)

    return run


def by_svi(module: Any, make_objective: Any, x: Tensor) -> Epochs:
    """Epochs as they would take by a quarter of the data."""
    some = x[: max(BATCH, len(x) // 4)]

    def run(epochs: int) -> list[float]:
        svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": LR}), make_objective())

        def epoch() -> None:
            for rows in torch.randperm(len(some)).to(DEVICE).split(BATCH):
                svi.step(x[rows])
            wait()

        with pyro.validation_enabled(False):
            seconds = timed(epochs, epoch)
        pyro.clear_param_store()  # else fit would go on from there
        return [value * len(x) / len(some) for value in seconds]

    return run


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(name: str, makes: dict[str, Make], rounds: int, batches: int) -> list[dict[str, Any]]:
    """A row for each contestant."""
    loss, objective = LOSSES[name]
    torch.manual_seed(0)
    first, shape = makes[name]()
    first = first.to(DEVICE)
    x = torch.rand(BATCH * batches, *shape, device=DEVICE).round()
    options: dict[str, Any] = {"device": DEVICE, "batch_size": BATCH}
    contestants = {
        BY_HAND: by_hand(copy.deepcopy(first), loss, x, False),
        f"{objective.__name__}, SVI": by_svi(copy.deepcopy(first), objective, x),
        "fit": by_fit(copy.deepcopy(first), x, **options),
    }
    if DEVICE == "cuda":
        options["devices"] = pc.Devices(capture=True)
        contestants["by hand, recorded"] = by_hand(copy.deepcopy(first), loss, x, True)
        contestants["fit, recorded"] = by_fit(copy.deepcopy(first), x, **options)
    for contestant in list(contestants):  # libraries are loaded
        try:
            contestants[contestant](1)
        except RuntimeError as error:
            print(f"{name}: {contestant} is left out: {error}", file=sys.stderr)
            del contestants[contestant]
    seconds = take_turns(contestants, rounds)
    base, rows = seconds[BY_HAND], []
    for contestant, times in seconds.items():
        low, ratio, high = statistics.quantiles(
            [a / b for a, b in zip(times, base, strict=True)], n=4
        )
        row = {"ms": statistics.median(times) / batches * 1e3, "ratio": ratio}
        about = {"network": name, "contestant": contestant, "card": card(), "torch": version()}
        rows.append({**about, **row, "low": low, "high": high})
    return rows


def card() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"


def version() -> str:
    return str(torch.__version__)


def table(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    lines = [
        f"| {first['card']}, torch {first['torch']} | a step | of the loop by hand | quartiles |",
        "| --- | ---: | ---: | --- |",
    ]
    for row in rows:
        spread = f"{row['low']:.2f} to {row['high']:.2f}"
        name = f"{row['network']}: {row['contestant']}"
        lines.append(f"| {name} | {row['ms']:.3f} ms | {row['ratio']:.2f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60, help="in an epoch")
    parser.add_argument("--out", type=Path, help="a file for a row of JSON for each contestant")
    parser.add_argument("--table", action="store_true", help="print the table of such a file")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.table and not (args.out and args.out.exists()):
        parser.error(f"--table prints what --out holds, but there is no file {args.out}")
    if args.table:
        print(table([json.loads(line) for line in args.out.read_text().splitlines()]))
        return
    if args.smoke:
        global BATCH
        BATCH, args.rounds, args.batches = 4, 2, 2
    makes = SMALL if args.smoke else PROGRAMS
    rows: list[dict[str, Any]] = []
    for name in makes:
        rows += measure(name, makes, args.rounds, args.batches)
        if args.out:
            args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


if __name__ == "__main__":
    main()
