"""Draw what a network computes from an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable

from ._options import COUNT, add_command, parse, positive_float

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ghost_det.visualization import Network

    Drawn = tuple[Figure, str, str]
    """A figure, its caption, and further text."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description='Draw what a network computes from an image.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    command = _add(commands, 'redundancy', _redundancy, 'Draw similar feature maps of a layer')
    layer = 'default: the last one of stride 4; a wrong name lists all'
    command.add_argument('--layer', help=layer)
    size = 'kernel size that maps one to the other (default: %(default)s)'
    command.add_argument('--size', type=int, choices=(1, 3, 5, 7), default=3, help=size)
    command.add_argument('--pairs', **COUNT, default=5, help='pairs to draw (default: %(default)s)')
    error = "fraction of a map's variance that may be missing (default: %(default)s)"
    command.add_argument('--error', type=positive_float, default=0.1, metavar='SHARE', help=error)
    unseen = 'other images to test the fitted kernels on'
    command.add_argument('--unseen', type=Path, nargs='+', default=[], metavar='IMAGE', help=unseen)

    what = 'Draw the intrinsic maps of a ghost module next to their ghosts'
    command = _add(commands, 'ghost', _ghost, what)
    command.add_argument('--layer', help='default: the third ghost module; a wrong name lists all')
    command.add_argument('--maps', **COUNT, default=12, help='maps to draw (default: %(default)s)')

    command = _add(commands, 'cam', _cam, 'Draw which pixels contributed to a detection')
    index = 'which box, by score (default: 0, the highest-scoring)'
    command.add_argument('--index', type=int, default=0, metavar='N', help=index)
    level = 'level for Eigen-CAM (default: 0, the finest)'
    command.add_argument('--level', type=int, default=0, metavar='N', help=level)

    what = "Draw the activation of each level of a detector's neck or backbone"
    command = _add(commands, 'pyramid', _pyramid, what)
    command.add_argument('--part', choices=('neck', 'backbone'), default='neck', help='default: %(default)s')
    return parser


def _add(commands: Any, name: str, work: Any, what: str) -> argparse.ArgumentParser:
    command = add_command(commands, name, work, what)
    model = 'name of a network, such as resnet50 or ghostnet_1x, or the config of a detector'
    command.add_argument('model', metavar='MODEL', help=model)
    command.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help='file of its weights')
    command.add_argument('image', type=Path, metavar='IMAGE')
    command.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.png', help='the figure')
    html = 'also write a page with figure and text'
    command.add_argument('--html', type=Path, metavar='FILE.html', help=html)
    weights = 'weights without CHECKPOINT: of ImageNet (default), or random ones'
    command.add_argument('--pretrained', choices=('published', 'none'), default='published', help=weights)
    return command


def main() -> None:
    """Draw what the command line asks for."""
    args = parse(make_parser())
    from ghost_det.visualization import html_page, open_network, save_figure, save_page

    from .classify import read_rgb

    read = [args.image, *getattr(args, 'unseen', ()), Path(args.model), Path(args.checkpoint or '')]
    for option, path, suffix in (('-o', args.out, '.png'), ('--html', args.html, '.html')):
        if path is not None:
            if path.suffix.lower() != suffix:
                raise UserError(f'{option} {path}: expected a name that ends in {suffix}')
            require_writable(path, option, read)
    image = read_rgb(args.image)
    network = open_network(args.model, args.checkpoint, args.pretrained)
    figure, caption, text = args.work(network, image, args)
    print(f'{network.title}: {caption}\n{text}')
    save_figure(figure, args.out)
    if args.html is not None:
        save_page(html_page(network.title, [(caption, figure)], text), args.html)


def _redundancy(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    import numpy as np

    from ghost_det.visualization import draw_redundancy, maps_at, redundancy

    from .classify import read_rgb

    layer, values = maps_at(network, image, args.layer)
    unseen = [maps_at(network, read_rgb(path), layer).values for path in args.unseen]
    if len({each.shape for each in unseen}) > 1:
        raise UserError('--unseen: expected images of the same shape')
    found = redundancy(values, held_out=np.stack(unseen) if unseen else None)
    if args.size not in found.errors:
        raise UserError(f'--size {args.size}: the maps of {layer} are too small; choose an earlier layer')
    channels, height, width = values.shape
    caption = f'{layer}, {channels} maps of {height} x {width}, {(~found.alive).sum()} constant'
    pairs = [
        f'map {pair.target} from map {pair.source}: error {pair.error:.4f}, cosine {pair.cosine:.3f}'
        for pair in found.pairs(args.size, args.pairs)
    ]
    text = '\n'.join([found.table(args.error), '', f'with a {args.size} x {args.size} kernel:', *pairs])
    title = f'{network.title}: {layer}'
    return draw_redundancy(values, found, args.size, args.pairs, title), caption, text


def _ghost(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import draw_ghosts, ghost_maps

    found = ghost_maps(network, image, args.layer)
    caption = f'{found.layer}, {len(found.intrinsic)} intrinsic maps and {len(found.ghosts)} ghosts'
    return draw_ghosts(found, args.maps, network.title), caption, ''


def _cam(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import cam, draw_cam, eigen_cam

    found = cam(network, image, args.index)
    eigen = eigen_cam(network, image, args.level)
    name, score = network.classes[int(found.found.labels[0])], float(found.found.scores[0])
    box = ', '.join(f'{value:.0f}' for value in found.found.boxes[0])
    levels = ', '.join(f'{share:.1%}' for share in found.levels)
    caption = f'{name}, score {score:.2f}, box {box}'
    text = f'evidence by level, finest first: {levels}'
    return draw_cam(image, found, network.classes, eigen, network.title), caption, text


def _pyramid(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import draw_pyramid, pyramid

    levels = pyramid(network, image, args.part)
    lines = [
        f'{name}: {each.shape[0]} x {each.shape[1]}, mean {each.mean():.3g}' for name, each in levels.items()
    ]
    caption = 'mean absolute activation of each level'
    return draw_pyramid(image, levels, f'{network.title}: {caption}'), caption, '\n'.join(lines)
