"""PCE and SPCE: their O(nKd) forms are the definitions, lambda, relative labels, and the bound that does not hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from constropt.problems.metric_learning import PCE, SPCE, CrossEntropy, bound_report, least_eigenvalue

problems = given(
    seed=st.integers(0, 10_000),
    n=st.integers(4, 40),
    classes=st.integers(2, 7),
    dimension=st.integers(1, 9),
    lam=st.floats(0.05, 5.0),
    scale=st.floats(0.1, 3.0),
)


def draw(seed: int, n: int, classes: int, dimension: int, scale: float = 1.0) -> tuple[Tensor, Tensor, nn.Linear]:
    """Embeddings, labels of at least two classes (some may be absent) and a classifier, in float64."""
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[:2] = torch.arange(2)
    classifier = nn.Linear(dimension, classes, bias=False, dtype=torch.float64)
    classifier.weight.data = torch.randn(classes, dimension, generator=generator, dtype=torch.float64)
    return z, labels, classifier


def naive_pce(z: Tensor, labels: Tensor, p: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Eq. 2.12 with all its pairs."""
    n = len(z)
    gram = z @ z.T
    same = labels[:, None] == labels
    soft = torch.stack([(p[:, k, None] * z).sum(0) / n for k in range(p.shape[1])])
    exponents = gram @ p / (lam * n)
    contrastive = exponents.exp().sum(1).log().mean() - soft.square().sum() / (2 * lam)
    return -(gram * same).sum() / (2 * lam * n**2), contrastive


def naive_spce(z: Tensor, labels: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Eq. 2.15 with all its pairs, over these classes."""
    n = len(z)
    gram = z @ z.T
    exponents = torch.stack([(gram * (labels == k)).sum(1) / n for k in classes], dim=1)
    return -(gram * (labels[:, None] == labels)).sum() / n**2, exponents.exp().sum(1).log().mean()


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-6, atol=1e-12)


@problems
@settings(max_examples=60, deadline=None)
def test_the_fast_forms_are_the_definitions(seed, n, classes, dimension, lam, scale):
    z, labels, classifier = draw(seed, n, classes, dimension, scale)
    pce = PCE(classifier, lam)
    close(pce.parts(z, labels), naive_pce(z, labels, classifier(z).softmax(1), lam))
    assert pce(z, labels) == pce.tightness(z, labels) + pce.contrastive(z, labels)
    close(SPCE().parts(z, labels), naive_spce(z, labels, labels.unique().tolist()))
    close(SPCE(num_classes=classes).parts(z, labels), naive_spce(z, labels, list(range(classes))))


@problems
@settings(max_examples=30, deadline=None)
def test_spce_is_cross_entropy_with_the_classifier_tied_to_the_data(seed, n, classes, dimension, lam, scale):
    z, labels, _ = draw(seed, n, classes, dimension, scale)
    hot = functional.one_hot(labels, classes).double()
    sums, sizes = hot.T @ z, hot.sum(0)[:, None]
    for weight, loss in (
        (sums / n / lam, SPCE(lam, num_classes=classes)),
        (sums / sizes.clamp_min(1) / lam, SPCE(lam, num_classes=classes, class_mean=True)),
    ):
        torch.testing.assert_close(loss(z, labels), functional.cross_entropy(z @ weight.T, labels))
    # its parts are those of the cross-entropy of (2.13) at that classifier, and at theta = S PCE's tightness is half
    tied = CrossEntropy(classes, dimension, bias=False).double()
    tied.classifier.weight.data = sums / n
    close(SPCE(num_classes=classes).parts(z, labels), tied.parts(z, labels))
    spce, pce = SPCE().tightness(z, labels), PCE(tied.classifier, 1.0).tightness(z, labels)
    torch.testing.assert_close(spce, 2 * pce)


@problems
@settings(max_examples=30, deadline=None)
def test_the_split_of_cross_entropy_is_minimised_where_the_proof_says(seed, n, classes, dimension, lam, scale):
    """f_1 of (2.13) at its minimiser, the hard means over lambda, is the tightness of PCE, and nowhere is it less."""
    z, labels, classifier = draw(seed, n, classes, dimension, scale)
    loss = CrossEntropy(classes, dimension, bias=False, lam=lam).double()
    least = PCE(classifier, lam).tightness(z, labels)
    loss.classifier.weight.data = functional.one_hot(labels, classes).double().T @ z / (n * lam)
    torch.testing.assert_close(loss.tightness(z, labels), least)
    loss.classifier.weight.data += 0.3 * classifier.weight.data
    assert loss.tightness(z, labels) > least
    torch.testing.assert_close(loss(z, labels), functional.cross_entropy(loss.classifier(z), labels))


def test_a_sample_can_be_left_out_of_its_own_class():
    z, labels, _ = draw(3, 20, 4, 5)
    labels[:] = torch.arange(20) % 4
    for class_mean in (False, True):
        logits = torch.zeros(20, 4, dtype=torch.float64)
        for i in range(20):
            for k in range(4):
                members = [j for j in range(20) if labels[j] == k and j != i]
                total = z[members].sum(0) @ z[i]
                logits[i, k] = total / (len(members) if class_mean else 20) / 0.5
        loss = SPCE(0.5, class_mean=class_mean, exclude_self=True)
        torch.testing.assert_close(loss(z, labels), functional.cross_entropy(logits, labels))
    # alone in a class: no neighbour to be like
    alone = SPCE(exclude_self=True, class_mean=True)(torch.eye(2), torch.tensor([0, 1]))
    torch.testing.assert_close(alone, torch.tensor(2.0).log())


def test_normalised_embeddings_have_logits_of_order_one_over_k():
    z = functional.normalize(torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(400) % 100
    floor = torch.tensor(100.0).log()
    assert (SPCE()(z, labels) - floor).abs() < 0.02
    assert (SPCE(0.1, class_mean=True)(z, labels) - floor).abs() > 0.5


@pytest.mark.parametrize("class_mean", [False, True])
def test_relative_labels_sum_over_the_distinct_sets_of_positives(class_mean):
    z, _, _ = draw(1, 5, 2, 3)
    # a chain 0-1-2 in which 1 is in the sets of both ends, and a pair 3-4
    pairs = torch.zeros(5, 5, dtype=torch.bool)
    for i, j in ((0, 1), (1, 2), (3, 4)):
        pairs[i, j] = pairs[j, i] = True
    own = [{0, 1}, {0, 1, 2}, {1, 2}, {3, 4}, {3, 4}]
    distinct = [{0, 1}, {0, 1, 2}, {1, 2}, {3, 4}]
    logits = torch.stack([sum(z @ z[j] for j in s) / (len(s) if class_mean else 5) / 0.7 for s in distinct], dim=1)
    targets = torch.tensor([distinct.index(s) for s in own])
    loss = SPCE(0.7, class_mean=class_mean)
    torch.testing.assert_close(loss(z, pairs), functional.cross_entropy(logits, targets))
    if not class_mean:
        gram, count = z @ z.T, pairs | torch.eye(5, dtype=torch.bool)
        torch.testing.assert_close(loss.tightness(z, pairs), -(gram * count).sum() / 25 / 0.7)
    with pytest.raises(ValueError, match="without num_classes"):
        SPCE(num_classes=3)(z, pairs)


def test_gradients_reach_embeddings_and_classifier():
    z, labels, classifier = draw(0, 12, 3, 4)
    pce = PCE(classifier, 0.7)
    assert torch.autograd.gradcheck(lambda z: pce(z, labels), (z.requires_grad_(),))
    pce(z, labels).backward()
    assert classifier.weight.grad.any()
    for dtype in (torch.float16, torch.bfloat16):
        half = z.detach().to(dtype).requires_grad_()
        value = pce(half, labels)
        value.backward()
        assert value.dtype == torch.float32 and half.grad.dtype == dtype and half.grad.isfinite().all()
        torch.testing.assert_close(value, pce(half.detach().double(), labels).float())


# ------------------------------------------------------------------------------------------- lambda and the bound


def test_the_eigenvalue_lambda_is_the_least_of_all_classes():
    z, labels, classifier = draw(5, 60, 5, 4)
    p = classifier(z).softmax(1).detach()
    blocks = [z.T @ ((p[:, k] * (1 - p[:, k]))[:, None] * z) / 60 for k in range(5)]
    expected = min(torch.linalg.eigvalsh(a)[0] for a in blocks)
    found = least_eigenvalue(z, p)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    chosen = PCE(classifier, "eigenvalue", floor=1e-9)
    torch.testing.assert_close(chosen(z, labels), PCE(classifier, float(expected))(z, labels))
    torch.testing.assert_close(PCE(classifier, "eigenvalue", floor=3.0)(z, labels), PCE(classifier, 3.0)(z, labels))
    # with it every diagonal block of the Hessian of h_2 is positive semi-definite, which is all that it gives
    assert all(torch.linalg.eigvalsh(a - expected * torch.eye(4)).min() >= -1e-12 for a in blocks)


def test_too_few_samples_for_the_eigenvalue_are_refused():
    z, labels, classifier = draw(0, 6, 3, 7)
    with pytest.raises(ValueError, match=r"n = 6 < d = 7.*constant lam"):
        PCE(classifier, "eigenvalue")(z, labels)
    assert PCE(classifier)(z, labels).isfinite()


def test_the_report_shows_that_the_bound_fails_and_where_it_holds():
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    labels = torch.arange(1000) % 50
    z = centers[labels] + 0.5 * torch.randn(1000, 16, generator=generator, dtype=torch.float64)
    # as soon as the classifier fits: K = 50 classes in d = 16
    report = bound_report(z, labels, 0.3 * centers, lam="eigenvalue", floor=1e-9)
    logits = 0.3 * z @ centers.T
    torch.testing.assert_close(report.cross_entropy, float(functional.cross_entropy(logits, labels)))
    expected = sum(naive_pce(z, labels, logits.softmax(1), report.lam))
    torch.testing.assert_close(report.pce, float(expected))
    torch.testing.assert_close(report.spce, float(sum(naive_spce(z, labels, list(range(50))))))
    assert report.gap == report.cross_entropy - report.pce
    assert not report.holds and report.gap < 0
    assert "FAILS" in str(report) and "L_SPCE" in str(report) and "K = 50, d = 16" in str(report)
    assert not bound_report(z, labels, 0.3 * centers).holds
    # a classifier that has learned nothing yet: the cross-entropy is large, the bound is met
    early = bound_report(z, labels, 0.1 * centers, lam="eigenvalue")
    assert early.holds and early.gap > 0 and "holds" in str(early)


def test_bad_input_is_refused():
    z, labels, classifier = draw(0, 12, 3, 4)
    pce = PCE(classifier)
    for call, error, message in (
        (lambda: PCE(torch.zeros(3, 4)), TypeError, "nn.Linear"),
        (lambda: PCE(classifier, 0.0), ValueError, "lam"),
        (lambda: PCE(classifier, "eigen"), ValueError, "'eigenvalue'"),
        (lambda: PCE(classifier, "eigenvalue", floor=0.0), ValueError, "floor"),
        (lambda: pce(z, labels[:5]), ValueError, "labels"),
        (lambda: pce(z, labels + 2), ValueError, "takes classes 0 to 2"),
        (lambda: pce(z * torch.inf, labels), ValueError, "finite"),
        (lambda: pce(z, labels[:, None] == labels), ValueError, "SPCE"),
        (lambda: SPCE(0.0), ValueError, "temperature"),
        (lambda: SPCE()(z, torch.zeros(12).long()), ValueError, "one class"),
        (lambda: SPCE(num_classes=2)(z, labels), ValueError, "takes classes 0 to 1"),
        (lambda: bound_report(z, labels, classifier.weight[0]), ValueError, "classifier_weight"),
        (lambda: bound_report(z, labels, classifier.weight[:, :2]), ValueError, "features"),
        (lambda: bound_report(z, labels, classifier.weight * torch.nan), ValueError, "classifier_weight"),
    ):
        with pytest.raises(error, match=message):
            call()
