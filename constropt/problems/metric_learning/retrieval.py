"""Retrieval: Recall@K, precision@K, MAP@R (Musgrave et al. 2020) and NMI, by chunks of queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import MissingExtra, require_one_of, require_whole
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.pairs import check_embeddings, check_labels, unit


@torch.no_grad()
def recall_at_k(
    query: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    distance: str = "cosine",
    backend: str = "torch",
    chunk: int | None = None,
) -> dict[int, float]:
    """The fraction of queries with a sample of their class among their k nearest, for every k of ``ks``.

    ``query`` is ``(n, d)`` with int64 ``labels`` ``(n,)``. Without a ``gallery`` each query is compared with all the
    others, itself left out by its index, so duplicates are found; with one, ``(m, d)`` and ``gallery_labels`` ``(m,)``,
    with all of that (In-Shop). ``distance`` is ``"cosine"`` or ``"l2"`` (embeddings as given). A sample of another
    class that is exactly as near as the nearest of the own class is ranked before it: collapsed embeddings find
    nothing. Queries without any sample of their class are left out.

    What is counted is the samples at least as near as the nearest positive, so all k come at the price of one
    comparison. ``chunk`` queries at a time (default: 2^24 similarities on a processor). ``backend="faiss"`` searches
    with an exact faiss index, which has to be installed, and ranks ties in faiss's order. Raises ``ValueError`` for k
    larger than what there is to retrieve, labels of another length, non-finite embeddings, and if nothing can be found.

    >>> z = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.3]])
    >>> recall_at_k(z, torch.tensor([0, 0, 1, 1]), ks=(1, 2, 3))
    {1: 0.75, 2: 0.75, 3: 1.0}
    """
    require_one_of("backend", backend, ("torch", "faiss"))
    search = _Search.of(query, labels, gallery, gallery_labels, ks, distance, chunk)
    if backend == "faiss":
        found = torch.cat(list(search.nearest_by(_faiss_neighbours(search.gallery), max(ks))))
        ranks = torch.where(found.any(1), found.to(torch.uint8).argmax(1), max(ks))
    else:
        ranks = torch.cat(list(search.ranks()))
    ranks = ranks[search.positives > 0]
    return {k: float((ranks < k).double().mean()) for k in ks}


@dataclass(frozen=True)
class Retrieval:
    """Means over the queries: recall and precision by k, MAP@R and R-precision."""

    recall: dict[int, float]
    precision: dict[int, float]
    map_at_r: float
    r_precision: float


@torch.no_grad()
def retrieval_metrics(
    query: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    distance: str = "cosine",
    chunk: int | None = None,
) -> Retrieval:
    """Recall@k and precision@k for every k of ``ks``, MAP@R and R-precision; arguments as for :func:`recall_at_k`.

    R is the number of samples of the query's class that there are to retrieve. R-precision is the fraction of the first
    R that are of the class; MAP@R the mean over the first R places of the precision up to the place where that is of
    the class, and 0 elsewhere. They need the nearest ``max(R, k)`` in order: this costs more. Ties come in any order.

    >>> z = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]])
    >>> metrics = retrieval_metrics(z, torch.tensor([0, 0, 1, 1]), ks=(1, 2))
    >>> metrics.recall, metrics.precision, metrics.map_at_r
    ({1: 1.0, 2: 1.0}, {1: 1.0, 2: 0.5}, 1.0)
    """
    search = _Search.of(query, labels, gallery, gallery_labels, ks, distance, chunk)
    depth = max(*ks, int(search.positives.max()))
    parts: list[Tensor] = []
    for same, wanted in search.nearest(depth):
        hits = same.double().cumsum(1)
        place = torch.arange(1, same.shape[1] + 1, device=same.device)
        precise = torch.where(same & (place <= wanted[:, None]), hits / place, 0).sum(1) / wanted.clamp_min(1)
        within = hits.gather(1, (wanted[:, None] - 1).clamp_min(0))[:, 0] / wanted.clamp_min(1)
        at = hits[:, torch.tensor([k - 1 for k in ks], device=hits.device)]
        parts.append(torch.cat([precise[:, None], within[:, None], at], dim=1))
    rows = torch.cat(parts)[search.positives > 0]
    map_at_r, r_precision, *found = rows.mean(0).tolist()
    recall = (rows[:, 2:] > 0).double().mean(0).tolist()
    return Retrieval(dict(zip(ks, recall)), {k: hits / k for k, hits in zip(ks, found)}, map_at_r, r_precision)


def normalized_mutual_information(
    embeddings: Tensor, labels: Tensor, *, clusters: int | None = None, seed: int = 0
) -> float:
    """NMI of the labels and a k-means clustering of the embeddings (l2; normalise them beforehand for cosine).

    ``clusters`` defaults to the number of classes; ``seed`` seeds the clustering. Both are scikit-learn's, which the
    extra ``data`` installs; the mutual information is over the arithmetic mean of the two entropies.

    >>> z = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> round(normalized_mutual_information(z, torch.tensor([0, 0, 1, 1])), 4)
    1.0
    """
    check_embeddings(embeddings)
    check_labels(labels, len(embeddings))
    count = len(labels.unique()) if clusters is None else clusters
    if not 1 <= count <= len(embeddings):
        raise ValueError(f"clusters: takes 1 to n = {len(embeddings)} clusters, got {count}")
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ImportError as error:
        cure = "pip install 'constropt[data]'"
        raise MissingExtra(f"normalized_mutual_information clusters with scikit-learn: {cure}") from error
    points = at_least_float32(embeddings.detach()).cpu().numpy()
    kmeans = KMeans(count, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]  ("auto" or a number)
    found = kmeans.fit_predict(points)
    return float(normalized_mutual_info_score(labels.cpu().numpy(), found))


@dataclass(frozen=True, eq=False)
class _Search:
    """Queries and gallery, both in the order of their labels, so that the positives of a query are neighbours.

    ``queries @ gallery.T`` is larger the nearer. ``first`` and ``last`` bound the columns of each query's class;
    ``alone`` says that row i is column i (no gallery was given). ``positives`` counts what each query can find.
    """

    queries: Tensor
    gallery: Tensor
    first: Tensor
    last: Tensor
    alone: bool
    positives: Tensor
    chunk: int

    @classmethod
    def of(
        cls,
        query: Tensor,
        labels: Tensor,
        gallery: Tensor | None,
        gallery_labels: Tensor | None,
        ks: Sequence[int],
        distance: str,
        chunk: int | None,
    ) -> _Search:
        check_embeddings(query, "query")
        check_labels(labels, len(query), of="query")
        if (gallery is None) != (gallery_labels is None):
            raise ValueError("gallery, gallery_labels: go together, got one of them; pass both, or neither")
        available = len(query) - 1
        if gallery is not None and gallery_labels is not None:
            check_embeddings(gallery, "gallery")
            check_labels(gallery_labels, len(gallery), "gallery_labels", "gallery")
            available = len(gallery)
            if gallery.shape[1] != query.shape[1]:
                takes = f"{query.shape[1]} features like query, got {gallery.shape[1]}"
                raise ValueError(f"gallery: takes {takes}; embed both with the same network")
        require_one_of("distance", distance, ("cosine", "l2"))
        if not ks:
            raise ValueError("ks: takes whole numbers >= 1, got none")
        for k in ks:
            require_whole(ks=k)
        if max(ks) > available:
            takes = f"k up to the {available} samples there are to retrieve, got {max(ks)}"
            raise ValueError(f"ks: takes {takes}; leave larger k out, or pass a larger gallery")
        require_whole(chunk=1 if chunk is None else chunk)
        labels, order = labels.long().sort(stable=True)
        queries = at_least_float32(query.detach()[order])
        columns, searched, alone = labels, queries, True
        if gallery is not None and gallery_labels is not None:
            columns, order = gallery_labels.long().sort(stable=True)
            searched, alone = gallery.detach()[order].to(queries.dtype), False
        first, last = torch.searchsorted(columns, labels), torch.searchsorted(columns, labels, right=True)
        positives = last - first - int(alone)
        if not bool((positives > 0).any()):
            cure = "check that the labels of queries and gallery number the classes alike"
            raise ValueError(f"labels: no query has a sample of its class to find; {cure}")
        if distance == "cosine":
            queries = unit(queries)
            searched = queries if alone else unit(searched)
        else:
            # ||q - g||^2 = ||q||^2 - 2 (q^T g - ||g||^2 / 2), about the mean, where cancellation is least
            center = searched.mean(0)
            queries, searched = queries - center, searched - center
            searched = torch.cat([searched, -searched.square().sum(1, keepdim=True) / 2], dim=1)
            queries = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)
        if chunk is None:  # similarities in memory: 64 MiB in float32 on a processor, 512 MiB on a GPU
            chunk = max(16, (2**24 if query.device.type == "cpu" else 2**27) // len(searched))
        return cls(queries, searched, first, last, alone, positives, chunk)

    def similarities(self) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of queries and their similarities ``(rows, m)``, minus infinity to themselves; one buffer, reused."""
        buffer = self.queries.new_empty(min(self.chunk, len(self.queries)), len(self.gallery))
        for start in range(0, len(self.queries), self.chunk):
            rows = slice(start, min(start + self.chunk, len(self.queries)))
            similarity = torch.mm(self.queries[rows], self.gallery.T, out=buffer[: rows.stop - rows.start])
            if self.alone:
                similarity.diagonal(start).fill_(-torch.inf)
            yield rows, similarity

    def ranks(self) -> Iterator[Tensor]:
        """By chunk: how many negatives are at least as near as the nearest positive, ``(rows,)``."""
        for rows, similarity in self.similarities():
            first, last = self.first[rows, None], self.last[rows, None]
            # classes come in order: the positives of the whole chunk lie in these columns
            low = min(int(first.min()), len(self.gallery) - 1)
            high = max(int(last.max()), low + 1)
            column = torch.arange(low, high, device=similarity.device)
            positive = (column >= first) & (column < last)
            near = similarity[:, low:high]
            best = near.masked_fill(~positive, -torch.inf).amax(1, keepdim=True)
            tied = ((near >= best) & positive).sum(1)
            # in place and in floats: several times faster than a sum of booleans, and exact below 2^24 columns
            closer = torch.ge(similarity, best, out=similarity).sum(1)
            yield closer.long() - tied

    def nearest(self, depth: int) -> Iterator[tuple[Tensor, Tensor]]:
        """By chunk: whether each of the ``depth`` nearest, nearest first, is of the query's class, and how many are."""
        for rows, similarity in self.similarities():
            yield self._same(similarity.topk(depth, dim=1).indices, rows), self.positives[rows]

    def nearest_by(self, neighbours: Callable[[Tensor, int], Tensor], depth: int) -> Iterator[Tensor]:
        """By chunk: whether each of the ``depth`` nearest, as ``neighbours`` finds them, is of the query's class."""
        for start in range(0, len(self.queries), self.chunk):
            rows = slice(start, min(start + self.chunk, len(self.queries)))
            found = neighbours(self.queries[rows], depth + int(self.alone)).to(self.first.device)
            if self.alone:
                # the own index goes to the end, wherever it was found
                own = found == torch.arange(rows.start, rows.stop, device=found.device)[:, None]
                found = found.gather(1, own.to(torch.uint8).argsort(dim=1, stable=True))[:, :depth]
            yield self._same(found, rows)

    def _same(self, columns: Tensor, rows: slice) -> Tensor:
        return (columns >= self.first[rows, None]) & (columns < self.last[rows, None])


def _faiss_neighbours(gallery: Tensor) -> Callable[[Tensor, int], Tensor]:
    """``(queries, depth) -> (rows, depth)``: the columns of the largest products, by an exact faiss index."""
    try:
        from faiss import IndexFlatIP  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("backend='faiss' needs faiss: pip install faiss-cpu, or take backend='torch'") from error
    index = IndexFlatIP(gallery.shape[1])
    index.add(gallery.float().cpu().numpy())
    return lambda queries, depth: torch.from_numpy(index.search(queries.float().cpu().numpy(), depth)[1])
