"""What values are computed in: float32 at least."""

from __future__ import annotations

import pytest
import torch

from constropt.precision import at_least_float32


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.float32),
        (torch.bool, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_what_is_narrower_than_float32_is_widened(given, expected):
    x = torch.ones(2, 3).to(given)
    wide = at_least_float32(x)
    assert wide.dtype == expected
    assert torch.equal(wide, x.to(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_wide_enough_is_not_copied(dtype):
    x = torch.ones(2, dtype=dtype)
    assert at_least_float32(x) is x


def test_the_gradient_comes_back_in_the_own_precision():
    x = torch.tensor([3.0], dtype=torch.float16, requires_grad=True)
    at_least_float32(x).square().backward()
    assert x.grad is not None and x.grad.dtype == torch.float16 and x.grad.item() == 6
