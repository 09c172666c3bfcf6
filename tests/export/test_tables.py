"""The report of a table: each quantity is on it, as the estimator has it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import pyro_corex as pc
from pyro_corex import CorEx
from tests.export.test_report import Tags, headings


@pytest.fixture(scope="module")
def people():
    """Two causes of a few columns each, with words, gaps and a name that HTML would read."""
    rng = np.random.default_rng(0)
    k, g = rng.integers(0, 2, (2, 500))
    frame = pd.DataFrame({
        "a<b>": np.where(rng.random(500) < 0.9, k, 1 - k),
        "colour": np.where(rng.random(500) < 0.9, np.array(["red", "green"])[k], "日本"),
        "age": 20 + 20 * k + 5 * rng.normal(size=500),
        "member": np.where(rng.random(500) < 0.9, g, 1 - g),
        "likes": np.where(rng.random(500) < 0.9, g, 1 - g),
    })  # fmt: skip
    frame.loc[0, "age"] = np.nan
    frame.loc[2, "colour"] = None
    return frame


@pytest.fixture(scope="module")
def gaussian(people):
    corex = CorEx((2, 1), random_state=0, cv=None, max_iter=50, tol=1e-2).fit(people)
    corex.loadings_ = np.arange(10.0).reshape(5, 2) / 10
    corex.communalities_ = np.full(5, 0.4321)
    corex.factor_correlations_ = np.array([[1, -0.34], [-0.34, 1]])
    corex.scree_ = SimpleNamespace(
        eigenvalues=np.arange(5.0)[::-1], reference=np.ones(5), n_above=3
    )
    return corex


def written(corex, x, tmp_path, **options):
    return pc.report(corex, x, tmp_path / "page.html", **options).read_text(encoding="utf-8")


def test_all_that_was_found_is_on_the_page(gaussian, people, tmp_path):
    page = written(gaussian, people, tmp_path, title="People")
    assert headings(page)[:3] == [
        "What was found", "How each column was read", "What each latent tells of each column",
    ]  # fmt: skip
    assert {"Loadings", "Correlations of the factors", "The tree", "How many latents"} <= {
        *headings(page)
    }
    assert f"<strong>{gaussian.tc_:.2f} ± {gaussian.tc_stderr_:.2g} nats</strong>" in page
    assert "People" in page
    for column in gaussian.columns_[1:]:
        assert f'<th scope="row">{column.name}</th><td class="words">{column.kind}</td>' in page
    assert "a<b>" not in page
    for value in (*gaussian.mis_.flat, -0.34, 0.43):
        assert f"{value:.2f}</td>" in page
    for value in (gaussian.bound_.estimate, *gaussian.corrections_.values()):
        assert f"{value:.3f}</td>" in page
    assert "3 are above it" in page
    for value in (*gaussian.upper_.mis_.flat, *gaussian.upper_.mis_stderr_.flat):
        assert f"{value:.3f}</td>" in page
    assert f"from {gaussian.tc_z_.lower:.2f} to {gaussian.tc_z_.upper:.2f} nats" in page
    again = gaussian.inverse_transform(gaussian.transform(people[:3]))
    assert f"missing → {again['age'][0]:.4g}" in page
    assert f"{people['colour'][1]} → {again['colour'][1]}" in page
    assert f"missing → {again['colour'][2]}" in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(address.startswith("data:") for address in tags.addresses)
    assert written(gaussian, people, tmp_path, title="People") == page


def test_classes_have_profiles(people, tmp_path):
    corex = CorEx(2, latent="categorical", random_state=0, cv=None).fit(people)
    corex.class_sizes_ = [np.full(2, 0.5)] * 2
    own = {"a<b>": np.full((2, 2), 0.5), "age": np.array([[20.0, 5], [40, 5]])}
    corex.class_profiles_ = [own, own]
    corex.fit_ = "RMSEA 0.01"
    corex.omega_, corex.alpha_ = np.array([0.765, np.nan]), np.array([0.5, 0.25])
    page = written(corex, people, tmp_path)
    assert "Latents against columns" not in headings(page)
    assert page.count("in each of its classes") == 2
    assert "RMSEA 0.01" in page
    assert '<th scope="row">1</th><td></td><td>0.25</td>' in page


def test_a_table_without_dependence_and_a_model_from_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    corex = CorEx(1, random_state=0, max_iter=20, tol=1e-2).fit(x)
    corex.save(tmp_path / "model")
    page = written(CorEx.load(tmp_path / "model"), x, tmp_path)
    assert "Nothing was found beyond the error" in page
    assert "The bound on these rows" not in page
