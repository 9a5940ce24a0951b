"""A small U-Net on the road scenes of CamVid at 240x176, trained where its weights are missing.

python benchmarks/camvid.py [--data DIR_WITH_CAMVID] [--weights out/camvid] [--train-only]

``DIR_WITH_CAMVID`` holds train, trainannot, val, ... (default: camvid in the folder that CONSTROPT_DATA names).
Training takes about 10 minutes on one core; then pixel accuracy and mean intersection over union are printed for each
split.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from constropt.evaluation.model import load_model, save_weights
from constropt.evaluation.scenes import CAMVID_CLASSES, load_camvid
from constropt.evaluation.segmentation import mean_iou, pixel_accuracy
from constropt.problems.segmenter import predict, train_segmenter
from constropt.problems.unet import UNet, unet

SIZE = (176, 240)  # height, width: about half of the original, and every halving of the network comes out even
DATA = Path(os.environ.get("CONSTROPT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def trained_unet(
    weights: Path, data: Path, *, epochs: int = 80, lr: float = 5e-3, batch_size: int = 4, seed: int = 0
) -> UNet:
    """The network in eval mode, from ``weights``, or trained and written there where that file does not exist."""
    if not weights.exists():
        torch.manual_seed(seed)
        model, start = unet(len(CAMVID_CLASSES)), time.perf_counter()
        train_segmenter(
            model,
            *load_camvid(data, "train", size=SIZE),
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            seed=seed,
            progress=lambda done, total, loss: print(f"  epoch {done}/{total}: loss {loss:.3f}", flush=True),
        )
        save_weights(model, weights)
        print(f"  trained in {time.perf_counter() - start:.0f} s", flush=True)
    model = load_model("constropt.problems.unet:unet", weights)
    assert isinstance(model, UNet)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "camvid")
    parser.add_argument("--weights", type=Path, default=Path("out/camvid"))
    parser.add_argument("--train-only", action="store_true", help="stop when the network is there")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = trained_unet(
        arguments.weights / "unet.safetensors",
        arguments.data,
        epochs=arguments.epochs,
        lr=arguments.lr,
        batch_size=arguments.batch_size,
    )
    for split in ("train", "val", "test"):
        images, labels = load_camvid(arguments.data, split, size=SIZE)
        predictions = predict(model, images)
        print(
            f"{split}: {len(images)} images, pixel accuracy {pixel_accuracy(predictions, labels):.4f},"
            f" mean IoU {mean_iou(predictions, labels, len(CAMVID_CLASSES)):.4f}",
            flush=True,
        )
    if arguments.train_only:
        return


if __name__ == "__main__":
    main()
