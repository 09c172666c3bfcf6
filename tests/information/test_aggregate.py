import errno
import math
import subprocess
import sys

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Categorical, Independent, Normal, Poisson
from torch.utils.data import DataLoader, TensorDataset

from pyro_corex import information as info
from pyro_corex.information import AggregatePosterior


@pytest.fixture
def gaussian(generator):
    common = torch.randn(400, 1, generator=generator)
    loc = common + 0.3 * torch.randn(400, 3, generator=generator)
    loc[:, 2] = 2 * loc[:, 2].sign()
    scale = torch.rand(400, 3, generator=generator) * torch.tensor([1.0, 0.1, 0.5]) + 0.05
    return AggregatePosterior(loc, scale), loc, scale


@pytest.fixture
def discrete(generator):
    common = torch.randn(400, 1, 3, generator=generator)
    probs = (3 * common + torch.randn(400, 2, 3, generator=generator)).softmax(2)
    return AggregatePosterior.from_probs(probs), probs


class Encoder(nn.Module):
    """Gaussian by default; ``wrap`` makes other distributions of loc and scale."""

    def __init__(self, wrap=Normal, width=4, latents=3):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(width, latents), nn.Dropout(0.5))
        self.wrap, self.batches = wrap, []

    def encode(self, x):
        assert not torch.is_grad_enabled()
        assert not self.training
        self.batches.append(len(x))
        loc = self.net(x)
        return self.wrap(loc, 0.1 + loc.square())


def test_samples_follow_the_marginals(gaussian, generator):
    post, loc, scale = gaussian
    z = post.sample(4_000, generator)
    assert z.shape == (4_000, 3)
    for j in range(3):
        a, b = loc[:, j].numpy(), scale[:, j].numpy()
        cdf = lambda t, a=a, b=b: stats.norm.cdf(t[:, None], a, b).mean(1)  # noqa: E731
        assert stats.kstest(z[:, j].numpy(), cdf).pvalue > 0.01
    # the latents are strongly correlated in the data, and not in the product of the marginals
    assert torch.corrcoef(loc.T)[0, 1] > 0.85
    off_diagonal = torch.corrcoef(z.T)[[0, 0, 1], [1, 2, 2]]
    assert off_diagonal.abs().max() < 3 / math.sqrt(4_000)


def test_discrete_samples_follow_the_marginals(discrete, generator):
    post, probs = discrete
    z = post.sample(4_000, generator)
    assert z.shape == (4_000, 2)
    assert z.dtype == torch.long
    for j in range(2):
        counts = z[:, j].bincount(minlength=3).numpy()
        expected = 4_000 * probs[:, j].double().mean(0).numpy()
        assert stats.chisquare(counts, expected, sum_check=False).pvalue > 0.01
    joint = torch.zeros(3, 3).index_put_((z[:, 0], z[:, 1]), torch.ones(4_000), accumulate=True)
    assert stats.chi2_contingency(joint.numpy()).pvalue > 0.01


def test_sample_uses_the_global_state_by_default(gaussian, discrete):
    for post in (gaussian[0], discrete[0]):
        draws = []
        for _ in range(2):
            torch.manual_seed(1)
            draws.append(post.sample(5))
        assert torch.equal(*draws)
        assert post.sample(0).shape == (0, draws[0].shape[1])
        with pytest.raises(ValueError, match="n must be an integer >= 0, but got -1"):
            post.sample(-1)


def test_log_prob_in_blocks(gaussian, generator, monkeypatch):
    post, loc, scale = gaussian
    z = torch.randn(50, 3, generator=generator)
    want = Normal(loc, scale).log_prob(z[:, None]).logsumexp(1) - math.log(400)
    torch.testing.assert_close(post.log_prob(z), want)
    monkeypatch.setattr("pyro_corex.information.aggregate._ELEMENTS", 100)
    torch.testing.assert_close(post.log_prob(z), want)
    with pytest.raises(ValueError, match=r"shape \(n, 3\), but got \(3,\)"):
        post.log_prob(z[0])


def test_discrete_log_prob(discrete):
    post, probs = discrete
    z = torch.tensor([[0, 2], [1, 1]])
    mean = probs.mean(0).log()
    want = torch.stack([mean[0, [0, 1]], mean[1, [2, 1]]], 1)
    torch.testing.assert_close(post.log_prob(z), want)
    for bad in (z.float(), z + 1, z - 1):
        with pytest.raises(ValueError, match="integer states from 0 to 2"):
            post.log_prob(bad)


def test_moments_and_entropy(gaussian):
    post, _, _ = gaussian
    grid = torch.linspace(-8, 8, 40_001)[:, None].expand(-1, 3)
    step = 16 / 40_000
    p = post.log_prob(grid).double().exp()
    mean = (p * grid).sum(0) * step
    torch.testing.assert_close(post.mean.double(), mean, rtol=0, atol=1e-5)
    variance = (p * (grid - mean) ** 2).sum(0) * step
    torch.testing.assert_close(post.variance.double(), variance, rtol=0, atol=2e-5)
    entropy = torch.special.entr(p).sum(0) * step
    torch.testing.assert_close(post.entropy().double(), entropy, rtol=0, atol=1e-5)


def test_discrete_moments_and_entropy(discrete):
    post, probs = discrete
    p, k = probs.mean(0), torch.arange(3.0)
    torch.testing.assert_close(post.mean, (p * k).sum(1))
    torch.testing.assert_close(post.variance, (p * k**2).sum(1) - (p * k).sum(1) ** 2)
    torch.testing.assert_close(post.entropy(), Categorical(p).entropy())


def test_mutual_information(gaussian, discrete):
    post, loc, scale = gaussian
    want = info.gaussian_mutual_information_estimate(loc, scale)
    assert torch.equal(post.mutual_information(), want.value)
    assert torch.equal(post.mutual_information_stderr(), want.stderr)
    assert torch.equal(post.mutual_information(), want.value)  # now remembered
    post, probs = discrete
    want = info.categorical_mutual_information_estimate(probs)
    assert torch.equal(post.mutual_information(), want.value)
    assert torch.equal(post.mutual_information_stderr(), want.stderr)


def test_total_correlation(gaussian, discrete):
    (post, loc, scale), (other, probs) = gaussian, discrete
    state = torch.get_rng_state()
    found = post.total_correlation(num_samples=50, seed=1)
    assert found == info.aggregate_total_correlation(loc, scale, num_samples=50, seed=1)
    assert post.total_correlation(num_samples=50, seed=1) is found  # worked out once
    assert post.total_correlation() != found
    assert other.total_correlation() == info.aggregate_total_correlation(probs)
    assert torch.equal(torch.get_rng_state(), state)


def test_repr(gaussian, discrete):
    assert repr(gaussian[0]) == "AggregatePosterior(Gaussian encoder, 400 data, 3 latents)"
    assert repr(discrete[0]) == (
        "AggregatePosterior(categorical encoder, 400 data, 2 latents, 3 states)"
    )


def test_refuses_bad_parameters():
    with pytest.raises(ValueError, match="scale is a standard deviation"):
        AggregatePosterior(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="sum to 1"):
        AggregatePosterior.from_probs(torch.ones(2, 1, 2))


def test_from_data_takes_tensors_and_loaders(generator):
    x = torch.randn(2_500, 2, 2, generator=generator)
    module = Encoder()
    module.net[2].eval()  # a child in another mode than its parent, as frozen layers are
    post = AggregatePosterior.from_data(module, x)
    assert module.batches == [1024, 1024, 452]
    assert module.training
    assert module.net[1].training
    assert not module.net[2].training
    want = module.net[1](x.flatten(1)).detach()
    torch.testing.assert_close(post.mean, want.mean(0))
    torch.testing.assert_close(post.variance, (0.1 + want**2).square().mean(0) + want.var(0, False))
    loader = DataLoader(TensorDataset(x, torch.arange(2_500)), batch_size=300)
    with pytest.raises(TypeError, match=r"encode\(x\) does not take it.*transform=lambda x, \*"):
        AggregatePosterior.from_data(module, loader)
    for data, select in (
        (loader, lambda x, *_: x),
        ([x[:1000], x[1000:]], None),
        (iter([x]), None),
        ({"x": x}, None),
    ):
        other = AggregatePosterior.from_data(module, data, transform=select)
        torch.testing.assert_close(other.mean, post.mean)
    module.batches.clear()
    AggregatePosterior.from_data(module, x[:10], batch_size=4)
    assert module.batches == [4, 4, 2]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: Independent(Normal(a, b), 1),
        lambda a, b: dist.Normal(a, b).to_event(1),
        lambda a, b: [Normal(a[:, :1], b[:, :1]), Normal(a, b)],
    ],
)
def test_from_data_takes_gaussians(wrap, generator):
    x = torch.randn(20, 4, generator=generator)
    module = Encoder(wrap)
    post = AggregatePosterior.from_data(module, x)
    torch.testing.assert_close(post.mean, module.net[1](x).mean(0).detach())


def test_from_data_takes_categoricals(generator):
    x = torch.randn(20, 4, generator=generator)
    module = Encoder(lambda a, b: dist.Categorical(logits=a))
    post = AggregatePosterior.from_data(module, x)
    assert repr(post) == "AggregatePosterior(categorical encoder, 20 data, 1 latents, 3 states)"
    want = module.net[1](x).softmax(1).mean(0).detach()
    torch.testing.assert_close(post.log_prob(torch.tensor([[1]])).exp(), want[None, 1:2])
    several = Encoder(lambda a, b: dist.Categorical(torch.stack([a, b], 1).softmax(2)).to_event(1))
    post = AggregatePosterior.from_data(several, x)
    assert repr(post) == "AggregatePosterior(categorical encoder, 20 data, 2 latents, 3 states)"


def test_from_data_chooses_the_layer(generator):
    x = torch.randn(20, 4, generator=generator)
    module = Encoder(lambda a, b: (Normal(a, b), Categorical(logits=a)))
    assert "Gaussian" in repr(AggregatePosterior.from_data(module, x, layer=0))
    assert "Gaussian" in repr(AggregatePosterior.from_data(module, x, layer=-2))
    assert "categorical" in repr(AggregatePosterior.from_data(module, x, layer=1))
    for layer in (2, -3):
        with pytest.raises(ValueError, match=f"layer = {layer}, but the module has 2 layers"):
            AggregatePosterior.from_data(module, x, layer=layer)
    with pytest.raises(ValueError, match="layer = 1, but the module has a single layer"):
        AggregatePosterior.from_data(Encoder(), x, layer=1)


def test_from_data_restores_the_mode_after_an_error(generator):
    module = Encoder(lambda a, b: Poisson(b))
    with pytest.raises(TypeError):
        AggregatePosterior.from_data(module, torch.randn(3, 4, generator=generator))
    assert all(child.training for child in module.modules())


@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (lambda a, b: dist.Delta(a), r"returned Delta with batch shape \(3, 3\)"),
        (lambda a, b: Normal(a[0], b[0]), r"returned Normal with batch shape \(3,\)"),
        (lambda a, b: Categorical(logits=a[0]), "returned Categorical"),
        (lambda a, b: a, "returned Tensor, but must return"),
    ],
)
def test_from_data_refuses_other_encoders(wrap, match):
    with pytest.raises(TypeError, match=match):
        AggregatePosterior.from_data(Encoder(wrap), torch.randn(3, 4))


def test_from_data_refuses_other_data():
    with pytest.raises(TypeError, match=r"Linear has no encode\(x\)"):
        AggregatePosterior.from_data(nn.Linear(1, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="data holds no batches"):
        AggregatePosterior.from_data(Encoder(), torch.zeros(0, 4))
    with pytest.raises(ValueError, match="data holds no batches"):
        AggregatePosterior.from_data(Encoder(), [])
    with pytest.raises(ValueError, match=r"shape \(N, ...\)"):
        AggregatePosterior.from_data(Encoder(), torch.tensor(0.0))
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, but got 0"):
        AggregatePosterior.from_data(Encoder(), torch.zeros(3, 4), batch_size=0)
    with pytest.raises(ValueError, match=r"batch_size must be an integer .*, but got 'big'"):
        AggregatePosterior.from_data(Encoder(), torch.zeros(3, 4), batch_size="big")
    with pytest.raises(TypeError, match=r"encode\(x\) does not take it.*transform=lambda \*\*"):
        AggregatePosterior.from_data(Encoder(), [{"z": torch.zeros(3, 4)}])
    with pytest.raises(TypeError, match="a tuple or a mapping of tensors, but got tuple"):
        AggregatePosterior.from_data(Encoder(), [()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_encodings_in_a_file_are_those_in_memory(generator, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(
        "pyro_corex.information.memory_maps._BYTES", 10_000
    )  # several turned blocks
    x = torch.randn(1_500, 4, generator=generator, dtype=torch.float64)
    module = Encoder(lambda a, b: Normal(a.to(dtype), b.to(dtype))).double()
    disk = AggregatePosterior.from_data(module, x, batch_size=400, storage=tmp_path)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype  # half precision is stored as that
    module.wrap = lambda a, b: Normal(a.to(dtype).to(wide), b.to(dtype).to(wide))
    memory = AggregatePosterior.from_data(module, x, batch_size=400)
    z = torch.randn(20, 3, generator=generator, dtype=wide)
    for of in (
        lambda post: post.mean,
        lambda post: post.variance,
        lambda post: post.entropy(),
        lambda post: post.mutual_information_stderr(),
        lambda post: post.mutual_information(),
        lambda post: post.log_prob(z),
    ):
        torch.testing.assert_close(of(disk), of(memory), rtol=0, atol=1e-5)
    draws = [p.sample(7, torch.Generator().manual_seed(3)) for p in (memory, disk)]
    assert torch.equal(*draws)
    brackets = disk.total_correlation(), memory.total_correlation()
    assert brackets[0].lower == pytest.approx(brackets[1].lower, abs=1e-5)
    assert brackets[0].upper == pytest.approx(brackets[1].upper, abs=1e-5)
    assert not list(tmp_path.iterdir())  # the files have no names


def test_discrete_encodings_in_a_file(generator, tmp_path):
    x = torch.randn(900, 4, generator=generator)
    module = Encoder(lambda a, b: Categorical(torch.stack([a, b], 1).softmax(2)))
    memory = AggregatePosterior.from_data(module, x)
    disk = AggregatePosterior.from_data(module, x, storage=str(tmp_path))
    assert repr(disk) == repr(memory)
    torch.testing.assert_close(disk.mutual_information(), memory.mutual_information())
    torch.testing.assert_close(disk.entropy(), memory.entropy())
    assert disk.total_correlation().upper == pytest.approx(memory.total_correlation().upper)


LIMITED = """
import re, resource, tempfile, torch
from torch import nn
from pyro_corex import AggregatePosterior

class Encoder(nn.Module):
    def encode(self, x):
        return torch.distributions.Normal(x, x.abs() + 0.1, validate_args=False)

torch.set_num_threads(1)
def batches():  # 262 MB of encodings
    for seed in range(64):
        generator = torch.Generator().manual_seed(seed)
        yield torch.randn(8_000, 32, generator=generator, dtype=torch.float64)

AggregatePosterior.from_data(Encoder(), next(batches())).mutual_information()  # all is loaded
used = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
limit = used + 350 * 2**20  # what is mapped from files does not count
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with tempfile.TemporaryDirectory() as folder:
    post = AggregatePosterior.from_data(Encoder(), batches(), storage=folder)
    post.sample(1000), post.variance, post.total_correlation(num_samples=4)
    print(post, post.mutual_information().mean().item())
try:
    AggregatePosterior.from_data(Encoder(), batches())
except (MemoryError, RuntimeError) as error:
    print("in memory:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux only")
def test_encodings_in_a_file_do_not_need_memory():
    run = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    on_disk, in_memory = run.stdout.splitlines()
    assert "512000 data, 32 latents" in on_disk
    assert in_memory.startswith("in memory: ")  # they do not fit
    assert "can't allocate memory" in in_memory


def test_storage_says_what_is_wrong(generator, tmp_path, monkeypatch):
    x = torch.randn(30, 4, generator=generator)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        AggregatePosterior.from_data(Encoder(), x, storage=tmp_path / "missing")
    with pytest.raises(ValueError, match="data holds no batches"):
        AggregatePosterior.from_data(Encoder(), x[:0], storage=tmp_path)
    module = Encoder(lambda a, b: Normal(a[:, : len(a) // 5], b[:, : len(a) // 5]))
    with pytest.raises(ValueError, match=r"shape \(2,\) for each datum, but those before.*\(3,\)"):
        AggregatePosterior.from_data(module, x[:25], batch_size=15, storage=tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyro_corex.information.memory_maps._reserve", full)
    with pytest.raises(OSError, match="No space left"):
        AggregatePosterior.from_data(Encoder(), x, storage=tmp_path)
    assert not list(tmp_path.iterdir())


def test_from_data_takes_arrays_and_data_sets(generator):
    x = torch.randn(50, 4, generator=generator)
    module = Encoder()
    want = AggregatePosterior.from_data(module, x).mean
    for data in (x.numpy(), TensorDataset(x)):
        torch.testing.assert_close(AggregatePosterior.from_data(module, data).mean, want)
    with pytest.raises(TypeError, match="a Dataset or an iterable of batches, but got int"):
        AggregatePosterior.from_data(module, 3)


# ---------------------------------------------------------------------- other families


class Encoding(nn.Module):
    """Encodes by a function."""

    def __init__(self, encode):
        super().__init__()
        self.encode = encode

    def model(self, x):
        pass

    guide = model


def encoded(encode, n=1500):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return AggregatePosterior.from_data(Encoding(encode), x, batch_size=400)


def test_a_log_normal_has_the_information_of_its_normal():
    scale = torch.tensor([0.5, 2.0])
    plain = encoded(lambda x: dist.Normal(x, scale.expand_as(x)))
    post = encoded(lambda x: dist.LogNormal(x, scale).to_event(1))
    found, error = post.mutual_information(), post.mutual_information_stderr()
    assert ((found - plain.mutual_information()).abs() < 4 * error).all()
    assert (error < 0.03).all()
    z = plain.sample(200, torch.Generator().manual_seed(1))
    torch.testing.assert_close(post.log_prob(z.exp()), plain.log_prob(z) - z)
    # H(exp z) = H(z) + E z, of draws from the same marginals
    assert (post.entropy() - plain.entropy() - plain.mean).abs().max() < 0.2
    assert "LogNormal encoder, 1500 data, 2 latents" in repr(post)
    with pytest.raises(ValueError, match=r"interval for TC.*LogNormal.*return that Normal"):
        post.total_correlation()


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: dist.Beta(1 + x.exp(), 1 + (-x).exp()),
        lambda x: dist.Laplace(x, 0.5),
        lambda x: dist.StudentT(5.0, x, 1.0),
        lambda x: dist.Gamma(2 + x.exp(), 1.0),
    ],
    ids=["Beta", "Laplace", "StudentT", "Gamma"],
)
def test_moments_and_draws_of_other_families(encode):
    post = encoded(encode)
    generator = torch.Generator().manual_seed(0)
    z = post.sample(20_000, generator)
    torch.testing.assert_close(z.mean(0), post.mean, atol=0.05, rtol=0.05)
    torch.testing.assert_close(z.var(0), post.variance, atol=0.1, rtol=0.1)
    assert torch.equal(z, post.sample(20_000, torch.Generator().manual_seed(0)))
    assert (post.mutual_information() > 0).all()
    # E 1/p(z) over an interval is its length
    part = z[:4000]
    low, high = part.quantile(0.1, 0), part.quantile(0.9, 0)
    weights = ((part > low) & (part < high)) / post.log_prob(part).exp()
    torch.testing.assert_close(weights.mean(0), high - low, rtol=0.06, atol=0.02)


def test_bits_and_one_hot_codes_are_states():
    bits = encoded(lambda x: dist.Bernoulli(logits=3 * x).to_event(1))
    p = torch.sigmoid(3 * torch.randn(1500, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(bits.mean, p.mean(0))
    want = AggregatePosterior.from_probs(torch.stack([1 - p, p], -1))
    torch.testing.assert_close(bits.mutual_information(), want.mutual_information())
    codes = encoded(lambda x: dist.OneHotCategorical(logits=x))
    assert "categorical encoder, 1500 data, 1 latents, 2 states" in repr(codes)


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: dist.MultivariateNormal(x, torch.eye(2)),
        lambda x: dist.Delta(x),
        lambda x: dist.Poisson(x.exp()),
        lambda x: dist.Normal(x[:, 0], 1.0),
        lambda x: dist.TransformedDistribution(
            dist.Normal(x, 1.0), [dist.transforms.SigmoidTransform()]
        ),
        lambda x: x,
    ],
)
def test_what_has_no_marginals_is_refused(encode):
    with pytest.raises(TypeError, match=r"encode\(x\) returned .*, but must return a Normal whose"):
        encoded(encode)


def test_batches_of_different_families():
    with pytest.raises(TypeError, match="for all batches one other family"):
        encoded(lambda x: dist.Laplace(x, 1.0) if len(x) == 400 else dist.LogNormal(x, 1.0))
