"""Columns that are no variables, and values that are none."""

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.suspects import (
    copies,
    missing_codes,
    no_variable,
    rows_with,
    sums,
    totals,
)

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(1, 6, 60).astype(float)


def column(name, kind, values):
    return Column(name, kind, low=values.min(), high=values.max())


def held(values, *extra):
    return np.concatenate([np.asarray(values, dtype=float), extra])


@pytest.mark.parametrize(("values", "kind", "code"), [
    (held(LEVELS, -99, -99), "ordinal", -99), (held(LEVELS, 9, 9), "ordinal", 9),
    (held(LEVELS, -1, -1), "ordinal", -1), (held(LEVELS - 3), "ordinal", None),
    (held([1, 2, 3] * 9, 5, 5, 5), "ordinal", None), (held(LEVELS, 6), "ordinal", None),
    (held(RNG.normal(50, 10, 60).round(), 999), "continuous", 999),
    (held(RNG.integers(18, 80, 60), 99, 99), "continuous", 99),
    (held(RNG.normal(90, 9, 60).round(1), -1, -1), "continuous", -1),
    (held(RNG.normal(90, 9, 60).round(1), 0, 0), "continuous", 0),
    (held(RNG.normal(size=60).round(1)), "continuous", None),
    (held(RNG.poisson(4, 60)), "counts", None),
])  # fmt: skip
def test_values_that_stand_apart(values, kind, code):
    found, x = missing_codes([column("a", kind, values)], values[:, None])
    assert [f"holds {code} in" in text for text in found] == [True] * (code is not None)
    assert np.isnan(x).sum() == (values == code).sum()


def test_two_codes_are_two_sentences_and_columns_share_one():
    x = np.column_stack([held(LEVELS, -98, -99, -99), held(LEVELS[::-1], -99, 1, 2)])
    found, _ = missing_codes([column(k, "ordinal", v) for k, v in zip("ab", x.T, strict=True)], x)
    assert found[0].startswith("Columns 'a', 'b' hold -99 in 3 of 63 rows")
    assert found[1].startswith("Column 'a' holds -98 in 1 of 63 rows")


NOT = [f"P{i}" for i in range(40)]


@pytest.mark.parametrize(("name", "values", "why"), [
    ("row", np.arange(40.0), "running number"), ("t", np.arange(40) * 0.5, "running number"),
    ("k", np.sort(RNG.choice(999, 40, replace=False)) * 1.0, "running number"),
    ("user_id", RNG.choice(99999, 40, replace=False) * 1.0, "identifier"),
    ("salary", RNG.choice(99999, 40, replace=False) * 1.0, ""),
    ("subject", RNG.choice(30, 90) * 1.0, "identifier"),
    ("subject", RNG.choice(NOT[:20], 90).astype(object), "identifier"),
    ("wave", RNG.choice([20200131, 20210228, 20211105], 40) * 1.0, "dates"),
    ("height", RNG.normal(size=40), ""), ("q", LEVELS, ""),
    ("who", np.array(NOT, object), "40 different words"),
    ("day", np.array(["1.2.2020"], object), "dates"),
    ("mail", np.array(["a@b.de"] * 3, object), "e-mail"),
    ("w", np.array(["a", "b"] * 9, object), ""),
])  # fmt: skip
def test_what_is_no_variable(name, values, why):
    found = no_variable(name, values)
    assert (why in found) if why else found == ""


def test_copies_and_sums_are_named():
    a, b, c = RNG.integers(1, 6, (3, 60)).astype(float)
    x = np.column_stack([a, b, c, a + b + c, 6 - a])
    columns = [Column(name, "ordinal", np.unique(v)) for name, v in zip("abcst", x.T, strict=True)]
    same = copies(columns, x)
    assert list(same) == [(0, 4)]
    assert "'a', 't' tell the same" in same[0, 4]
    (found,) = sums(columns[:4], x[:, :4])
    assert found.startswith("Column 's' is a sum or mean of 'a', 'b', 'c'")
    x[::9, 4] = np.nan  # gaps of its own hide a copy from ranks
    assert copies(columns, x) == {}
    assert any("'a', 't' tell the same" in text for text in sums(columns, x))
    shares = RNG.dirichlet([1, 1, 1], 60)
    (found,) = sums([Column(name, "continuous") for name in "uvw"], shares)
    assert found.startswith("Columns 'u', 'v', 'w' are tied")
    assert totals([Column("u", "continuous")] * 2, np.vstack([shares, shares.sum(0)])[:, :2])
    assert sums(columns[:3], x[:, :3]) == totals(columns[:3], x[:, :3]) == []


def test_correlations_stand_for_rows():
    x = RNG.normal(size=(90, 2)).repeat(3, 1) + 0.6 * RNG.normal(size=(90, 6))
    frame = pd.DataFrame(np.cov(x.T, bias=True), columns=list("abcdef"))
    np.testing.assert_allclose(np.cov(rows_with(frame, 90).T, bias=True), frame, atol=1e-9)
    found, true = CorEx(2, cv=None).fit(frame, n_rows=90), CorEx(2, cv=None).fit(x)
    assert found.tc_ == pytest.approx(true.tc_, abs=0.02)
    assert found.clusters_.tolist() == true.clusters_.tolist()
    loadings = np.array([[0.8, 0.7, 0.6, 0.8, 0.7, 0.6]])
    exact = loadings.T @ loadings + np.diag(1 - loadings[0] ** 2)
    many = CorEx(1).fit(exact, n_rows=90_000)  # of which no subset is taken
    assert many.fit_.chi_square == pytest.approx(0, abs=1e-3)
    assert many.fit_.srmr == pytest.approx(0, abs=1e-4)
    optimism = 6 / 2 / 90_000
    true = -0.5 * np.linalg.slogdet(exact)[1]
    assert many.tc_ + optimism == pytest.approx(true, abs=1e-4)
    assert many.n_samples_ == many.n_effective_ == 90_000
    few = CorEx(1).fit(exact, n_rows=10_000)
    assert many.tc_stderr_ == pytest.approx(few.tc_stderr_ / 3, rel=0.05)
    assert "weights" not in many.summary()
    with pytest.raises(ValueError, match=r"n_rows must be .* more than the 6 columns, but got 6"):
        rows_with(frame, 6)
    with pytest.raises(ValueError, match=r"symmetric table .* but has the shape \(90, 6\)"):
        rows_with(x, 90)
    with pytest.raises(ValueError, match=r"has the negative eigenvalue -0.8"):
        rows_with([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]], 90)
    with pytest.raises(ValueError, match=r"n_rows is for Gaussian latents"):
        CorEx(2, latent="categorical").fit(frame, n_rows=90)


def test_ranks_are_kept():
    r, s = (RNG.permutation(55) + 1 for _ in "rs")
    found = CorEx().describe(pd.DataFrame({"r": r, "s": s, "case": RNG.permutation(55)}))
    assert [c.kind for c in found.columns] == ["continuous", "continuous", "left out"]
    assert "'r', 's' hold whole numbers that never repeat, in several orders" in found.notes[0]
    for other in ({"s": r}, {"id": s}, {"s": np.sort(s)}, {"s": RNG.normal(size=55)}):
        assert CorEx().describe(pd.DataFrame({"r": r, **other})).columns[0].kind == "left out"
