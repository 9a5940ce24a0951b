"""The folders of CUB, Cars, SOP and In-Shop on small made copies, and their images as batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from constropt.lab.data.retrieval_sets import ImageFiles, load_cars, load_cub, load_in_shop, load_sop
from constropt.lab.studies.metric_learning.study_data import RetrievalSettings, retrieval_data

PIL = pytest.importorskip("PIL.Image")


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", size, color).save(path)


def make_cub(folder: Path) -> None:
    """Two classes on each side of the split, three birds each; numbers not in the order of the lines."""
    images, classes = [], []
    for place, label in enumerate((2, 1, 101, 200)):
        for bird in range(3):
            number, name = 10 * place + bird, f"{label:03}.Bird/bird {bird}.png".replace(" ", "_")
            picture(folder / "images" / name, (20 * label % 256, 10 * bird, 0))
            images.append(f"{number} {name}")
            classes.insert(0, f"{number} {label}")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "image_class_labels.txt").write_text("\n".join(classes) + "\n")


def make_sop(folder: Path) -> None:
    for name, items in (("train", (7, 9)), ("test", (9000, 10000, 11000))):
        lines = ["image_id class_id super_class_id path"]
        for item in items:
            for view in range(2):
                path = f"bicycle_final/{item}_{view}.png"
                picture(folder / path, (item % 256, view, 0))
                lines.append(f"{len(lines)} {item} 1 {path}")
        (folder / f"Ebay_{name}.txt").write_text("\n".join(lines))


def make_in_shop(folder: Path, *, nested: bool) -> None:
    rows = []
    for part, items in (("train", (1, 2)), ("query", (3, 4)), ("gallery", (3, 4, 5))):
        for item in items:
            path = f"img/WOMEN/id_{item:08}/{part}.png"
            picture((folder / "Img" if nested else folder) / path, (item, 0, 0))
            rows.append(f"{path:60} id_{item:08} {part}")
    where = folder / "Eval" if nested else folder
    where.mkdir(parents=True, exist_ok=True)
    (where / "list_eval_partition.txt").write_text("\n".join([str(len(rows)), "image_name item_id status", *rows]))


def make_cars(folder: Path) -> None:
    scipy = pytest.importorskip("scipy.io")
    kind = [("relative_im_path", object), ("bbox_x1", object), ("class", object), ("test", object)]
    rows = np.zeros((1, 6), dtype=kind)
    for place, label in enumerate((1, 1, 98, 99, 99, 196)):
        name = f"car_ims/{place:06}.png"
        picture(folder / name, (label, 0, 0))
        rows[0, place] = (name, 1, label, 0)
    scipy.savemat(folder / "cars_annos.mat", {"annotations": rows})


def test_cub_splits_by_class_and_joins_the_two_files(tmp_path):
    make_cub(tmp_path)
    found = load_cub(tmp_path)
    assert found.train.labels.tolist() == [1, 1, 1, 0, 0, 0]  # class 2 before class 1 in the file
    assert found.query.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.gallery is None
    assert [path.parent.name for path in found.query.paths[::3]] == ["101.Bird", "200.Bird"]


def test_cars_reads_matlab(tmp_path):
    make_cars(tmp_path)
    found = load_cars(tmp_path)
    assert found.train.labels.tolist() == [0, 0, 1] and found.query.labels.tolist() == [0, 0, 1]
    assert all(path.is_file() for path in (*found.train.paths, *found.query.paths))


def test_sop_takes_the_files_of_its_split(tmp_path):
    make_sop(tmp_path)
    found = load_sop(tmp_path)
    assert found.train.labels.tolist() == [0, 0, 1, 1] and found.query.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("nested", [False, True])
def test_in_shop_numbers_queries_and_gallery_alike(nested, tmp_path):
    make_in_shop(tmp_path, nested=nested)
    found = load_in_shop(tmp_path)
    assert found.gallery is not None
    assert found.query.labels.tolist() == [0, 1] and found.gallery.labels.tolist() == [0, 1, 2]
    assert all(path.is_file() for path in (*found.train.paths, *found.query.paths, *found.gallery.paths))


def test_files_become_batches_the_middle_or_a_random_patch(tmp_path):
    picture(tmp_path / "wide.png", (255, 0, 51), (40, 20))
    left = np.zeros((20, 40, 3), dtype=np.uint8)
    left[:, 20:] = 255
    PIL.fromarray(left).save(tmp_path / "halves.png")
    paths = [tmp_path / "wide.png", tmp_path / "halves.png"]
    files = ImageFiles(paths, size=16, resize=20, keep_ratio=True)
    batch = files[torch.tensor([1, 0, 0])]
    assert batch.shape == (3, 3, 16, 16) and batch.dtype == torch.float32 and len(files) == 2
    torch.testing.assert_close(batch[1, :, 3, 5], torch.tensor([1.0, 0.0, 0.2]))
    assert float(batch[0, 0, 0, 0]) == 0 and float(batch[0, 0, 0, -1]) == 1  # the middle of both halves
    random = ImageFiles(paths, size=16, resize=20, random=True, jitter=True)
    torch.manual_seed(3)
    first = random[torch.tensor([1, 1, 1, 1])]
    torch.manual_seed(3)
    assert torch.equal(first, random[torch.tensor([1, 1, 1, 1])])
    assert len({part.sum().item() for part in first}) == 4 and 0 <= float(first.min()) <= float(first.max()) <= 1


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png: no image"):
        ImageFiles([tmp_path / "text.png"])[torch.tensor([0])]
    with pytest.raises(ValueError, match=r"gone\.png: no image"):
        ImageFiles([tmp_path / "gone.png"])[torch.tensor([0])]
    with pytest.raises(ValueError, match="size: takes 1 to resize"):
        ImageFiles([], size=300)


def test_layouts_that_do_not_fit_say_where(tmp_path):
    for load, name in ((load_cub, "images.txt"), (load_cars, "cars_annos.mat"), (load_sop, "Ebay_train.txt")):
        with pytest.raises(ValueError, match=rf"looked for .*{name}"):
            load(tmp_path)
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt"):
        load_in_shop(tmp_path)
    make_cub(tmp_path)
    (tmp_path / "image_class_labels.txt").write_text("0 1\n1 1 1\n")
    with pytest.raises(ValueError, match="takes 2 columns, line 2 has 3"):
        load_cub(tmp_path)
    (tmp_path / "image_class_labels.txt").write_text("0 1\n")
    with pytest.raises(ValueError, match="has no class for image"):
        load_cub(tmp_path)


def test_retrieval_data_of_files_holds_out_classes_of_training(tmp_path):
    make_in_shop(tmp_path, nested=True)
    data = retrieval_data(RetrievalSettings(f"in-shop:{tmp_path}[size=8]"))
    assert data.validation is None and data.gallery is not None and data.classes == 2
    assert data.train.images[torch.tensor([1, 0])].shape == (2, 3, 8, 8)
    make_sop(tmp_path / "sop")
    with pytest.raises(ValueError, match="leaves 1 class for train"):
        retrieval_data(RetrievalSettings(f"sop:{tmp_path / 'sop'}[size=8]", validation=0.4))
    with pytest.raises(ValueError, match="option of sop: unknown name 'sise'; near names: size"):
        retrieval_data(RetrievalSettings(f"sop:{tmp_path / 'sop'}[sise=8]"))
