"""SSIM and MS-SSIM: against windows written out, SciPy's filter and torchmetrics; where 1 - similarity is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from constropt.problems.distances import MSSSIM, SSIM
from constropt.problems.distances.ssim import SCALE_WEIGHTS


def pair(side: int, noise: float = 0.1, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, channels, side, side, generator=generator, dtype=torch.float64)
    return x, (x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def maps(x: np.ndarray, y: np.ndarray, window: int = 11, sigma: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """l and c of one channel, window by window, as in the paper."""
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    size = tuple(s - window + 1 for s in x.shape)
    luminance, contrast = np.zeros(size), np.zeros(size)
    for i, j in np.ndindex(*size):
        a, b = x[i : i + window, j : j + window], y[i : i + window, j : j + window]
        m1, m2 = (weights * a).sum(), (weights * b).sum()
        v1, v2 = (weights * (a - m1) ** 2).sum(), (weights * (b - m2) ** 2).sum()
        covariance = (weights * (a - m1) * (b - m2)).sum()
        luminance[i, j] = (2 * m1 * m2 + 0.01**2) / (m1**2 + m2**2 + 0.01**2)
        contrast[i, j] = (2 * covariance + 0.03**2) / (v1 + v2 + 0.03**2)
    return luminance, contrast


def test_ssim_window_by_window():
    x, y = pair(14)
    expected = []
    for a, b in zip(x, y):
        products = [np.multiply(*maps(c.numpy(), d.numpy())).mean() for c, d in zip(a, b)]
        expected.append(1 - np.mean(products))
    assert SSIM()(x, y).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("window, sigma", [(3, 0.5), (7, 1.0), (11, 1.5)])
def test_ssim_by_scipy(window, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, y = (t.numpy() for t in pair(20, channels=1))
    offsets = np.arange(window) - window // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        for axis in (-2, -1):
            image = ndimage.correlate1d(image, kernel, axis=axis)
        edge = window // 2
        return image[..., edge:-edge, edge:-edge]

    m1, m2 = blur(x), blur(y)
    v1, v2, covariance = blur(x * x) - m1**2, blur(y * y) - m2**2, blur(x * y) - m1 * m2
    similarity = (2 * m1 * m2 + 1e-4) * (2 * covariance + 9e-4) / ((m1**2 + m2**2 + 1e-4) * (v1 + v2 + 9e-4))
    found = SSIM(window=window, sigma=sigma)(torch.from_numpy(x), torch.from_numpy(y))
    assert found.tolist() == pytest.approx((1 - similarity.mean((1, 2, 3))).tolist(), rel=1e-9)


def test_ssim_by_torchmetrics_inside_the_image():
    image = pytest.importorskip("torchmetrics.functional.image")
    x, y = pair(32)
    # torchmetrics averages over windows that reach out of the image too, reflected: its map is cropped to the paper's
    _, similarity = image.structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    inside = similarity[..., 5:-5, 5:-5].mean((1, 2, 3))
    assert torch.allclose(SSIM()(x, y), 1 - inside, rtol=1e-8)


def test_ms_ssim_scale_by_scale():
    x, y = pair(28, channels=1)
    expected = []
    for a, b in zip(x[:, 0], y[:, 0]):
        a, b, product = a.numpy(), b.numpy(), 1.0
        weights = np.array(SCALE_WEIGHTS[:2]) / sum(SCALE_WEIGHTS[:2])
        product *= maps(a, b)[1].mean() ** weights[0]
        a, b = (t.reshape(14, 2, 14, 2).mean((1, 3)) for t in (a, b))
        product *= np.multiply(*maps(a, b)).mean() ** weights[1]
        expected.append(1 - product)
    assert MSSSIM(scales=2)(x, y).tolist() == pytest.approx(expected, rel=1e-9)


def test_ms_ssim_with_five_scales_by_torchmetrics():
    image = pytest.importorskip("torchmetrics.functional.image")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, 24, 24, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (192, 192), mode="bilinear")
    y = (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    theirs = image.multiscale_structural_similarity_index_measure(x, y, data_range=1.0, reduction=None, normalize=None)
    # its last scale counts the windows that reach out of the image
    assert MSSSIM()(x, y).tolist() == pytest.approx((1 - theirs).tolist(), rel=0.05)


@pytest.mark.parametrize("distance", [SSIM(), MSSSIM(scales=2)])
def test_small_distances_keep_their_digits_in_float32(distance):
    x, y = pair(24, noise=1e-4)
    exact = distance(x, y)
    assert exact.max() < 1e-5
    x32 = x.float()
    y32 = x32 + (y - x).float()  # the sum rounds: compare with what it is
    reference = distance(x32.double(), y32.double())
    assert torch.allclose(distance(x32, y32).double(), reference, rtol=1e-3)


@pytest.mark.parametrize("distance", [SSIM(), SSIM(window=5, sigma=1.0), MSSSIM(scales=2)])
def test_gradients(distance):
    x, y = pair(22, channels=1)
    x = x[:1].requires_grad_(True)
    directions = torch.randn(5, *x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (slope,) = torch.autograd.grad(distance(x, y[:1]).sum(), x)
    for d in directions:
        ahead, behind = (distance((x + s * d).detach(), y[:1]).item() for s in (1e-6, -1e-6))
        assert (slope * d).sum().item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-8)


def test_extremes():
    black, white = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    assert SSIM()(black, white).item() == pytest.approx(1 - 1e-4 / (1 + 1e-4))
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    inverted = (1 - x).requires_grad_(True)
    assert SSIM()(inverted, x) > 1  # similarity below 0
    value = MSSSIM(scales=2)(inverted, x)
    (slope,) = torch.autograd.grad(value.sum(), inverted)
    assert value.item() == 1 and (slope == 0).all()


def test_bad_arguments_are_named():
    for window in (4, 1, 2.0, True):
        with pytest.raises(ValueError, match="window: takes an? (odd|whole) number"):
            SSIM(window=window)
    with pytest.raises(ValueError, match="sigma: takes a number > 0"):
        SSIM(sigma=0.0)
    for scales in (0, 6, 1.5):
        with pytest.raises(ValueError, match="scales: takes a whole number (from 1 to 5|>= 1)"):
            MSSSIM(scales=scales)
    with pytest.raises(
        ValueError, match=r"5 scales takes images of at least 176 .*\(32, 40\); pass MSSSIM\(scales=2\)"
    ):
        MSSSIM().bind(torch.rand(1, 3, 32, 40))
    with pytest.raises(ValueError, match="the window of 11 is too large"):
        MSSSIM().bind(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"pass SSIM\(window=9\)"):
        SSIM().bind(torch.rand(1, 3, 10, 32))
    with pytest.raises(ValueError, match=r"got \(2, 32\)$"):
        SSIM().bind(torch.rand(1, 3, 2, 32))
