"""Draw what a network makes of an image: ghost features, the evidence for a box, the levels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._options import COUNT, Parser, parse, positive_float

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ghost_det.visualization import Network

    Drawn = tuple[Figure, str, str]
    """A figure, what it shows, and the text to print."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description='Draw what a network makes of an image.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    command = _add(commands, 'redundancy', 'similar feature maps of a layer, and how many a kernel makes')
    command.set_defaults(work=_redundancy)
    command.add_argument('--layer', help='default: the last of stride 4; a wrong name lists all')
    size = 'of the drawn kernels (default: 3)'
    command.add_argument('--size', type=int, choices=(1, 3, 5, 7), default=3, help=size)
    command.add_argument('--pairs', **COUNT, default=5, help='to draw (default: 5)')
    error = "of a map's variance that may be missing (default: %(default)s)"
    command.add_argument('--error', type=positive_float, default=0.1, metavar='SHARE', help=error)

    command = _add(commands, 'ghost', 'the intrinsic maps of a ghost module next to their ghosts')
    command.set_defaults(work=_ghost)
    command.add_argument('--layer', help='default: the third ghost module; a wrong name lists all')
    command.add_argument('--maps', **COUNT, default=12, help='to draw (default: 12)')

    command = _add(commands, 'cam', 'which pixels carried a detection')
    command.set_defaults(work=_cam)
    index = 'of the box; 0, the default: the highest-scoring'
    command.add_argument('--index', type=int, default=0, metavar='N', help=index)

    command = _add(commands, 'pyramid', "the activity of each level of a detector's neck or backbone")
    command.set_defaults(work=_pyramid)
    command.add_argument('--part', choices=('neck', 'backbone'), default='neck', help='(default: neck)')
    return parser


def _add(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f'Draw {what}.')
    model = 'as resnet50 or ghostnet_1x, or the config of a detector'
    command.add_argument('model', metavar='MODEL', help=model)
    command.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help='a file of its weights')
    command.add_argument('image', type=Path, metavar='IMAGE')
    command.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.png', help='the figure')
    weights = "without CHECKPOINT: ImageNet's (default), or none: random weights"
    command.add_argument('--pretrained', choices=('published', 'none'), default='published', help=weights)
    return command


def main() -> None:
    """Draw what the command line asks for."""
    args = parse(make_parser())
    from ghost_det.errors import UserError
    from ghost_det.utils.files import require_writable
    from ghost_det.visualization import open_network, save_figure

    from .classify import read_rgb

    read = [args.image, Path(args.model), Path(args.checkpoint or '')]
    if args.out.suffix.lower() != '.png':
        raise UserError(f'-o {args.out}: expected a name that ends in .png')
    require_writable(args.out, '-o', read)
    image = read_rgb(args.image)
    network = open_network(args.model, args.checkpoint, args.pretrained)
    figure, caption, text = args.work(network, image, args)
    print(f'{network.title}: {caption}\n{text}')
    save_figure(figure, args.out)


def _redundancy(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    import numpy as np

    from ghost_det.errors import UserError
    from ghost_det.utils.text import table
    from ghost_det.visualization import draw_redundancy, maps_at, redundancy

    layer, values = maps_at(network, image, args.layer)
    found = redundancy(values)
    if args.size not in found.errors:
        raise UserError(f'--size {args.size}: the maps of {layer} are too small; choose a layer before it')
    channels, height, width = values.shape
    caption = f'{layer}, {channels} maps of {height} x {width}, {(~found.alive).sum()} constant'
    pairs = [
        f'map {pair.target} of map {pair.source}: error {pair.error:.4f}, cosine {pair.cosine:.3f}'
        for pair in found.pairs(args.size, args.pairs)
    ]
    rows = [
        [f'{size} x {size}', f'{np.median(found.best(size)):.4f}', f'{found.share(size, args.error):.1%}']
        for size in found.errors
    ]
    shares = table(['kernel', 'median error', f'made within {args.error:g}'], rows)
    text = '\n'.join([shares, '', f'by a {args.size} x {args.size} kernel:', *pairs])
    title = f'{network.title}: {layer}'
    return draw_redundancy(values, found, args.size, args.pairs, title), caption, text


def _ghost(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import draw_ghosts, ghost_maps

    found = ghost_maps(network, image, args.layer)
    caption = f'{found.layer}, {len(found.intrinsic)} intrinsic maps and {len(found.ghosts)} ghosts'
    return draw_ghosts(found, args.maps, network.title), caption, ''


def _cam(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import cam, draw_cam

    found = cam(network, image, args.index)
    name, score = network.classes[int(found.found.labels[0])], float(found.found.scores[0])
    box = ', '.join(f'{value:.0f}' for value in found.found.boxes[0])
    levels = ', '.join(f'{share:.1%}' for share in found.levels)
    caption = f'{name}, score {score:.2f}, box {box}'
    text = f'evidence by level, finest first: {levels}'
    return draw_cam(image, found, network.classes, network.title), caption, text


def _pyramid(network: Network, image: Image, args: argparse.Namespace) -> Drawn:
    from ghost_det.visualization import draw_pyramid, pyramid

    levels = pyramid(network, image, args.part)
    lines = [
        f'{name}: {each.shape[0]} x {each.shape[1]}, mean {each.mean():.3g}' for name, each in levels.items()
    ]
    caption = 'mean absolute activation of each level'
    return draw_pyramid(image, levels, f'{network.title}: {caption}'), caption, '\n'.join(lines)
