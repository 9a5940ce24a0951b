"""Search directions for rows that are problems of their own: two-loop L-BFGS with masked pairs, spectral fallback.

Every row holds its own pairs (s, y), so that a row's direction depends on nothing but its own history.
Nocedal, Updating quasi-Newton matrices with limited storage, Math. Comp. 35 (1980); Birgin, Martinez & Raydan,
Nonmonotone spectral projected gradient methods on convex sets, SIAM J. Optim. 10 (2000).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# a pair whose cosine is below this has no curvature worth using
PAIR_COSINE = 1e-10
SPECTRAL_RANGE = (1e-12, 1e12)


@dataclass(frozen=True)
class Pairs:
    """The last steps ``s`` and gradient differences ``y``, ``(memory, batch, n)``, newest first.

    The first ``count`` ``(batch,)`` of a row are valid.
    """

    s: Tensor
    y: Tensor
    count: Tensor

    @classmethod
    def empty(cls, memory: int, x: Tensor) -> Pairs:
        """No pairs yet, for rows like ``x`` of shape ``(batch, n)``."""
        none = x.new_zeros(memory, *x.shape)
        return cls(none, none.clone(), torch.zeros(x.shape[0], dtype=torch.long, device=x.device))

    def push(self, s: Tensor, y: Tensor, rows: Tensor) -> Pairs:
        """With the pair ``(s, y)``, ``(batch, n)`` each, added for the given ``rows``; the oldest is dropped."""
        if not self.s.shape[0]:
            return self
        chosen = rows.view(1, -1, 1)
        return Pairs(
            torch.where(chosen, torch.cat([s.unsqueeze(0), self.s[:-1]]), self.s),
            torch.where(chosen, torch.cat([y.unsqueeze(0), self.y[:-1]]), self.y),
            torch.where(rows, (self.count + 1).clamp_max(self.s.shape[0]), self.count),
        )

    def clear(self, rows: Tensor) -> Pairs:
        """Without the pairs of the given ``rows``."""
        return Pairs(self.s, self.y, torch.where(rows, 0, self.count))

    def inverse_times(self, gradient: Tensor, free: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """``H g`` on the ``free`` variables by the two-loop recursion, and which rows had a usable pair.

        ``gradient`` is zero off ``free``; both ``(batch, n)``. Pairs are restricted to the free variables, and those
        without curvature there are passed over. ``most`` is a number of pairs that no row exceeds.
        """
        memory = min(self.s.shape[0], most)
        if not memory:
            return gradient, torch.zeros_like(gradient[:, 0], dtype=torch.bool)
        mask = free.to(gradient)
        s, y = self.s[:memory] * mask, self.y[:memory] * mask
        sy, yy = (s * y).sum(2), (y * y).sum(2)
        lengths = s.square().sum(2).sqrt() * yy.sqrt()
        age = torch.arange(memory, device=gradient.device).unsqueeze(1)
        use = (age < self.count) & (sy > PAIR_COSINE * lengths) & sy.isfinite() & yy.isfinite()
        inverse = torch.where(use, sy, 1).reciprocal().mul(use)

        q = gradient
        weights = []
        for i in range(memory):
            weight = (s[i] * q).sum(1) * inverse[i]
            q = q - weight.unsqueeze(1) * y[i]
            weights.append(weight)
        newest = use.to(torch.uint8).argmax(0, keepdim=True)
        scale = (torch.where(use, sy, 1) / torch.where(use, yy, 1)).gather(0, newest).squeeze(0)
        r = scale.unsqueeze(1) * q
        for i in reversed(range(memory)):
            weight = weights[i] - (y[i] * r).sum(1) * inverse[i]
            r = r + torch.where(use[i], weight, 0).unsqueeze(1) * s[i]
        return r, use.any(0)


def spectral_length(s: Tensor, y: Tensor, previous: Tensor) -> Tensor:
    """Barzilai-Borwein ``s's / s'y`` per row, its upper limit where there is no curvature, ``previous`` where s = 0."""
    ss, sy = (s * s).sum(1), (s * y).sum(1)
    length = torch.where(sy > 0, ss / torch.where(sy > 0, sy, 1), SPECTRAL_RANGE[1])
    return torch.where((ss > 0) & length.isfinite(), length.clamp(*SPECTRAL_RANGE), previous)
