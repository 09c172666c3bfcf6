"""bf16 mixed precision, and compiled networks."""

import pytest
import torch

import pyro_corex as pc
from pyro_corex.datasets import bundled_digits
from pyro_corex.training.runners import networks
from tests.training.programs import copies, fit, stack, vae, vector


def test_what_the_networks_of_a_program_are():
    module = stack()
    assert networks(module) == [*module.encoders, *module.decoders]
    module = vae(likelihood="learned_normal", prior="learned_mixture")
    assert networks(module) == [module.encoder, module.decoder]


class Spy(torch.nn.Linear):
    """Notes the dtypes that it sees."""

    seen: list

    def forward(self, x):
        out = super().forward(x)
        self.seen.append((x.dtype, out.dtype))
        return out


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_networks_compute_in_bf16_and_densities_do_not(precision):
    module = vae()
    spy = Spy(8, 16)
    spy.seen = []
    module.encoder[1] = spy
    dtypes = []
    model = module.model

    def note(x):
        z = model(x)
        dtypes.extend([x.dtype, z.dtype])
        return z

    module.model = note
    history = fit(module, copies(), epochs=1, precision=precision, progress=False)
    inside = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    # before training a network of a kind of its own is run once, for its parameters
    assert {out for _, out in spy.seen[1:]} == {inside}
    assert set(dtypes) == {torch.float32}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert {value.dtype for value in history.terms.kl.values()} == {torch.float32}
    assert "forward" not in vars(module.encoder)  # it is as it was


@pytest.mark.parametrize("seed", [0, 1])
def test_bf16_reaches_the_bound_of_float32(seed):
    """Within 1 % on the bundled digits."""
    x = (bundled_digits().x > 0.5).float()
    bounds = {}
    for precision in ("32-true", "bf16-mixed"):
        module = vae((64, 64, 8), seed=seed)
        fit(
            module, x, epochs=15, lr=3e-3, seed=seed, precision=precision, progress=False,
            batch_size=128,
        )  # fmt: skip
        torch.manual_seed(seed)
        terms = pc.CorExELBO(num_particles=4).terms(module.model, module.guide, x)
        bounds[precision] = terms.elbo
    assert bounds["32-true"] > -22  # it is trained: it starts below -44
    assert bounds["bf16-mixed"] == pytest.approx(bounds["32-true"], rel=0.01)
    assert bounds["bf16-mixed"] != bounds["32-true"]


def test_a_double_module_stays_double():
    module = vae().double()
    history = fit(module, copies(), epochs=1, progress=False)
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    assert history.terms.kl["z"].dtype == torch.float64


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
def test_compiled_networks_give_the_same():
    """With a backend that needs no compiler; only the networks are compiled."""
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain, compiled = vae(), vae()
    fit(plain, copies(), epochs=1, batch_size=128, progress=False)
    fit(compiled, copies(), epochs=1, batch_size=128, progress=False, compile_networks=backend)
    assert calls
    assert torch.equal(vector(plain), vector(compiled))
    assert compiled.encoder._compiled_call_impl is None  # it is as it was


def test_an_unknown_backend():
    with pytest.raises(Exception, match="Invalid backend: 'none such'"):
        fit(vae(), copies(), epochs=1, compile_networks="none such", progress=False)
