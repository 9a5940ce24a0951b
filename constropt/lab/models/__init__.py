"""Small networks, their ordinary training, and models of other libraries."""

from constropt.lab.models.calibration import (
    GPCN,
    DeepLab,
    ResNet18,
    SegmentationHead,
    ViT,
    deeplab,
    gpcn,
    small_resnet18,
    small_vit,
)
from constropt.lab.models.embedders import Embedder, SmallEmbedder, small_embedder
from constropt.lab.models.small import (
    SmallCNN,
    UNet,
    cifar_cnn_a,
    cifar_resnet4b,
    cifar_resnet20,
    cifar_resnet32,
    digits_cnn,
    madry_cnn,
    mnist_cnn,
    small_cnn,
    unet,
)
from constropt.lab.models.training import PixelSettings, accuracy, train_classifier, train_segmenter
from constropt.lab.models.training import predict as predict_labels
from constropt.lab.models.weights import load_hub, load_model, save_weights
from constropt.weights import load_weights

__all__ = [
    "GPCN", "DeepLab", "Embedder", "PixelSettings", "ResNet18", "SegmentationHead", "SmallCNN", "SmallEmbedder",
    "UNet", "ViT", "accuracy", "cifar_cnn_a", "cifar_resnet4b", "cifar_resnet20", "cifar_resnet32", "deeplab",
    "digits_cnn", "gpcn", "load_hub", "load_model", "load_weights", "madry_cnn", "mnist_cnn", "predict_labels",
    "save_weights", "small_cnn", "small_embedder", "small_resnet18", "small_vit", "train_classifier",
    "train_segmenter", "unet",
]  # fmt: skip
