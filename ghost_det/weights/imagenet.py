"""ImageNet's classes, and how an image becomes the input of its classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.models import ResNet18_Weights

from .catalog import DATA, SHIPPED_SIZE, is_shipped

# ResNet18 stands for any network: torchvision keeps ImageNet's class names and the usual input
# (Resize 256, CenterCrop 224, Normalize) with the description of its weights.
CLASSES: tuple[str, ...] = tuple(ResNet18_Weights.IMAGENET1K_V1.meta['categories'])
preprocess = ResNet18_Weights.IMAGENET1K_V1.transforms()


def class_names(weights: str | Path) -> tuple[str, ...]:
    """Return the classes of a classifier with these weights: ImageNet's, or those of Tiny-ImageNet."""
    if not is_shipped(weights):
        return CLASSES
    lines = (DATA / 'tiny_imagenet.txt').read_text().splitlines()  # WordNet's number, and place in ImageNet
    return tuple(CLASSES[int(line.split()[1])] for line in lines)


def transform(weights: str | Path) -> Any:
    """Return how an image becomes the input of a classifier with these weights, at the size they learnt."""
    if not is_shipped(weights):
        return preprocess
    return ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=SHIPPED_SIZE, resize_size=SHIPPED_SIZE)
