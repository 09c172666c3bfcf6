"""What a run was like, as its terms tell."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_corex as pc
from tests.training.programs import copies, vae, without_time


def test_the_history_is_that_of_the_terms():
    """The averages over an epoch are those of the terms of its steps, weighted by their data."""
    elbo = pc.CorExELBO(num_particles=2, tc_weight=0.5)
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(elbo.last_terms)
            return super().step(closure)

    history = pc.fit(
        vae(), copies(100), epochs=1, batch_size=64, elbo=elbo, progress=False,
        optimizer=lambda parameters: Spy(parameters, lr=1e-4),
    )  # fmt: skip
    assert [terms.num_data for terms in seen] == [64, 36]
    for name in ("elbo", "objective"):
        mean = sum(getattr(terms, name) * terms.num_data for terms in seen) / 100
        assert history[name][0] == pytest.approx(mean, rel=1e-5)
    kl = sum(float(terms.kl["z"].sum()) * terms.num_data for terms in seen) / 100
    assert history["kl_z"][0] == pytest.approx(kl, rel=1e-5)
    tc = (
        sum(float(terms.regularizers["total_correlation"]) * terms.num_data for terms in seen) / 100
    )
    assert history["total_correlation"][0] == pytest.approx(tc, rel=1e-5)
    whole = elbo.last_terms
    assert whole is history.terms
    assert whole.num_data == 100
    for name in ("elbo", "objective"):
        assert getattr(whole, name) == pytest.approx(history[name][0], rel=1e-5)
    for field, key in (("reconstruction", "x"), ("kl", "z")):
        values = [getattr(terms, field)[key] * terms.num_data for terms in seen]
        torch.testing.assert_close(getattr(whole, field)[key], sum(values) / 100)
    assert without_time(history)[0].keys() == {"elbo", "objective", "kl_z", "total_correlation"}


def test_the_history_has_what_a_discrete_latent_knows():
    stack = pc.StackedCorEx([(8, 8, 3), (3, 8, 2)], n_classes=2)
    invariance = pc.Invariance(lambda x: 1 - x, {"z2": 3.0})
    elbo = pc.CorExELBO(mi_weight={"z2": 2.0}, invariance=invariance)
    history = pc.fit(stack, copies(64), epochs=1, batch_size=64, elbo=elbo, progress=False)
    known = float(history.terms.regularizers["mutual_information"].sum())
    assert history["mutual_information"] == [pytest.approx(known, rel=1e-5)]
    kept = float(history.terms.regularizers["invariance"].sum())
    assert history["invariance"] == [pytest.approx(kept, rel=1e-5)]
    objective = history["elbo"][0] + 2 * known - 3 * kept
    assert history["objective"][0] == pytest.approx(objective, rel=1e-5)


class Readings(torch.nn.Module):
    """A factor whose posterior is known, with a mean that all data may share."""

    def __init__(self, size=None, shared=False):
        super().__init__()
        self.loc, self.size, self.shared = torch.nn.Parameter(torch.zeros(())), size, shared

    def plate(self, x):
        return pyro.plate("data", self.size or len(x), subsample=x if self.size else None)

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0)) if self.shared else 0.0
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            loc = z.expand(-1, 3) + self.loc + mean
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(self, x):
        if self.shared:
            pyro.sample("mean", dist.Normal(self.loc, 1e-3))
        with self.plate(x):
            loc = x.sum(1, keepdim=True) * 4 / 13
            pyro.sample("z", dist.Normal(loc, 13**-0.5).to_event(1))


def readings(n):
    torch.manual_seed(0)
    x = torch.randn(n, 1) + 0.5 * torch.randn(n, 3)
    x[-1] += 10  # the last batch is not like the others
    return x


@pytest.mark.parametrize("capture", [False, True])
def test_a_small_batch_of_a_plate_that_subsamples_counts_little(capture):
    x, found = readings(33), []
    for size in (None, 33):
        history = pc.fit(
            Readings(size), x, epochs=2, batch_size=16, lr=1e-12, validation=x, progress=False,
            device="cpu", devices=pc.Devices(capture=capture),
        )  # fmt: skip
        found.append(history)
    plain, subsampled = found
    for name in ("objective", "elbo", "kl_z", "val_objective", "val_kl_z"):
        assert subsampled[name] == pytest.approx(plain[name], rel=1e-4)
    assert subsampled.terms.num_data == 33
    assert subsampled.terms.elbo == pytest.approx(subsampled["elbo"][-1], rel=1e-5)
    full = pc.tc_bound(Readings(), x).terms.kl["z"]
    assert subsampled["val_kl_z"][0] == pytest.approx(float(full.sum()), rel=1e-4)
