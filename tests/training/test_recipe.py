"""Modules that a file makes again: the same program, from data alone."""

import pytest
import torch
from torch import nn

import pyro_corex as pc
from pyro_corex.programs import (
    Bottleneck,
    GaussianMixture,
    GroupedDecoder,
    LadderVAE,
    Layer,
    LearnedNormalLikelihood,
    LinearStart,
    LogNormalEncoder,
    Vamp,
    Warmup,
    mlp_decoder,
    mlp_encoder,
)
from pyro_corex.programs.latent_classes import LatentClasses
from pyro_corex.programs.tables import TableSpec, TableVAE
from pyro_corex.training import checkpoint
from tests.test_devices import PROGRAMS as ON_DEVICES


def networks(d=6, m=3, **options):
    return mlp_encoder([d, 5, m], **options), mlp_decoder([m, 5, d], **options)


def later():
    """One whose anchors and parameters are no longer what it was made with."""
    vae = pc.AnchorVAE(*networks(activation=nn.GELU), 3, anchors={0: 0.5})
    vae.set_anchors({2: 0.1}, 4.0)
    vae.encoder.requires_grad_(False)
    return vae.double()


def many():
    encoder = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, eps=1e-3), nn.Dropout(0.2), nn.PReLU(8),
        nn.LayerNorm(8), nn.LeakyReLU(0.3), nn.Linear(8, 6),
    )  # fmt: skip
    return pc.CorExVAE(encoder, nn.Linear(3, 6), 3)


def grouped():
    layers = [
        Layer(mlp_encoder([6, 3]), GroupedDecoder(3, 6), 3),
        Layer(mlp_encoder([3, 1]), GroupedDecoder(1, 3, scales=True), 1),
    ]
    return pc.StackedCorEx(layers, n_classes=None, anchors={"z2": Warmup(0.0, 1.0, 5)})


SPEC = TableSpec(("continuous", "ordinal", "nominal", "counts"), (0, 3, 4, 0))
PROGRAMS = {
    **{name: make for name, make in ON_DEVICES.items() if name not in ("user's prior",)},
    "changed since": later,
    "many kinds of parts": many,
    "grouped, warming up": grouped,
    "Vamp": lambda: pc.CorExVAE(*networks(), 3, prior=Vamp(torch.rand(7, 6), joint=True)),
    "mixture": lambda: pc.CorExVAE(*networks(), 3, prior=GaussianMixture(3, 4)),
    "log-normal": lambda: pc.CorExVAE(
        LogNormalEncoder(networks()[0], max_scale=0.7), networks()[1], 3, prior="log_uniform"
    ),
    "linear start": lambda: pc.CorExVAE(
        LinearStart(networks()[0], 6, torch.rand(2, 6)), networks()[1], 3,
        likelihood=LearnedNormalLikelihood(6, 0.3),
    ),
    "ladder": lambda: LadderVAE([(6, 5, 3), (3, 2)], n_classes=2),
    "bottleneck": lambda: Bottleneck(nn.Linear(6, 4), nn.Linear(2, 3), 2, labels=3, beta=1e-3),
    "table": lambda: TableVAE(SPEC, 2, (5,)),
    "classes": lambda: LatentClasses(SPEC, [0, 1, 1, 0], [2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_made_again(name, tmp_path):
    torch.manual_seed(1)
    module = PROGRAMS[name]()
    pc.save(module, tmp_path / "model")
    state = torch.get_rng_state()
    found = pc.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), state)
    assert repr(found) == repr(module)
    for (key, was), (_, value) in zip(
        module.state_dict().items(), found.state_dict().items(), strict=True
    ):
        assert torch.equal(value, was), key
        assert value.dtype == was.dtype
    for (_, was), (_, value) in zip(
        module.named_parameters(), found.named_parameters(), strict=True
    ):
        assert value.requires_grad == was.requires_grad


def test_what_is_made_again_gives_the_same_loss_and_weights(tmp_path):
    x = torch.bernoulli(torch.full((9, 6), 0.5)).double()
    for module in (later(), grouped().double()):
        pc.save(module, tmp_path / "model")
        found = []
        for each in (module, pc.load(tmp_path / "model")):
            torch.manual_seed(0)
            terms = pc.CorExELBO().terms(each.model, each.guide, x)
            found.append((terms.elbo, terms.objective))
        assert found[0] == found[1]
    assert pc.load(tmp_path / "model").anchors["z2"].steps == 5


def test_a_checkpoint_of_a_run_is_made_again(tmp_path):
    vae = pc.CorExVAE(*networks(), 3)
    x = torch.bernoulli(torch.full((40, 6), 0.5))
    pc.fit(vae, x, epochs=1, checkpoint=pc.Checkpoint(tmp_path / "run"), progress=False)
    found = pc.load(tmp_path / "run")
    assert torch.equal(found.encoder[1].weight, vae.encoder[1].weight)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(x)


class MyVAE(pc.CorExVAE):
    pass


def tied():
    one = nn.Linear(6, 6)
    return pc.CorExVAE(nn.Sequential(one), nn.Sequential(nn.Linear(3, 6), one), 3)


def hooked():
    vae = pc.CorExVAE(*networks(), 3)
    vae.encoder[1].register_forward_hook(lambda *_: None)
    return vae


def normed():
    vae = pc.CorExVAE(*networks(), 3)
    nn.utils.parametrizations.weight_norm(vae.encoder[1])
    return vae


def attention():
    return nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))


FOREIGN = {
    "network": (
        lambda: pc.CorExVAE(Own(), networks()[1], 3),
        r"CorExVAE\.encoder is of the class Own, which is neither torch\.nn's nor this library's",
    ),
    "layer": (
        lambda: pc.StackedCorEx([Layer(nn.Sequential(Own()), networks()[1], 3)], n_classes=None),
        r"StackedCorEx\.layers\[0\]\.encoder\[0\] is of the class Own",
    ),
    "program": (lambda: MyVAE(*networks(), 3), "MyVAE is of the class MyVAE"),
    "prior": (
        lambda: pc.CorExVAE(*networks(), 3, prior=torch.distributions.Laplace(0.0, 1.0)),
        r"CorExVAE\.prior is of the class UserPrior",
    ),
    "shared": (tied, "two of its parts share a parameter"),
    "hooks": (hooked, r"CorExVAE\.encoder\[1\] has hooks"),
    "parametrised": (normed, r"CorExVAE\.encoder\[1\] is of the class ParametrizedLinear"),
    "unkept": (attention, r"Sequential\[1\], of the class MultiheadAttention, does not keep"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_has_parts_from_elsewhere_needs_its_code(name, tmp_path):
    make, message = FOREIGN[name]
    module = make()
    pc.save(module, tmp_path / "model")
    with pytest.raises(pc.CheckpointError, match=message + r".*call load\(path, module\)"):
        pc.load(tmp_path / "model")
    assert pc.load(tmp_path / "model", module) is module


FORGED = (
    "os.system",
    "torch.nn.Module.apply",
    "torch.nn.functional",
    "pyro_corex.programs.vae.pyro",
    "pyro_corex.files.replacing",
)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_makes_nothing_else(name, tmp_path):
    path = tmp_path / "model"
    pc.save(pc.CorExVAE(*networks(), 3), path)
    content = checkpoint.read(path)
    content["recipe"] = [name, {"command": "exit 1"}]
    checkpoint.write(path, content)
    with pytest.raises(pc.CheckpointError, match=f"{name} is no class of torch.nn"):
        pc.load(path)


def test_files_that_say_nothing_of_it(tmp_path):
    path = tmp_path / "model"
    pc.save(pc.CorExVAE(*networks(), 3), path)
    content = checkpoint.read(path)
    for key in ("recipe", "problem", "frozen"):
        del content[key]
    checkpoint.write(path, content)
    with pytest.raises(pc.CheckpointError, match="the file is of an earlier version"):
        pc.load(path)
    checkpoint.write(path, {"kind": "CorEx", "content": {}})
    with pytest.raises(pc.CheckpointError, match=r"holds no module, but a CorEx: CorEx\.load"):
        pc.load(path)
