"""The U-Net and its training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from constropt.lab import load_model, save_weights
from constropt.lab.models.small import UNet, unet
from constropt.lab.models.training import PixelSettings, predict, train_segmenter
from constropt.problems.dense_metrics import mean_iou, pixel_accuracy


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (7, 5), (1, 1)])
@pytest.mark.parametrize(("depth", "stride"), [(3, 2), (0, 1), (2, 3)])
def test_logits_have_the_size_of_any_image(size, depth, stride):
    model = unet(4, in_channels=1, width=4, depth=depth, stride=stride).eval()
    assert model(torch.rand(2, 1, *size)).shape == (2, 4, *size)


def test_rows_are_independent_and_reach_the_input_in_eval_mode():
    torch.manual_seed(0)
    model = unet(3, width=4, depth=2).eval()
    x = torch.rand(3, 3, 20, 27, requires_grad=True)
    alone = torch.cat([model(row[None]) for row in x])
    assert torch.allclose(model(x), alone, atol=1e-5)
    (gradient,) = torch.autograd.grad(model(x)[1].square().sum(), x)
    assert gradient[1].abs().amax() > 0 and not gradient[[0, 2]].any()


def test_a_shift_by_a_whole_cell_shifts_the_logits():
    torch.manual_seed(0)
    model = unet(3, width=4, depth=1).eval()
    x = torch.rand(1, 3, 48, 48)
    shifted = model(x.roll(8, dims=3))[..., 24:-16]
    assert torch.allclose(shifted, model(x).roll(8, dims=3)[..., 24:-16], atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"classes": 1}, {"width": 0}, {"depth": -1}, {"stride": 0}, {"in_channels": 1.5}, {"depth": True}]
)
def test_bad_sizes_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: takes a whole number"):
        UNet(**{"classes": 3, **wrong})


def test_the_default_loads_by_reference(tmp_path):
    torch.manual_seed(1)
    model = unet().eval()
    save_weights(model, tmp_path / "unet.safetensors")
    loaded = load_model("constropt.lab.models.small:unet", tmp_path / "unet.safetensors")
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(x), model(x))


def patches(count: int, seed: int):
    """Images of colored cells, labelled by their strongest channel, with a frame that does not count."""
    cells = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    images = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    labels = images.argmax(1)
    labels[:, :2], labels[:, -2:] = 255, 255
    return images, labels


def test_training_learns_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    model = unet(3, width=8, depth=1)
    before, seen = torch.get_rng_state(), []
    trained = train_segmenter(
        model, *patches(32, 0), epochs=10, lr=1e-2, progress=lambda done, total, loss: seen.append((done, loss))
    )
    assert trained is model and not model.training and torch.equal(before, torch.get_rng_state())
    assert [done for done, _ in seen] == list(range(1, 11)) and seen[-1][1] < seen[0][1] / 2
    assert all(parameter.grad is None for parameter in model.parameters())
    images, labels = patches(16, 1)
    predictions = predict(model, images)
    assert predictions.shape == labels.shape and predictions.dtype == torch.int64
    assert pixel_accuracy(predictions, labels) > 0.75 and mean_iou(predictions, labels, 3) > 0.6


def head() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))


def weights_after(images, labels, seed: int = 0, **pixels) -> torch.Tensor:
    pixels = PixelSettings(**pixels)
    model = train_segmenter(head(), images, labels, epochs=2, batch_size=3, seed=seed, pixels=pixels)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def small_data():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 6, 7, generator=generator), torch.randint(3, (8, 6, 7), generator=generator)


def test_training_is_reproducible_and_depends_on_the_seed():
    data = small_data()
    assert torch.equal(weights_after(*data, seed=0), weights_after(*data, seed=0))
    assert not torch.equal(weights_after(*data, seed=0), weights_after(*data, seed=1))


def test_ignored_pixels_do_not_count_even_where_a_batch_has_no_other():
    images, labels = small_data()
    labels[:6] = 255
    changed = images.clone()
    changed[:, :, 5], labels[:, 5] = 0.5, 255
    labels[6:, 4] = 255  # the row beside it, whose logits the convolution mixes with it
    assert torch.equal(weights_after(images, labels), weights_after(changed, labels))
    assert weights_after(images, labels).isfinite().all()
    with pytest.raises(ValueError, match="every pixel is ignore_index, 7"):
        train_segmenter(head(), images, torch.full_like(labels, 7), pixels=PixelSettings(ignore_index=7))


def test_class_weights_and_augmentation_are_used():
    images, labels = small_data()
    plain = weights_after(images, labels)
    assert torch.equal(plain, weights_after(images, labels, weight=torch.ones(3)))
    assert not torch.equal(plain, weights_after(images, labels, weight=torch.tensor([1.0, 0.0, 0.0])))
    shapes = []

    def darker(x, y, generator):
        shapes.append((tuple(x.shape), tuple(y.shape), generator.device.type))
        return 0.5 * x, y

    assert not torch.equal(plain, weights_after(images, labels, augment=darker))
    assert shapes[:3] == [((n, 3, 6, 7), (n, 6, 7), "cpu") for n in (3, 3, 2)] and len(shapes) == 6


def test_bad_training_arguments():
    images, labels = small_data()
    with pytest.raises(ValueError, match="labels: takes one map per image"):
        train_segmenter(head(), images, labels[:, :5])
    for name in ("epochs", "batch_size", "lr"):
        with pytest.raises(ValueError, match=f"{name}: takes a number > 0, got 0"):
            train_segmenter(head(), images, labels, **{name: 0})


def test_predictions_keep_the_mode():
    model = nn.Dropout(0.9)
    x = torch.rand(5, 3, 4, 4)
    assert torch.equal(predict(model, x, batch_size=2), x.argmax(1)) and model.training
