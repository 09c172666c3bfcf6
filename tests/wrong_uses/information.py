"""Estimators of information, and metrics."""

import numpy as np
import pandas as pd
import torch
from torch.distributions import Normal

import pyro_corex.evaluation as ev
import pyro_corex.information as info

from . import Use, answered, refused

_RANDOM = torch.Generator().manual_seed(0)
Z = torch.randn(40, 3, generator=_RANDOM)
ONES = torch.ones(40, 3)
N = Z.numpy()
MASKED = np.ma.masked_array(N, mask=N > 1)
NAN = Z.clone().index_fill(0, torch.tensor([1]), torch.nan)
FACTORS = torch.arange(40)[:, None] % torch.tensor([2, 4])
COIN = torch.tensor([[0.0], [1.0]]).repeat(20, 1)
STATES = torch.full((40, 2, 2), 0.5)
HALF = torch.full((2, 2), 0.25)
AGG, CAT = "information.aggregate_total_correlation", "information.categorical_mutual_information"
TC, H = "information.total_correlation", "information.entropy_estimate"
I_, GTC = "information.gaussian_mutual_information", "information.gaussian_total_correlation"
MIX, MERGE = "information.fit_mixture", "information.merge_states"
MIN, PAIR = "information.minibatch_total_correlation", "information.pairwise_total_correlation"
SAMPLED, MEAN = "information.sampled_mutual_information", "information.mean_with_entropies"
DTC, STC = "information.discrete_total_correlation", "information.sample_total_correlation"
WEIGHT = "information.batch_log_weight"
LIN, LEAD = "information.linear_optimum", "information.lead_weight"
MATCHED, FRECHET = "evaluation.matched_information", "evaluation.frechet_distance"
ACC, DCI, MIG = "evaluation.cluster_accuracy", "evaluation.dci", "evaluation.mutual_information_gap"
TABLE = "evaluation.factor_information"


def same(right: torch.Tensor):
    return lambda found: torch.equal(found, right)


def sampled(draws: slice, data: slice) -> torch.Tensor:
    return Normal(Z[data], 1.0).log_prob(Z[draws, None])


def fractions(kind: str):
    return info.total_correlation(Z.repeat(2, 1), kind)


USES: list[Use] = [
    # entropies
    answered(
        H, "an array", lambda: info.entropy_estimate(N).value, same(info.entropy_estimate(Z).value)
    ),
    refused(LIN, "one datum", lambda: info.linear_optimum(Z[0], 0.5, [1.0]), "x must be a batch"),
    refused(LIN, "NaN", lambda: info.linear_optimum(NAN, 0.5, [1.0]), "x must be finite"),
    refused(
        LIN,
        "no noise",
        lambda: info.linear_optimum(Z, 0.0, [1.0]),
        "scale must be a positive",
        "0.0",
    ),
    refused(
        LIN,
        "a latent without a price",
        lambda: info.linear_optimum(Z, 0.5, [1.0, 0.0]),
        "kl_weights must hold a positive number for each latent",
        "know everything",
    ),
    answered(
        LIN,
        "a table of data, a list of weights",
        lambda: info.linear_optimum(pd.DataFrame(N), 0.5, [0.5, 1]).information,
        same(info.linear_optimum(Z, 0.5, torch.tensor([0.5, 1.0])).information),
    ),
    answered(
        "information.LinearOptimum",
        "no latent is worth its price",
        lambda: info.linear_optimum(Z, 50.0, [1.0, 1.0]),
        lambda found: repr(found).startswith("LinearOptimum(0 of 2 latents used, 0 nats in all"),
    ),
    refused(LEAD, "no number", lambda: info.lead_weight(float("inf")), "nats must be a finite"),
    refused(H, "words", lambda: info.entropy_estimate([["a"]]), "x must be a tensor", "list"),
    refused(H, "dates", lambda: info.entropy_estimate(N.astype("M8[D]")), "x", "dates by days"),
    refused(H, "a masked array", lambda: info.entropy_estimate(MASKED), "x", "masked", "filled"),
    refused(H, "no values", lambda: info.entropy_estimate(Z.to("meta")), "x", "'meta'"),
    refused(H, "one column", lambda: info.entropy_estimate(Z[:, 0]), "(N, d)", "x[:, None]"),
    refused(H, "NaN", lambda: info.entropy_estimate(NAN), "x must be finite", "3 of its 120"),
    refused(H, "one row", lambda: info.entropy_estimate(Z[:1]), "1 datum", "transposed"),
    refused(H, "an unknown kind", lambda: info.entropy_estimate(Z, "normal"), "kind", "'normal'"),
    refused(H, "complex", lambda: info.entropy_estimate(Z + 0j), "real numbers", "complex"),
    refused(H, "sparse", lambda: info.entropy_estimate(Z.to_sparse()), "dense", "to_dense()"),
    refused(
        "information.marginal_entropy",
        "twos as binary",
        lambda: info.marginal_entropy(2 * COIN, kind="binary"),
        "binary",
        "zeros and ones",
    ),
    refused(MEAN, "a number", lambda: info.mean_with_entropies(1.0, []), "per_datum", "float"),
    refused(MEAN, "a matrix", lambda: info.mean_with_entropies(Z, []), "(N,)", "(40, 3)"),
    refused(
        MEAN,
        "another length",
        lambda: info.mean_with_entropies(Z[:, 0], [(COIN[:6], "binary", 1.0)]),
        "per_datum is of 40",
        "6",
    ),
    refused(
        MEAN,
        "words",
        lambda: info.mean_with_entropies(Z[:, 0], [(N.astype(str), "continuous", 1.0)]),
        "x must hold real numbers",
        "<U",
    ),
    # total correlation of data
    answered(
        TC,
        "an array that is read backwards",
        lambda: info.total_correlation(N[:, ::-1]).value,
        lambda found: torch.allclose(found, info.total_correlation(Z).value, atol=1e-6),
    ),
    refused(TC, "normal data as discrete", lambda: info.total_correlation(Z, "discrete"), "repeat"),
    refused(TC, "normal data twice", lambda: fractions("discrete"), "column 0", "40", "80 data"),
    refused(TC, "an unknown kind", lambda: info.total_correlation(Z, "normal"), "kind", "'normal'"),
    refused(TC, "a wide table", lambda: info.total_correlation(Z.T), "40 dimensions", "x has 3"),
    refused(TC, "a constant", lambda: info.total_correlation(ONES), "constant", "drop them"),
    refused(TC, "NaN", lambda: info.total_correlation(NAN), "x must be finite"),
    refused(GTC, "data", lambda: info.gaussian_total_correlation(Z), "(..., d, d)", "torch.cov"),
    answered(
        GTC,
        "a list of integers",
        lambda: info.gaussian_total_correlation([[2, 1], [1, 2]]),
        lambda found: abs(float(found) + 0.5 * np.log(3 / 4)) < 1e-6,
    ),
    refused(GTC, "not positive", lambda: info.gaussian_total_correlation(-HALF), "definite"),
    refused(GTC, "a triangle", lambda: info.gaussian_total_correlation(HALF.triu()), "symmetric"),
    refused(DTC, "log weights", lambda: info.discrete_total_correlation(HALF.log()), "table"),
    refused(DTC, "nothing", lambda: info.discrete_total_correlation(0 * HALF), "not all zero"),
    refused(DTC, "a tuple", lambda: info.discrete_total_correlation((1, 2)), "table", "tuple"),
    answered(
        DTC, "counts", lambda: info.discrete_total_correlation((4 * HALF).int()), lambda t: t == 0
    ),
    refused(STC, "one column", lambda: info.sample_total_correlation(Z[:, 0]), "(N, m)", "(40,)"),
    answered(
        STC,
        "an array",
        lambda: info.sample_total_correlation(N),
        lambda found: torch.equal(found, info.sample_total_correlation(Z)),
    ),
    # total correlation of encoders
    refused(AGG, "variances below 0", lambda: info.aggregate_total_correlation(Z, -ONES), "scale"),
    refused(AGG, "one scale", lambda: info.aggregate_total_correlation(Z, 1.0), "scale", "float"),
    refused(
        AGG,
        "lists of rows that differ",
        lambda: info.aggregate_total_correlation([[1.0], []], Z),
        "loc",
    ),
    refused(AGG, "means only", lambda: info.aggregate_total_correlation(Z), "(N, m, K)", "(40, 3)"),
    refused(
        AGG,
        "no draws",
        lambda: info.aggregate_total_correlation(Z, ONES, num_samples=0),
        "4 draws",
        "0",
    ),
    refused(AGG, "a row", lambda: info.aggregate_total_correlation(Z, ONES, turn=Z[0]), "turn"),
    refused(WEIGHT, "a number", lambda: info.batch_log_weight(40, 100), "like", "int"),
    refused(WEIGHT, "one datum", lambda: info.batch_log_weight(Z[:1], 100), "2 data", "1"),
    refused(
        MIN,
        "the batch is all",
        lambda: info.minibatch_total_correlation(Z, Z, ONES, 10),
        "n_data = 10",
        "40",
    ),
    refused(
        MIN,
        "one scale",
        lambda: info.minibatch_total_correlation(Z, Z, 1.0, 100),
        "scale must be a tensor",
        "float",
    ),
    refused(
        MIN,
        "an unknown method",
        lambda: info.minibatch_total_correlation(Z, Z, ONES, 100, "mss"),
        "method",
        "'mss'",
    ),
    refused(PAIR, "draws", lambda: info.pairwise_total_correlation(Z, 40), "(B, B, m)", "(40, 3)"),
    # information in encoders
    answered(
        I_,
        "arrays of two kinds of reading",
        lambda: info.gaussian_mutual_information(
            pd.DataFrame(N), np.broadcast_to(N[:1] ** 2, N.shape)
        ),
        lambda found: torch.equal(
            found, info.gaussian_mutual_information(Z, Z[:1].square().expand_as(Z))
        ),
    ),
    refused(I_, "scale is an array", lambda: info.gaussian_mutual_information(Z, N), "scale"),
    refused(I_, "log scales", lambda: info.gaussian_mutual_information(Z, 0 * Z), "softplus"),
    refused(I_, "NaN", lambda: info.gaussian_mutual_information(NAN, ONES), "loc", "NaN"),
    refused(
        "information.gaussian_mutual_information_estimate",
        "one datum",
        lambda: info.gaussian_mutual_information_estimate(Z[:1], ONES[:1]),
        "at least 2 data",
        "(1, 3)",
    ),
    refused(
        "information.aggregate_entropy",
        "one scale a latent",
        lambda: info.aggregate_entropy(Z, ONES[0]),
        "(40, 3)",
        "(3,)",
    ),
    refused(CAT, "logits as probs", lambda: info.categorical_mutual_information(Z[None]), "logits"),
    refused(CAT, "nothing", lambda: info.categorical_mutual_information(), "probs or logits"),
    answered(
        CAT,
        "integers",
        lambda: info.categorical_mutual_information(np.eye(2, dtype=int)[[[0], [1]] * 20]),
        lambda found: torch.allclose(found, torch.tensor([np.log(2)]).float()),
    ),
    refused(
        f"{CAT}_estimate",
        "logits of draws",
        lambda: info.categorical_mutual_information_estimate(logits=N),
        "(N, m, K)",
        "(40, 3)",
    ),
    refused(
        f"{CAT}_estimate",
        "both",
        lambda: info.categorical_mutual_information_estimate(STATES, logits=STATES),
        "not both",
    ),
    refused(
        SAMPLED, "draws", lambda: info.sampled_mutual_information(Z, 40, 3), "Tensor", "slices"
    ),
    refused(SAMPLED, "one", lambda: info.sampled_mutual_information(sampled, 1, 3), "n = 1"),
    refused(SAMPLED, "a latent more", lambda: info.sampled_mutual_information(sampled, 40, 4), "4"),
    # mixtures and results
    answered(MIX, "an array", lambda: info.fit_mixture(N, 2).loc, same(info.fit_mixture(Z, 2).loc)),
    refused(MIX, "too many", lambda: info.fit_mixture(Z, 41), "n_components", "40", "41"),
    refused(MIX, "NaN", lambda: info.fit_mixture(NAN, 2), "z must", "NaN"),
    refused(MERGE, "none left", lambda: info.merge_states(HALF, 0), "n_states", "1 to 2", "0"),
    answered(
        MERGE, "an array", lambda: info.merge_states(np.eye(2), 1)[0], same(torch.zeros(2).long())
    ),
    refused(MERGE, "a row", lambda: info.merge_states(HALF[0], 1), "joint", "square", "(2,)"),
    answered(
        "information.Mixture",
        "at its own mean",
        lambda: info.Mixture(torch.ones(1), Z[:1], torch.eye(3)[None], 0.0).log_density(Z[:1]),
        lambda found: torch.allclose(found, torch.tensor(-2.7568156)),
    ),
    answered(
        "information.Estimate",
        "a share",
        lambda: info.Estimate(0.5, 0.1, unit=""),
        lambda found: repr(found) == "0.5 ± 0.1" and found.interval == (0.5 - 0.196, 0.5 + 0.196),
    ),
    answered(
        "information.Bracket",
        "formatted",
        lambda: info.Bracket(0.0, 1.0, info.Estimate(0.1, 0.1), info.Estimate(0.9, 0.1)),
        lambda found: f"{found:.1f}" == "0.0 to 1.0" and 1.0 in found and 1.1 not in found,
    ),
    # metrics
    refused(FRECHET, "NaN", lambda: ev.frechet_distance(Z, NAN), "b must be finite", "3 of"),
    refused(FRECHET, "infinity", lambda: ev.frechet_distance(Z / 0, Z), "a must be finite"),
    answered(
        FRECHET,
        "arrays",
        lambda: ev.frechet_distance(N, N + np.array([3, 0, 0])),
        lambda d: abs(d - 9) < 1e-5,
    ),
    refused(FRECHET, "images", lambda: ev.frechet_distance(Z[None], Z), "(1, 40, 3)"),
    refused(FRECHET, "one row", lambda: ev.frechet_distance(Z[:1], Z), "2 rows", "(1, 3)"),
    refused(
        MATCHED,
        "one latent twice",
        lambda: ev.matched_information(Z, FACTORS, latents=[0, 0]),
        "latents must be different",
        "[0, 0]",
    ),
    refused(
        MATCHED,
        "no such latent",
        lambda: ev.matched_information(Z, FACTORS, latents=[0, 3]),
        "0 to 2",
        "[0, 3]",
    ),
    refused(MATCHED, "few latents", lambda: ev.matched_information(Z[:, :1], FACTORS), "1 latents"),
    answered(
        TABLE,
        "arrays",
        lambda: ev.factor_information(N, FACTORS.numpy()),
        lambda found: torch.equal(found, ev.factor_information(Z, FACTORS)),
    ),
    refused(TABLE, "another length", lambda: ev.factor_information(Z, FACTORS[1:]), "40 and 39"),
    refused(TABLE, "one bin", lambda: ev.factor_information(Z, FACTORS, bins=1), "bins", "1"),
    refused(TABLE, "a constant", lambda: ev.factor_information(Z, ONES), "factor 0 is constant"),
    refused(TABLE, "labels", lambda: ev.factor_information(Z, FACTORS[:, 0]), "factors", "(40,)"),
    refused(MIG, "one latent", lambda: ev.mutual_information_gap(COIN, FACTORS), "two latents"),
    refused(MIG, "NaN", lambda: ev.mutual_information_gap(NAN, FACTORS), "codes", "NaN"),
    refused(DCI, "five data", lambda: ev.dci(Z[:5], FACTORS[:5]), "8 data", "5"),
    refused(DCI, "a number", lambda: ev.dci(1.0, FACTORS), "codes", "float"),
    answered(
        "evaluation.DCI",
        "by hand",
        lambda: ev.DCI(1.0, 0.5, 0.0),
        lambda found: found.completeness == 0.5 and "informativeness=0.0" in repr(found),
    ),
    answered(
        "evaluation.Matching",
        "by hand",
        lambda: ev.Matching(torch.tensor([1.0, 0.5]), torch.tensor([2, 0])),
        lambda found: repr(found) == "Matching(mean 0.750 ± nan; by factor: 1.00 (z2), 0.50 (z0))",
    ),
    refused(ACC, "nothing", lambda: ev.cluster_accuracy([], []), "non-empty", "(0,)"),
    refused(ACC, "other lengths", lambda: ev.cluster_accuracy([0, 1], [0]), "(2,)", "(1,)"),
    refused(ACC, "NaN", lambda: ev.cluster_accuracy(NAN[:, 0], NAN[:, 0]), "labels", "NaN"),
    refused(ACC, "sparse", lambda: ev.cluster_accuracy(Z.to_sparse(), [1]), "labels", "dense"),
    answered(
        ACC,
        "classes in words",
        lambda: ev.cluster_accuracy(["b", "b", "a", "a"], (0, 0, 1, 0)),
        lambda found: found == 0.75,
    ),
    refused(ACC, "probabilities", lambda: ev.cluster_accuracy(FACTORS[:, 0], Z), "(40, 3)"),
]
