"""Name what images show, by ImageNet's classes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ghost_det.data.findings import printable
from ghost_det.errors import UserError
from ghost_det.utils.files import require_folder, require_writable, write_or_fail
from ghost_det.utils.system import require_torch

from ._options import COUNT, Parser, parse

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

CLASSES = 1000
CHART = '.classes.png'
CHART_BARS = 20
THINNEST = 100
"""Longer to shorter side of an image: a thinner one, resized to 256 pixels, would fill the memory."""


@dataclass(frozen=True)
class Prediction:
    """One of ImageNet's 1000 classes, counted from 0, and its probability from 0 to 1."""

    index: int
    name: str
    probability: float


class Result(NamedTuple):
    """The classes of an image, the most probable first; or an error and none."""

    image: Path
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description="Name what images show, by ImageNet's 1000 classes.",
        epilog='Networks: those of ghost-det weights list. Exit code 1: some images could not be read.',
    )
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image, or folder of images')
    parser.add_argument('--model', default='ghostnet_1x', metavar='NAME', help='default: %(default)s')
    source = "file, URL, ghost://NAME, 'none' or 'published' (default)"
    parser.add_argument('--pretrained', default='published', metavar='SOURCE', help=source)
    parser.add_argument('--topk', **COUNT, default=5, help='classes of each image (default: 5)')
    parser.add_argument('--batch-size', **COUNT, default=16, help='images at a time (default: 16)')
    parser.add_argument('--json', metavar='FILE', help="save the results; '-' prints them and nothing else")
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='draw a bar chart for each image')
    return parser


def main() -> None:
    """Classify as the command line says; exit code 1 where some images could not be read."""
    parser = make_parser()
    args = parse(parser, light=True)
    require_torch(parser.prog)
    if args.topk > CLASSES:
        raise UserError(f'--topk {args.topk}: expected a number from 1 to {CLASSES}')
    from ghost_det.utils.images import find_images

    images = find_images(args.images, skip=lambda path: path.name.endswith(CHART))
    root = os.path.commonpath([os.path.abspath(image.parent) for image in images])
    report = Path(args.json) if args.json not in (None, '-') else None
    if report:
        require_writable(report, '--json', images)
    if args.out:
        require_folder(args.out, '--out')
    model = _open(args.model, args.pretrained)
    results = []
    for result in classify(model, images, args.topk, args.batch_size):
        results.append(result)
        if result.error is not None:
            print(f'error: {result.error}', file=sys.stderr)
            continue
        if args.json != '-':
            print(printable(str(result.image)))
            print('\n'.join(f'{p.probability:8.1%}  {p.name}' for p in result.predictions), flush=True)
        if args.out:
            draw_chart(result, args.out / f'{os.path.relpath(result.image, root)}{CHART}')
    text = _as_json(results, args.model, args.pretrained)
    if report:
        with write_or_fail(report, '--json') as partial:
            partial.write_text(text)
    elif args.json:
        print(text)
    sys.exit(1 if any(result.error for result in results) else 0)


def _open(name: str, weights: str) -> Any:
    """Return a classifier; what it prints goes to stderr, as stdout may be for the json."""
    import torch

    from ghost_det.weights.zoo import classifier

    if weights == 'none':
        print('warning: without weights, the classes are noise', file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        model = classifier(name, pretrained={'published': True, 'none': False}.get(weights, weights))
    return model.to('cuda' if torch.cuda.is_available() else 'cpu')


def read_rgb(path: Path) -> Image:
    """Return an image in RGB, as a detector would get it."""
    from PIL import Image

    from ghost_det.utils.images import read_image

    return Image.fromarray(read_image(path)[..., ::-1])


def classify(model: nn.Module, images: Sequence[Path], topk: int, batch_size: int) -> Iterator[Result]:
    """Classify image files in their order, with at most one batch of them in memory.

    An image that cannot be read gives a `Result` with an error. ``model`` takes ``(N, 3, 224, 224)`` to
    logits ``(N, 1000)``. Source: the demo of GhostNet (arXiv 1911.11907) on PyTorch Hub.
    """
    import torch

    model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        inputs: dict[Path, Any] = {}
        results: dict[Path, Result] = {}
        for path in batch:
            try:
                inputs[path] = _input(path)
            except UserError as error:
                results[path] = Result(path, error=str(error))
        if inputs:
            with torch.inference_mode():
                rows = model(torch.stack(list(inputs.values())).to(device)).float().softmax(1).cpu()
            results |= {path: _result(path, row, topk) for path, row in zip(inputs, rows)}
        yield from (results[path] for path in batch)


def _input(path: Path) -> Any:
    from ghost_det.weights.imagenet import preprocess

    image = read_rgb(path)
    if max(image.size) > THINNEST * min(image.size):
        raise UserError(f'{path}: {image.width} x {image.height} pixels: too thin to be resized')
    return preprocess(image)


def _result(image: Path, probabilities: Any, topk: int) -> Result:
    from ghost_det.weights.imagenet import CLASSES

    if not probabilities.isfinite().all():
        return Result(image, error=f'{image}: the network gives NaN or infinite numbers; check its weights')
    top = zip(*(row.tolist() for row in probabilities.topk(topk)))
    return Result(image, tuple(Prediction(index, CLASSES[index], value) for value, index in top))


def draw_chart(result: Result, path: Path) -> None:
    """Draw an image and bars of its classes, 20 at most, into a PNG file."""
    from matplotlib.figure import Figure

    shown = result.predictions[:CHART_BARS]
    figure = Figure(figsize=(10, max(4.0, 0.35 * len(shown))), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.imshow(read_rgb(result.image))
    # A name may hold bytes that are no text, and dollars that are no formula.
    left.set_title(printable(result.image.name), fontsize=10, parse_math=False)
    left.axis('off')
    bars = right.barh([p.name for p in shown], [p.probability for p in shown])
    right.bar_label(bars, [f'{p.probability:.1%}' for p in shown], padding=4)
    right.set(xlim=(0, 1.15), xticks=[])
    right.invert_yaxis()
    with write_or_fail(path, '--out') as partial:
        figure.savefig(partial, format='png', dpi=110)


def _as_json(results: Sequence[Result], name: str, weights: str) -> str:
    images, errors = [], []
    for image, predictions, error in results:
        if error is None:
            images.append({'image': str(image), 'predictions': [asdict(p) for p in predictions]})
        else:
            errors.append({'image': str(image), 'error': error})
    content = {'model': name, 'weights': weights, 'images': images, 'errors': errors}
    return json.dumps(content, indent=1, allow_nan=False)
