"""Programs that change under the same names, and what is noticed of it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_corex import CorExELBO
from pyro_corex.objective.closed_form import ClosedForms

N, S1, S2, X = 4_000, 0.5, 0.7, 1.2


class Stages:
    """z1 ~ N(x, s1) and z2 ~ N(c z1, s2) of the guide; z2 ~ N(0, 1), z1 ~ N(b z2, 1) of the model.

    In the first stage b = 0 or c = 0: a closed form is right for both.  It is wrong at z1 when
    neither is.
    """

    def __init__(self, stage, change, leaf=True):
        self.stage, self.change = stage, change
        self.w, self.new = (nn.Parameter(torch.ones(()), requires_grad=leaf) for _ in range(2))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(x)), 1.0))
            if self.change == "detached":
                z2 = z2.detach()
            has = self.stage == 2 or self.change == "guide"
            loc = z2 * self.new if has else torch.zeros(len(x)) * self.w
            if self.change == "constant" and not has:
                loc = torch.zeros(len(x))
            if self.change == "family" and self.stage == 1:
                z1 = pyro.sample("z1", dist.StudentT(5.0, torch.zeros(len(x))))
            else:
                z1 = pyro.sample("z1", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x * self.w, S1))
            has = self.stage == 2 or self.change != "guide"
            pyro.sample("z2", dist.Normal(z1 * self.w if has else x * self.w, S2))


def exact_kl_of_z1():
    """E_q[log q(z1) - log p(z1 | z2)] in the second stage: z1 - z2 ~ N(0, s2)."""
    return -torch.tensor(S1).log().item() - 0.5 + 0.5 * S2**2


CHANGES = ["constant", "learned", "guide", "family", "detached"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("leaf", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("graph", [True, False], ids=["with gradients", "without"])
def test_a_second_stage_gets_its_own_kl(change, leaf, graph):
    """The closed form, at a drawn z2, would be larger: it forgets that z2 was drawn from z1."""
    programs = Stages(1, change, leaf)
    x, elbo = torch.full((N,), X), CorExELBO()
    with torch.set_grad_enabled(graph):
        elbo.differentiable_loss(programs.model, programs.guide, x)
        programs.stage = 2
        with pytest.warns(UserWarning, match="estimated from a sample"):
            elbo.differentiable_loss(programs.model, programs.guide, x)
    # of log q - log p of one datum: the sd is below 1.5
    assert float(elbo.last_terms.kl["z1"]) == pytest.approx(exact_kl_of_z1(), abs=4 * 1.5 / N**0.5)


def ladder():
    """A ladder of three layers (Zhao et al. 2017): drawn upwards, used downwards, independent."""
    up = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def model(x):
        with pyro.plate("data", len(x)):
            for k in reversed(range(3)):
                prior = dist.Normal(torch.zeros(len(x), 4), torch.ones(4)).to_event(1)
                pyro.sample(f"z{k}", prior)
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1), obs=x)

    def guide(x):
        h = x
        with pyro.plate("data", len(x)):
            for k, layer in enumerate(up):
                h = layer(h)
                pyro.sample(f"z{k}", dist.Normal(h, 1.0).to_event(1))

    return model, guide


@pytest.mark.parametrize("graph", [True, False], ids=["with gradients", "without"])
def test_programs_that_stay_are_looked_into_once_for_each_shape(graph, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pyro_corex.objective.closed_form.violations", lambda names, *_: seen.append(names) or set()
    )
    model, guide = ladder()
    elbo = CorExELBO()
    with torch.set_grad_enabled(graph):
        for size in [8, 8, 3, 8, 3, 8]:
            elbo.differentiable_loss(model, guide, torch.randn(size, 4))
    assert seen == [{"z0", "z1"}] * 2


def test_what_is_remembered_does_not_grow():
    model, guide = ladder()
    elbo = CorExELBO()
    for size in range(1, 30):
        elbo.differentiable_loss(model, guide, torch.randn(size, 4))
    (known,) = elbo.pair(model, guide).closed_forms._cleared.values()
    assert len(known._seen) == 4


class TwoStages:
    """Latents a and b, where b gets the parent a in the second stage of the model and the guide."""

    stage = 1

    def __init__(self):
        self.net = nn.Linear(2, 2)

    def run(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(self.net(x), 1.0).to_event(1))
            above = a if self.stage == 2 else x
            pyro.sample("b", dist.Normal(self.net(above), 1.0).to_event(1))

    def sites(self, x):
        with pyro.poutine.trace() as handler:
            self.run(x)
        return {n: s for n, s in handler.trace.nodes.items() if s["type"] == "sample"}


@pytest.mark.parametrize("graph", [True, False], ids=["with gradients", "without"])
def test_who_is_drawn_from_whom_is_found_anew(graph):
    """Regularizers of the top layer ask for that."""
    programs, x = TwoStages(), torch.randn(5, 2)
    forms = ClosedForms(programs.run, programs.run)
    with torch.set_grad_enabled(graph):
        for stage, parents in [(1, set()), (2, {"a"})]:
            programs.stage = stage
            sites = programs.sites(x)
            assert forms.guide_parents(["a", "b"], sites, (x,), {})["b"] == parents
            assert forms.above_in_model(["a", "b"], sites, sites, (x,), {})["b"] == parents
