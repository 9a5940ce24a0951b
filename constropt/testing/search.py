"""What the law suites share: a search that is the same each time, what counts as rounding, and the counterexample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from constropt.checks import MissingExtra, got

if TYPE_CHECKING:
    from hypothesis import settings


class LawViolation(AssertionError):
    """A law of penalty-Lagrangian functions does not hold: `law` names it, (y, rho, mu) is where, the message how."""

    def __init__(self, law: str, penalty: str, y: float, rho: float, mu: float, what: str) -> None:
        super().__init__(f"{penalty} violates {law} at y={y!r}, rho={rho!r}, mu={mu!r}: {what}")
        self.law, self.penalty, self.y, self.rho, self.mu = law, penalty, y, rho, mu


class Counterexample(LawViolation):
    """A law does not hold: ``law`` names it, ``subject`` is what was checked, the message says where and how."""

    def __init__(self, law: str, subject: object, what: str) -> None:
        AssertionError.__init__(self, f"{subject} violates {law}: {what}")
        self.law, self.subject = law, subject


def search_settings(name: str, max_examples: int) -> settings:
    """How hypothesis searches for the suite ``name``; :class:`MissingExtra` where it is not installed."""
    try:
        import hypothesis
    except ImportError as error:
        raise MissingExtra(f"{name} needs hypothesis: pip install 'constropt[test]'") from error
    return hypothesis.settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        # shrinking costs minutes and does not make examples easier to read
        phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False,  # several at once would come as an ExceptionGroup, not as a LawViolation
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore[reportArgumentType]
    )


def check_search(dtype: torch.dtype, shape: tuple[int, ...] = (2, 1)) -> None:
    """``ValueError`` for what laws are not checked in, and for a ``shape`` that is no batch of rows."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: the laws are checked in torch.float32 or torch.float64, got {dtype}")
    if len(shape) < 2 or shape[0] < 2:
        raise ValueError(f"shape: takes (batch, *event) with a batch of at least 2, got {shape}")


def check_form(subject: object, x: Tensor, result: object) -> None:
    """:class:`Counterexample` unless ``result`` is a tensor of the shape, dtype and device of ``x``."""
    if isinstance(result, Tensor) and (result.shape, result.dtype, result.device) == (x.shape, x.dtype, x.device):
        return
    where = f" on {result.device}" if isinstance(result, Tensor) else ""
    raise Counterexample("form", subject, f"{got(x)} on {x.device} is mapped to {got(result)}{where}")


def rounding(units: float, *tensors: Tensor) -> Tensor:
    """``(batch,)``: ``units`` in the last place of the largest number in a row, times the square root of its length."""
    size = torch.stack([t.abs().flatten(1).amax(1) for t in tensors]).amax(0)
    return units * torch.finfo(size.dtype).eps * tensors[0][0].numel() ** 0.5 * (1 + size)


def fail(law: str, subject: object, bad: Tensor, *numbers: tuple[str, Tensor]) -> None:
    """Raise :class:`Counterexample` for the first row that is ``bad``, with its ``numbers``; pass if none is."""
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        what = ", ".join(f"{name} = {values[row].tolist()}" for name, values in numbers)
        raise Counterexample(law, subject, f"in row {row}, {what}")
