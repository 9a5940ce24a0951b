"""What Cooper lacks around a constraint: multipliers of any shape, shared, safeguarded; entries that don't count."""

from dataclasses import dataclass

import torch
from cooper.constraints.constraint_state import ConstraintState
from cooper.multipliers.multipliers import DenseMultiplier
from cooper.utils.annotations import ConstraintType
from torch import Tensor


class ShapedMultiplier(DenseMultiplier):
    """Multipliers that start at ``init``, of any shape; Cooper's own are one-dimensional.

    A dimension of size one where the constraint's value has more, and leading dimensions that ``init`` does not have,
    share a multiplier: ``(1, K)`` or ``(K,)`` for a value ``(batch, K)`` is one multiplier per class. After each dual
    step they are clipped to ``[minimum, maximum]`` (those of equalities to ``[-maximum, maximum]``), as
    :class:`~constropt.MultiplierUpdate` does: most penalties never leave a multiplier of 0 again.

    The parameter ``weight`` is flat, as Cooper's is.

    >>> ShapedMultiplier(torch.ones(1, 3))().shape
    torch.Size([1, 3])
    """

    def __init__(self, init: Tensor, *, minimum: float = 1e-6, maximum: float = 1e12) -> None:
        if not 0 <= minimum <= maximum:
            raise ValueError(f"minimum and maximum: need 0 <= minimum <= maximum, got {minimum} and {maximum}")
        super().__init__(init=init.detach().flatten().clone(), device=init.device, dtype=init.dtype)
        self.shape = tuple(init.shape)
        self.minimum, self.maximum = minimum, maximum

    def forward(self) -> Tensor:
        """The multipliers, of the shape of ``init``."""
        return self.weight.view(self.shape).clone()

    @torch.no_grad()
    def post_step_(self) -> None:
        """The safeguards; Cooper calls it after every step of the dual optimizers."""
        equality = self.constraint_type == ConstraintType.EQUALITY
        self.weight.clamp_(-self.maximum if equality else self.minimum, self.maximum)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"


@dataclass
class MaskedState(ConstraintState):
    """A ``cooper.ConstraintState`` of which only the entries in ``mask`` count (None: all); the others are to be 0.

    ``weight``, which broadcasts to the violation, weighs the terms P of the primal Lagrangian (1 over the number of
    samples makes their sum a mean). It does not change the multipliers' targets.
    """

    mask: Tensor | None = None
    weight: Tensor | float = 1.0
