"""Group sparsity and scaled terms: values and proxes against closed forms and against what defines them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.prox import GroupSparsity, NormAround, Scaled, patches


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_patches_number_squares_with_all_channels():
    groups = patches((3, 5, 4), 2)
    assert groups.shape == (3, 5, 4) and groups.unique().numel() == 6
    assert (groups[0] == groups[2]).all()
    assert groups[0, 0, 0] == groups[0, 1, 1] != groups[0, 0, 2]
    # what is left over at the lower side is a group of its own
    assert (groups[0, 4, :2] == groups[0, 4, 0]).all() and groups[0, 4, 0] != groups[0, 3, 0]


def test_one_group_is_the_l2_norm_and_single_entries_are_the_l1_norm():
    x, center = 2 * rows(4, 6), torch.zeros(4, 6, dtype=torch.float64)
    for groups, norm in ((torch.zeros(6, dtype=torch.long), "l2"), (torch.arange(6), "l1")):
        term, known = GroupSparsity(groups, center, -1.0, 1.0), NormAround(norm, center, -1.0, 1.0)
        torch.testing.assert_close(term(x), known(x))
        step = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
        torch.testing.assert_close(term.prox(x, step), known.prox(x, step))
        metric = rows(4, 6, seed=1).exp()
        torch.testing.assert_close(term.prox(x, 0.5, metric), known.prox(x, 0.5, metric))


def test_the_prox_thresholds_blocks():
    groups, x = torch.tensor([1, 0, 1, 2, 0]), rows(3, 5)
    term = GroupSparsity(groups, torch.zeros_like(x), -10.0, 10.0)
    p = term.prox(x, 0.7)
    for g in range(3):
        block = x[:, groups == g]
        expected = block * (1 - 0.7 / block.norm(dim=1, keepdim=True)).clamp_min(0)
        torch.testing.assert_close(p[:, groups == g], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 3.0))
def test_no_point_of_the_box_is_better_than_the_prox(seed: int, step: float):
    x, center = rows(2, 7, seed=seed), rows(2, 7, seed=seed + 1).sigmoid()
    term = GroupSparsity(torch.tensor([0, 0, 1, 1, 1, 2, 0]), center, 0.0, 1.0)

    def value(p: Tensor) -> Tensor:
        return step * term(p) + (p - x).square().sum(1) / 2

    p = term.prox(x, step)
    assert bool(((p >= 0) & (p <= 1)).all())
    for size in (1e-1, 1e-3):
        other = (p + size * rows(2, 7, seed=seed + 2)).clamp(0, 1)
        assert bool((value(other) >= value(p) - 1e-12).all())


def test_rows_and_dtypes():
    x, groups = rows(5, 1, 4, 4).float(), patches((1, 4, 4), 3)
    center = torch.full_like(x, 0.25)
    term = GroupSparsity(groups, center, 0.0, 1.0)
    together = term.prox(x, 0.3)
    for k in range(5):
        assert torch.equal(GroupSparsity(groups, center[k : k + 1], 0.0, 1.0).prox(x[k : k + 1], 0.3)[0], together[k])
    half = GroupSparsity(groups, center.half(), 0.0, 1.0)
    assert half.prox(x.half(), 0.3).dtype == torch.float16 and half(x.half()).dtype == torch.float16


def test_bad_groups_are_named():
    center = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"groups: takes integers of the shape of one row, \(3,\), got .*float32"):
        GroupSparsity(torch.zeros(3), center, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"groups: .*of shape \(4,\)"):
        GroupSparsity(torch.zeros(4, dtype=torch.long), center, 0.0, 1.0)
    with pytest.raises(ValueError, match="size: takes a whole number >= 1"):
        patches((1, 4, 4), 0)
    with pytest.raises(ValueError, match=r"size: .*\(4,\)"):
        patches((4,), 2)


def test_scaled_terms():
    center = torch.zeros(2, 3, dtype=torch.float64)
    plain = NormAround("l1", center, -5.0, 5.0)
    term, x = Scaled(plain, 0.25), rows(2, 3)
    torch.testing.assert_close(term(x), plain(x) / 4)
    torch.testing.assert_close(term.prox(x, 0.8), plain.prox(x, 0.2))
    assert torch.equal(Scaled(plain, 0.0).prox(x, 1.0), x)
    with pytest.raises(ValueError, match="weight: must be >= 0, got -1"):
        Scaled(plain, -1.0)
