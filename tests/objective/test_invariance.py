"""Invariance: the penalty on what discrete latents tell about a transformation of the datum."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.special import entr
from torch.testing import assert_close

from pyro_corex import CorExELBO, CorExVAE, Invariance, StackedCorEx
from pyro_corex.programs import mlp_decoder, mlp_encoder

N, D, M, K = 6, 4, 3, 5
PARALLEL = {"enumerate": "parallel"}
TABLE = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.double)
X = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.double)


def flip(x):
    return 1 - x


def stack():
    torch.manual_seed(0)
    return StackedCorEx([(D, M), (M, K)], n_classes=K).double()


def bits():
    return torch.bernoulli(torch.full((N, D), 0.5, dtype=torch.double))


class Coin(nn.Module):
    """A guide whose table p(z|x) is its parameter, for one binary pixel."""

    def __init__(self, table=TABLE):
        super().__init__()
        self.table = nn.Parameter(table.log())

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=torch.zeros(2, dtype=torch.double)))
            pyro.sample("x", dist.Bernoulli(0.25 + 0.5 * z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.table[x.long()]), infer=PARALLEL)


@pytest.mark.parametrize("copies", [1, 3])
def test_by_hand(copies):
    program = Coin()
    elbo = CorExELBO(invariance=Invariance(flip, {"z": 3.0}, copies=copies))
    terms = elbo.terms(program.model, program.guide, X)
    own, other = TABLE[X.long()], TABLE[1 - X.long()]
    mean = (own + copies * other) / (1 + copies)
    within = (entr(own).sum(-1) + copies * entr(other).sum(-1)) / (1 + copies)
    want = (entr(mean).sum(-1) - within).mean()
    assert_close(terms.regularizers["invariance"].squeeze(), want, rtol=1e-10, atol=0)
    assert terms.regularizer_weight == {"invariance": 3.0}
    assert terms.objective == pytest.approx(terms.elbo - 3 * float(want), rel=1e-10)


def test_certain_latents_have_a_finite_gradient():
    program = Coin()
    program.table.data = torch.tensor([[0.0, -800.0], [-800.0, 0.0]], dtype=torch.double)
    elbo = CorExELBO(invariance=Invariance(flip, {"z": 1.0}))
    elbo.differentiable_loss(program.model, program.guide, X).backward()
    assert program.table.grad.isfinite().all()
    assert float(elbo.last_terms.regularizers["invariance"]) == pytest.approx(math.log(2))


def test_the_chain_rule():
    """I(z:x,t) - I(z:t|x) = I(z:x), with p(z|x) averaged over the copies."""

    def terms(program, x, **options):
        return CorExELBO(**options).terms(program.model, program.guide, x)

    half, averaged = X[:2], Coin(TABLE.mean(0).expand(2, 2).contiguous())
    joint = terms(Coin(), torch.cat([half, flip(half)]), mi_weight={"z": 1.0})
    apart = terms(Coin(), half, invariance=Invariance(flip, {"z": 1.0}))
    left = terms(averaged, half, mi_weight={"z": 1.0})
    assert_close(
        joint.regularizers["mutual_information"] - apart.regularizers["invariance"],
        left.regularizers["mutual_information"],
    )


OPTIONS = [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True},
           {"tc_weight": 0.5, "tc_sites": ["z1"]}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", ["loss", "differentiable_loss", "loss_and_grads"])
def test_loss_is_minus_the_objective(options, method):
    program, x = stack(), bits()
    invariance = Invariance(flip, {"z2": 0.7}, copies=2)
    elbo = CorExELBO(
        mi_weight={"z2": 1.3}, invariance=invariance, max_plate_nesting=2, **options
    )  # fmt: skip
    loss = float(torch.as_tensor(getattr(elbo, method)(program.model, program.guide, x)).detach())
    terms = elbo.last_terms
    assert loss == pytest.approx(-terms.objective * N, rel=1e-10)
    added = 1.3 * float(terms.regularizers["mutual_information"]) - 0.7 * float(
        terms.regularizers["invariance"]
    )
    tc = options.get("tc_weight", 0.0) * float(terms.regularizers.get("total_correlation", 0.0))
    assert terms.objective - terms.elbo == pytest.approx(added - tc, rel=1e-9)
    assert "regularizers['invariance']" in repr(terms)
    assert "weight 0.7" in repr(terms)
    assert "Invariance(" in repr(elbo)


def test_in_a_stack_the_draw_below_belongs_to_the_copy():
    program, x = stack(), bits()
    last = program.encoders[0][-1]
    last.weight.data[M:], last.bias.data[M:] = 0.0, -12.0  # draws are the means
    elbo = CorExELBO(invariance=Invariance(flip, {"z2": 1.0}), max_plate_nesting=2)
    terms = elbo.terms(program.model, program.guide, x)
    below = [program.encode(batch)[0].mean for batch in (x, flip(x))]
    q = torch.stack([program.encode_layer(2, mean).probs.squeeze(-2) for mean in below]).detach()
    want = (entr(q.mean(0)).sum(-1) - entr(q).sum(-1).mean(0)).mean()
    assert_close(terms.regularizers["invariance"].squeeze(), want, rtol=1e-3, atol=1e-6)


def test_gradient_by_finite_differences():
    program, x = stack(), bits()
    elbo = CorExELBO(invariance=Invariance(flip, {"z2": 3.0}), max_plate_nesting=2)

    def loss():
        pyro.set_rng_seed(1)
        return elbo.differentiable_loss(program.model, program.guide, x)

    loss().backward()
    for parameter in (program.encoders[1][-1].weight, program.encoders[0][-1].bias):
        flat, gradient = parameter.data.view(-1), parameter.grad.flatten()
        for i in range(0, len(flat), 4):
            flat[i] += 1e-5
            up = float(loss().detach())
            flat[i] -= 2e-5
            down = float(loss().detach())
            flat[i] += 1e-5
            assert float(gradient[i]) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)


def test_options_are_checked():
    with pytest.raises(TypeError, match="invariance must be an Invariance"):
        CorExELBO(invariance=flip)
    with pytest.raises(TypeError, match="transform must be a function"):
        Invariance(None, {"z": 1.0})
    with pytest.raises(ValueError, match="copies must be an integer >= 1"):
        Invariance(flip, {"z": 1.0}, copies=0)
    with pytest.raises(TypeError, match=r"Invariance\.weights must map"):
        Invariance(flip, ["z"])
    with pytest.raises(ValueError, match=r"Invariance\.weights\['z'\] must be a finite number"):
        Invariance(flip, {"z": -1.0})


def refuses(message, program, *args, error=ValueError, invariance=None):
    with pytest.raises(error, match=message):
        CorExELBO(invariance=invariance).terms(program.model, program.guide, *args)


def test_sites_that_do_not_qualify():
    vae = CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M).double()
    refuses(r"Invariance\.weights names 'z'.*Normal", vae, bits(),
            invariance=Invariance(flip, {"z": 1.0}))  # fmt: skip
    refuses(r"Invariance\.weights names 'y', but the guide's latent sites are \['z1', 'z2'\]",
            stack(), bits(), invariance=Invariance(flip, {"y": 1.0}))  # fmt: skip


def test_transforms_that_do_not_qualify():
    invariance = Invariance(lambda x: x[:2], {"z2": 1.0})
    refuses("must keep the batch's shape", stack(), bits(), invariance=invariance)
    invariance = Invariance(lambda x: None, {"z2": 1.0})
    refuses("but gives NoneType", stack(), bits(), invariance=invariance)

    class Closed(Coin):
        def model(self):
            super().model(X)

        def guide(self):
            super().guide(X)

    refuses("first argument, a batch, but got no positional argument", Closed(),
            error=TypeError, invariance=Invariance(flip, {"z": 1.0}))  # fmt: skip


def test_a_subsampled_plate_is_refused():
    class Subsampled(Coin):
        def model(self, x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=torch.double)))
                pyro.sample("x", dist.Bernoulli(0.25 + 0.5 * z), obs=x[rows])

        def guide(self, x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                fn = dist.Categorical(logits=self.table[x[rows].long()])
                pyro.sample("z", fn, infer=PARALLEL)

    refuses("a plate of the guide subsamples", Subsampled(), X,
            invariance=Invariance(flip, {"z": 1.0}))  # fmt: skip
