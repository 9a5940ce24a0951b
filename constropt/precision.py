"""The precision that values are computed in, whatever the model's is."""

from torch import Tensor, float64


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 at least: float64 stays, half precision and whole numbers become float32.

    Losses, constraint values and sums leave the range of half precision, or its digits, long before they stop being
    meaningful. What is wide enough already is returned itself, not a copy; gradients flow back in ``x``'s own dtype.

    >>> import torch
    >>> at_least_float32(torch.ones(2, dtype=torch.float16)).dtype
    torch.float32
    """
    return x if x.dtype == float64 else x.float()
