"""The precision that values are computed in, whatever the model's is."""

from torch import Tensor, finfo, float64


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 at least: float64 stays, half precision and whole numbers become float32.

    Losses, constraint values and sums leave the range of half precision, or its digits, long before they stop being
    meaningful. What is wide enough already is returned itself, not a copy; gradients flow back in ``x``'s own dtype.

    >>> import torch
    >>> at_least_float32(torch.ones(2, dtype=torch.float16)).dtype
    torch.float32
    """
    return x if x.dtype == float64 else x.float()


def least(floor: float, like: Tensor) -> float:
    """The floor, or the least normal number of the dtype: 1e-8 is 0 in float16, and 0 / 0 is NaN."""
    return max(floor, finfo(like.dtype).tiny)
