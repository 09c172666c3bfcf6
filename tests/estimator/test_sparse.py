"""Sparse tables: what they hold, that results are those of the dense table, and their memory."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pyro_corex import CorEx
from pyro_corex.estimator import sparse as module
from pyro_corex.estimator.sparse import SparseTable, dense, map_columns
from tests.estimator.tables import same_groups

FORMATS = {
    "csr": scipy.sparse.csr_array,
    "csc": scipy.sparse.csc_matrix,
    "coo": scipy.sparse.coo_matrix,
}


def words(n, d, topics, seed=0, rate=0.3, many=0):
    """Counts of words: each is of a topic, which a document has or not; the first are frequent."""
    rng = np.random.default_rng(seed)
    on = rng.random((n, topics)) < 0.3
    rates = np.where(np.arange(d) < many, 20 * rate, rate)
    x = rng.poisson(rates * np.where(on[:, np.arange(d) % topics], 4.0, 0.2))
    return x.astype(float)


def fitted(x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CorEx(2, random_state=0, **{"max_iter": 20, "cv": None} | options).fit(x)


# ---------------------------------------------------------------------- the table


def test_it_is_indexed_as_an_array_is():
    x = words(30, 6, 2)
    x[3, 2] = np.nan
    table = SparseTable(scipy.sparse.coo_array(x))
    assert (len(table), table.shape, table.size) == (30, (30, 6), 180)
    np.testing.assert_array_equal(dense(table), x)
    np.testing.assert_array_equal(dense(table[4:9]), x[4:9])
    np.testing.assert_array_equal(dense(table[[5, 2, 2]]), x[[5, 2, 2]])
    np.testing.assert_array_equal(dense(table[x[:, 0] > 0]), x[x[:, 0] > 0])
    np.testing.assert_array_equal(table[:, 2], x[:, 2])
    np.testing.assert_array_equal(table[:, 1:4], x[:, 1:4])
    np.testing.assert_array_equal(table[:, [4, 0]], x[:, [4, 0]])
    times = np.arange(30) % 3
    np.testing.assert_array_equal(dense(table.repeat(times, 0)), x.repeat(times, 0))


def test_columns_are_mapped_with_all_that_is_not_stored():
    x = words(30, 4, 2)
    x[:, 3] = 1.0 + np.arange(30) % 2  # nothing of it is 0
    rows = {}

    def ones(i, values, often):
        rows[i] = int(often[values == 0].sum())
        return np.where(values == 0, np.nan, values + i)

    expected = map_columns(x, ones)
    of_array = dict(rows)
    np.testing.assert_array_equal(
        dense(map_columns(SparseTable(scipy.sparse.csr_array(x)), ones)), expected
    )
    assert rows == of_array == {i: int((x[:, i] == 0).sum()) for i in range(4)}


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize("what", ["counts", "binary", "mixed"])
def test_results_are_those_of_the_dense_table(form, latent, what):
    x = words(150, 8, 2, many=2 if what == "counts" else 0)
    if what == "binary":
        x = np.minimum(x, 1.0)
    if what == "mixed":
        x[:, 0] = np.random.default_rng(1).standard_normal(150) + x[:, 2]
        x[5, 1] = x[9, 4] = np.nan
    one, other = fitted(x, latent=latent), fitted(FORMATS[form](x), latent=latent)
    assert [c.kind for c in one.columns_] == [c.kind for c in other.columns_]
    assert ("counts" in {c.kind for c in one.columns_}) == (what == "counts")
    for name in ("tc_", "tc_stderr_", "tcs_", "mis_", "clusters_", "missing_", "n_samples_"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-6, atol=1e-9)
    new = words(40, 8, 2, seed=3)
    given = FORMATS[form](new)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # levels that are not in the table that was fitted
        for name in ("transform", "score", "surprise", "coded", "impute"):
            found = getattr(other, name)(given), getattr(one, name)(new)
            np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-9)


def test_results_with_folds_and_weights():
    x = words(120, 6, 2)
    weight = np.arange(120) % 3
    found = []
    for each in (x, scipy.sparse.csc_array(x)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            corex = CorEx(2, latent="categorical", cv=2, random_state=0)
            corex.fit(each, sample_weight=weight)
        found.append([corex.tc_, *corex.mis_.ravel()])
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-9)


def test_a_saved_model_scores_sparse_rows(tmp_path):
    x = np.minimum(words(120, 6, 2), 1.0)
    corex = fitted(scipy.sparse.csr_array(x), latent="categorical")
    corex.save(tmp_path / "model.corex")
    again = CorEx.load(tmp_path / "model.corex")
    new = scipy.sparse.coo_array(np.minimum(words(30, 6, 2, seed=1), 1.0))
    assert again.score(new) == corex.score(new) == corex.score(new.toarray())


def test_zeros_that_are_stored_and_entries_that_are_stored_twice():
    x = np.minimum(words(100, 6, 2), 1.0)
    row, column = np.nonzero(x)
    zero = np.argwhere(x == 0)[::7]
    twice = scipy.sparse.coo_array(
        (
            np.concatenate([np.full(len(row), 0.5), np.full(len(row), 0.5), np.zeros(len(zero))]),
            (np.concatenate([row, row, zero[:, 0]]), np.concatenate([column, column, zero[:, 1]])),
        ),
        shape=x.shape,
    )
    before = twice.data.copy()
    assert fitted(twice).tc_ == pytest.approx(fitted(x).tc_)
    np.testing.assert_array_equal(twice.data, before)  # what was given stays as it was


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32])
def test_numbers_of_any_type(dtype):
    x = np.minimum(words(100, 6, 2), 1.0).astype(dtype)
    found = [fitted(each).tc_ for each in (x, scipy.sparse.csr_matrix(x))]
    assert found[0] == pytest.approx(found[1])


def test_what_is_not_stored_may_be_missing():
    x = np.random.default_rng(0).integers(1, 5, (200, 1)).repeat(4, 1).astype(float)
    x *= np.random.default_rng(1).random(x.shape) < 0.5
    options = {"missing": [0], "latent": "categorical", "n_states": 4}
    one, other = fitted(x, **options), fitted(scipy.sparse.csr_array(x), **options)
    assert one.columns_[0].missing == other.columns_[0].missing == (x[:, 0] == 0).sum()
    assert other.tc_ == pytest.approx(one.tc_)
    filled = other.impute(scipy.sparse.csr_array(x))
    assert (filled > 0).all()


def test_levels_that_the_fit_had_not():
    x = 1.0 + np.minimum(words(100, 6, 2), 1.0)
    corex = fitted(scipy.sparse.csr_array(x))
    new = x[:20].copy()
    new[:3, 2] = 0.0
    with pytest.warns(UserWarning, match=r"'x2' holds what was no level .* 0, in 3 of 20 rows"):
        found = corex.transform(scipy.sparse.csr_array(new))
    with pytest.warns(UserWarning, match=r"'x2' .* 0, in 3 of 20 rows"):
        np.testing.assert_allclose(found, corex.transform(new))


def test_frames_with_sparse_columns_stay_sparse(monkeypatch):
    x = pd.DataFrame(np.minimum(words(100, 4, 2), 1.0), columns=list("abcd"))
    sparse = x.astype(pd.SparseDtype("float", 0.0))
    expected = fitted(x).tc_
    monkeypatch.setattr(pd.DataFrame, "astype", None)
    corex = fitted(sparse)
    assert corex.tc_ == expected
    assert [c.name for c in corex.columns_] == list("abcd")


# ---------------------------------------------------------------------- memory


def test_memory_is_that_of_blocks_and_topics_are_found(monkeypatch):
    monkeypatch.setattr("pyro_corex.estimator.blocks._MOST_CELLS", 400_000)
    monkeypatch.setattr("pyro_corex.estimator.columns._CELLS", 400_000)
    x = scipy.sparse.csr_array(np.minimum(words(20_000, 400, 2, rate=0.03), 1.0))
    tracemalloc.start()
    try:
        corex = fitted(x, latent="categorical")
        z = corex.transform(x)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20_000 * 400 * 8  # less than the dense table alone
    assert z.shape == (20_000, 2)
    assert same_groups(corex.clusters_, np.arange(400) % 2)


def test_rows_are_made_dense_in_blocks_alone(monkeypatch):
    blocks = []

    def filled(stored, rest, fill=module._filled):
        blocks.append(stored.shape[0] * stored.shape[1])
        return fill(stored, rest)

    monkeypatch.setattr(module, "_filled", filled)
    monkeypatch.setattr("pyro_corex.estimator.columns._CELLS", 10_000)
    monkeypatch.setattr("pyro_corex.estimator.columns._FEW_CELLS", 10_000)
    monkeypatch.setattr("pyro_corex.estimator.standard._CELLS", 10_000)
    monkeypatch.setattr("pyro_corex.estimator.levels._CELLS", 10_000)
    monkeypatch.setattr("pyro_corex.estimator.suspects._ROWS", 100)
    monkeypatch.setattr("pyro_corex.estimator.blocks._MOST_CELLS", 10_000)
    monkeypatch.setattr("pyro_corex.estimator.blocks._LEAST_ROWS", 50)
    for latent in ("gaussian", "categorical"):
        x = words(2_000, 20, 2)
        corex = fitted(scipy.sparse.csr_array(x), latent=latent)
        corex.score(scipy.sparse.csr_array(x))
    assert blocks
    assert max(blocks) <= 10_000


def test_what_would_be_dense_is_refused(monkeypatch):
    x = scipy.sparse.csr_array(np.minimum(words(100, 4, 2), 1.0))
    corex = fitted(x)
    monkeypatch.setattr(module, "WHOLE", 300)
    with pytest.raises(ValueError, match=r"100 rows and 4 columns, .* impute .* fewer rows"):
        corex.impute(x)
    with pytest.raises(ValueError, match=r"coded .* 400 dense numbers, 0.0 GB. Give it fewer"):
        corex.coded(x)
    assert corex.impute(x[:50]).shape == (50, 4)
    monkeypatch.setattr(module, "WHOLE", 10)
    with pytest.raises(ValueError, match=r"correlations of Gaussian latents .*'categorical'"):
        fitted(x)
