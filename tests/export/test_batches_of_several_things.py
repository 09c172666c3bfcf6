"""Labels, second modalities and dicts in what comes after training: posterior, ArviZ, report."""

import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import pyro_corex as pc

N, D, M, K = 60, 6, 2, 3

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 tells once a day that 1.0 is coming
    az = pytest.importorskip("arviz")


class Conditional(nn.Module):
    """p(x|z, y) and q(z|x, y), with labels y that are not modelled; networks see a one-hot y."""

    def __init__(self, width=D):
        super().__init__()
        self.up, self.down = nn.Linear(width + K, 2 * M), nn.Linear(M + K, width)

    def model(self, x, y):
        y = nn.functional.one_hot(y, K).to(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(M), 1.0).to_event(1))
            loc = self.down(torch.cat([z, y], -1))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def encode(self, x, y):
        y = nn.functional.one_hot(y, K).to(x)
        loc, log_scale = self.up(torch.cat([x, y], -1)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp())

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x, y).to_event(1))


class Decodable(Conditional):
    """One that decodes with the labels at zero."""

    def decode(self, z):
        return dist.Normal(self.down(torch.cat([z, z.new_zeros(len(z), K)], -1)), 0.5)


class WithLabels(Conditional):
    """One whose ``decode`` needs the labels."""

    def decode(self, z, y):
        return dist.Normal(self.down(torch.cat([z, y], -1)), 0.5)


class TwoModalities(nn.Module):
    """Numbers and bits that one latent explains, both observed."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(D + K, 2 * M), nn.Linear(M, D + K)

    def model(self, numbers, bits):
        with pyro.plate("data", len(numbers)):
            z = pyro.sample("z", dist.Normal(numbers.new_zeros(M), 1.0).to_event(1))
            loc, logits = self.down(z).split([D, K], -1)
            pyro.sample("numbers", dist.Normal(loc, 0.5).to_event(1), obs=numbers)
            pyro.sample("bits", dist.Bernoulli(logits=logits).to_event(1), obs=bits.to(loc))

    def encode(self, numbers, bits):
        loc, log_scale = self.up(torch.cat([numbers, bits.to(numbers)], -1)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp())

    def guide(self, numbers, bits):
        with pyro.plate("data", len(numbers)):
            pyro.sample("z", self.encode(numbers, bits).to_event(1))

    def decode(self, z):
        return self.down(z).split([D, K], -1)


@pytest.fixture
def x():
    return torch.randn(N, 1) + 0.5 * torch.randn(N, D)


@pytest.fixture
def y():
    return torch.randint(K, (N,))


class Rows(Dataset):
    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {name: column[index] for name, column in self.columns.items()}


FORMS = {
    "tuple": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "dict": lambda x, y: {"y": y, "x": x},
    "data set of dicts": lambda x, y: Rows(y=y, x=x),
    "loader of dicts": lambda x, y: DataLoader(Rows(x=x, y=y), batch_size=7),
    "batches": lambda x, y: [(x[:40], y[:40]), (x[40:], y[40:])],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_labelled_data_gives_the_same(form, x, y, tmp_path):
    module, data = Decodable(), FORMS[form](x, y)
    with torch.no_grad():
        q = module.encode(x, y)
    post = pc.AggregatePosterior.from_data(module, data)
    torch.testing.assert_close(post.mean, q.mean.mean(0))
    torch.testing.assert_close(post.mutual_information(), pc.AggregatePosterior(
        q.mean, q.stddev).mutual_information())  # fmt: skip
    exported = pc.to_arviz(module, data, num_draws=10, num_chains=2)
    drawn = torch.as_tensor(exported["posterior"]["z"].values)
    assert drawn.shape == (2, 10, N, M)
    assert ((drawn.mean((0, 1)) - q.mean) / q.stddev).abs().max() < 5 / 20**0.5
    torch.testing.assert_close(torch.as_tensor(exported["observed_data"]["x"].values), x)
    elbo = pc.CorExELBO(20).terms(module.model, module.guide, x, y).elbo
    assert exported.attrs["elbo"] == pytest.approx(elbo, rel=1e-4, abs=0.5)
    assert exported.attrs["tc_bound"] == pc.tc_bound(module, (x, y)).estimate
    page = pc.report(module, data, tmp_path / "page.html").read_text()
    assert f"on {N} data of {D} dimensions" in page
    assert "<h2>Traversals</h2>" in page
    assert "<h2>Samples</h2>" in page
    assert "Entropy of what the model is told, H(y), taken off" in page


def test_the_log_likelihood_is_that_of_each_datums_own_label(x, y):
    module = Conditional()
    exported = pc.to_arviz(module, {"x": x, "y": y}, num_draws=5, num_chains=2, batch_size=16)
    z = torch.as_tensor(exported["posterior"]["z"].values)
    labels = nn.functional.one_hot(y, K).float().expand(2, 5, N, K)
    with torch.no_grad():
        loc = module.down(torch.cat([z, labels], -1))
    expected = dist.Normal(loc, 0.5).log_prob(x).sum(-1)
    found = torch.as_tensor(exported["log_likelihood"]["x"].values).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (Conditional, "Without decode(z) there are neither traversals nor samples."),
        (WithLabels, "There are no traversals: .*missing 1 required positional argument"),
    ],
)
def test_what_cannot_be_decoded_is_a_note(program, told, x, y, tmp_path):
    page = pc.report(program(), (x, y), tmp_path / "page.html").read_text()
    assert "<h2>Traversals</h2>" not in page
    assert "<h2>Mutual information of each latent</h2>" in page
    assert re.search(re.escape(told) if program is Conditional else told, page)


def test_two_modalities(x, tmp_path):
    module, bits = TwoModalities(), torch.rand(N, K) < 0.5
    data = {"bits": bits, "numbers": x}
    post = pc.AggregatePosterior.from_data(module, data)
    assert post.mean.shape == (M,)
    exported = pc.to_arviz(module, data, num_draws=5)
    assert exported["log_likelihood"]["numbers"].shape == (4, 5, N)
    assert exported["log_likelihood"]["bits"].shape == (4, 5, N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few draws
        az.loo(exported, var_name="bits")
    page = pc.report(module, data, tmp_path / "page.html").read_text()
    bound = pc.tc_bound(module, data)
    assert f"{bound.estimate:.2f} ± {bound.stderr:.2g} nats" in page
    assert "Reconstruction, ⟨ln q(bits|z)⟩" in page
    assert f"on {N} data of {D} dimensions" in page  # the first that the model observes
    assert "<h3>numbers</h3>" in page
    assert "<h3>bits</h3>" in page
    assert "There are no traversals: decode must give a distribution, but gave tuple" in page


def test_ready_made_programs_take_x_of_labelled_data(x, y, tmp_path):
    vae = pc.CorExVAE(
        pc.programs.mlp_encoder([D, M]), pc.programs.mlp_decoder([M, D]), M, likelihood="normal"
    )
    alone = pc.report(vae, x, tmp_path / "alone.html").read_text()
    for data in ((x, y), {"y": y, "x": x}):
        post = pc.AggregatePosterior.from_data(vae, data)
        torch.testing.assert_close(post.mean, vae.encode(x).mean.mean(0).detach())
        assert pc.report(vae, data, tmp_path / "both.html").read_text() == alone
        observed = pc.to_arviz(vae, data, num_draws=2)["observed_data"]["x"].values
        torch.testing.assert_close(torch.as_tensor(observed), x)


def test_a_transform_gets_all_of_a_batch_and_may_select(x, y, tmp_path):
    class Alone(nn.Module):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

        def encode(self, x):
            return dist.Normal(x / 2, 0.5)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.encode(x).to_event(1))

    for export in (
        lambda **options: pc.AggregatePosterior.from_data(Alone(), (x, y), **options).mean,
        lambda **options: pc.to_arviz(Alone(), (x, y), num_draws=2, **options),
        lambda **options: pc.report(Alone(), (x, y), tmp_path / "page.html", **options),
    ):
        with pytest.raises(TypeError, match=r"does not take it.*transform=lambda x, \*rest: x"):
            export()
        export(transform=lambda x, y: x)


def test_images_beside_labels(tmp_path):
    class Images(Decodable):
        def __init__(self):
            super().__init__(4)

        def model(self, x, y):
            super().model(x.flatten(1), y)

        def encode(self, x, y):
            return super().encode(x.flatten(1), y)

    pictures, y = torch.rand(N, 2, 2), torch.randint(K, (N,))
    page = pc.report(Images(), {"y": y, "x": pictures}, tmp_path / "page.html").read_text()
    assert 'class="film"' in page
    assert "Entropy of what the model is told, H(y), taken off" in page
    same = {"y": torch.ones_like(y), "x": pictures}  # for data with one label there is a bound
    page = pc.report(Images(), same, tmp_path / "page.html").read_text()
    assert "Relevance of each pixel" in page


class Autoregressive(nn.Module):
    """Each column is told by a latent and by the column before it."""

    def model(self, x):
        before = nn.functional.pad(x[:, :-1], (1, 0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + before / 2, 1.0).to_event(1), obs=x)

    def encode(self, x):
        return dist.Normal(x.mean(1, keepdim=True), 0.5)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x).to_event(1))


def test_a_decoder_that_sees_x_has_a_bound_and_no_relevance(x, tmp_path):
    bound = pc.to_arviz(Autoregressive(), x, num_draws=2)["bound"]
    assert "entropy_x" in bound
    assert "relevance_x" not in bound
    page = pc.report(Autoregressive(), x, tmp_path / "page.html").read_text()
    assert "Bound on TC(x)" in page
    assert "Relevance of" not in page
