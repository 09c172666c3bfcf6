"""The report's text: what is on the page for which program, and that it says what was computed."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_corex as pc
from pyro_corex.export.pictures import image_shape
from pyro_corex.programs import CategoricalLikelihood, mlp_decoder, mlp_encoder


def vae(width=6, **options):
    return pc.CorExVAE(mlp_encoder([width, 2]), mlp_decoder([2, width]), 2, **options)


def table(n=60):
    return torch.randn(n, 1) + 0.5 * torch.randn(n, 6)


def written(module, x, tmp_path, **options):
    path = pc.report(module, x, tmp_path / "report.html", **options)
    return path.read_text(encoding="utf-8")


def headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


class Tags(HTMLParser):
    """Which tags are left open, and everything that could lead out of the page."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_table(tmp_path):
    module, x = vae(likelihood="learned_normal"), table()
    history = pc.fit(module, x, epochs=2, progress=False)
    page = written(
        module, x, tmp_path, history=history, column_names=["a", "b", "c", "d", "e", "<f>"]
    )
    assert headings(page) == [
        "The bound on total correlation",
        "Data and reconstructions",
        "Traversals",
        "Mutual information of each latent",
        "Input dimensions",
        "Samples",
        "Variances of the aggregate posterior",
        "Training",
        "Limits",
    ]
    assert "<f>" not in page
    assert "&lt;f&gt;" in page
    bound = pc.tc_bound(module, x)
    assert f"{bound.estimate:.2f} ± {bound.stderr:.2g} nats" in page
    post = pc.AggregatePosterior.from_data(module, x)
    tc = post.total_correlation()
    assert f"TC(z) is in [{tc.lower:.2f}, {tc.upper:.2f}] nats" in page
    again = module.decode(module.encode(x).mean).mean.detach()
    assert f"{torch.corrcoef(torch.stack([x[:, 5], again[:, 5]]))[0, 1]:.2f}" in page
    assert f"{x[0, 5]:.2f} → {again[0, 5]:.2f}" in page
    for j, value in enumerate(pc.AggregatePosterior.from_data(module, x).mutual_information()):
        assert f"Latent {j} of z: {float(value):.2f} nats" in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(address.startswith("data:") for address in tags.addresses)


def test_a_stack_has_layers_and_a_slider_over_classes(tmp_path):
    module = pc.StackedCorEx([(6, 4), (4, 3)], n_classes=3)
    x = torch.bernoulli(torch.full((60, 6), 0.4))
    page = written(module, x, tmp_path, image_shape=(2, 3))
    assert "Layers" in headings(page)
    assert "Training" not in headings(page)
    for part in pc.tc_bound(module, x).layers:
        assert f"<td>{part.estimate:.3f}</td><td>{part.stderr:.2g}</td>" in page
    first = page.index("State of z2")
    assert first < page.index("Latent")
    assert '"state 2"' in page


def test_a_page_has_the_sliders_that_are_asked_for(tmp_path):
    module, x = vae(likelihood="learned_normal"), table()
    assert written(module, x, tmp_path, n_traversals=1).count("<section") == 1
    assert "Traversals" not in headings(written(module, x, tmp_path, n_traversals=0))


def test_the_same_arguments_give_the_same_page(tmp_path):
    module, x = vae(), torch.rand(40, 6)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = written(module, x, tmp_path, transform=torch.bernoulli)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert written(module, x, tmp_path, transform=torch.bernoulli) == first
    assert written(module, x, tmp_path, transform=torch.bernoulli, seed=1) != first


def test_grey_values_under_a_bernoulli_get_no_bound(tmp_path):
    page = written(vae(), torch.rand(40, 6), tmp_path)
    assert "No bound on TC(x) is stated." in page
    assert "log-likelihood of nothing" in page
    assert "Input dimensions" not in headings(page)


def test_states_have_means_and_samples(tmp_path):
    decoder = mlp_decoder([2, 6], n_params=3)
    module = pc.CorExVAE(mlp_encoder([6, 2]), decoder, 2, likelihood=CategoricalLikelihood(3))
    page = written(module, torch.randint(0, 3, (50, 6)).float(), tmp_path)
    assert {"Traversals", "Samples"} <= set(headings(page))
    assert "nan" not in page


def test_images_by_the_shape_of_the_data(tmp_path):
    networks = torch.nn.Sequential(torch.nn.Flatten(), *mlp_encoder([12, 2])), None
    decoder = torch.nn.Sequential(*mlp_decoder([2, 12]), torch.nn.Unflatten(-1, (3, 2, 2)))
    module = pc.CorExVAE(networks[0], decoder, 2, likelihood="continuous_bernoulli")
    page = written(module, torch.rand(30, 3, 2, 2), tmp_path)
    assert 'class="film"' in page
    assert "Relevance of each pixel" in page


def own(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.repeat(1, 3), 0.7).to_event(1), obs=x)


def its_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2] / 2, 0.5).to_event(1))


def test_two_functions_get_their_bound_and_a_note(tmp_path):
    page = written(SimpleNamespace(model=own, guide=its_guide), table(), tmp_path)
    assert headings(page) == [
        "The bound on total correlation",
        "Input dimensions",
        "Notes",
        "Limits",
    ]
    assert "Of the latents only the KL is known" in page
    assert "Without decode(z)" in page


def test_what_an_estimator_warns_of_is_on_the_page(tmp_path):
    module, x = vae(likelihood="learned_normal"), table(20)
    with torch.no_grad():
        module.encoder[-1].weight.mul_(30)
        module.encoder[-1].bias[2:].fill_(-9)
    page = written(module, x, tmp_path)
    assert "Notes" in headings(page)
    assert "ln N" in page


def test_wide_tables_show_the_columns_that_move_most(tmp_path):
    x = torch.randn(80, 1) * torch.linspace(0, 1, 30) + 0.5 * torch.randn(80, 30)
    page = written(vae(30, likelihood="learned_normal"), x, tmp_path)
    assert "Decoded means: the 20 that move most of 30" in page


WRONG = {
    "folder": ({"path": "missing/report.html"}, "The folder .*missing does not exist"),
    "names": ({"column_names": ["a"]}, "column_names has 1 names, but x has 6 columns"),
    "shape": ({"image_shape": (2, 2)}, r"image_shape must be .* of 6 numbers in all"),
    "number": ({"n_traversals": -1}, "n_traversals must be an integer >= 0, but got -1"),
    "data": ({"data": torch.zeros(0, 6)}, "The data are empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case, tmp_path):
    options, message = WRONG[case]
    options = {"data": table(), "path": "report.html", **options}
    options["path"] = tmp_path / options["path"]
    with pytest.raises(ValueError, match=message):
        pc.report(vae(likelihood="learned_normal"), **options)


def test_image_shapes():
    flat, grey, colour = torch.zeros(2, 12), torch.zeros(2, 3, 4), torch.zeros(2, 3, 2, 2)
    assert image_shape(flat, None) is None
    assert image_shape(flat, (3, 4)) == (1, 3, 4)
    assert image_shape(flat, (3, 2, 2)) == (3, 2, 2)
    assert image_shape(grey, None) == (1, 3, 4)
    assert image_shape(colour, None) == (3, 2, 2)
    assert image_shape(torch.zeros(2, 5, 2, 2), None) is None
