"""Data with a label per pixel: the embedded scenes and CamVid's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from constropt.lab.data.load import load_data
from constropt.lab.data.scenes import CAMVID_CLASSES, IGNORED, SCENE_CLASSES, digit_scenes, load_camvid


def test_scenes_hold_digits_with_a_border_that_does_not_count():
    inputs, labels = digit_scenes(40)
    assert inputs.shape == (40, 3, 64, 64) and inputs.dtype == torch.float32
    assert inputs.min() >= 0 and inputs.max() <= 1 and labels.dtype == torch.int64
    assert sorted(labels.unique().tolist()) == [*range(len(SCENE_CLASSES)), IGNORED]
    digit = ((labels > 0) & (labels != IGNORED)).float()
    around = functional.max_pool2d(digit[:, None], 3, stride=1, padding=1)[:, 0].bool() & ~digit.bool()
    assert torch.equal(around, labels == IGNORED)
    assert digit.flatten(1).any(1).all() and 0.05 < digit.mean() < 0.3


def test_digits_stand_out_of_a_background_of_low_contrast():
    inputs, labels = digit_scenes(20)
    for image, label in zip(inputs, labels):
        background = image[:, label == 0]
        digits = image[:, (label > 0) & (label != IGNORED)]
        middle = background.mean(1, keepdim=True)
        assert (background - middle).abs().mean() < 0.07 < (digits - middle).abs().mean()


def test_scenes_are_reproducible_prefixes_that_depend_on_seed_and_split():
    few, many = digit_scenes(3, 40), digit_scenes(5, 40)
    assert torch.equal(few.inputs, many.inputs[:3]) and torch.equal(few.labels, many.labels[:3])
    for other in (digit_scenes(3, 40, seed=1), digit_scenes(3, 40, split="test")):
        assert not torch.equal(few.inputs, other.inputs)
    before = torch.get_rng_state()
    assert digit_scenes(1, 24).labels.shape == (1, 24, 24)
    assert torch.equal(before, torch.get_rng_state())


def test_bad_scene_arguments():
    for wrong in ({"count": 0}, {"size": 23}, {"count": 2.0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name}: takes a whole number"):
            digit_scenes(**{"count": 1, **wrong})
    with pytest.raises(ValueError, match="split"):
        digit_scenes(1, split="val")


@pytest.fixture
def camvid(tmp_path):
    """Two images of 6x8 pixels per split; the second annotation has a palette, as some tools write it."""
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for name in ("b.png", "a.png"):
            Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(tmp_path / split / name)
            labels = Image.fromarray(generator.integers(0, 12, (6, 8), dtype=np.uint8))
            if name == "b.png":
                labels.putpalette(list(range(255, -1, -1)) * 3)
            labels.save(tmp_path / f"{split}annot" / name)
    return tmp_path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_camvid_files_are_read_as_they_are(camvid, split):
    inputs, labels = load_camvid(camvid, split)
    for number, name in enumerate(("a.png", "b.png")):
        image = pixels_of(camvid / split / name)
        assert np.array_equal((inputs[number] * 255).round().byte().permute(1, 2, 0).numpy(), image)
        stored = pixels_of(camvid / f"{split}annot" / name).astype(int)
        assert np.array_equal(labels[number].numpy(), np.where(stored == 11, IGNORED, stored))


def test_camvid_is_scaled_by_areas_and_nearest_pixels(camvid):
    whole, half = load_camvid(camvid), load_camvid(camvid, size=(3, 4))
    assert torch.allclose(half.inputs, functional.avg_pool2d(whole.inputs, 2), atol=1.01 / 255)  # Pillow rounds twice
    assert half.labels.shape == (2, 3, 4)
    cells = whole.labels.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert (cells == half.labels[..., None]).any(3).all()


def test_camvid_says_what_it_looked_for(camvid, tmp_path):
    with pytest.raises(ValueError, match=r"test/\*.png and annotations testannot/\*.png in .*nowhere: not there"):
        load_camvid(tmp_path / "nowhere")
    (camvid / "testannot/b.png").rename(camvid / "b.png")
    with pytest.raises(ValueError, match=r"1 images have no annotation; the first looked for is .*testannot/b.png"):
        load_camvid(camvid)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(camvid / "testannot/b.png")
    with pytest.raises(ValueError, match="several sizes in .*testannot"):
        load_camvid(camvid)
    Image.fromarray(np.full((6, 8), 12, np.uint8)).save(camvid / "testannot/b.png")
    with pytest.raises(ValueError, match="labels are 0 to 11, got 12"):
        load_camvid(camvid)
    (camvid / "testannot/b.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="testannot/b.png: no PNG image"):
        load_camvid(camvid)
    for path in (camvid / "val").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no images"):
        load_camvid(camvid, "val")


def test_annotations_that_do_not_fit_the_images(camvid):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(camvid / "testannot" / name)
    with pytest.raises(ValueError, match=r"annotations of shape \(3, 4\) for images of shape \(6, 8\)"):
        load_camvid(camvid)
    with pytest.raises(ValueError, match="split: takes 'train', 'val' or 'test'"):
        load_camvid(camvid, "dev")
    with pytest.raises(ValueError, match=r"size: takes \(height, width\)"):
        load_camvid(camvid, size=(0, 4))


def test_by_specification(camvid):
    loaded, own = load_data(f"camvid:{camvid}"), load_camvid(camvid)
    assert torch.equal(loaded.inputs, own.inputs) and torch.equal(loaded.labels, own.labels)
    scenes = load_data("scenes")
    assert scenes.inputs.shape == (100, 3, 64, 64) and scenes.labels.shape == (100, 64, 64)
    with pytest.raises(ValueError, match="should read scenes"):
        load_data("scenes:here")
    with pytest.raises(ValueError, match="should read camvid:DIR"):
        load_data("camvid")


def test_label_maps_in_a_file_of_arrays(tmp_path):
    images, labels = np.zeros((2, 4, 5, 3), np.uint8), np.full((2, 4, 5), 255, np.uint8)
    np.savez(tmp_path / "maps.npz", images=images, labels=labels)
    assert load_data(f"npz:{tmp_path}/maps.npz").labels.shape == (2, 4, 5)
    np.savez(tmp_path / "bad.npz", images=images, labels=labels[:, :3])
    with pytest.raises(ValueError, match=r"one label per image or pixel, got \(2, 3, 5\)"):
        load_data(f"npz:{tmp_path}/bad.npz")


def test_the_real_camvid(real_data):
    if not (real_data / "camvid").is_dir():
        pytest.skip("no camvid there")
    inputs, labels = load_camvid(real_data / "camvid", "val", size=(44, 60))
    assert inputs.shape == (25, 3, 44, 60) and labels.shape == (25, 44, 60)
    assert set(labels.unique().tolist()) == {*range(len(CAMVID_CLASSES)), IGNORED}
