"""Latents that batches have in common."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import pyro_corex as pc
from tests.training.test_history import Readings, readings


def test_what_all_data_share_is_paid_once():
    x = readings(40)
    options = {"epochs": 1, "lr": 1e-12, "progress": False, "device": "cpu"}
    with pytest.warns(UserWarning, match=r"share \['mean'\], .* it weighs 5 times as much"):
        pc.fit(Readings(shared=True), x, batch_size=8, **options)
    once = pc.fit(Readings(shared=True), x, batch_size=40, **options)["kl_mean"][0]
    several = pc.fit(Readings(40, shared=True), x, batch_size=8, **options)["kl_mean"][0]
    assert several == pytest.approx(once, rel=1e-5)
    for module in (Readings(shared=True), Readings(40, shared=True)):
        for size in (40, 8, 7):
            terms = pc.tc_bound(module, x, batch_size=size).terms
            assert float(terms.kl["mean"].sum()) == pytest.approx(once, rel=1e-5)
            of_each = terms.evidence.per_datum["kl", "mean"]
            assert of_each.tolist() == pytest.approx([once] * 40, rel=1e-5)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_an_autoguide_has_no_latents_for_other_batches(kind):
    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.autoguide = kind(self.model)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.expand(-1, 3), 1.0).to_event(1), obs=x)

        def guide(self, x):
            return self.autoguide(x)

    x = readings(32)
    options = {"epochs": 1, "progress": False, "device": "cpu"}
    pc.fit(Rows(), x, batch_size=32, **options)
    pyro.clear_param_store()
    message = r"has a value of \['z'\] for each of the 8 data .* the other 24 data .*batch_size=32"
    with pytest.raises(ValueError, match=message):
        pc.fit(Rows(), x, batch_size=8, **options)
