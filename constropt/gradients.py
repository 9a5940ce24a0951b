"""Gradients beside plain ones: one that is not there is an error, never a zero (does a term depend on x?), and those of
many outputs of every row, by vector-Jacobian products that share one graph and one call."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

# Entries of the gradients that one call returns. A call that holds more than a processor's cache is slower than
# several (measured: benchmarks/jacobians.py); an accelerator is limited by its memory alone.
CPU_ENTRIES, DEVICE_ENTRIES = 2**16, 2**26
CAUSES = (
    "usual causes: detach(), .item() or numpy on the way, argmax, a comparison or a count, a model that runs under"
    " torch.no_grad() or torch.inference_mode()"
)


def depends_on(output: Tensor, x: Tensor) -> bool:
    """Whether ``output`` has a graph that leads back to the leaf ``x``. Looks at the graph: no pass is made.

    >>> x, weight = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    >>> depends_on(x * weight, x), depends_on(x.detach() * weight, x)
    (True, False)
    """
    if not output.requires_grad:
        return False
    leaf, first = get_gradient_edge(x).node, get_gradient_edge(output).node
    seen, todo = {first}, [first]
    while todo:
        node = todo.pop()
        if node is leaf:
            return True
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return False


def require_gradient(term: str, output: Tensor, x: Tensor, cure: str) -> None:
    """``ValueError`` naming the ``term``, the usual causes and the ``cure`` unless ``output`` depends on ``x``."""
    if not depends_on(output, x):
        raise ValueError(f"{term}: does not depend on x, so there is no gradient to follow; {CAUSES}; {cure}")


def jacobian_blocks(values: Tensor, x: Tensor, *, entries: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """``(first, block)`` for consecutive columns of ``values``, ``(batch, m)``: block i is the gradient in x of column
    ``first + i`` of every row, ``(columns, batch, *event)``.

    Rows must not depend on each other. A block is one vectorised backward pass (``is_grads_batched``), of as many
    columns as keep it within ``entries`` (default: by device), at least one; all together they cost m backward passes.
    The graph of ``values`` is freed with the last block. Columns without a graph have gradient 0.

    >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> [(first, block.tolist()) for first, block in jacobian_blocks(torch.stack([x[:, 0], x.prod(1)], 1), x)]
    [(0, [[[1.0, 0.0]], [[4.0, 3.0]]])]
    """
    columns = values.shape[1]
    if not values.requires_grad:
        yield 0, x.new_zeros(columns, *x.shape)
        return
    if entries is None:
        entries = CPU_ENTRIES if x.device.type == "cpu" else DEVICE_ENTRIES
    width = min(max(entries // max(x.numel(), 1), 1), columns)
    chosen = torch.eye(columns, dtype=values.dtype, device=values.device)
    for first in range(0, columns, width):
        weights = chosen[first : first + width].unsqueeze(1).expand(-1, *values.shape)
        several, more = len(weights) > 1, first + width < columns
        weights = weights if several else weights[0]
        (block,) = torch.autograd.grad(
            values, x, weights, retain_graph=more, allow_unused=True, is_grads_batched=several
        )
        if block is None:
            block = x.new_zeros(min(width, columns - first), *x.shape)
        yield first, block if several else block.view(1, *x.shape)


def jacobian(values: Tensor, x: Tensor, *, entries: int | None = None) -> Tensor:
    """All blocks of :func:`jacobian_blocks` together, ``(m, batch, *event)``.

    >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> jacobian(torch.stack([x[:, 0], x.prod(1)], 1), x).tolist()
    [[[1.0, 0.0]], [[4.0, 3.0]]]
    """
    return torch.cat([block for _, block in jacobian_blocks(values, x, entries=entries)])
