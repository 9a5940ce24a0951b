"""Metric learning: losses split in a tightness and a contrastive part, the mutual information that they share, and
retrieval.
"""

from constropt.problems.metric_learning.base import PairwiseLoss, SplitLoss
from constropt.problems.metric_learning.center import Center
from constropt.problems.metric_learning.contrastive import Contrastive
from constropt.problems.metric_learning.cross_entropy import CrossEntropy
from constropt.problems.metric_learning.fastap import FastAP
from constropt.problems.metric_learning.information import (
    MutualInformation,
    label_entropy,
    mutual_information,
    nearest_neighbour_entropy,
    nearest_neighbour_information,
    pairwise_entropy,
)
from constropt.problems.metric_learning.margins import all_triplets, contrastive_margins, triplet_margins
from constropt.problems.metric_learning.multi_similarity import MultiSimilarity
from constropt.problems.metric_learning.nca import NCA, ProxyNCA
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
from constropt.problems.metric_learning.snca import SNCA, MemoryBank
from constropt.problems.metric_learning.triplet import Triplet

__all__ = [
    "NCA", "PCE", "SNCA", "SPCE", "BoundReport", "Center", "Contrastive", "CrossEntropy", "FastAP", "MemoryBank",
    "MultiSimilarity", "MutualInformation", "PairwiseLoss", "ProxyNCA", "Retrieval", "SplitLoss", "Triplet",
    "all_triplets", "bound_report", "contrastive_margins", "label_entropy", "least_eigenvalue", "mutual_information",
    "nearest_neighbour_entropy", "nearest_neighbour_information", "normalized_mutual_information", "pairwise_entropy",
    "recall_at_k", "retrieval_metrics", "triplet_margins",
]  # fmt: skip
