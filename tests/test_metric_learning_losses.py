"""The losses of metric learning: Table 2.2 entry by entry, Lemma 2.1 with its constants, peers, and bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.problems.metric_learning import (
    NCA,
    SNCA,
    SPCE,
    Center,
    Contrastive,
    CrossEntropy,
    FastAP,
    MemoryBank,
    MultiSimilarity,
    ProxyNCA,
    SplitLoss,
    Triplet,
    pairs,
)

PAIRWISE = {
    "contrastive": lambda: Contrastive(margin=1.3),
    "snca": lambda: SNCA(sigma=0.3),
    "multi-similarity": lambda: MultiSimilarity(alpha=2.0, beta=5.0, margin=0.7),
    "multi-similarity mined": lambda: MultiSimilarity(beta=5.0, mining=0.1),
    "semi-hard triplet": lambda: Triplet(margin=0.4),
    "hard triplet": lambda: Triplet(margin=0.4, mining="hard"),
    "all triplets": lambda: Triplet(margin=0.4, mining="all"),
    "nca": lambda: NCA(temperature=0.5),
    "nca mean": lambda: NCA(temperature=0.5, reduction="mean"),
    "fastap": lambda: FastAP(bins=7),
    "spce": lambda: SPCE(temperature=0.5),
}
BY_CLASS = {
    "center": lambda: Center(4, 6, weight=0.3),
    "learned center": lambda: Center(4, 6, learned=True),
    "cross-entropy": lambda: CrossEntropy(4, 6, label_smoothing=0.1, lam=0.2),
    "proxy-nca": lambda: ProxyNCA(4, 6),
    "proxy-nca softmax": lambda: ProxyNCA(4, 6, include_own=True),
}
ALL = PAIRWISE | BY_CLASS
pairwise = pytest.mark.parametrize("name", PAIRWISE)
every = pytest.mark.parametrize("name", ALL)
batches = given(
    seed=st.integers(0, 10_000), classes=st.integers(2, 6), each=st.integers(2, 6), dimension=st.integers(1, 8)
)
few = settings(max_examples=25, deadline=None)


def batch(seed: int = 0, classes: int = 4, each: int = 3, dimension: int = 6, *, normal: bool = False):
    """Balanced classes in any order, in float64, on the sphere if ``normal``."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(classes * each, dimension, generator=generator, dtype=torch.float64)
    labels = torch.arange(classes).repeat_interleave(each)[torch.randperm(classes * each, generator=generator)]
    return (torch.nn.functional.normalize(z, dim=1) if normal else z), labels


def build(name: str) -> SplitLoss:
    torch.manual_seed(1)
    loss = ALL[name]().double()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    return loss


# ------------------------------------------------------------------------------------ the definitions, pair by pair


def squares(z: Tensor) -> Tensor:
    return (z[:, None] - z[None]).square().sum(2)


def cosines(z: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2)


def masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def naive_contrastive(z, labels, margin):
    near, far = masks(labels)
    distance = squares(z).sqrt()
    return (distance.square() * near).sum() / len(z), ((margin - distance).clamp_min(0).square() * far).sum() / len(z)


def naive_snca(z, labels, sigma):
    near, far = masks(labels)
    e = (cosines(z) / sigma).exp()
    return -(e * near).sum(1).log().mean(), (e * (near | far)).sum(1).log().mean()


def naive_multi_similarity(z, labels, alpha, beta, margin):
    near, far = masks(labels)
    s = cosines(z) - margin
    tightness = (1 + ((-alpha * s).exp() * near).sum(1)).log() / alpha
    return tightness.mean(), ((1 + ((beta * s).exp() * far).sum(1)).log() / beta).mean()


def naive_triplets(z, labels, margin, mining):
    """Triplet by triplet, in Python."""
    near, far = masks(labels)
    d = squares(z)
    chosen = []
    for a in range(len(z)):
        positives, negatives = near[a].nonzero()[:, 0], far[a].nonzero()[:, 0]
        if mining == "hard":
            chosen.append((a, positives[d[a, positives].argmax()], negatives[d[a, negatives].argmin()]))
            continue
        for p in positives:
            if mining == "all":
                chosen += [(a, p, other) for other in negatives]
                continue
            beyond = negatives[d[a, negatives] > d[a, p]]
            distances = d[a, beyond] if len(beyond) else -d[a, negatives]
            chosen.append((a, p, (beyond if len(beyond) else negatives)[distances.argmin()]))
    tightness = contrastive = torch.zeros((), dtype=z.dtype)
    for a, p, other in chosen:
        if d[a, p] - d[a, other] + margin > 0:
            tightness, contrastive = tightness + d[a, p], contrastive + margin - d[a, other]
    return tightness / len(chosen), contrastive / len(chosen)


def naive_nca(z, labels, temperature):
    near, far = masks(labels)
    s = cosines(z) / temperature
    partition = (s.exp() * (near | far)).sum(1, keepdim=True).log()
    return -(s * near).sum(), (partition * near).sum()


def naive_fastap(z, labels, bins):
    """Row by row and bin by bin; the parts of the loss and the average precisions."""
    near, far = masks(labels)
    d = squares(torch.nn.functional.normalize(z, dim=1))
    edges = torch.linspace(0, 4, bins + 1, dtype=z.dtype)
    pulse = (1 - (d[..., None] - edges).abs() * bins / 4).clamp_min(0)
    h, others = (pulse * near[..., None]).sum(1), (pulse * (near | far)[..., None]).sum(1)
    count, total = near.sum(1, keepdim=True), (near | far).sum(1, keepdim=True)
    share, within, overall = h / count, (h / count).cumsum(1), (others / total).cumsum(1)
    used = share > 0
    tightness = -(share * torch.where(used, within, 1).log()).sum(1)
    contrastive = (share * torch.where(used, overall / (count / total), 1).log()).sum(1)
    precision = torch.where(used, share * within * (count / total) / torch.where(used, overall, 1), 0).sum(1)
    return tightness, contrastive, precision


def check(loss: SplitLoss, z: Tensor, labels: Tensor, expected: tuple[Tensor, Tensor]) -> None:
    tightness, contrastive = loss.tightness(z, labels), loss.contrastive(z, labels)
    assert loss(z, labels) == tightness + contrastive
    torch.testing.assert_close(tightness, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(contrastive, expected[1], rtol=1e-9, atol=1e-9)


@batches
@few
def test_the_pairwise_losses_are_their_definitions(seed, classes, each, dimension):
    z, labels = batch(seed, classes, each, dimension)
    check(Contrastive(1.3), z, labels, naive_contrastive(z, labels, 1.3))
    check(SNCA(0.3), z, labels, naive_snca(z, labels, 0.3))
    check(MultiSimilarity(2.0, 5.0, 0.7), z, labels, naive_multi_similarity(z, labels, 2.0, 5.0, 0.7))
    check(NCA(0.5), z, labels, naive_nca(z, labels, 0.5))
    tightness, contrastive, precision = naive_fastap(z, labels, 7)
    check(FastAP(7), z, labels, (tightness.mean(), contrastive.mean()))
    torch.testing.assert_close(FastAP(7).average_precision(z, labels), precision.mean())
    # Jensen, query by query: the loss is at least minus the log of the average precision
    assert (tightness + contrastive >= -precision.log() - 1e-9).all()


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all"])
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), each=st.integers(2, 4))
@settings(max_examples=10, deadline=None)
def test_the_triplet_loss_is_the_sum_over_its_triplets(mining, seed, classes, each):
    z, labels = batch(seed, classes, each, 3)
    check(Triplet(0.7, mining=mining), z, labels, naive_triplets(z, labels, 0.7, mining))


def test_the_center_loss_and_the_cross_entropy_are_their_definitions():
    z, labels = batch()
    center = build("center")
    means = torch.stack([z[labels == k].mean(0) for k in range(4)])
    entropy = torch.nn.functional.cross_entropy(center.cross_entropy.classifier(z), labels)
    check(center, z, labels, (0.15 * (z - means[labels]).square().sum(), entropy))
    learned = build("learned center")
    torch.testing.assert_close(
        learned.tightness(z, labels), (z - learned.centers[labels]).square().sum() / 2, rtol=1e-9, atol=0
    )

    smooth = build("cross-entropy")
    logits = smooth.classifier(z)
    targets = torch.full((len(z), 4), 0.1 / 3, dtype=z.dtype).scatter(1, labels[:, None], 0.9)
    torch.testing.assert_close(smooth(z, labels), -(targets * logits.log_softmax(1)).sum(1).mean())
    quadratic = 0.1 * smooth.classifier.weight.square().sum()
    torch.testing.assert_close(smooth.contrastive(z, labels), logits.logsumexp(1).mean() - quadratic)
    fresh = CrossEntropy(4, 6, dropout=0.5)
    assert not fresh.classifier.weight.any() and not fresh.classifier.bias.any()
    torch.manual_seed(0)
    fresh.classifier.weight.data.normal_()
    assert fresh(z.float(), labels) != fresh(z.float(), labels)
    assert fresh.eval()(z.float(), labels) == fresh(z.float(), labels)


def test_proxy_nca_leaves_the_own_class_out_of_its_sum():
    z, labels = batch()
    loss = build("proxy-nca")
    unit = torch.nn.functional.normalize
    d = (unit(z, dim=1)[:, None] - unit(loss.proxies, dim=1)).square().sum(2)
    own = torch.nn.functional.one_hot(labels, 4).bool()
    check(loss, z, labels, (d[own].mean(), ((-d).exp() * ~own).sum(1).log().mean()))
    torch.testing.assert_close(
        build("proxy-nca softmax")(z, labels), torch.nn.functional.cross_entropy(-d, labels), rtol=1e-9, atol=0
    )


# ------------------------------------------------------------------------------------------------- laws of all losses


@every
def test_the_parts_sum_to_the_loss_and_gradients_are_right(name):
    z, labels = batch(classes=4, each=2)
    loss = build(name)
    assert loss(z, labels) == loss.tightness(z, labels) + loss.contrastive(z, labels)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (z.requires_grad_(),))


@pairwise
def test_relative_labels_of_classes_give_what_classes_give(name):
    z, labels = batch()
    loss = build(name)
    same = labels[:, None] == labels
    for matrix in (same, same & ~torch.eye(len(z), dtype=torch.bool)):
        torch.testing.assert_close(torch.stack(loss.parts(z, matrix)), torch.stack(loss.parts(z, labels)))


@pairwise
def test_blocks_of_rows_give_what_the_whole_matrix_gives(name, monkeypatch):
    z, labels = batch(classes=5, each=7)
    loss = build(name)
    results = []
    for entries in (2**18, 1, 700):
        monkeypatch.setattr(pairs, "_CACHE", entries)
        x = z.clone().requires_grad_()
        value = loss(x, labels)
        value.backward()
        matrix = loss(z, labels[:, None] == labels)
        results.append((value.detach(), x.grad, matrix))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_coincident_points_give_finite_gradients(name, dtype):
    z, labels = batch()
    z[1], z[2], z[3] = z[0], z[0], 0
    loss = build(name).to(dtype)
    for point in (z, torch.zeros_like(z), torch.ones_like(z) * 100):
        x = point.to(dtype).requires_grad_()
        value = loss(x, labels)
        value.backward()
        assert value.isfinite() and x.grad.isfinite().all() and x.grad.dtype == dtype
        assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)


@every
def test_autocast_and_half_precision_change_little(name):
    z, labels = batch()
    loss = build(name).float()
    exact = loss(z.bfloat16().float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(z.bfloat16(), labels)
    torch.testing.assert_close(inside, exact, rtol=1e-5, atol=1e-5)


@pairwise
def test_rows_without_a_positive_do_no_harm(name):
    z, _ = batch(classes=2, each=2)
    loss = build(name)
    x = z.requires_grad_()
    value = loss(x, torch.arange(4))
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    if name in ("snca", "nca", "fastap", "semi-hard triplet", "hard triplet", "all triplets"):
        assert value == 0
    some = loss(z, torch.tensor([0, 0, 1, 2]))
    assert some.isfinite()


def test_losses_fall_when_classes_part():
    z, labels = batch(classes=4, each=4, dimension=6)
    corners = torch.eye(6, dtype=z.dtype)[labels]
    for name in ALL:
        loss = build(name)
        if not isinstance(loss, (Center, CrossEntropy, ProxyNCA)):
            assert loss(corners + 0.01 * z, labels) < loss(z, labels), name


# -------------------------------------------------------------------------------------------------- Lemma 2.1


@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    each=st.integers(2, 6),
    dimension=st.integers(2, 8),
    sigma=st.floats(0.05, 2.0),
    alpha=st.floats(0.5, 10.0),
    margin=st.floats(0.2, 1.0),
)
@settings(max_examples=50, deadline=None)
def test_the_relations_of_lemma_2_1_with_their_constants(seed, classes, each, dimension, sigma, alpha, margin):
    z, labels = batch(seed, classes, each, dimension, normal=True)
    n, others, slack = classes * each, classes * each - each, 1e-9
    contrastive = Contrastive(1.0).tightness(z, labels)
    center = Center(classes, dimension).tightness(z, labels)
    torch.testing.assert_close(center, classes / 4 * contrastive, rtol=1e-9, atol=1e-9)  # (A I-1)

    logarithm = torch.tensor(float(each - 1)).double().log()
    bound = contrastive / (2 * sigma * (each - 1)) - 1 / sigma - logarithm  # (A I-2)
    snca = SNCA(sigma)
    assert snca.tightness(z, labels) <= bound + slack

    ms = MultiSimilarity(alpha, alpha, margin)
    logarithm = torch.tensor(float(each)).double().log() / alpha
    bound = contrastive / (2 * each) + logarithm - (each - 1) / each * (1 - margin)  # (A I-3), any margin
    assert ms.tightness(z, labels) >= bound - slack

    _, far = masks(labels)
    common = -(squares(z) * far).sum() / n
    logarithm = torch.tensor(float(others)).double().log()
    assert ms.contrastive(z, labels) >= common / (2 * others) + logarithm / alpha + 1 - margin - slack  # (A I-4)
    assert snca.contrastive(z, labels) >= common / (2 * others * sigma) + logarithm + 1 / sigma - slack  # (A I-5)
    torch.testing.assert_close(common, contrastive - squares(z).sum() / n, rtol=1e-9, atol=1e-9)  # (A I-6)
    # (2.14), which has all its parts in closed form
    spce = SPCE().tightness(z, labels)
    torch.testing.assert_close(spce, contrastive / (2 * n) - 1 / classes, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- peers


def test_values_agree_with_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    z, labels = batch(seed=3, classes=5, each=4, dimension=6)
    z, n = z.float(), 20

    def close(ours, theirs):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=2e-5, atol=2e-5)

    l2 = distances.LpDistance(normalize_embeddings=False, power=1)
    separate = losses.ContrastiveLoss(neg_margin=3.0, distance=l2, reducer=reducers.DoNothingReducer())(z, labels)
    ours = Contrastive(3.0)
    # theirs are not squared
    close(ours.tightness(z, labels), separate["pos_loss"]["losses"].square().sum() / n)
    close(ours.contrastive(z, labels), separate["neg_loss"]["losses"].square().sum() / n)

    close(MultiSimilarity(2.0, 5.0, 0.5)(z, labels), losses.MultiSimilarityLoss(2.0, 5.0, 0.5)(z, labels))
    mined = losses.MultiSimilarityLoss(2.0, 5.0, 0.5)(z, labels, miners.MultiSimilarityMiner(epsilon=0.1)(z, labels))
    close(MultiSimilarity(2.0, 5.0, 0.5, mining=0.1)(z, labels), mined)
    squared = distances.LpDistance(normalize_embeddings=False, power=2)
    theirs = losses.TripletMarginLoss(margin=0.3, distance=squared, reducer=reducers.MeanReducer())
    close(Triplet(0.3, mining="all")(z, labels), theirs(z, labels))
    close(SNCA(0.2)(z, labels), losses.NCALoss(5.0, distance=distances.CosineSimilarity())(z, labels))
    close(NCA(0.2, reduction="mean")(z, labels), losses.SupConLoss(temperature=0.2)(z, labels))
    fastap = FastAP(10)
    close(1 - fastap.average_precision(z, labels), losses.FastAPLoss(10)(z, labels))
    proxy = losses.ProxyNCALoss(5, 6, softmax_scale=2.0)
    ours = ProxyNCA(5, 6, temperature=0.5, include_own=True)
    ours.proxies.data.copy_(proxy.proxies.data)
    close(ours(z, labels), proxy(z, labels))


# ------------------------------------------------------------------------------------------------------ memory


def peak_allocation(call) -> int:
    """The most bytes that torch had allocated at a time within ``call``, beside what there was before."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(held.cumsum(0).max())


@pytest.mark.parametrize("name", [name for name in PAIRWISE if name != "spce"])
def test_no_loss_keeps_more_than_one_matrix_of_pairs(name):
    n = 2000
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = PAIRWISE[name]()
    assert peak_allocation(lambda: loss(z, torch.arange(n) % 200).backward()) < 4 * n * n


# ----------------------------------------------------------------------------------------------------- memory bank


def test_a_full_memory_bank_gives_the_loss_against_the_data_set():
    z, labels = batch(classes=4, each=5)
    bank = MemoryBank(size=20, dimension=6, momentum=0.0).double()
    loss = SNCA(0.3, bank=bank)
    everyone = torch.arange(20)
    bank.update(everyone, z, labels)
    check_all = torch.stack(loss.parts(z, labels, indices=everyone))
    torch.testing.assert_close(check_all, torch.stack(SNCA(0.3).parts(z, labels)))
    # a few queries, in another order, against everything else; no gradient into the bank
    some = torch.tensor([7, 3, 11])
    near, far = masks(labels)
    e = (cosines(z) / 0.3).exp()
    expected = (e * (near | far)).sum(1).log() - (e * near).sum(1).log()
    x = z[some].requires_grad_()
    value = loss(x, labels[some], indices=some)
    torch.testing.assert_close(value, expected[some].mean())
    value.backward()
    assert x.grad.any() and not bank.embeddings.requires_grad


def test_the_memory_bank_moves_counts_and_is_saved():
    z, labels = batch(normal=True)
    bank = MemoryBank(size=30, dimension=6, momentum=0.5).double()
    loss = SNCA(bank=bank)
    with pytest.raises(ValueError, match="fill the bank first"):
        loss(z[:1], labels[:1], indices=torch.tensor([0]))
    bank.update(torch.arange(12), z, labels)
    torch.testing.assert_close(bank.embeddings[:12], z)
    bank.update(torch.tensor([4]), -z[5][None] * 3, labels[4:5])
    torch.testing.assert_close(bank.embeddings[4], torch.nn.functional.normalize(z[4] - z[5], dim=0))
    assert bank.filled.sum() == 12
    again = SNCA(bank=MemoryBank(30, 6).double())
    again.load_state_dict(loss.state_dict())
    arguments = (z[:3], labels[:3])
    assert again(*arguments, indices=torch.arange(3)) == loss(*arguments, indices=torch.arange(3))
    for bad, message in ((torch.tensor([1, 1]), "twice"), (torch.tensor([0, 30]), "positions 0 to 29")):
        with pytest.raises(ValueError, match=message):
            bank.update(bad, z[:2], labels[:2])
    with pytest.raises(ValueError, match="indices"):
        loss(z, labels)
    with pytest.raises(ValueError, match="no"):
        SNCA()(z, labels, indices=torch.arange(12))


# ------------------------------------------------------------------------------------------------------- bad input


@every
def test_bad_input_is_refused_with_its_cure(name):
    z, labels = batch()
    loss = build(name)
    broken = z.clone()
    broken[2, 1] = torch.nan
    for bad, error, message in (
        ((broken, labels), ValueError, r"embeddings: takes finite values.*\[2\].*learning rate"),
        ((z.long(), labels), TypeError, "floating point"),
        ((z[None], labels), ValueError, "shape"),
        ((z, labels[:-1]), ValueError, r"labels: .*12 rows.*\(11,\)"),
        ((z, labels.float()), TypeError, "whole numbers"),
        ((z, torch.ones(3, 3, dtype=torch.bool)), ValueError, "labels"),
    ):
        with pytest.raises(error, match=message):
            loss(*bad)
    one = torch.zeros_like(labels)
    if name in PAIRWISE:
        with pytest.raises(ValueError, match="one class.*at least two classes"):
            loss(z, one)
        with pytest.raises(ValueError, match="one class"):
            loss(z, one[:, None] == one)
        with pytest.raises(ValueError, match="symmetric"):
            loss(z, torch.ones(12, 12, dtype=torch.bool).tril())
    else:
        assert loss(z, one).isfinite()
        with pytest.raises(ValueError, match="takes classes 0 to 3, got 0 to 9"):
            loss(z, torch.tensor([9, *[0] * 11]))
        with pytest.raises(ValueError, match="pairwise loss or SPCE"):
            loss(z, labels[:, None] == labels)
        with pytest.raises(ValueError, match="dimension=5"):
            loss(z[:, :5], labels)


def test_bad_arguments_are_refused():
    for call in (
        lambda: Contrastive(0.0),
        lambda: SNCA(-1.0),
        lambda: MultiSimilarity(alpha=0.0),
        lambda: Triplet(0.1, mining="soft"),
        lambda: NCA(reduction="none"),
        lambda: FastAP(0),
        lambda: ProxyNCA(1, 3),
        lambda: CrossEntropy(1, 3),
        lambda: CrossEntropy(3, 3, dropout=1.0),
        lambda: Center(3, 3, weight=0.0),
        lambda: MemoryBank(0, 3),
        lambda: MemoryBank(3, 3, momentum=1.0),
    ):
        with pytest.raises(ValueError):
            call()
