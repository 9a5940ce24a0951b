"""The small models and their training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from constropt.lab import load_data, load_model, load_weights, save_weights
from constropt.lab.models.small import SmallCNN, digits_cnn, small_cnn
from constropt.lab.models.training import accuracy, train_classifier


def test_the_layers_are_those_of_the_table():
    layers = [module for module in small_cnn().modules() if not list(module.children())]
    names = [type(layer).__name__ for layer in layers]
    block = ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    assert names == [*block, *block, "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 32, 64, 64]
    assert all(c.kernel_size == (3, 3) and c.padding == (0, 0) for c in convolutions)
    linear = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    assert linear == [(64 * 4 * 4, 200), (200, 200), (200, 10)]


def test_class_counts_and_sizes():
    assert small_cnn(7)(torch.rand(3, 1, 28, 28)).shape == (3, 7)
    assert digits_cnn(4)(torch.rand(3, 1, 8, 8)).shape == (3, 4)
    assert SmallCNN(5, channels=3, image_size=32)(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="image_size: 8 is too small"):
        SmallCNN(image_size=8)


def small_data():
    inputs, labels = load_data("digits", split="train")
    return inputs[:400], labels[:400]


def test_training_learns_and_leaves_the_generator_alone():
    inputs, labels = small_data()
    torch.manual_seed(0)
    model = digits_cnn()
    before = torch.get_rng_state()
    seen = []
    trained = train_classifier(
        model, inputs, labels, epochs=6, batch_size=50, progress=lambda done, total, loss: seen.append((done, loss))
    )
    assert trained is model and not model.training
    assert torch.equal(before, torch.get_rng_state())
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5, 6] and seen[-1][1] < seen[0][1] / 2
    assert all(parameter.grad is None for parameter in model.parameters())
    test = load_data("digits")
    assert accuracy(model, *test) > 0.75


def test_training_is_reproducible_and_depends_on_the_seed():
    inputs, labels = small_data()

    def run(seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        train_classifier(model, inputs, labels, epochs=2, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_bad_training_arguments():
    inputs, labels = small_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="one label per input"):
        train_classifier(model, inputs, labels[:-1])
    for name in ("epochs", "batch_size", "lr"):
        with pytest.raises(ValueError, match=f"{name}: takes a number > 0, got 0"):
            train_classifier(model, inputs, labels, **{name: 0})


def test_accuracy_counts_and_keeps_the_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))
    x = torch.eye(4)
    assert accuracy(model, x, torch.tensor([0, 1, 2, 0]), batch_size=3) == 0.75
    assert model.training


def test_weights_round_trip_in_every_accepted_form(tmp_path):
    model = digits_cnn()
    state = model.state_dict()
    save_weights(model, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    torch.save({"state_dict": [state]}, tmp_path / "listed.pt")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pt")
    x = torch.rand(2, 1, 8, 8)
    for name in ("a.safetensors", "plain.pt", "nested.pt", "listed.pt", "parallel.pt"):
        loaded = load_model("constropt.lab.models.small:digits_cnn", tmp_path / name)
        assert torch.equal(loaded(x), model.eval()(x)) and not loaded.training, name
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.safetensors",
        "listed.pt",
        "nested.pt",
        "parallel.pt",
        "plain.pt",
    ]


def test_weights_that_do_not_fit_or_execute(tmp_path):
    with pytest.raises(ValueError, match="no file .*gone.pt"):
        load_weights(tmp_path / "gone.pt")
    torch.save(digits_cnn(), tmp_path / "whole.pt")  # a pickled module: loading it would run code
    with pytest.raises(ValueError, match="without executing code"):
        load_weights(tmp_path / "whole.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        load_weights(tmp_path / "empty.pt")
    save_weights(small_cnn(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"classifier.1.weight has shape \(200, 1024\) instead of \(200, 256\)"):
        load_model("constropt.lab.models.small:digits_cnn", tmp_path / "other.safetensors")
    torch.save({"features.0.weight": torch.zeros(32, 1, 3, 3), "more": torch.zeros(1)}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="missing features.0.bias"):
        load_model("constropt.lab.models.small:digits_cnn", tmp_path / "part.pt")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("fakes", "takes 'module:name', got 'fakes'"),
        ("fakes:no model()", "takes 'module:name'"),
        ("no_such_module_here:make", "cannot import 'no_such_module_here'"),
        ("fakes:nearest_maen", "near names: .*nearest_mean"),
        ("fakes:needs_arguments", "needs depth"),
        ("fakes:no_model", "gave a str, not a torch.nn.Module"),
        ("fakes:NUMBER", "is a int, not a factory"),
    ],
)
def test_bad_model_references(reference, message):
    with pytest.raises(ValueError, match=message):
        load_model(reference)
