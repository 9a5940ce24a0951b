"""Projection of images on a Wasserstein ball by entropic local transport: the projected Sinkhorn iteration."""

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_positive, require_whole

# Newton steps for Wright's omega function: enough for the precision of a float64 from the start that is used.
_OMEGA_STEPS = 6
# Below this the function is its exponential, and above it the logarithms are finite.
_LOWEST = -80.0


def transport_cost(kernel: int, p: float = 2.0) -> Tensor:
    """The cost of moving a unit of mass to each pixel of a ``kernel`` x ``kernel`` neighbourhood, in pixels: float64,
    ``(kernel ** 2,)``, row by row.

    >>> transport_cost(3, p=1.0).view(3, 3)[0]
    tensor([2., 1., 2.], dtype=torch.float64)
    """
    steps = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    return torch.linalg.vector_norm(torch.stack(torch.meshgrid(steps, steps, indexing="ij")), ord=p, dim=0).flatten()


def project_wasserstein(
    w: Tensor,
    center: Tensor,
    radius: float | Tensor,
    *,
    upper: float | Tensor | None = None,
    kernel: int = 5,
    regularization: float = 1000.0,
    iterations: int = 50,
    p: float = 2.0,
) -> Tensor:
    """Projection of ``w`` on the images that moving mass of ``center`` reaches at a cost of at most ``radius``.

    ``min_z ||w - z||^2 / 2 + sum Pi log Pi / lambda`` over transport plans ``Pi 1 = center``, ``Pi' 1 = z``,
    ``<Pi, C> <= radius``, ``z <= upper`` (Wong, Schmidt & Kolter, 2019; the upper bound is not in the paper, where the
    result is clipped). w and center: ``(batch, channels, height, width)``, center nonnegative with mass, seen relative
    to its row's mass. Mass moves within a channel, up to ``kernel // 2`` pixels; C is that distance in the p-norm. So
    ``radius``, a number or ``(batch,)``, is in pixels times the part of the mass that moves. ``regularization`` is
    lambda: the larger, the nearer to the projection without entropy, and the slower. ``iterations`` sweeps of exact
    block ascent over the dual, Newton's method for the cost's multiplier. What is returned is the second marginal of
    a plan whose cost is within the radius, clipped at ``upper``, whatever the precision reached; rows of w that
    equal the centre stay, and a centre without mass is all there is. Differentiation is not supported.

    Raises ``ValueError`` for shapes other than these, an even kernel, and numbers out of range.

    >>> center = torch.zeros(1, 1, 3, 3)
    >>> center[..., 1, 1] = 1.0
    >>> wanted = torch.zeros(1, 1, 3, 3)
    >>> wanted[..., 1, 2] = 1.0
    >>> project_wasserstein(wanted, center, 0.25)[0, 0, 1].round(decimals=2)
    tensor([0.0000, 0.7500, 0.2500])
    """
    if w.dim() != 4 or center.shape != w.shape:
        wanted = "w, center: take images of one shape (batch, channels, height, width)"
        raise ValueError(f"{wanted}, got {tuple(w.shape)} and {tuple(center.shape)}")
    if not isinstance(radius, Tensor) and not radius >= 0:
        raise ValueError(f"radius: takes a number >= 0, in pixels times the part of the mass, got {radius}")
    check_sinkhorn(kernel, regularization, iterations)
    dtype = torch.promote_types(w.dtype, torch.float32)
    shape, batch = w.shape, w.shape[0]
    mass = center.to(dtype).sum((1, 2, 3))
    unit = torch.where(mass > 0, mass, 1).view(-1, 1, 1, 1)
    goal, source = w.to(dtype) / unit, center.to(dtype) / unit
    ceiling = torch.full_like(source, torch.inf) if upper is None else torch.as_tensor(upper).to(source) / unit
    limit = torch.as_tensor(radius, dtype=dtype, device=w.device).expand(batch)
    cost, lam = transport_cost(kernel, p).to(source).view(1, 1, -1, 1, 1), regularization
    log_source, log_ceiling = source.log(), ceiling.clamp_min(torch.finfo(dtype).tiny).log()

    beta, psi, alpha = torch.zeros_like(source), torch.ones_like(limit), torch.zeros_like(source)
    for _ in range(iterations):
        tilt = psi.view(-1, 1, 1, 1, 1) * cost
        alpha = _finite(log_source - torch.logsumexp(_around(beta, kernel) - tilt, 2))
        reach = torch.logsumexp(_around(alpha, kernel) - tilt, 2)
        # z e^(lambda z) = s e^(lambda w) / lambda is solved by lambda z = omega(log(lambda s) + lambda w)
        z = _omega(reach + lam * goal + torch.tensor(lam, dtype=dtype).log()) / lam
        beta = torch.minimum(lam * (goal - z), log_ceiling - reach).clamp_min(-1e30)
        # the two plans of the sweep share alpha and beta; Newton's steps are for psi alone
        spent, curvature = _moments(alpha, beta, psi, cost, kernel)
        psi = (psi + (spent - limit) / curvature.clamp_min(torch.finfo(dtype).tiny)).clamp(0, 1e6)

    tilt = psi.view(-1, 1, 1, 1, 1) * cost
    alpha = _finite(log_source - torch.logsumexp(_around(beta, kernel) - tilt, 2))
    reached = (beta + torch.logsumexp(_around(alpha, kernel) - tilt, 2)).exp()
    spent, _ = _moments(alpha, beta, psi, cost, kernel)
    # the plan mixed with the one that moves nothing is within the radius exactly
    part = torch.where(spent > limit, limit / spent.clamp_min(torch.finfo(dtype).tiny), 1).view(-1, 1, 1, 1)
    moved = torch.minimum(source + part * (reached - source), ceiling) * unit
    same = (w == center).flatten(1).all(1).view(-1, 1, 1, 1)
    lost = (w * 0).flatten(1).sum(1).to(dtype).view(-1, 1, 1, 1)  # 0, or NaN in a row that has one
    return torch.where(same, center, (moved + lost).to(w.dtype)).view(shape)


def _around(values: Tensor, kernel: int) -> Tensor:
    """The neighbourhoods of all pixels, ``(batch, channels, kernel ** 2, height, width)``; -inf beyond the edge.

    The cost is symmetric, so that from the source's side and from the target's the same neighbourhood counts.
    """
    height, width = values.shape[2:]
    padded = functional.pad(values, [kernel // 2] * 4, value=-torch.inf)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (batch, channels, kernel, kernel, height, width)
    return windows.flatten(2, 3)


def _finite(alpha: Tensor) -> Tensor:
    """Where there is no mass alpha is -inf: there is nothing to move."""
    return torch.where(alpha.isnan(), -torch.inf, alpha)


def _moments(alpha: Tensor, beta: Tensor, psi: Tensor, cost: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """``<Pi, C>`` and ``<Pi, C^2>`` of the plan of these duals, ``(batch,)`` each."""
    plan = (alpha.unsqueeze(2) + _around(beta, kernel) - psi.view(-1, 1, 1, 1, 1) * cost).exp()
    spent = plan * cost
    return spent.flatten(1).sum(1), (spent * cost).flatten(1).sum(1)


def _omega(a: Tensor) -> Tensor:
    """Wright's omega function: the t > 0 with ``t + log t = a``, by Newton's method; ``e^a`` for very small a."""
    safe = a.nan_to_num(neginf=_LOWEST).clamp_min(_LOWEST)
    t = torch.where(safe > 1, safe - safe.clamp_min(1).log(), (safe.clamp_max(1)).exp())
    for _ in range(_OMEGA_STEPS):
        # on t itself this is Newton's method for the concave t + log t: from below it rises to the root
        t = t * (1 + safe - t.log()) / (1 + t)
    return torch.where(a <= _LOWEST, 0, t)


def check_sinkhorn(kernel: int, regularization: float, iterations: int) -> None:
    require_whole(kernel=kernel, iterations=iterations)
    if kernel % 2 == 0:
        raise ValueError(f"kernel: takes an odd whole number of pixels, got {kernel!r}")
    require_positive(regularization=regularization)
