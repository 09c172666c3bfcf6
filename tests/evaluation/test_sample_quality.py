import numpy as np
import pytest
import torch

from benchmarks.sample_quality import sample_quality, train_features
from pyro_corex.datasets import synthetic_faces
from pyro_corex.evaluation import frechet_distance


def normal(n, seed, loc=0.0, scale=1.0, width=3):
    generator = torch.Generator().manual_seed(seed)
    return loc + scale * torch.randn(n, width, generator=generator)


def as_images(x):
    return x[:, :, None, None]


def flat(images):
    return images.flatten(1)


def test_frechet_distance_of_gaussians():
    a = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.0, 0.0, 0.5]], dtype=torch.float64)
    b = a @ mix.T + torch.tensor([1.0, 0.0, -2.0])
    cov_a, cov_b = np.cov(a.T.numpy()), np.cov(b.T.numpy())
    from scipy.linalg import sqrtm

    cross = np.trace(sqrtm(cov_a @ cov_b).real)
    shift = (a.mean(0) - b.mean(0)).square().sum()
    want = shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(float(want), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # commuting covariances: |mu|^2 + sum (s - t)^2
    assert frechet_distance(a, 3 * a + 1) == pytest.approx(3 + 3 * 4, rel=0.02)


def test_the_error_of_the_distance_is_its_spread():
    found = [
        sample_quality(
            flat, as_images(normal(400, s)), as_images(normal(400, 100 + s, 0.5))
        ).frechet
        for s in range(30)
    ]
    spread = np.std([f.estimate for f in found])
    assert np.mean([f.stderr for f in found]) == pytest.approx(spread, rel=0.3)
    low, high = found[0].interval
    assert high - low == pytest.approx(2 * 1.96 * found[0].stderr)
    assert low < found[0].estimate < high


def test_precision_and_recall_see_lost_and_invented_modes():
    modes = torch.tensor([[-9.0, 0.0], [9.0, 0.0]])
    real = normal(400, 0, modes.repeat(200, 1), width=2)
    lost = sample_quality(flat, as_images(real), as_images(normal(400, 1, modes[:1], width=2)))
    assert lost.precision.estimate > 0.9
    assert lost.recall.estimate < 0.5
    both = normal(400, 2, torch.tensor([[-9.0, 0.0], [9.0, 0.0], [0.0, 50.0], [0.0, -50.0]])
                  .repeat(100, 1), width=2)  # fmt: skip
    invented = sample_quality(flat, as_images(real), as_images(both))
    assert invented.precision.estimate == pytest.approx(0.5, abs=0.05)
    assert invented.recall.estimate > 0.85
    assert invented.precision.stderr == pytest.approx(0.025, abs=0.001)
    assert repr(invented.precision) == f"{invented.precision.estimate:.4g} ± 0.025"


def test_features_notice_damage():
    images, _ = synthetic_faces(700, 0, size=16)
    state = torch.get_rng_state()
    features = train_features(images[:300], steps=60, batch_size=70, n_features=16)
    assert torch.equal(torch.get_rng_state(), state)
    again = train_features(images[:300], steps=60, batch_size=70, n_features=16)
    assert torch.equal(features(images[:5]), again(images[:5]))
    assert not any(p.requires_grad for p in features.parameters())
    real, fresh = images[300:500], images[500:]
    blurred = torch.nn.functional.avg_pool2d(fresh, 3, stride=1, padding=1)
    good, bad = (sample_quality(features, real, x).frechet for x in (fresh, blurred))
    assert bad.interval[0] > good.interval[1]


def test_refuses():
    x = torch.rand(50, 3, 8, 8)
    for call, match in (
        (lambda: sample_quality(flat, x[:9], x), "real must be at least 40 images"),
        (lambda: sample_quality(flat, x, x[0]), "samples must be at least 40 images"),
        (lambda: sample_quality(flat, x, x[:, :1]), "images of one shape"),
        (lambda: sample_quality(flat, x, x, k=3), "k must be from 1 to 1, but got 3"),
        (lambda: frechet_distance(x.flatten(1), x.flatten(1)[:, :4]), r"\(50, 192\) and \(50, 4\)"),
        (
            lambda: train_features(x[:, :, :7]),
            r"multiples of 4, but.*\(50, 3, 7, 8\)",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="samples must be a tensor of images, but got ndarray"):
        sample_quality(flat, x, x.numpy())
