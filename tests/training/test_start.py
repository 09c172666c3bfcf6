import pytest
import torch

import pyro_corex as pc
from pyro_corex.evaluation import cluster_accuracy


@pytest.fixture(scope="module")
def trained():
    """Three groups of patterns, and a first layer that has learned them."""
    torch.manual_seed(0)
    patterns = torch.eye(3).repeat_interleave(8, 1)
    group = torch.randint(3, (600,))
    x = (patterns[group] - torch.bernoulli(torch.full((600, 24), 0.05))).abs()
    stack = pc.StackedCorEx([(24, 32, 4), (4, 16, 3)], n_classes=3)
    first = pc.CorExVAE(stack.encoders[0], stack.decoders[0], 4)
    pc.fit(first, x, epochs=20, batch_size=64, lr=3e-3, progress=False)
    return stack, x, group


def flipped(x):
    return (x - torch.bernoulli(0.02 + 0 * x)).abs()


@pytest.mark.parametrize(("transform", "refine"), [(None, 0), (flipped, 0), (flipped, 100)])
def test_the_top_takes_the_groups(trained, transform, refine):
    stack, x, group = trained
    components = None if transform is None else [3, 5]
    state = torch.get_rng_state()
    starts = pc.start_top(stack, x, transform=transform, n_components=components, n_starts=2,
                          refine=refine, steps=300, batch_size=64, progress=False)  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    key = "log_likelihood" if transform is None else "information"
    ranks = [getattr(start, key) for start in starts]
    assert ranks == sorted(ranks, reverse=True)
    assert len(starts) == (2 if transform is None else 4)
    if refine:  # copies agree on the group, and so tell its entropy
        share = group.bincount() / 600
        entropy = float(-(share * share.log()).sum())
        assert starts[0].information == pytest.approx(entropy, rel=0.1)
    resp = starts[0].responsibilities
    assert resp.shape == (600, 3)
    torch.testing.assert_close(resp.sum(1), torch.ones(600))
    classes = stack.encode(x)[-1].logits.argmax(-1)
    assert cluster_accuracy(group, classes) > 0.95
    assert cluster_accuracy(resp.argmax(1), classes) > 0.95
    # the model knows the classes, too: it draws each group's latents from its class
    down = stack.given_top(torch.arange(3)).log_prob(stack.encode(x)[0].mean.unsqueeze(1)).sum(-1)
    assert cluster_accuracy(group, down.argmax(1)) > 0.95


def test_errors(trained):
    _, x, _ = trained
    with pytest.raises(ValueError, match="at least two layers with a discrete top"):
        pc.start_top(pc.StackedCorEx([(24, 4), (4, 2)], n_classes=None), x)
    with pytest.raises(ValueError, match="only copies say which to merge"):
        pc.start_top(trained[0], x, n_components=5, n_starts=1)
    flat = pc.StackedCorEx([(24, 4), (4, 3)], n_classes=3)
    for parameter in flat.encoders[0].parameters():
        parameter.data.zero_()
    with pytest.raises(ValueError, match="No latent of layer 1 tells anything about x"):
        pc.start_top(flat, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_starts": 0}, "n_starts must be an integer >= 1, but got 0"),
        ({"n_components": []}, r"n_components must be an integer >= 1, but got \[\]"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"transform": lambda x: x[:3]}, r"must keep the shape \(600, 24\), but gives \(3, 24\)"),
    ],
)
def test_wrong_options(trained, options, message):
    stack, x, _ = trained
    with pytest.raises(ValueError, match=message):
        pc.start_top(stack, x, progress=False, **options)


def test_wrong_data(trained):
    stack, x, _ = trained
    with pytest.raises(TypeError, match="x must be a tensor"):
        pc.start_top(stack, x.numpy())
    with pytest.raises(ValueError, match="is empty"):
        pc.start_top(stack, x[:0])
    with pytest.raises(ValueError, match="must be finite, but 14400 of its 14400 entries are NaN"):
        pc.start_top(stack, x * float("nan"))
