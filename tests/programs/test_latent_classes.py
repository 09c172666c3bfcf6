"""Tables explained by discrete latents."""

import pytest
import torch

import pyro_corex
from pyro_corex import CorExELBO
from pyro_corex.programs.latent_classes import LatentClasses
from pyro_corex.programs.tables import TableSpec


def program(m, copies=2):
    d = m * copies
    spec = TableSpec(("ordinal", "continuous") * (d // 2), (3, 0) * (d // 2))
    found = LatentClasses(spec, [i % m for i in range(d)], [2 + j % 2 for j in range(m)]).double()
    with torch.no_grad():
        found.table.normal_()
        found.loc.normal_()
        found.class_logits.normal_()
    return found.eval()


def rows(n, d):
    x = torch.randn(n, d, dtype=torch.float64)
    x[:, ::2] = torch.randint(3, (n, d // 2)).double()
    return x


@pytest.mark.parametrize("m", [2, 70])  # more than a tensor has dimensions
def test_the_bound_is_the_likelihood(m):
    found, x = program(m), rows(50, 2 * m)
    terms = CorExELBO(strict_enumeration_warning=False).terms(found.model, found.guide, x)
    likelihood = found.log_joint(x).logsumexp(-1).sum(-1).mean().item()
    assert terms.elbo == pytest.approx(likelihood, abs=1e-6)
    bound = pyro_corex.tc_bound(found, x, batch_size=20)
    assert bound.estimate == pytest.approx(terms.tc_bound, abs=1e-6)


def test_missing_entries_are_left_out():
    found, x = program(2), rows(20, 4)
    x[3] = torch.nan
    q = found.encode(x)
    for j, n in enumerate(found.n_states):
        torch.testing.assert_close(q.probs[3, j, :n], found.prior()[j, :n].exp())


def test_sites_have_their_columns():
    assert program(2).site_columns == {
        "levels_0": [0, 2], "continuous_1": [1, 3],
    }  # fmt: skip
    kinds = [
        (kind, columns) for kind, columns, _ in program(2).column_distributions(torch.zeros(1, 2))
    ]
    assert kinds == [("levels", [0, 2]), ("continuous", [1, 3])]


def test_parents_have_to_be_latents():
    spec = TableSpec(("continuous",), (0,))
    with pytest.raises(ValueError, match=r"parents must name one of 1 latents for each of 1"):
        LatentClasses(spec, [1], [2])
    with pytest.raises(ValueError, match=r"n_states must be >= 1 for every latent"):
        LatentClasses(spec, [0], [0])
