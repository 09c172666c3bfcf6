"""Nothing slips off the device, and nothing waits for it.

Without a GPU the forward pass runs on fake CUDA tensors, which have a device but no values: mixing
devices raises, and so does reading a value.  ``StaysOnDevice`` adds what they let pass: copies from
one device to the other, each of which stops a real GPU.  A whole training step, backward and
optimiser included, runs on the ``meta`` device.  With a GPU the first kind runs on it, for real,
and ``fit`` gives with steps that are recorded what it gives without.
"""

import gc
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex import AnchorVAE, CorExELBO, CorExVAE, Invariance, Layer, StackedCorEx, anchor
from pyro_corex.programs import (
    CategoricalLikelihood,
    LearnedNormalLikelihood,
    Likelihood,
    NormalLikelihood,
    Prior,
    conv_decoder,
    conv_encoder,
    mlp,
    mlp_decoder,
    mlp_encoder,
)
from pyro_corex.regularizers import DensityRatio, TotalCorrelation
from pyro_corex.training import capture

B, D, M, K = 5, 6, 3, 4
IMAGE = (1, 8, 8)


# ---------------------------------------------------------------------- the programs


def vae(**options: Any) -> CorExVAE:
    n_params = getattr(options.get("likelihood"), "n_params", 1)
    decoder = mlp_decoder([M, 7, D], n_params=n_params)
    return CorExVAE(mlp_encoder([D, 7, M]), decoder, M, **options)


class Laplace(nn.Module):
    """A prior of the user's own; torch would copy a scale that is a number to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(M))

    def forward(self) -> Any:
        return dist.Laplace(self.loc, torch.ones_like(self.loc), validate_args=False)


def conv_stack() -> StackedCorEx:
    below = Layer(conv_encoder(IMAGE, M, (4,)), conv_decoder(M, IMAGE, (4,)), M)
    return StackedCorEx([below, Layer(mlp([M, K]), mlp([K, 2 * M]), K)], n_classes=K)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "bernoulli, standard_normal": vae,
    "learned_normal prior": lambda: vae(prior="learned_normal"),
    "learned_mixture prior": lambda: vae(prior="learned_mixture"),
    "flat prior": lambda: vae(prior="flat"),
    "user's prior": lambda: vae(prior=Laplace()),
    "continuous_bernoulli": lambda: vae(likelihood="continuous_bernoulli"),
    "categorical": lambda: vae(likelihood=CategoricalLikelihood(3)),
    "normal": lambda: vae(likelihood=NormalLikelihood(0.5)),
    "learned_normal": lambda: vae(likelihood="learned_normal"),
    "learned_normal for each": lambda: vae(likelihood=LearnedNormalLikelihood(D)),
    "AnchorVAE": lambda: AnchorVAE(
        mlp_encoder([D, M]), mlp_decoder([M, D]), M, anchors={0: 0.5, 1: 0.0}
    ),
    "stack, discrete top": lambda: StackedCorEx([(D, 7, M), (M, K)], n_classes=K),
    "stack, continuous": lambda: StackedCorEx([(D, M), (M, 2), (2, 2)], n_classes=None),
    "stack, learned prior": lambda: StackedCorEx(
        [(D, M), (M, 2)], n_classes=None, prior="learned_mixture"
    ),
    "conv": lambda: CorExVAE(conv_encoder(IMAGE, M, (4, 4)), conv_decoder(M, IMAGE, (4, 4)), M),
    "conv stack": conv_stack,
}


def data(name: str, device: str) -> Tensor:
    shape = IMAGE if name.startswith("conv") else (D,)
    return torch.ones(B, *shape, device=device)


def elbo(particles: int = 1) -> CorExELBO:
    # The number of plates is told.  Where it is not, the first call alone waits for the device:
    # Pyro's search for it looks for NaN, and it draws classes, which torch.multinomial checks.
    return CorExELBO(particles, vectorize_particles=particles > 1, max_plate_nesting=2)


# ---------------------------------------------------------------------- devices


class StaysOnDevice(TorchDispatchMode):
    """Raises where an operation copies from one kind of device to another."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in tensors if t.dim() or "copy" in str(func)}
        if len(devices) > 1:
            raise RuntimeError(f"{func} copies between {sorted(devices)}")
        return result


@contextmanager
def fake() -> Iterator[None]:
    # Modules are built outside, on the CPU, and moved by .to("cuda") inside: real parameters can be
    # replaced by fake ones, but not fake ones by others.
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def real() -> Iterator[None]:
    yield


@contextmanager
def real_without_waiting() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
ON_CUDA = [
    pytest.param(fake, StaysOnDevice, id="fake"),
    pytest.param(real, real_without_waiting, id="real", marks=NEEDS_GPU),
]


def forward(program: Any, name: str, watched: Any, objective: CorExELBO) -> Tensor:
    program, x = program.to("cuda"), data(name, "cuda")
    if watched is real_without_waiting:  # libraries are loaded by the first call
        objective.differentiable_loss(program.model, program.guide, x)
    with watched():
        return objective.differentiable_loss(program.model, program.guide, x)


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("device", "watched"), ON_CUDA)
def test_forward_pass_stays_on_cuda(device, watched, name, particles):
    """Pyro's validation is on, which is its default, but where weights of latents are looked at."""
    program, objective = PROGRAMS[name](), elbo(particles)
    assert pyro.infer.util.is_validation_enabled()
    with device(), pyro.validation_enabled(name != "AnchorVAE"):
        loss = forward(program, name, watched, objective)
        assert loss.shape == ()
        terms = objective.last_terms
        tensors = [*terms.kl.values(), *terms.kl_weight.values(), *terms.reconstruction.values()]
        assert {t.device.type for t in [loss, *tensors]} == {"cuda"}
        dims = D if not name.startswith("conv") else 64
        assert terms.reconstruction["x"].shape == (dims,)


@pytest.mark.parametrize("name", ["learned_normal", "stack, discrete top"])
@pytest.mark.parametrize(("device", "watched"), ON_CUDA)
def test_terms_can_be_kept_without_waiting(device, watched, name):
    """Their values are read when someone asks for one."""
    program, objective = PROGRAMS[name](), elbo()
    with device():
        forward(program, name, watched, objective)
        with watched():
            assert objective.last_terms.num_data == B


@pytest.mark.parametrize(("device", "watched"), ON_CUDA)
@pytest.mark.parametrize("validation", [False, True])
def test_plates_found_by_the_objective(device, watched, validation):
    weighted = [] if validation else [PROGRAMS["AnchorVAE"]()]  # looks at them under validation
    programs = [vae(), *weighted, PROGRAMS["stack, discrete top"]()]
    with device(), pyro.validation_enabled(validation):
        for program in programs:
            forward(program, "", watched, CorExELBO(2))


@pytest.mark.parametrize(("device", "watched"), ON_CUDA)
def test_anchored_on_cuda(device, watched):
    # Whether weights on a device are the same in model and guide is asked under validation only.
    program = vae()
    with device(), pyro.validation_enabled(False):
        program, x = program.to("cuda"), data("", "cuda")
        weights = {"z": torch.ones(M, device="cuda")}
        objective = elbo()
        pair = anchor(program.model, weights), anchor(program.guide, weights)
        objective.differentiable_loss(*pair, x)
        with watched():
            objective.differentiable_loss(*pair, x)
        assert objective.last_terms.kl_weight["z"].device.type == "cuda"


@pytest.mark.parametrize("name", ["learned_normal", "stack, discrete top", "stack, continuous"])
@pytest.mark.parametrize(("device", "watched"), ON_CUDA)
def test_the_penalty_on_tc_stays_on_cuda(device, watched, name):
    top = {"learned_normal": "z", "stack, continuous": "z3"}.get(name, "z1")
    program = PROGRAMS[name]()
    objective = CorExELBO(max_plate_nesting=2, tc_weight=1.0, tc_sites=[top])
    with device():
        loss = forward(program, name, watched, objective)
        tensors = [loss, objective.last_terms.regularizers["total_correlation"]]
        assert {t.device.type for t in tensors} == {"cuda"}


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize(("device", "watched"), ON_CUDA)
def test_the_reward_for_information_stays_on_cuda(device, watched, particles):
    name = "stack, discrete top"
    program = PROGRAMS[name]()
    copies = Invariance(lambda x: 1 - x, {"z2": 3.0})
    objective = CorExELBO(
        particles, particles > 1, max_plate_nesting=2, mi_weight={"z2": 2.0}, invariance=copies
    )
    with device():
        loss = forward(program, name, watched, objective)
        with watched():
            terms = objective.last_terms
            tensors = [loss, *terms.regularizers.values()]
        assert {t.device.type for t in tensors} == {"cuda"}


def train_on_meta(program: Any, name: str, particles: int = 1) -> None:
    program = program.to("meta")
    optim = torch.optim.Adam(program.parameters())
    loss = elbo(particles).differentiable_loss(program.model, program.guide, data(name, "meta"))
    loss.backward()
    assert [n for n, p in program.named_parameters() if p.grad is None] == []
    optim.step()
    assert loss.device.type == "meta"
    assert {p.device.type for p in program.parameters()} == {"meta"}


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_training_step_on_meta(name, particles):
    train_on_meta(PROGRAMS[name](), name, particles)


@pytest.mark.parametrize("name", PROGRAMS)
@NEEDS_GPU
def test_training_step_on_a_gpu(name):
    program, x = PROGRAMS[name]().to("cuda"), data(name, "cuda")
    optim = torch.optim.Adam(program.parameters())
    before = [p.clone() for p in program.parameters()]
    elbo().differentiable_loss(program.model, program.guide, x).backward()
    optim.step()
    assert all(p.isfinite().all() for p in program.parameters())
    assert any((p != b).any() for p, b in zip(program.parameters(), before, strict=True))


# ---------------------------------------------------------------------- what must be found


class CpuLikelihood(Likelihood):
    def forward(self, params: Tensor) -> Any:
        return dist.Bernoulli(logits=params + torch.zeros(D), validate_args=False)


class CpuPrior(Prior):
    def forward(self) -> Any:
        return dist.Normal(torch.zeros(self.dim), torch.ones(self.dim), validate_args=False)


class Forgotten(Likelihood):
    """Keeps a tensor that ``.to`` does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.zeros(D)

    def forward(self, params: Tensor) -> Any:
        return dist.Bernoulli(logits=params + self.shift, validate_args=False)


class Reads(Likelihood):
    def forward(self, params: Tensor) -> Any:
        return dist.Bernoulli(logits=params * params.max().item(), validate_args=False)


class Decides(Likelihood):
    def forward(self, params: Tensor) -> Any:
        if (params > 100).any():
            params = params.clamp(max=100)
        return dist.Bernoulli(logits=params, validate_args=False)


class Copies(Likelihood):
    def forward(self, params: Tensor) -> Any:
        return dist.Normal(params, params.new_tensor(0.5), validate_args=False)


class ReadsDecoder(nn.Linear):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) * float(z.mean())


PLANTED: dict[str, Callable[[], Any]] = {
    "a CPU tensor in the likelihood": lambda: vae(likelihood=CpuLikelihood()),
    "a CPU tensor in the prior": lambda: vae(prior=CpuPrior(M)),
    "a tensor that was not moved": lambda: vae(likelihood=Forgotten()),
    "item in the likelihood": lambda: vae(likelihood=Reads()),
    "a branch on a value": lambda: vae(likelihood=Decides()),
    "float in the decoder": lambda: CorExVAE(mlp_encoder([D, M]), ReadsDecoder(M, D), M),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_on_fake_cuda(name):
    program = PLANTED[name]()
    # (Pyro turns torch's error of a device mismatch into a TypeError that names it.)
    errors = (RuntimeError, TypeError, DataDependentOutputException)
    with fake(), pytest.raises(errors, match=r"(?i)device|_local_scalar_dense|copies between"):
        forward(program, "", StaysOnDevice, elbo())


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_on_meta(name):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)device|meta"):
        train_on_meta(PLANTED[name](), "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, fake tensors hide this copy")
def test_a_planted_copy_to_the_device_is_found():
    program = vae(likelihood=Copies())
    with fake(), pytest.raises(RuntimeError, match=r"_to_copy.* copies between \['cpu', 'cuda'\]"):
        forward(program, "", StaysOnDevice, elbo())


@NEEDS_GPU
@pytest.mark.parametrize("name", ["item in the likelihood", "a branch on a value"])
def test_planted_faults_are_found_on_a_gpu(name):
    with pytest.raises(RuntimeError, match="synchroniz"):
        forward(PLANTED[name](), "", real_without_waiting, elbo())


# ---------------------------------------------------------------------- recorded steps

SIZE, FULL, EPOCHS = 8, 5, 6  # five batches of 8 data and one of 4, six times


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[capture.Graph]:
    """The graph of each step that was replayed."""
    found: list[capture.Graph] = []
    replay = capture.Graph.replay

    def noted(graph: capture.Graph) -> Tensor:
        found.append(graph)
        return replay(graph)

    monkeypatch.setattr(capture.Graph, "replay", noted)
    return found


def bits(name: str = "") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = IMAGE if name.startswith("conv") else (D,)
    return torch.rand(FULL * SIZE + 4, *shape, generator=generator).round()


def trained(name: str, recorded: bool, x: Any = None, **options: Any) -> tuple[Any, Any]:
    """The history of a run on a GPU, and the program; options that are functions are called."""
    torch.manual_seed(0)
    program = PROGRAMS[name]()
    precision = options.pop("precision", "32-true")
    if "elbo" in options:
        options["elbo"] = options["elbo"]()
    options = {"epochs": EPOCHS, "batch_size": SIZE, "lr": 1e-2, "progress": False, **options}
    how = pc.Devices(precision=precision, capture=recorded)
    x = bits(name) if x is None else x
    return pc.fit(program, x, device="cuda", devices=how, **options), program


def check_alike(one: Any, other: Any, rel: float = 1e-4) -> None:
    (plain, program), (recorded, own) = one, other
    assert recorded.losses == pytest.approx(plain.losses, rel=rel, abs=10 * rel)
    for a, b in zip(plain.epochs, recorded.epochs, strict=True):
        wanted = {key: value for key, value in a.items() if key != "seconds"}
        assert {key: b[key] for key in wanted} == pytest.approx(wanted, rel=10 * rel, abs=10 * rel)
    for site, kl in plain.terms.kl.items():
        torch.testing.assert_close(recorded.terms.kl[site], kl, rtol=10 * rel, atol=10 * rel)
    for p, q in zip(program.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-2, atol=1e-2)


@NEEDS_GPU
@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_steps_give_what_others_give(name, replays):
    """With the same draws: a replay advances CUDA's generator as the step does."""
    plain = trained(name, False)
    assert replays == []
    check_alike(plain, trained(name, True))
    assert len(replays) == EPOCHS * FULL - 3 + EPOCHS - 3
    assert len({id(graph) for graph in replays}) == 2


def warming_up() -> CorExELBO:
    return CorExELBO(regularizers=[TotalCorrelation(pc.Warmup(0.0, 1.0, steps=12))])


RECORDED: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16-mixed"},
    "a schedule and clipping": {
        "optimizer": pc.Optimization(
            lr_schedule=lambda adam: CosineAnnealingLR(adam, EPOCHS * (FULL + 1)), clip_norm=5.0
        )
    },
    "capturable Adam": {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=1e-2, capturable=True, fused=False)
    },
    "SGD": {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9)},
    "the penalty on TC": {"elbo": lambda: CorExELBO(tc_weight=2.0)},
    "a critic": {"elbo": lambda: CorExELBO(regularizers=[DensityRatio(1.0, M)])},
    "copies": {
        "name": "stack, discrete top",
        "elbo": lambda: CorExELBO(invariance=Invariance(lambda x: 1 - x, {"z2": 1.0})),
    },
    "a weight that moves": {"elbo": warming_up},
    "particles": {"elbo": lambda: elbo(3)},
    "a transform": {"transform": lambda x: torch.bernoulli(0.8 * x + 0.1)},
    "validation and a callback": {"validation": bits(), "callback": lambda *_: None},
}


@NEEDS_GPU
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_steps_with_options(name, replays):
    if name == "bf16":
        pytest.importorskip("lightning_fabric")
    options = {"name": "learned_normal prior", **RECORDED[name]}
    plain = trained(recorded=False, **options)
    check_alike(plain, trained(recorded=True, **options), 1e-3)
    assert len(replays) >= 10


@NEEDS_GPU
def test_recorded_steps_on_batches_of_a_loader(replays):
    def loader() -> Any:
        return DataLoader(TensorDataset(bits()), batch_size=SIZE, pin_memory=True)

    plain = trained("AnchorVAE", False, loader())
    check_alike(plain, trained("AnchorVAE", True, loader()))
    assert replays


@NEEDS_GPU
@pytest.mark.parametrize("before", [False, True])
def test_a_recorded_run_goes_on(before, tmp_path):
    """From the middle of an epoch, whether the steps before were recorded or not."""
    whole = trained("stack, discrete top", False)
    file = tmp_path / "run"

    def stop(epoch: int, *_: Any) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    checkpoint = pc.Checkpoint(file, every=None, every_steps=4)  # the last at step 16 of 18
    with pytest.raises(KeyboardInterrupt):
        trained("stack, discrete top", before, checkpoint=checkpoint, callback=stop)
    goes_on = pc.Checkpoint(file, every=None, every_steps=4, resume=True)
    check_alike(whole, trained("stack, discrete top", True, checkpoint=goes_on))


@NEEDS_GPU
def test_recorded_runs_leave_no_memory():
    held = []
    for _ in range(3):
        trained("stack, discrete top", True)
        gc.collect()
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_reserved())
    assert held[2] <= held[1] + 2**21


READS = """
import pytest, torch, pyro_corex as pc
from tests.test_devices import PLANTED, bits, trained

for name in ("item in the likelihood", "float in the decoder"):
    how = pc.Devices(capture=True)
    with pytest.raises(RuntimeError, match="cannot be recorded for capture=True"):
        pc.fit(PLANTED[name](), bits(), epochs=2, batch_size=8, device="cuda", devices=how)
trained("AnchorVAE", True)  # nothing is left behind
"""


@NEEDS_GPU
def test_what_reads_is_not_recorded():
    """In a process of its own, as CUDA may not forgive."""
    command = [sys.executable, "-c", READS]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2000:]
