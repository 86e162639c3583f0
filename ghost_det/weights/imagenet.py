"""ImageNet's classes, and how an image becomes the input of its classifiers."""

from __future__ import annotations

from torchvision.models import ResNet18_Weights

# ResNet18 stands for any network: torchvision keeps ImageNet's class names and the usual input
# (Resize 256, CenterCrop 224, Normalize) with the description of its weights.
CLASSES: tuple[str, ...] = tuple(ResNet18_Weights.IMAGENET1K_V1.meta['categories'])
preprocess = ResNet18_Weights.IMAGENET1K_V1.transforms()
