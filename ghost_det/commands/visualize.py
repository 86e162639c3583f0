"""Draw what a network computes from an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable

from ._options import COUNT, add_command

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ghost_det.visualization import Network

    Drawn = tuple[Figure, str, str]
    """A figure, its caption, and further text."""


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    command = _add(commands, 'redundancy', _redundancy, 'Draw similar feature maps of a layer')
    layer = 'default: the last one of stride 4; an unknown name prints the list'
    command.add_argument('--layer', help=layer)
    size = 'size of the kernel that predicts one map from the other (default: %(default)s)'
    command.add_argument('--size', type=int, choices=(1, 3, 5, 7), default=3, help=size)
    command.add_argument('--pairs', **COUNT, default=5, help='pairs to draw (default: %(default)s)')

    what = 'Draw the intrinsic maps of a ghost module next to their ghosts'
    command = _add(commands, 'ghost', _ghost, what)
    command.add_argument('--layer', help='default: the third ghost module; an unknown name prints the list')

    command = _add(commands, 'cam', _cam, 'Draw which pixels contributed to a detection')
    index = 'which box, by score (default: 0, the highest-scoring)'
    command.add_argument('--index', type=int, default=0, metavar='N', help=index)

    what = "Draw the activation of each level of a detector's neck or backbone"
    command = _add(commands, 'pyramid', _pyramid, what)
    command.add_argument('--part', choices=('neck', 'backbone'), default='neck', help='default: %(default)s')


def _add(commands: Any, name: str, work: Any, what: str) -> argparse.ArgumentParser:
    command = add_command(commands, name, work, what)
    model = 'name of a network, such as resnet50 or ghostnet_1x, or the config of a detector'
    command.add_argument('model', metavar='MODEL', help=model)
    command.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help='file of its weights')
    command.add_argument('image', type=Path, metavar='IMAGE')
    command.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.png', help='the figure')
    weights = 'weights to use without CHECKPOINT: those of ImageNet (default), or random ones'
    command.add_argument('--pretrained', choices=('published', 'none'), default='published', help=weights)
    return command


def run(args: argparse.Namespace) -> None:
    from ghost_det.visualization import open_network, save_figure

    from .classify import read_rgb

    if args.out.suffix.lower() != '.png':
        raise UserError(f'-o {args.out}: expected a name that ends in .png')
    require_writable(args.out, '-o', [args.image, Path(args.model), Path(args.checkpoint or '')])
    image = read_rgb(args.image)
    network = open_network(args.model, args.checkpoint, args.pretrained)
    figure, caption, text = args.work(network, image, args)
    print(f'{network.title}: {caption}\n{text}')
    save_figure(figure, args.out)


def _redundancy(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    import numpy as np

    from ghost_det.visualization import draw_redundancy, maps_at, redundancy
    from ghost_det.visualization.redundancy import ERROR

    layer, values = maps_at(network, image, args.layer)
    found = redundancy(values)
    if args.size not in found.errors:
        raise UserError(f'--size {args.size}: the maps of {layer} are too small; choose an earlier layer')
    channels, height, width = values.shape
    caption = f'{layer}, {channels} maps of {height} x {width}, {(~found.alive).sum()} constant'
    lines = []
    for size in found.errors:
        share = f'{found.share(size):.1%} of the maps predicted within {ERROR}'
        lines.append(f'{size} x {size} kernel: {share}, median error {np.median(found.best(size)):.4f}')
    lines += ['', f'with a {args.size} x {args.size} kernel:']
    for pair in found.pairs(args.size, args.pairs):
        error = f'error {pair.error:.4f}, cosine {pair.cosine:.3f}'
        lines.append(f'map {pair.target} from map {pair.source}: {error}')
    title = f'{network.title}: {layer}'
    return draw_redundancy(values, found, args.size, args.pairs, title), caption, '\n'.join(lines)


def _ghost(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import draw_ghosts, ghost_maps

    found = ghost_maps(network, image, args.layer)
    caption = f'{found.layer}, {len(found.intrinsic)} intrinsic maps and {len(found.ghosts)} ghosts'
    return draw_ghosts(found, title=network.title), caption, ''


def _cam(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import cam, draw_cam

    found = cam(network, image, args.index)
    name, score = network.classes[int(found.found.labels[0])], float(found.found.scores[0])
    box = ', '.join(f'{value:.0f}' for value in found.found.boxes[0])
    levels = ', '.join(f'{share:.1%}' for share in found.levels)
    figure = draw_cam(image, found, network.classes, network.title)
    return figure, f'{name}, score {score:.2f}, box {box}', f'evidence by level, finest first: {levels}'


def _pyramid(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import draw_pyramid, pyramid

    levels = pyramid(network, image, args.part)
    lines = [
        f'{name}: {each.shape[0]} x {each.shape[1]}, mean {each.mean():.3g}' for name, each in levels.items()
    ]
    caption = 'mean absolute activation of each level'
    return draw_pyramid(image, levels, f'{network.title}: {caption}'), caption, '\n'.join(lines)
