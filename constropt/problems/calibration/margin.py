"""Margins on the logit distance: MbLS, CALS-ALM and CALS-HR, each an instance of ``ConstrainedLoss``.

    minimise  E[cross-entropy]   subject to   d(z) <= m,   d_k(z) = max_j z_j - z_k

(Liu et al., *The devil is in the margin*, CVPR 2022; Liu, Rony et al., *Class adaptive network calibration*, CVPR
2023; thesis, Eq. 1.24 to 1.26 and chapter 6). A logit that stays within ``m`` of the largest keeps its probability
above exp(-m) times the largest: the network can't become arbitrarily confident.
"""

from collections.abc import Iterable
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import Unpack

from constropt.checks import require_one_of, require_positive, require_whole
from constropt.duals import ConstantRho, HeuristicMultipliers, MultiplierUpdate, ProgressRho, keep
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.near_names import near_names
from constropt.penalties import Penalty
from constropt.precision import at_least_float32
from constropt.problems.calibration.entrywise import counted_labels
from constropt.training import ConstrainedLoss, DualRule, samplewise


def logit_distance(logits: Tensor) -> Tensor:
    """``d_k(z) = max_j z_j - z_k`` (Eq. 1.24) of logits ``(batch, K, *dims)``, of the same shape.

    >>> logit_distance(torch.tensor([[1.0, 4.0, 2.0]]))
    tensor([[3., 0., 2.]])
    """
    return logits.amax(1, keepdim=True) - logits


def _above_margin(logits: Tensor, labels: Tensor, *, margin: float, relative: bool) -> Tensor:
    """``d - m``, or ``d / m - 1`` (Eq. 6.10), as ``(batch, *dims, K)``."""
    logits = at_least_float32(logits)
    scale = 1 / margin if relative else 1.0
    # max, not amax: its derivative is one scatter, to one of the largest where several are equal
    top = logits.max(1, keepdim=True).values * scale - margin * scale
    return torch.sub(top, logits, alpha=scale).movedim(1, -1)


def _cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """The cross-entropy of each sample, 0 where the label is ``ignore_index``."""
    return functional.cross_entropy(at_least_float32(logits), labels, ignore_index=ignore_index, reduction="none")


def _labelled(logits: Tensor, labels: Tensor, *, classes: int, ignore_index: int) -> Tensor:
    """Which samples have a label; first of all, what is wrong with the arguments."""
    if logits.dim() < 2 or logits.shape[1] != classes:
        takes = f"the shape (batch, K, ...) with K = num_classes = {classes}"
        raise ValueError(f"logits: takes {takes}, got {tuple(logits.shape)}")
    return counted_labels(logits, labels, ignore_index)


class _MarginLoss(ConstrainedLoss):
    """Cross-entropy with the margin as its constraint, class-wise multipliers."""

    def __init__(
        self,
        num_classes: int,
        margin: float,
        lagrangian: AugmentedLagrangian,
        *,
        relative: bool = True,
        reduction: str = "mean",
        measure: str = "signed",
        rule: DualRule | None = None,
        ignore_index: int = -100,
    ) -> None:
        require_whole(2, num_classes=num_classes)
        if not margin > 0:
            raise ValueError(f"margin: must be > 0, in units of the logits, got {margin}; 10 is usual, 6 for text")
        value = partial(_above_margin, margin=float(margin), relative=relative)
        super().__init__(
            partial(_cross_entropy, ignore_index=ignore_index),
            [samplewise(value, shape=(num_classes,), name="margin")],
            lagrangian=lagrangian,
            counted=partial(_labelled, classes=num_classes, ignore_index=ignore_index),
            reduction=reduction,
            measure=measure,
            rule=rule,
        )
        self.margin = margin


class ALMOptions(TypedDict, total=False):
    """Penalty, multipliers and rho of :class:`CALS`."""

    penalty: PenaltyLike
    mu: float
    rho: float
    gamma: float
    tau: float
    rho_every: int
    rho_max: float | None
    from_update: bool | None
    mu_bounds: tuple[float, float]


def class_lagrangian(preset: str, **given: Unpack[ALMOptions]) -> AugmentedLagrangian:
    """The augmented Lagrangian of :class:`CALS`, whose arguments these are; None leaves one to the preset."""
    official = _is_official(preset)
    known = ("num_classes", "margin", "measure", "ignore_index", "preset", *ALMOptions.__annotations__)
    _refuse_unknown("CALS", given, known)
    rho_max, from_update = given.get("rho_max"), given.get("from_update")
    schedule = ProgressRho(
        factor=given.get("gamma", 1.2),
        ratio=given.get("tau", 0.9),
        maximum=(10.0 if official else 1e12) if rho_max is None else rho_max,
        every=given.get("rho_every", 10),
        from_update=official if from_update is None else from_update,
    )
    least, most = given.get("mu_bounds", (1e-6, 1e6))
    multiplier = MultiplierUpdate(minimum=least, maximum=most)
    penalty, mu, rho = given.get("penalty", "PHR"), given.get("mu", 1e-6), given.get("rho", 1.0)
    return AugmentedLagrangian(penalty, multiplier, schedule, mu=mu, rho=rho)


class CALS(_MarginLoss):
    """CALS-ALM (Alg. 6.2): cross-entropy plus ``1/K sum_k P(d_k / m - 1, rho_k, mu_k)`` (Eq. 6.11).

    mu and rho of each class are learned on held-out data by :meth:`update_duals` after each epoch. ``criterion(logits,
    labels)``: logits ``(batch, K)`` or ``(batch, K, *dims)``, labels int64 ``(batch, *dims)``; ``ignore_index`` marks
    labels that do not count. ``margin`` is m, in units of the logits. Defaults are those of Table V-4: ``penalty``
    "PHR" (also "P2", "P3"), initial ``mu`` 1e-6 in ``mu_bounds`` (1e-6, 1e6), initial ``rho`` 1, times ``gamma`` (1.2)
    where a class's mean constraint, every ``rho_every`` (10) dual updates, is above ``tau`` (0.9) times what it was.

    What the text leaves open, and the ``preset="official"`` of the published code:

    - ``rho_max``: rho grows without limit (text; here 1e12); at most 10 (official);
    - ``from_update``: progress is measured from the check before (text with its period of 10); from the update
      before, one epoch earlier (official);
    - ``measure``: "signed", samples within the margin count negatively (Alg. 6.2 and official); "violation", they
      count nothing, so that rho moves although most samples are within the margin.

    An argument that is given wins over the preset (:class:`ALMOptions` lists those of the duals). The official code
    clips dP/dy to 1e-6 for each sample, here its mean is: a difference below 1e-6. Its margin is 20 in one file.

    >>> criterion = CALS(num_classes=3, margin=2.0)
    >>> logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> criterion.update_duals(lambda x: x, [(logits, torch.tensor([0, 1]))])
    >>> criterion.multipliers  # class 0 is the one that never falls behind
    tensor([1.0000e-06, 1.7500e+00, 1.7500e+00])
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 10.0,
        *,
        measure: str = "signed",
        ignore_index: int = -100,
        preset: str = "text",
        **duals: Unpack[ALMOptions],
    ) -> None:
        lagrangian = class_lagrangian(preset, **duals)
        super().__init__(num_classes, margin, lagrangian, measure=measure, ignore_index=ignore_index)


def _hinge(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    return mu * y.relu()


def _hinge_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    return mu * (y > 0)


# No penalty-Lagrangian function: P'(0) = mu fails on the side of y < 0. The linear penalty of MbLS and CALS-HR.
HINGE = Penalty("hinge", _hinge, _hinge_slope, formula="mu max(0, y)", reference="Liu et al., CVPR 2022")


def _fixed_weight(weight: float) -> AugmentedLagrangian:
    return AugmentedLagrangian(HINGE, MultiplierUpdate(), ConstantRho(), mu=weight)


class MbLS(_MarginLoss):
    """Margin-based label smoothing: cross-entropy plus ``weight sum_k max(0, d_k - m)`` (Eq. 1.26), the weight fixed.

    ``weight`` is lambda (0.1, appendix V-6). The text sums over classes; ``preset="official"`` averages, as published
    code does: a weight K times smaller; ``reduction`` says it outright. Shapes as for :class:`CALS`.

    >>> loss = MbLS(num_classes=2, margin=3.0)
    >>> extra = loss(torch.tensor([[5.0, 0.0]]), torch.tensor([0])) - torch.tensor(5.0).neg().exp().log1p()
    >>> print(f"{extra:.3f}")  # 0.1 times (5 - 3)
    0.200
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 10.0,
        *,
        weight: float = 0.1,
        reduction: str | None = None,
        ignore_index: int = -100,
        preset: str = "text",
    ) -> None:
        require_positive(weight=weight)
        reduction = reduction or ("mean" if _is_official(preset) else "sum")
        fixed = _fixed_weight(weight)
        super().__init__(
            num_classes, margin, fixed, relative=False, reduction=reduction, ignore_index=ignore_index, rule=keep
        )


class RuleOptions(TypedDict, total=False):
    """The dual rule of :class:`CALSHR`."""

    factor: float
    ratio: float
    mu_bounds: tuple[float, float]


class CALSHR(_MarginLoss):
    """CALS-HR: class-wise weights of the linear penalty, scaled by a rule (Eq. 6.15) instead of by multipliers.

    The loss is cross-entropy plus ``1/K sum_k lambda_k max(0, d_k / m - 1)``. At each :meth:`update_duals`, lambda_k
    is multiplied by ``factor`` (1.1) where the mean penalty of class k on the held-out data is above ``ratio`` (1.1)
    times that of the update before, and divided by it where it fell by as much; it stays in ``mu_bounds``, (1e-6, 1e6).

    What the text leaves open: ``weight``, where lambda starts, is 0.1 as for MbLS (the 1e-6 of CALS-ALM would leave it
    without effect for a hundred epochs); and what ``preset="official"`` sets: ``relative``, whether y is ``d / m - 1``
    (Eq. 6.10, the default) or ``d - m``; ``weighted``, whether the P_k compared include lambda_k (official) or not.

    >>> criterion = CALSHR(num_classes=2, margin=1.0)
    >>> far, near, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> for logits in (near, far, near):
    ...     criterion.update_duals(lambda x: x, [(logits, labels)])
    ...     print(criterion.multipliers)
    tensor([0.1000, 0.1000])
    tensor([0.1000, 0.1100])
    tensor([0.1000, 0.1000])
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 10.0,
        *,
        weight: float = 0.1,
        relative: bool | None = None,
        weighted: bool | None = None,
        ignore_index: int = -100,
        preset: str = "text",
        **rule: Unpack[RuleOptions],
    ) -> None:
        official = _is_official(preset)
        known = ("num_classes", "margin", "weight", "relative", "weighted", "ignore_index", "preset")
        _refuse_unknown("CALSHR", rule, (*known, *RuleOptions.__annotations__))
        factor, ratio, bounds = rule.get("factor", 1.1), rule.get("ratio", 1.1), rule.get("mu_bounds", (1e-6, 1e6))
        super().__init__(
            num_classes,
            margin,
            _fixed_weight(weight),
            relative=relative if relative is not None else not official,
            ignore_index=ignore_index,
            measure="violation",
            rule=HeuristicMultipliers(factor, ratio, *bounds, weighted=official if weighted is None else weighted),
        )


def _refuse_unknown(loss: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    """``TypeError``, with names like it, for the first name ``given`` that is not ``known``."""
    for name in given:
        if name not in known:
            raise TypeError(f"{loss}: unknown name {name!r}{near_names(name, known)}; known are {', '.join(known)}")


def _is_official(preset: str) -> bool:
    require_one_of("preset", preset, ("text", "official"))
    return preset == "official"
