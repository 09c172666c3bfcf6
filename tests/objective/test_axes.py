"""Which plates index data: the number of data, and the dimensions that are reported."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from pyro_corex import CorExELBO

N, G = 30, 5


def terms_of(model, guide, *args, **options):
    torch.manual_seed(1)
    return CorExELBO(**options).terms(model, guide, *args)


def crossed(cells_dim, read=lambda *args: args[0], n=N, g=G):
    """A latent for each cell beside one for each gene; x is in both plates."""

    def plates():
        cells = pyro.plate("cells", n, dim=cells_dim)
        return cells, pyro.plate("genes", g, dim=-3 - cells_dim)

    def latents(cells, genes):
        with genes:
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with cells:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return z, b

    def model(*args):
        cells, genes = plates()
        z, b = latents(cells, genes)
        with cells, genes:
            pyro.sample("x", dist.Normal(z + b, 1.0), obs=read(*args))

    return model, lambda *args: latents(*plates())


@pytest.mark.parametrize("plate", ["cells", "genes"])
@pytest.mark.parametrize("n", [N, G])
def test_of_crossed_plates_the_data_are_what_the_arguments_run_along(plate, n):
    """Where both plates have one size, too."""
    cells_dim = -2 if plate == "cells" else -1
    x = torch.randn((n, G) if plate == "cells" else (G, n))
    terms = terms_of(*crossed(cells_dim, n=n), x)
    assert terms.num_data == len(x)
    assert terms.reconstruction["x"].shape == (x.shape[1],)
    assert terms.kl["z"].shape == (() if plate == "cells" else (n,))
    turned = terms_of(*crossed(cells_dim, n=n, read=lambda x: x.T), x.T.contiguous())
    assert turned.num_data == x.shape[1]
    whole = terms.objective * terms.num_data  # the loss is no matter of axes
    assert turned.objective * turned.num_data == pytest.approx(whole, rel=1e-5)


def test_a_transposed_square_is_told_by_its_strides():
    x = torch.randn(G, G)
    terms = terms_of(*crossed(-1, n=G, read=lambda x: x.T), x)
    assert terms.reconstruction["x"].shape == (G,)
    assert terms.kl["z"].shape == ()  # cells are the data, though innermost


def test_arguments_that_are_nested_are_looked_into():
    x = torch.randn(N, G)
    found = [
        terms_of(*crossed(-2, read=read), batch).num_data
        for read, batch in [
            (lambda b: b["x"], {"x": x}),
            (lambda b: b[1][0], ("a name", [x])),
        ]
    ]
    assert found == [N, N]


def test_a_guess_is_told_once():
    x = torch.randn(N, G)
    model, guide = crossed(-1, read=lambda: x.T)
    elbo = CorExELBO()
    with pytest.warns(UserWarning, match=r"'genes' was taken.*data_plates=\['genes'\]"):
        terms = elbo.terms(model, guide)
    assert terms.num_data == G  # the outermost
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elbo.loss(model, guide)
        assert terms_of(model, guide, data_plates=["cells"]).num_data == N


def test_crossed_plates_of_which_one_is_subsampled():
    x = torch.randn(N, G)

    def program(x, batch, observed):
        genes = pyro.plate("genes", G, dim=-1)
        with genes:
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("cells", N, subsample_size=batch, dim=-2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(batch, 1), 1.0))
            with genes:
                if observed:
                    seen = x[rows] if len(x) == N else x
                    pyro.sample("x", dist.Normal(z + b, 1.0), obs=seen)

    for given, batch in ((x, 10), (x[:10], 10), (x[:G], G)):
        terms = terms_of(
            lambda x, size=batch: program(x, size, True),
            lambda x, size=batch: program(x, size, False),
            given,
        )
        assert terms.num_data == N
        assert terms.reconstruction["x"].shape == (G,)


def topics(docs, words, labels=None):
    """Plates within plates, as in topic models."""

    def program(x, observed):
        with pyro.plate("docs", docs, dim=-2):
            theta = pyro.sample("theta", dist.Normal(torch.zeros(docs, 1), 1.0))
            if observed and labels is not None:
                pyro.sample("y", dist.Normal(theta, 1.0), obs=labels)
            with pyro.plate("words", words, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(docs, words), 1.0))
                if observed:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return lambda x: program(x, True), lambda x: program(x, False)


def test_nested_plates_are_data_together():
    terms = terms_of(*topics(6, 4), torch.randn(6, 4))
    assert terms.num_data == 24
    assert terms.reconstruction["x"].shape == ()


def test_what_not_all_observed_sites_share_are_dimensions():
    terms = terms_of(*topics(6, 4, torch.randn(6, 1)), torch.randn(6, 4))
    assert terms.num_data == 6
    assert terms.reconstruction["x"].shape == (4,)
    assert terms.reconstruction["y"].shape == ()


def test_a_latent_that_is_conditioned_on_is_no_plate_of_data():
    def model(x):
        with pyro.plate("data", N, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(N, 1), 1.0))
            with pyro.plate("inputs", G, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    told = poutine.condition(model, {"z": torch.zeros(N, 1)})
    terms = terms_of(told, lambda x: None, torch.randn(N, G))
    assert terms.num_data == N
    assert terms.reconstruction["x"].shape == (G,)
    assert terms.reconstruction["z"].shape == ()


def test_without_local_latents_the_arguments_say_what_the_data_are():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("inputs", G, dim=-1), pyro.plate("data", N, dim=-2):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(0.0, 0.1))

    terms = terms_of(model, guide, torch.randn(N, G))
    assert terms.num_data == N
    assert terms.reconstruction["x"].shape == (G,)


def test_latents_of_columns_are_not_latents_of_data():
    """Unknown means of columns: the arguments run along the data, and no latent does."""

    def program(x, observed):
        with pyro.plate("columns", G, dim=-1):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(G), 1.0))
            if observed:
                with pyro.plate("data", N, dim=-2):
                    pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    programs = (lambda x: program(x, True)), (lambda x: program(x, False)), torch.randn(N, G)
    with pytest.warns(UserWarning, match=r"indexed by 'columns', but .* run along 'data': 'data'"):
        terms = terms_of(*programs)
    assert terms.num_data == N
    assert terms.kl["mean"].shape == terms.reconstruction["x"].shape == (G,)


def test_several_modalities_share_their_data():
    def model(x, y):
        with pyro.plate("data", N, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(N, 1), 1.0))
            for name, value in (("x", x), ("y", y)):
                with pyro.plate(f"inputs of {name}", value.shape[1], dim=-1):
                    pyro.sample(name, dist.Normal(z, 1.0), obs=value)

    def guide(x, y):
        with pyro.plate("data", N, dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(N, 1), 1.0))

    terms = terms_of(model, guide, torch.randn(N, G), torch.randn(N, 3))
    assert terms.num_data == N
    assert [v.shape for v in terms.reconstruction.values()] == [(G,), (3,)]


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_that_are_observed_in_some_batches(labelled):
    def model(x, y=None):
        with pyro.plate("data", N):
            y = pyro.sample("y", dist.Normal(torch.zeros(N), 1.0), obs=y)
            loc = y[:, None].expand(-1, G)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", N):
            if y is None:
                pyro.sample("y", dist.Normal(torch.zeros(N), 1.0))

    args = (torch.randn(N, G), torch.randn(N))[: 1 + labelled]
    terms = terms_of(model, guide, *args)
    assert terms.num_data == N
    assert terms.reconstruction["x"].shape == (G,)


def test_time_series_have_no_axis_for_time():
    def program(x, observed):
        state = torch.zeros(N)
        with pyro.plate("data", N):
            for t in pyro.markov(range(3)):
                state = pyro.sample(f"z_{t}", dist.Normal(0.5 * state, 1.0))
                if observed:
                    pyro.sample(f"x_{t}", dist.Normal(state, 1.0), obs=x[:, t])

    terms = terms_of(lambda x: program(x, True), lambda x: program(x, False), torch.randn(N, 3))
    assert terms.num_data == N
    assert all(v.shape == () for v in terms.reconstruction.values())


def test_data_in_plates_of_their_own_are_counted_together():
    def program(x, y, observed):
        for name, value in (("x", x), ("y", y)):
            with pyro.plate(f"data of {name}", len(value)):
                z = pyro.sample(f"z_{name}", dist.Normal(torch.zeros(len(value)), 1.0))
                if observed:
                    pyro.sample(name, dist.Normal(z, 1.0), obs=value)

    args = torch.randn(N), torch.randn(7)
    terms = terms_of(lambda *a: program(*a, True), lambda *a: program(*a, False), *args)
    assert terms.num_data == N + 7


# ---------------------------------------------------------------------- what was found before


@pytest.mark.parametrize("plate", ["rows", "groups"])
def test_what_a_reparametrised_site_leaves_is_no_datum(plate):
    x, group = torch.randn(30, 4), torch.arange(30) % 3
    n, of_datum = (30, torch.arange(30)) if plate == "rows" else (3, group)

    def model(*_):
        with pyro.plate(plate, n):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(2.0)))
        with pyro.plate("data", 30):
            pyro.sample("x", dist.Normal(z[of_datum, None].expand(30, 4), 1.0).to_event(1), obs=x)

    def guide(*_):
        with pyro.plate(plate, n):
            pyro.sample("z_decentered", dist.Normal(torch.zeros(n), 0.5))

    terms = terms_of(poutine.reparam(model, config={"z": LocScaleReparam(0.0)}), guide)
    kl = torch.distributions.kl_divergence(dist.Normal(0.0, 0.5), dist.Normal(0.0, 1.0))
    assert terms.num_data == 30
    assert list(terms.reconstruction) == ["x"]
    assert terms.kl["z_decentered"].sum() == pytest.approx(n * float(kl) / 30)


class Changing:
    """A model and a guide that change in many ways from one evaluation to the next."""

    def __init__(self):
        self.x, self.columns, self.full = torch.ones(6, 2), None, None
        self.more, self.weight, self.wide, self.mask = False, 1.0, False, None
        self.loc, self.scale = torch.tensor([0.3]).requires_grad_(), 1.0

    def plate(self):
        size = self.full or len(self.x)
        rows = torch.arange(len(self.x)) if self.full else None
        return pyro.plate("data", size, subsample=rows, dim=-2)

    def latent(self, loc, scale):
        with poutine.scale(scale=self.weight), pyro.plate("latents", 3 if self.wide else 1):
            return pyro.sample("z", dist.Normal(loc, torch.as_tensor(scale, dtype=loc.dtype)))

    def model(self):
        with self.plate():
            z = self.latent(self.x.new_zeros(()), 1.0).sum(-1, keepdim=True)
            if self.more:
                z = z + pyro.sample("more", dist.Normal(self.x.new_zeros(()), 1.0))
            if self.columns:
                fn = dist.Normal(z, 1.0).expand([len(self.x), 2]).mask(self.mask is None)
                with pyro.plate("columns", self.columns, dim=-1):
                    pyro.sample("x", fn, obs=self.x)
            else:
                fn = dist.Normal(z.unsqueeze(-1), 1.0).expand([len(self.x), 1, 2]).to_event(1)
                pyro.sample("x", fn, obs=self.x[:, None])

    def guide(self):
        with self.plate():
            self.latent(self.loc.to(self.x), self.scale)
            if self.more:
                pyro.sample("more", dist.Normal(self.loc.to(self.x), 0.5))


CHANGES = {
    "a new site": lambda own, elbo: setattr(own, "more", True),
    "another batch size": lambda own, elbo: setattr(own, "x", torch.ones(4, 2)),
    "a weight": lambda own, elbo: setattr(own, "weight", 0.25),
    "a plate in the place of an event": lambda own, elbo: setattr(own, "columns", 2),
    "a mask": lambda own, elbo: setattr(own, "mask", False),
    "a plate of another size": lambda own, elbo: setattr(own, "wide", True),
    "what a plate stands for": lambda own, elbo: setattr(own, "full", 12),
    "more that a plate stands for": lambda own, elbo: setattr(own, "full", 24),
    "the number of particles": lambda own, elbo: setattr(elbo, "num_particles", 2),
    "a number in the guide": lambda own, elbo: setattr(own, "scale", 0.5),
    "a frozen parameter": lambda own, elbo: own.loc.requires_grad_(False),
    "the dtype": lambda own, elbo: setattr(own, "x", own.x.double()),
    "no validation": lambda own, elbo: pyro.enable_validation(False),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_change_is_seen():
    """One objective, after each change, against a new one: loss, terms, number of data."""
    own, elbo = Changing(), CorExELBO()
    with pyro.validation_enabled():
        for name, change in {"nothing": lambda own, elbo: None, **CHANGES}.items():
            change(own, elbo)
            new = CorExELBO(num_particles=elbo.num_particles)
            for _ in range(2):  # found, and used
                values = []
                for each in (elbo, new):
                    pyro.set_rng_seed(1)
                    loss = each.differentiable_loss(own.model, own.guide)
                    own.loc.grad = None
                    if own.loc.requires_grad:
                        loss.backward()
                    values.append((float(loss), own.loc.grad, each.last_terms.num_data))
                assert values[0] == values[1], name
                assert each.last_terms.kl["z"].tolist() == elbo.last_terms.kl["z"].tolist(), name
    known = elbo._pairs[0].axes._found
    assert 1 < len(known) <= 8
