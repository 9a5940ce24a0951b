"""A gradient that is not there is an error, never a zero: does a term depend on x?"""

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

CAUSES = (
    "usual causes: detach(), .item() or numpy on the way, argmax, a comparison or a count, a model that runs under"
    " torch.no_grad() or torch.inference_mode()"
)


def depends_on(output: Tensor, x: Tensor) -> bool:
    """Whether ``output`` has a graph that leads back to the leaf ``x``. Looks at the graph: no pass is made.

    >>> import torch
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
