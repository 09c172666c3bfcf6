"""Images as coordinates of their principal components, a small input for small networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import Data, read_batches


@dataclass(frozen=True)
class PrincipalComponents:
    """The mean of a set of images and its directions of largest variance (Hotelling 1933).

    The directions are orthonormal: a squared error of coordinates is that of pixels but for the
    part outside of them, which no latent can change.  So a ``NormalLikelihood(scale)`` of the
    coordinates trains as that of the pixels does, through a network whose outermost layers are
    fixed, at a fraction of the cost.
    """

    mean: Tensor
    """Shape ``(d,)``."""

    basis: Tensor
    """Shape ``(d, n)``, orthonormal columns, largest variance first."""

    shape: tuple[int, ...]
    """The shape of an image, of ``d`` numbers."""

    explained: float
    """The share of the variance that the coordinates keep, on the images that they are from."""

    @classmethod
    def of(cls, images: Tensor, n: int = 128, *, seed: int = 0) -> PrincipalComponents:
        """Finds them, by a randomised decomposition (Halko et al. 2011).

        :param images: shape ``(N, ...)``.
        :param n: how many.
        :param seed: of the decomposition.
        :raises ValueError: unless ``1 <= n <= min(N, d)``, and for images that do not vary, or are
            no finite floating-point numbers of shape ``(N, ...)``.
        """
        images = as_tensor(images, "images")
        if images.dim() < 2 or not images.is_floating_point():
            raise ValueError(
                "images must be floating-point numbers of shape (N, ...), but got "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        x = images.flatten(1)
        if not bool(x.isfinite().all()):
            raise ValueError("images must be finite, but some are NaN or infinite")
        what = "the smaller of the numbers of images and of their dimensions"
        _check_integer("n", n, 1, min(x.shape), what)
        mean = x.mean(0)
        centred = x - mean
        total = centred.square().sum()
        if not bool(total > 0):
            raise ValueError("images must vary, but they are all the same")
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            _, values, basis = torch.pca_lowrank(centred, n, center=False, niter=3)
        explained = float(values.square().sum() / total)
        return cls(mean, basis, tuple(images.shape[1:]), explained)

    def project(self, images: Data, *, batch_size: int = 1024) -> Tensor:
        """The coordinates of images, read batch by batch: ``(N, ...)`` to ``(N, n)``.

        Of several things in a batch, such as images and labels, the first are the images.
        """
        batches = (batch.tensors()[0] for batch in read_batches(images, batch_size))
        return torch.cat([(self._flat(x) - self.mean) @ self.basis for x in batches])

    def _flat(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x[0].numel() != len(self.mean):
            raise ValueError(
                f"images must have {len(self.mean)} numbers each, of shape (N, *{self.shape}), "
                f"but got the shape {tuple(x.shape)}"
            )
        return x.flatten(1)

    def images(self, coordinates: Tensor) -> Tensor:
        """The images of coordinates ``(..., n)``: shape ``(..., *shape)``."""
        return (coordinates @ self.basis.T + self.mean).unflatten(-1, self.shape)


def independent_directions(
    coordinates: Tensor, n: int, *, further: int = 0, seed: int = 0
) -> Tensor:
    """Linear independent components of the first ``n`` coordinates: the rotation that PCA leaves.

    A start for anchors that does not use labels.  Found by FastICA with the kurtosis as contrast
    (Hyvarinen 1999); needs scikit-learn.

    :param coordinates: shape ``(N, d)``, largest variance first, such as those of
        :class:`PrincipalComponents`.
    :param n: how many.
    :param further: directions to add below these for latents that are not anchored: the
        coordinates that come next, as they are.
    :param seed: of the start of the search.
    :returns: shape ``(n + further, d)``: ``coordinates @ result.T`` has unit variance; a further
        direction is zero where its coordinate does not vary.
    :raises ValueError: for coordinates of another shape, or that are not finite; unless
        ``1 <= n <= min(N, d)`` and ``0 <= further <= d - n``.
    """
    from sklearn.decomposition import FastICA

    if not isinstance(coordinates, Tensor) or coordinates.dim() != 2:
        raise ValueError(
            "coordinates must be a tensor of shape (N, d), such as PrincipalComponents.project "
            f"gives, but got {getattr(coordinates, 'shape', coordinates)!r} of "
            f"{type(coordinates).__name__}"
        )
    if not bool(coordinates.isfinite().all()):
        raise ValueError("coordinates must be finite, but some are NaN or infinite")
    what = "the smaller of the numbers of data and of coordinates"
    _check_integer("n", n, 1, min(coordinates.shape), what)
    left = coordinates.shape[1] - n
    _check_integer("further", further, 0, left, "the number of coordinates that are left")
    ica = FastICA(n, fun="cube", whiten="unit-variance", random_state=seed, max_iter=500)
    ica.fit(coordinates[:, :n].detach().cpu().double().numpy())
    out = coordinates.new_zeros(n + further, coordinates.shape[1])
    out[:n, :n] = torch.as_tensor(ica.components_).to(out)
    scales = coordinates.std(0)
    varies = scales > 1e-6 * scales.max()
    out[n:, n : n + further] = torch.diag(torch.where(varies, 1 / scales, 0.0)[n : n + further])
    return out


def _check_integer(name: str, value: Any, low: int, high: int, what: str) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(
            f"{name} must be an integer from {low} to {high}, {what}, but got {value!r}"
        )
