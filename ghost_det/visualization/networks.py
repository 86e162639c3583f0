"""Any network to look into, by name or config."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from mmengine.dataset import Compose
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.hub import load_state_dict_from_url

from ghost_det.config.shipped import is_config
from ghost_det.engine.inference import array_pipeline, load_detector
from ghost_det.engine.messages import FIRST_STEP, explain_errors
from ghost_det.errors import UserError
from ghost_det.models.ghost_module import BATCH_NORMS
from ghost_det.weights.checkpoint import differences, read_weights
from ghost_det.weights.imagenet import CLASSES, preprocess
from ghost_det.weights.load import own_tensors, read_tensors
from ghost_det.weights.zoo import CLASSIFIERS, classifier

Array = NDArray[Any]
Picture = Image.Image | NDArray[np.uint8]
"""A PIL image, or ``[height, width, 3]`` in RGB."""


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode.

    Attributes:
        name: as it was asked for.
        module: a classifier, or a detector of MMDetection.
        random: whether its weights are; its norms then scale by the very image, or deep maps would fade.
        classes: names, by label; of a classifier ImageNet's, whatever it was trained on.
        pipeline: of a detector; a classifier takes ImageNet's usual 224 x 224 pixels from the middle.
    """

    name: str
    module: Any
    random: bool
    classes: tuple[str, ...]
    pipeline: Compose | None = None

    @property
    def title(self) -> str:
        """The name, and that the weights are random where they are."""
        return f'{self.name} (random weights)' if self.random else self.name

    def run(self, image: Picture) -> Any:
        """Return what the network makes of an image: logits, or a sample of mmdet with its boxes.

        Gradients are kept where the caller has them on.

        Raises:
            UserError: the network cannot run on it.
        """
        if self.pipeline is None:
            if not isinstance(image, Image.Image):
                image = Image.fromarray(image)
            return self.module(preprocess(image)[None].to(next(self.module.parameters()).device))
        with explain_errors(self.name, FIRST_STEP):
            data = self.pipeline(dict(img=np.asarray(image)[..., ::-1], img_id=0))
            return self.module.test_step({key: [value] for key, value in data.items()})[0]


def open_network(model: str, checkpoint: str | None = None, pretrained: str = 'published') -> Network:
    """Open a network by name, or a detector by its config.

    Args:
        model: one of `ghost_det.weights.zoo.CLASSIFIERS`, a classifier of torchvision, or a config.
        checkpoint: a file of weights for it.
        pretrained: without a file, ``'published'`` ImageNet weights, or ``'none'``: random ones.

    Raises:
        UserError: there is no such network, or its weights are not available or do not fit.
    """
    if checkpoint is None and pretrained not in ('published', 'none'):
        raise UserError(
            f"--pretrained {pretrained}: expected 'published' or 'none'; name a file as CHECKPOINT"
        )
    if model.endswith(('.xml', '.onnx')):
        raise UserError(f'{model}: an exported file gives only boxes; name its config and its checkpoint')
    random = checkpoint is None and pretrained == 'none'
    if is_config(model):
        network = _detector(model, checkpoint, random)
    else:
        build = _of_ours if model in CLASSIFIERS else _of_torchvision
        network = Network(model, build(model, checkpoint, random), random, CLASSES)
    network.module.eval()
    for norm in network.module.modules() if random else ():
        if isinstance(norm, BATCH_NORMS):
            norm.train().momentum = 0.0
    return network


def _detector(config: str, checkpoint: str | None, random: bool) -> Network:
    if checkpoint is None and not random:
        raise UserError(f'{config}: name its checkpoint after it, or --pretrained none for random weights')
    device = 'cuda' if torch.cuda.is_available() and not random else 'cpu'
    cfg, module, classes = load_detector(config, checkpoint, device=device)
    return Network(Path(config).stem, module, random, classes, array_pipeline(cfg))


def _of_ours(name: str, checkpoint: str | None, random: bool) -> nn.Module:
    if checkpoint is None:
        return classifier(name, not random)
    tensors, _ = own_tensors(read_tensors(checkpoint), None, checkpoint)
    last = tensors.get('classifier.weight')  # a backbone's file has none
    return classifier(name, checkpoint, num_classes=None if last is None else len(last))


def _of_torchvision(name: str, checkpoint: str | None, random: bool) -> nn.Module:
    names = torchvision.models.list_models(torchvision.models)
    if name not in names:
        near = get_close_matches(name, [*CLASSIFIERS, *names], n=5, cutoff=0.4)
        raise UserError(
            f'{name}: no such network; near are {", ".join(near) or "none"}. Names are those of torchvision, '
            f'and {", ".join(CLASSIFIERS)}; a config ends in .py'
        )
    if checkpoint is None:
        try:
            model = _torchvision_model(name, weights=None)
            if not random:
                url = torchvision.models.get_model_weights(name).DEFAULT.url
                model.load_state_dict(read_weights(url, load_state_dict_from_url, url, check_hash=True))
            return model
        except OSError as error:  # urllib's are such
            raise UserError(
                f'{name}: its weights could not be downloaded ({error}); name a file of them after it, or '
                '--pretrained none for random ones'
            ) from None
    tensors, _ = own_tensors(read_tensors(checkpoint), None, checkpoint)
    last = next(reversed(tensors.values()))  # the bias of what tells the classes apart
    model = _torchvision_model(name, num_classes=last.numel())
    wrong = differences(model.state_dict(), tensors)
    if wrong:
        raise UserError(f'{checkpoint}: not of {name}: {"; ".join(wrong[:3])}; {len(wrong)} in all')
    model.load_state_dict(tensors, strict=False)
    return model


def _torchvision_model(name: str, **settings: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of slow initialisation
        model: nn.Module = torchvision.models.get_model(name, **settings)
        return model
