"""What training costs, as ratios to the same network trained by hand in PyTorch.

    python benchmarks/training.py [--sections overhead steps ...] [--out ROWS]
    python benchmarks/training.py --pythae FOLDER
    python benchmarks/training.py --table ROWS    # prints tables of the times that are kept

docs/results has the rows of the sections "epochs", "evaluation", "overhead" and "scaling".

Networks: the paper's MNIST stack (784-512-512-64 and 64-32-32-16-16-10, mirrored decoders, the top
summed over), its first layer alone as a VAE ("mlp"), and a convolutional VAE ("conv"); batches of
128 of random binary data.  The contestants take turns within one run, so that a machine whose speed
drifts does the same to all of them; a ratio is the median over the rounds, with quartiles.

By hand, as people write it, is a DataLoader over a TensorDataset and torch.optim.Adam with its
defaults.  fit uses torch's fused Adam and indexes the tensor, so that the table has the same by
hand and fit with Adam's defaults, too.

All sections but "processes" count this process's CPU time, in which others on the machine have less
part.  "overhead" has networks of 20-16-8 and batches of 16, where arithmetic costs next to nothing,
and the paper's; a small step by hand is on a batch that is there, while fit's shuffles, indexes and
keeps a history, too.  There `fit` has runs of 2,000 steps, recording included.

pythae is compared with where it is there.  It is for this benchmark alone, and its pins are old, so
it goes to a folder of its own:

    pip install --no-deps --target FOLDER \\
        pythae cloudpickle imageio pydantic pydantic-core annotated-types typing-inspection
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import itertools
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from by_hand import pythae_model, stack_loss, vae_loss
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex.programs import conv_decoder, conv_encoder, mlp_decoder, mlp_encoder

BATCH = 128
LR = 1e-3
TC_WEIGHT = 5.0
BY_HAND, FUSED = "PyTorch by hand", "by hand with fused Adam"

Epochs = Callable[[int], list[float]]
"""Trains for so many epochs, and says how many seconds each took."""


def paper_stack() -> pc.StackedCorEx:
    return pc.StackedCorEx([(784, 512, 512, 64), (64, 32, 32, 16, 16, 10)])


def small_vae() -> pc.CorExVAE:
    return pc.CorExVAE(mlp_encoder([20, 16, 8]), mlp_decoder([8, 16, 20]), 8)


def small_stack() -> pc.StackedCorEx:
    return pc.StackedCorEx([(20, 16, 8), (8, 16, 10)])


def mlp_vae(latents: int = 64) -> pc.CorExVAE:
    encoder, decoder = mlp_encoder([784, 512, 512, latents]), mlp_decoder([latents, 512, 512, 784])
    return pc.CorExVAE(encoder, decoder, latents)


def conv_vae() -> pc.CorExVAE:
    shape, channels = (1, 28, 28), (32, 64)
    return pc.CorExVAE(conv_encoder(shape, 64, channels), conv_decoder(64, shape, channels), 64)


# network: the program, its loss by hand, the shape of a datum, Pyro's objective, batches an epoch
NETWORKS = {
    "stack": (paper_stack, stack_loss, (784,), TraceEnum_ELBO, 16),
    "mlp": (mlp_vae, vae_loss, (784,), TraceMeanField_ELBO, 16),
    "conv": (conv_vae, vae_loss, (1, 28, 28), TraceMeanField_ELBO, 6),
}


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=LR)


def fused_adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=LR, fused=True)


# ---------------------------------------------------------------------- contestants


def loaded(x: Tensor) -> Iterator[Tensor]:
    for (batch,) in DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True):
        yield batch


def indexed(x: Tensor) -> Iterator[Tensor]:
    for rows in torch.randperm(len(x)).split(BATCH):
        yield x[rows]


def by_hand(module: nn.Module, loss: Any, x: Tensor, batches: Any, make: Any) -> Epochs:
    optimiser = make(module.parameters())

    def epoch() -> None:
        total = 0.0
        for batch in batches(x):
            optimiser.zero_grad()
            value = loss(module, batch)
            value.backward()
            optimiser.step()
            total += value.item()

    return cpu_time(epoch)


def by_svi(module: Any, objective: Any, x: Tensor, validate: bool) -> Epochs:
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": LR}), objective)

    def epoch() -> None:
        with pyro.validation_enabled(validate):
            for batch in loaded(x):
                svi.step(batch)

    return cpu_time(epoch)


def by_fit(module: nn.Module, x: Tensor, **options: Any) -> Epochs:
    options = {"batch_size": BATCH, "lr": LR, "device": "cpu", "progress": False, **options}

    def run(epochs: int) -> list[float]:
        history = pc.fit(module, x, epochs=epochs, **options)
        return history["seconds"]

    return run


class Marks:
    """A logger that notes the CPU time after each epoch."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.times.append(time.process_time())

    def finalize(self, status: str) -> None:
        pass


def cpu_of_fit(module: nn.Module, x: Tensor, **options: Any) -> Epochs:
    """As :func:`by_fit`, in CPU time."""
    options = {"batch_size": BATCH, "lr": LR, "device": "cpu", "progress": False, **options}

    def run(epochs: int) -> list[float]:
        marks = Marks()
        pc.fit(module, x, epochs=epochs, callback=marks, **options)
        return [b - a for a, b in itertools.pairwise(marks.times)]

    return run


RUN = 2000
"""Steps of a run that is long enough for `fit` to record them by default."""


def cpu_of_run(module: nn.Module, x: Tensor, **options: Any) -> Epochs:
    """The CPU time of an epoch in one run of ``RUN`` steps, recording and all."""
    options = {"batch_size": BATCH, "lr": LR, "device": "cpu", "progress": False, **options}
    number = RUN * options["batch_size"] // len(x)

    def run(epochs: int) -> list[float]:
        start = time.process_time()
        pc.fit(module, x, epochs=number, **options)
        return [(time.process_time() - start) / number] * epochs

    return run


def cpu_time(one: Callable[[], Any], times: int = 1) -> Epochs:
    """The CPU time of ``one``, so many times an epoch."""

    def run(epochs: int) -> list[float]:
        found = []
        for _ in range(epochs):
            start = time.process_time()
            for _ in range(times):
                one()
            found.append(time.process_time() - start)
        return found

    return run


def by_pythae(vae: pc.CorExVAE, x: Tensor, tc_weight: float = 0.0) -> Epochs:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    for name in ("pythae", "pythae.trainers", "pythae.trainers.base_trainer.base_trainer"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    model = pythae_model(vae, tuple(x.shape[1:]), tc_weight)
    seconds: list[float] = []

    class Trainer(BaseTrainer):
        def train_step(self, epoch: int) -> Any:  # without the copies that it makes in between
            start = time.process_time()
            loss = super().train_step(epoch)
            seconds.append(time.process_time() - start)
            return loss

    def run(epochs: int) -> list[float]:
        seconds.clear()
        silence = (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        )
        with tempfile.TemporaryDirectory() as folder, silence[0], silence[1]:
            config = BaseTrainerConfig(
                output_dir=folder, num_epochs=epochs, learning_rate=LR, no_cuda=True,
                per_device_train_batch_size=BATCH,
            )  # fmt: skip
            data = BaseDataset(x, torch.zeros(len(x)))
            Trainer(model=model, train_dataset=data, training_config=config, callbacks=[]).train()
        return list(seconds)

    return run


# ---------------------------------------------------------------------- measuring


def take_turns(contestants: dict[str, Epochs], rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch; the first of each run is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            seconds[name].append(statistics.median(run(4)[1:]))
    return seconds


KEPT: list[dict[str, Any]] = []
"""What was measured: a row for each contestant."""


def report(
    title: str, seconds: dict[str, list[float]], count: int, *bases: str, unit: str = "a step"
) -> None:
    """Keeps and prints times: each over those of ``bases``, round by round."""
    about = {"title": title, "unit": unit, "count": count, "bases": bases}
    about |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    rows = [about | {"name": name, "seconds": times} for name, times in seconds.items()]
    KEPT.extend(rows)
    print(f"\n{table(rows)}", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """A table for each title."""
    tables = []
    for title, of_title in itertools.groupby(rows, lambda row: row["title"]):
        group = list(of_title)
        seconds = {row["name"]: row["seconds"] for row in group}
        bases, unit = group[0]["bases"], group[0]["unit"]
        head = [title, f"ms {unit}", *(f"over {base}" for base in bases)]
        lines = [head, ["---"] * len(head)]
        for row in group:
            median = statistics.median(row["seconds"]) / row["count"] * 1e3
            over = [ratios(row["seconds"], seconds[base]) for base in bases]
            lines.append([row["name"], f"{median:.2f}", *over])
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)


def overhead(rounds: int, pythae: bool) -> None:
    """What is left beside the arithmetic: small networks, and the paper's."""
    n, batch = 100, 16
    plain = {"devices": pc.Devices(capture=False)}
    small = (
        ("VAE", small_vae, vae_loss, Trace_ELBO),
        ("stack", small_stack, stack_loss, TraceEnum_ELBO),
    )
    for name, make, loss, pyros in small:
        x = _random(n * batch, (20,))

        def step(
            make_optimiser: Any, value: Any, make: Any = make, x: Tensor = x[:batch]
        ) -> Epochs:
            module = make()
            optimiser = make_optimiser(module.parameters())

            def one() -> None:
                optimiser.zero_grad()
                value(module, x).backward()
                optimiser.step()

            return cpu_time(one, n)

        def ours(module: Any, x: Tensor, elbo: Any = pc.CorExELBO()) -> Tensor:  # noqa: B008
            with pyro.validation_enabled(False):
                return elbo.differentiable_loss(module.model, module.guide, x)

        def svi(elbo: Any, make: Any = make, x: Tensor = x[:batch], **options: Any) -> Epochs:
            module = make()
            optimiser = pyro.optim.Adam({"lr": LR, **options})
            taken = SVI(module.model, module.guide, optimiser, elbo)
            return cpu_time(lambda: taken.step(x), n)

        fits = {"batch_size": batch}
        contestants = {
            BY_HAND: step(adam, loss),
            FUSED: step(fused_adam, loss),
            "CorExELBO": step(adam, ours),
            "CorExELBO, fused Adam": step(fused_adam, ours),
            "fit": cpu_of_run(make(), x, **fits),
            "fit, capture=False": cpu_of_run(make(), x, **fits, **plain),
            "CorExELBO, SVI": svi(pc.CorExELBO()),
            "CorExELBO, SVI, fused Adam": svi(pc.CorExELBO(), fused=True),
            f"{pyros.__name__}, SVI": svi(pyros()),
        }
        title = f"{name} of 20-16-8, batches of {batch}"
        report(title, take_turns(contestants, rounds), n, BY_HAND, FUSED)
    for name in (name for name in ("stack", "mlp") if name in NETWORKS):
        make, loss, shape, _, batches = NETWORKS[name]
        x = _random(BATCH * batches, shape)

        def hand(
            batches: Any, make_optimiser: Any, make: Any = make, loss: Any = loss, x: Any = x
        ) -> Epochs:
            module = make()
            optimiser = make_optimiser(module.parameters())

            def epoch() -> None:
                for batch in batches(x):
                    optimiser.zero_grad()
                    value = loss(module, batch)
                    value.backward()
                    optimiser.step()
                    value.item()

            return cpu_time(epoch)

        contestants = {
            BY_HAND: hand(loaded, adam),
            FUSED: hand(indexed, fused_adam),
            "fit": cpu_of_run(make(), x),
            "fit, capture=False": cpu_of_run(make(), x, **plain),
        }
        title = f"{name} of the paper's size, batches of {BATCH}"
        report(title, take_turns(contestants, rounds), batches, BY_HAND, FUSED)


def evaluation(rounds: int, pythae: bool) -> None:
    """What comes after training, against one pass of the bare networks over the data."""
    n, rows, draws = 4096, 1024, 4
    for name in (name for name in ("stack", "mlp") if name in NETWORKS):
        make, _, shape, _, _ = NETWORKS[name]
        module, x = make().eval(), _random(n, shape)
        stacked = name == "stack"
        encoders = list(module.encoders) if stacked else [module.encoder]
        decoders = list(module.decoders) if stacked else [module.decoder]

        def encoded(
            x: Tensor, decode: bool, encoders: Any = encoders, decoders: Any = decoders
        ) -> None:
            """One layer after the other, and each layer decoded from its own codes."""
            h = x
            for encoder, decoder in zip(encoders, decoders, strict=True):
                h = encoder(h)
                h = h if h.shape[-1] == 10 else h.chunk(2, -1)[0]
                if decode:
                    decoder(h)

        def one_pass(decode: bool, x: Tensor = x, encoded: Any = encoded) -> Epochs:
            return cpu_time(lambda: [encoded(part, decode) for part in x.split(rows)])

        def of(function: Any, module: Any = module, x: Tensor = x, **options: Any) -> Epochs:
            return cpu_time(lambda: function(module, x, **options))

        arviz = {"num_draws": draws, "num_chains": 1, "num_predictive": 0}
        encoder, both = "the encoder, bare", "encoder and decoder, bare"
        with torch.no_grad():
            contestants = {
                encoder: one_pass(False),
                both: one_pass(True),
                "AggregatePosterior.from_data": of(pc.AggregatePosterior.from_data),
                "tc_bound": of(pc.tc_bound),
                f"to_arviz, {draws} draws and the bound": of(pc.to_arviz, **arviz),
            }
            seconds = take_turns(contestants, rounds)
        report(f"{name}, {n} data", seconds, 1, encoder, both, unit="a pass")


def steps(rounds: int, pythae: bool) -> None:
    """A step on a batch that is there, without a loop around it."""
    for name, (make, loss, shape, objective, _) in NETWORKS.items():
        torch.manual_seed(0)
        first = make()
        x = torch.bernoulli(torch.full((BATCH, *shape), 0.5))

        def torch_step(make_optimiser: Any, value: Any, first: Any = first) -> Epochs:
            module = copy.deepcopy(first)
            optimiser = make_optimiser(module.parameters())

            def step() -> None:
                optimiser.zero_grad()
                value(module).backward()
                optimiser.step()

            return lambda epochs: cpu_time(step)(5 * epochs)

        def svi_step(elbo: Any, validate: bool, first: Any = first, x: Tensor = x) -> Epochs:
            module = copy.deepcopy(first)
            svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": LR}), elbo)

            def step() -> None:
                with pyro.validation_enabled(validate):
                    svi.step(x)

            return lambda epochs: cpu_time(step)(5 * epochs)

        def written(module: Any, loss: Any = loss, x: Tensor = x) -> Tensor:
            return loss(module, x)

        elbo = pc.CorExELBO()

        def ours(module: Any, x: Tensor = x, elbo: Any = elbo) -> Tensor:
            with pyro.validation_enabled(False):
                return elbo.differentiable_loss(module.model, module.guide, x)

        contestants = {
            BY_HAND: torch_step(adam, written),
            FUSED: torch_step(fused_adam, written),
            "CorExELBO": torch_step(adam, ours),
            "CorExELBO, fused Adam": torch_step(fused_adam, ours),
            "CorExELBO, SVI, no validation": svi_step(pc.CorExELBO(), False),
            f"{objective.__name__}, SVI": svi_step(objective(), True),
            f"{objective.__name__}, SVI, no validation": svi_step(objective(), False),
        }
        if pythae and name != "stack":
            model = pythae_model(copy.deepcopy(first), shape, 0.0)
            optimiser = adam(model.parameters())

            def step(model: Any = model, optimiser: Any = optimiser, x: Tensor = x) -> None:
                optimiser.zero_grad()
                model({"data": x}).loss.backward()
                optimiser.step()

            contestants["pythae VAE"] = lambda epochs, step=step: cpu_time(step)(5 * epochs)
        report(name, take_turns(contestants, rounds), 1, BY_HAND)


def epochs(rounds: int, pythae: bool) -> None:
    """An epoch, with whatever brings the data."""
    for name, (make, loss, shape, objective, batches) in NETWORKS.items():
        torch.manual_seed(0)
        first = make()
        x = torch.bernoulli(torch.full((BATCH * batches, *shape), 0.5))

        def new(first: Any = first) -> Any:
            return copy.deepcopy(first)

        contestants = {
            BY_HAND: by_hand(new(), loss, x, loaded, adam),
            "by hand, indexing": by_hand(new(), loss, x, indexed, adam),
            "by hand, indexing, fused Adam": by_hand(new(), loss, x, indexed, fused_adam),
            "fit": cpu_of_fit(new(), x, devices=pc.Devices(capture=False)),
            "fit, Adam as by hand": cpu_of_fit(
                new(), x, optimizer=adam, devices=pc.Devices(capture=False)
            ),
            "fit, networks compiled": cpu_of_fit(
                new(), x, devices=pc.Devices(compile_networks=True)
            ),
            "fit, bf16-mixed": cpu_of_fit(new(), x, devices=pc.Devices(precision="bf16-mixed")),
            f"{objective.__name__}, SVI": by_svi(new(), objective(), x, True),
            f"{objective.__name__}, SVI, no validation": by_svi(new(), objective(), x, False),
        }
        if name != "stack":
            penalty = pc.regularizers.MinibatchTotalCorrelation(TC_WEIGHT)
            contestants["fit, penalty of beta-TCVAE"] = cpu_of_fit(
                new(), x, elbo=pc.CorExELBO(regularizers=[penalty])
            )
        if pythae and name != "stack":
            contestants["pythae VAE"] = by_pythae(new(), x)
            contestants["pythae BetaTCVAE"] = by_pythae(new(), x, TC_WEIGHT)
        seconds = take_turns(contestants, rounds)
        bases = [BY_HAND, "fit", "fit, penalty of beta-TCVAE"]
        report(f"{name}, an epoch", seconds, batches, *(b for b in bases if b in seconds))


def ratios(a: list[float], b: list[float]) -> str:
    low, middle, high = statistics.quantiles([p / q for p, q in zip(a, b, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def scaling(rounds: int, pythae: bool) -> None:
    """How the time of fit grows with the number of data, of latents and of classes."""

    def with_classes(k: int) -> pc.StackedCorEx:
        return pc.StackedCorEx([(784, 512, 512, 64), (64, 32, 32, 16, 16, k)], n_classes=k)

    n = 1024
    epochs = {f"{n} data": (mlp_vae(), n) for n in (1024, 2048, 4096, 8192)}
    latents = {f"{m} latents": (mlp_vae(m), n) for m in (16, 64, 256, 1024)}
    classes = {f"{k} classes, summed over": (with_classes(k), n) for k in (10, 100, 300, 1000)}
    for title, sizes, steps, unit in (
        ("mlp, fit", epochs, 1, "an epoch"),
        ("mlp, fit", latents, n // BATCH, "a step"),
        ("stack, fit", classes, n // BATCH, "a step"),
    ):
        runs = {name: cpu_of_fit(module, _random(size)) for name, (module, size) in sizes.items()}
        report(f"{title}: {unit}", take_turns(runs, rounds), steps, next(iter(sizes)), unit=unit)


def processes(rounds: int, pythae: bool) -> None:
    """Two processes of one thread each, against one: they exchange gradients at every step."""
    torch.set_num_threads(1)
    print("\nTwo processes: throughput over that of one")
    for name, make in (("stack", paper_stack), ("mlp", mlp_vae), ("conv", conv_vae)):
        if name not in NETWORKS:
            continue
        for batch in (BATCH, 4 * BATCH):
            x = _random(batch * (8 if name == "conv" else 16), NETWORKS[name][2])
            runs = {str(n): by_fit(make(), x, devices=n, batch_size=batch) for n in (1, 2)}
            seconds = take_turns(runs, rounds)
            print(f"{name:6} {batch} a process: {ratios(seconds['1'], seconds['2'])}", flush=True)


def memory(rounds: int, pythae: bool) -> None:
    """What the process holds after every 2,000 of 10,000 steps whose batches change in size."""
    kilobytes = {True: [], False: []}
    for capture, held in kilobytes.items():
        torch.manual_seed(0)
        sizes = torch.randint(2, 64, (2000,)).tolist()
        batches = [_random(size if at % 4 else 64, (20,)) for at, size in enumerate(sizes)]

        def note(*_: Any, held: list[int] = held) -> None:
            lines = Path("/proc/self/status").read_text().splitlines()
            held.append(int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))))

        pc.fit(
            pc.CorExVAE(mlp_encoder([20, 16, 8]), mlp_decoder([8, 16, 20]), 8),
            DataLoader(batches, batch_size=None), epochs=5, lr=LR, device="cpu", progress=False,
            devices=pc.Devices(capture=capture), callback=note,
        )  # fmt: skip
    print("\nMiB held after each 2,000 steps")
    for capture, held in kilobytes.items():
        shown = ", ".join(f"{kb / 1024:.1f}" for kb in held)
        print(f"{'recorded' if capture else 'as they are':12}{shown}", flush=True)


def _random(n: int, shape: tuple[int, ...] = (784,)) -> Tensor:
    return torch.bernoulli(torch.full((n, *shape), 0.5))


SECTIONS = {
    "overhead": overhead, "steps": steps, "epochs": epochs, "evaluation": evaluation,
    "scaling": scaling, "processes": processes, "memory": memory,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, help="where the times are kept, a line a contestant")
    parser.add_argument("--table", type=Path, help="print the tables of times that are kept")
    parser.add_argument("--pythae", type=Path, help="the folder that pythae was installed to")
    args = parser.parse_args()
    if args.table:
        print(table([json.loads(line) for line in args.table.read_text().splitlines()]))
        return
    torch.set_num_threads(args.threads)
    for name in set(NETWORKS) - set(args.networks):
        del NETWORKS[name]
    if args.pythae:
        sys.path.append(str(args.pythae))
    pythae = importlib.util.find_spec("pythae") is not None
    logging.disable(logging.INFO)  # pythae's, of each run
    print(f"{args.threads} thread(s), batches of {BATCH}, {args.rounds} rounds")
    if not pythae:
        print("pythae is not installed, so it is left out")
    for name in args.sections:
        start = time.perf_counter()
        SECTIONS[name](args.rounds, pythae)
        print(f"[{name}: {time.perf_counter() - start:.0f} s]")
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in KEPT))


if __name__ == "__main__":
    main()
