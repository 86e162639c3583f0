"""Any network to look into, by name or config, and the maps that it makes of an image."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from mmengine.dataset import Compose
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det.config import shipped
from ghost_det.engine.inference import array_pipeline, load_detector
from ghost_det.engine.messages import FIRST_STEP, explain_errors
from ghost_det.errors import UserError
from ghost_det.weights.checkpoint import differences
from ghost_det.weights.imagenet import CLASSES, preprocess
from ghost_det.weights.load import own_tensors, read_tensors
from ghost_det.weights.zoo import CLASSIFIERS, classifier

Array = NDArray[Any]
Picture = Image.Image | NDArray[np.uint8]
"""A PIL image, or ``[height, width, 3]`` in RGB."""
STRIDE = 4
"""Of the layer that is looked at where none is named: that of ResNet-50's first group, the paper's choice."""


class Maps(NamedTuple):
    """The feature maps of a layer, ``[C, H, W]``."""

    layer: str
    values: Array


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
        UserError: there is no such network, or its weights cannot be had or do not fit.
    """
    if checkpoint is None and pretrained not in ('published', 'none'):
        raise UserError(
            f"--pretrained {pretrained}: 'published' or 'none'; a file is named after the network"
        )
    if model.endswith(('.xml', '.onnx')):
        raise UserError(
            f'{model}: an exported file gives its boxes alone; name its config and its checkpoint'
        )
    random = checkpoint is None and pretrained == 'none'
    if model.endswith(('.py', '.json')) or model.startswith(shipped.MMDET) or shipped.find(model):
        network = _detector(model, checkpoint, random)
    else:
        module = _of_ours(model, checkpoint, random) if model in CLASSIFIERS else None
        network = Network(model, module or _of_torchvision(model, checkpoint, random), random, CLASSES)
    network.module.eval()
    for norm in network.module.modules() if random else ():
        if isinstance(norm, _BatchNorm):
            norm.train().momentum = 0.0
    return network


def _detector(config: str, checkpoint: str | None, random: bool) -> Network:
    if checkpoint is None and not random:
        raise UserError(f'{config}: name the checkpoint behind it, or --pretrained none for random weights')
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
            return _torchvision_model(name, weights=None if random else 'DEFAULT')
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


@contextlib.contextmanager
def watched(module: nn.Module, see: Callable[[str, Any, Any], None], *names: str) -> Iterator[None]:
    """Call ``see`` with name, first argument and output of each module that runs, or of those named."""
    modules = {name: each for name, each in module.named_modules() if name}
    handles = [
        modules[name].register_forward_hook(
            lambda _, arguments, output, name=name: see(name, arguments[0] if arguments else None, output)
        )
        for name in names or modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def layers(network: Network, image: Picture) -> dict[str, tuple[int, int, int]]:
    """Return the layers that make maps, in the order in which they are done, as channels, height and width.

    Of a detector these are the backbone's.
    """
    return _shapes(network, image)[0]


def _shapes(network: Network, image: Picture) -> tuple[dict[str, tuple[int, int, int]], int]:
    """Return the layers, and the height of the network's input."""
    found: dict[str, tuple[int, int, int]] = {}
    heights: list[int] = []

    def see(name: str, given: Any, output: Any) -> None:
        if isinstance(given, Tensor) and given.dim() == 4:
            heights.append(given.shape[2])
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            if network.pipeline is None or name.startswith('backbone.'):
                found.setdefault(name, tuple(output.shape[1:]))  # type: ignore[arg-type]

    with watched(network.module, see):
        network.run(image)
    if not found:
        raise UserError(f'{network.name}: no layer of it makes feature maps')
    return found, heights[0]


def _usual(shapes: dict[str, tuple[int, int, int]], height: int) -> str:
    """Return the last layer at the stride nearest to `STRIDE`, of those that are least deep inside others."""

    def unlike(name: str) -> tuple[float, int]:
        return abs(np.log2(height / shapes[name][1] / STRIDE)), name.count('.')

    least = min(map(unlike, shapes))
    return [name for name in shapes if unlike(name) == least][-1]


@torch.no_grad()
def maps_at(network: Network, image: Picture, layer: str | None = None) -> Maps:
    """Return the feature maps of a layer; by default the last whose cells are `STRIDE` pixels apart.

    Raises:
        UserError: there is no such layer; the message names those there are.
    """
    if layer is None:
        layer = _usual(*_shapes(network, image))
    known = dict(network.module.named_modules())
    found: list[Array] = []

    def see(_: str, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and not found:
            found.append(output[0].float().cpu().numpy().copy())  # as the next layer may work in place

    if layer in known and layer:
        with watched(network.module, see, layer):
            network.run(image)
    if not found:
        there = layers(network, image)
        names = ', '.join(f'{name} ({c}, {h} x {w})' for name, (c, h, w) in there.items())
        raise UserError(f'--layer {layer}: no layer of {network.name} that makes maps; there are {names}')
    return Maps(layer, found[0])
