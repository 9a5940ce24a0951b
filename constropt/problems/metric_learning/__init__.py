"""Metric learning: losses split in a tightness and a contrastive part, the information they share, retrieval."""

from constropt.problems.metric_learning.classifier import Center, CrossEntropy
from constropt.problems.metric_learning.information import (
    MutualInformation,
    label_entropy,
    mutual_information,
    nearest_neighbour_entropy,
    nearest_neighbour_information,
    pairwise_entropy,
)
from constropt.problems.metric_learning.margins import all_triplets, contrastive_margins, triplet_margins
from constropt.problems.metric_learning.neighbours import NCA, SNCA, MemoryBank, ProxyNCA
from constropt.problems.metric_learning.pairs import PairwiseLoss, SplitLoss
from constropt.problems.metric_learning.pairwise import Contrastive, FastAP, MultiSimilarity, Triplet
from constropt.problems.metric_learning.pairwise_cross_entropy import (
    PCE,
    SPCE,
    BoundReport,
    bound_report,
    least_eigenvalue,
)
from constropt.problems.metric_learning.retrieval import (
    Retrieval,
    normalized_mutual_information,
    recall_at_k,
    retrieval_metrics,
)

__all__ = [
    "NCA", "PCE", "SNCA", "SPCE", "BoundReport", "Center", "Contrastive", "CrossEntropy", "FastAP", "MemoryBank",
    "MultiSimilarity", "MutualInformation", "PairwiseLoss", "ProxyNCA", "Retrieval", "SplitLoss", "Triplet",
    "all_triplets", "bound_report", "contrastive_margins", "label_entropy", "least_eigenvalue", "mutual_information",
    "nearest_neighbour_entropy", "nearest_neighbour_information", "normalized_mutual_information", "pairwise_entropy",
    "recall_at_k", "retrieval_metrics", "triplet_margins",
]  # fmt: skip
