"""Any network to look into, by name or config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from mmengine.dataset import Compose
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ghost_det.config.shipped import is_config
from ghost_det.engine.inference import array_pipeline, load_detector
from ghost_det.engine.messages import FIRST_STEP, explain_errors
from ghost_det.errors import UserError, reason
from ghost_det.models.ghost_module import BATCH_NORMS
from ghost_det.weights.download import locate
from ghost_det.weights.imagenet import CLASSES, class_names, preprocess, transform
from ghost_det.weights.load import own_tensors, read_tensors
from ghost_det.weights.zoo import CLASSIFIERS, classifier

Array = NDArray[Any]
Picture = Image.Image | NDArray[np.uint8]
"""A PIL image, or ``[height, width, 3]`` in RGB."""


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode.

    Attributes:
        name: to show.
        module: a classifier, or a detector of MMDetection.
        random: whether its weights are; its norms then scale by the very image, or deep maps would fade.
        classes: names, by label.
        pipeline: of a detector.
        preprocess: of a classifier; by default ImageNet's usual 224 x 224 pixels from the middle.
    """

    name: str
    module: Any
    random: bool
    classes: tuple[str, ...]
    pipeline: Compose | None = None
    preprocess: Any = preprocess

    @property
    def title(self) -> str:
        """The name, with a note if the weights are random."""
        return f'{self.name} (random weights)' if self.random else self.name

    def run(self, image: Picture) -> Any:
        """Return a network's output for an image: logits, or a sample of mmdet with its boxes.

        Gradients are kept if the caller has them on.

        Raises:
            UserError: the network cannot run on it.
        """
        if self.pipeline is None:
            if not isinstance(image, Image.Image):
                image = Image.fromarray(image)
            return self.module(self.preprocess(image)[None].to(next(self.module.parameters()).device))
        with explain_errors(self.name, FIRST_STEP):
            data = self.pipeline(dict(img=np.asarray(image)[..., ::-1], img_id=0))
            return self.module.test_step({key: [value] for key, value in data.items()})[0]


def open_network(model: str, checkpoint: str | None = None, pretrained: str = 'published') -> Network:
    """Open a network by name, or a detector by its config.

    Args:
        model: one of `ghost_det.weights.zoo.CLASSIFIERS`, a classifier of torchvision, or a config.
        checkpoint: a file of weights for it; of a classifier, with the classes of its weights.
        pretrained: without a file, ``'published'`` ImageNet weights, or ``'none'``: random ones.

    Raises:
        UserError: there is no such network, or its weights are not available or do not fit.
    """
    if checkpoint is None and pretrained not in ('published', 'none'):
        raise UserError(f"--pretrained {pretrained}: expected 'published' or 'none'; CHECKPOINT names a file")
    if model.endswith(('.xml', '.onnx', '.ncnn')):
        raise UserError(f'{model}: an exported file gives only boxes; name its config and its checkpoint')
    random = checkpoint is None and pretrained == 'none'
    if is_config(model):
        if checkpoint is None and not random:
            raise UserError(f'{model}: name its checkpoint after it, or --pretrained none for random weights')
        device = 'cuda' if torch.cuda.is_available() and not random else 'cpu'
        cfg, module, classes = load_detector(model, checkpoint, device=device)
        network = Network(Path(model).stem, module, random, classes, array_pipeline(cfg))
    elif model in CLASSIFIERS:
        source = checkpoint or model
        network = Network(model, classifier(model, checkpoint or not random), random, class_names(source))
        network = replace(network, preprocess=transform(source))
    else:
        network = Network(model, _of_torchvision(model, checkpoint, random), random, CLASSES)
    network.module.eval()
    for norm in network.module.modules() if random else ():
        if isinstance(norm, BATCH_NORMS):
            norm.train().momentum = 0.0
    return network


def _of_torchvision(name: str, checkpoint: str | None, random: bool) -> nn.Module:
    if name not in torchvision.models.list_models(torchvision.models):
        raise UserError(
            f'{name}: no such network: expected a config, a classifier of torchvision, or one of '
            f'{", ".join(CLASSIFIERS)}'
        )
    model: nn.Module = torchvision.models.get_model(name)
    if not random:
        source = checkpoint or torchvision.models.get_model_weights(name)['DEFAULT'].url
        tensors, _ = own_tensors(read_tensors(locate(source)), None, source)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f'{source}: does not fit {name}: {reason(error)}') from None
    return model
