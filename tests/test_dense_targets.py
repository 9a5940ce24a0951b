"""Target label maps of dense attacks, and the figures that show what came of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from constropt.lab.attacks.plots import class_colors, failure_rate, plot_failures, plot_label_maps
from constropt.lab.attacks.targets import constant_target, majority_target, nearest_neighbour_target, repeated_target


def label_maps(*shape: int, classes: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.1] = 255
    return labels


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def test_one_class_and_one_map():
    labels = label_maps(3, 4, 5)
    assert torch.equal(constant_target(labels, 2), torch.full((3, 4, 5), 2))
    given = torch.randint(4, (4, 5), dtype=torch.uint8)
    repeated = repeated_target(labels, given)
    assert repeated.dtype == torch.int64 and all(torch.equal(row, given.long()) for row in repeated)
    repeated[0] = 9
    assert torch.equal(repeated[1], given.long())  # rows are no views of one another
    with pytest.raises(ValueError, match="target: takes a class >= 0"):
        constant_target(labels, -1)
    with pytest.raises(ValueError, match=r"label_map: takes shape \(4, 5\), got \(5, 4\)"):
        repeated_target(labels, given.T)
    with pytest.raises(TypeError, match="label_map: takes integers, got torch.float32"):
        repeated_target(labels, given.float())


def test_the_majority_is_the_mode_of_what_counts():
    labels = label_maps(9, 6, 7)
    labels[:, 0, 0] = 255
    target = majority_target(labels)
    assert target[0, 0] == 255
    for y in range(6):
        for x in range(7):
            counted = [label for label in labels[:, y, x].tolist() if label != 255]
            if counted:
                assert target[y, x] == min(set(counted), key=lambda label: (-counted.count(label), label))
    with pytest.raises(ValueError, match=r"label_maps: takes \(samples, height, width\)"):
        majority_target(labels[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_neighbour_by_all_distances(seed):
    labels = label_maps(2, 9, 12, classes=6, seed=seed)
    labels[:, 2:8, 3:9] = 5
    target = nearest_neighbour_target(labels, erase=5)
    assert torch.equal(target[labels != 5], labels[labels != 5])
    for image, found in zip(labels.tolist(), target.tolist()):
        sources = [(y, x) for y in range(9) for x in range(12) if image[y][x] not in (5, 255)]
        for y in range(9):
            for x in range(12):
                if image[y][x] == 5:
                    nearest = min(sources, key=lambda s: ((s[0] - y) ** 2 + (s[1] - x) ** 2, s[1], s[0]))
                    assert found[y][x] == image[nearest[0]][nearest[1]]


def test_the_nearest_neighbour_agrees_with_scipy_in_distance():
    ndimage = pytest.importorskip("scipy.ndimage")
    position = torch.arange(40 * 60).reshape(1, 40, 60)  # every source has a label of its own
    labels = position.clone() + 1000
    labels[0, 5:38, 10:55] = 7
    target = nearest_neighbour_target(labels, erase=7, ignore_index=-1) - 1000
    y, x = target[0] // 60, target[0] % 60
    own = ((y - position[0] // 60).square() + (x - position[0] % 60).square()).double().sqrt()
    assert np.allclose(own.numpy(), ndimage.distance_transform_edt((labels[0] == 7).numpy()))


def test_images_with_nothing_to_take():
    labels = label_maps(3, 4, 5)
    assert torch.equal(nearest_neighbour_target(labels, erase=77), labels)
    labels[1] = 255
    labels[1, 2, 2] = 3
    with pytest.raises(ValueError, match=r"erase: images \[1\] have no pixel of another class than 3"):
        nearest_neighbour_target(labels, erase=3)
    with pytest.raises(ValueError, match=r"labels: takes \(batch, height, width\)"):
        nearest_neighbour_target(labels[0], erase=3)


def test_the_failure_rate_steps_down_at_each_norm():
    radii, rates = failure_rate(np.array([0.0, 0.5, np.inf, 0.5, 0.25]))
    assert radii.tolist() == [0.0, 0.25, 0.5] and rates.tolist() == pytest.approx([0.8, 0.6, 0.2])
    assert failure_rate(torch.full((3,), torch.inf))[1].tolist() == [1.0]
    for wrong in (torch.zeros(0), torch.zeros(2, 2), torch.tensor([-1.0]), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="norms: takes"):
            failure_rate(wrong)


def test_the_failure_figure_is_written(tmp_path):
    norms = {"strong": torch.tensor([0.001, 0.002]), "weak": np.array([0.1, np.inf]), "none": torch.tensor([torch.inf])}
    plot_failures(norms, tmp_path / "failures.png", title="two images")
    assert pixels_of(tmp_path / "failures.png").shape[1] > 300
    with pytest.raises(ValueError, match="at least one attack"):
        plot_failures({}, tmp_path / "no.png")
    assert [path.name for path in tmp_path.iterdir()] == ["failures.png"]


@pytest.mark.parametrize(("channels", "classes"), [(3, None), (1, 9), (3, ["sky", "road", "car", "tree"])])
def test_the_grid_shows_the_class_colors(tmp_path, channels, classes):
    images, labels = torch.rand(2, channels, 12, 16), label_maps(2, 12, 16)
    labels[:, :6] = 2
    adversarial = (images + 0.01).clamp(0, 1)
    plot_label_maps(images, labels, adversarial, constant_target(labels, 1), tmp_path / "grid.png", classes=classes)
    pixels = pixels_of(tmp_path / "grid.png").reshape(-1, 3)
    for label in (1, 2):
        color = np.round(class_colors(4)[label] * 255).astype(int)
        assert (np.abs(pixels - color).max(1) <= 1).mean() > 0.02


def test_the_grid_refuses_what_does_not_belong_together(tmp_path):
    images, labels = torch.rand(2, 3, 12, 16), label_maps(2, 12, 16)
    path = tmp_path / "grid.png"
    with pytest.raises(ValueError, match="inputs and adversarial"):
        plot_label_maps(images, labels, images[:1], labels, path)
    with pytest.raises(ValueError, match="adversarial_predictions: takes a label map of"):
        plot_label_maps(images, labels, images, labels[:, :3], path)
    with pytest.raises(ValueError, match="labels 0 to 3 for 2 classes"):
        plot_label_maps(images, labels, images, labels, path, classes=2)
    assert not path.exists()


def test_class_colors_differ_and_do_not_depend_on_the_number():
    colors = class_colors(40)
    assert len(np.unique(colors.round(3), axis=0)) == 40 and colors.min() >= 0 and colors.max() <= 1
    assert np.array_equal(class_colors(5), colors[:5])
