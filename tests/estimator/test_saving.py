"""Estimators as files."""

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx, save
from tests.estimator.tables import factor_table

X, _ = factor_table(80, 2, 3, 0.5, seed=0)
FRAME = pd.DataFrame(X, columns=list("abcdef")).assign(
    c=np.where(X[:, 2] > 0, "yes", "no"), d=np.digitize(X[:, 3], [-1, 0, 1])
)


@pytest.mark.parametrize("options", [
    {"latent": "gaussian"}, {"latent": "categorical", "n_states": [2, 3]},
    {"n_hidden": (2, 1), "hidden": (3,)},
])  # fmt: skip
def test_a_model_comes_back_as_it_was(tmp_path, options):
    corex = CorEx(**{"n_hidden": 2, "max_iter": 8, "tol": 9.0, "cv": None, **options})
    corex.fit(FRAME)
    corex.save(tmp_path / "m.corex")
    found = CorEx.load(tmp_path / "m.corex")
    rows = FRAME.iloc[::3].reset_index(drop=True)
    rows.loc[0, ["a", "c"]] = None
    np.testing.assert_array_equal(found.transform(rows), corex.transform(rows))
    np.testing.assert_array_equal(found.score_samples(rows), corex.score_samples(rows))
    pd.testing.assert_frame_equal(found.impute(rows), corex.impute(rows))
    pd.testing.assert_frame_equal(found.sample(5, 0), corex.sample(5, 0))
    assert found.tc_z_ == corex.tc_z_
    assert (found.summary(), found.tc_, str(found)) == (corex.summary(), corex.tc_, str(corex))


def test_what_is_no_model(tmp_path):
    corex = CorEx(1, max_iter=8, tol=9.0, cv=None).fit(X)
    save(corex.program_, tmp_path / "p")
    with pytest.raises(ValueError, match=r"p holds no CorEx, but a module"):
        CorEx.load(tmp_path / "p")
    with pytest.raises(TypeError, match=r"holds numbers and text, but .* is a Interval"):
        corex.set_params(anchors={0: [pd.Interval(0, 1)]}).save(tmp_path / "q")
