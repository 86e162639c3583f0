"""Classify images with ImageNet classifiers."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.data.findings import printable
from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, write_or_fail
from ghost_det.utils.system import require_torch

from ._options import COUNT, parse

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

CLASSES = 1000


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description='Classify images into the 1000 classes of ImageNet.',
        epilog='ghost-det weights list shows the models. Exit code: 1 if an image could not be classified.',
    )
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image or folder of images')
    parser.add_argument('--model', default='ghostnet_1x', metavar='NAME', help='default: %(default)s')
    source = "weights: 'published' (default), 'none', a file, a URL or ghost://NAME"
    parser.add_argument('--pretrained', default='published', metavar='SOURCE', help=source)
    parser.add_argument('--topk', **COUNT, default=5, help='classes per image (default: %(default)s)')
    parser.add_argument('--batch-size', **COUNT, default=16, help='default: %(default)s')
    parser.add_argument('--json', metavar='FILE', help="save the results; '-' prints only them")
    return parser


def main() -> None:
    """Classify the images of the command line; exit code 1 if some could not be classified."""
    parser = make_parser()
    args = parse(parser, light=True)
    require_torch(parser.prog)
    if args.topk > CLASSES:
        raise UserError(f'--topk {args.topk}: expected a number from 1 to {CLASSES}')
    from ghost_det.utils.images import find_images

    images = find_images(args.images, skip=lambda path: False)
    report = Path(args.json) if args.json not in (None, '-') else None
    if report:
        require_writable(report, '--json', images)
    model = _load(args.model, args.pretrained)
    found: dict[str, Any] = {'model': args.model, 'weights': args.pretrained, 'images': [], 'errors': []}
    for path, result in classify(model, images, args.topk, args.batch_size):
        if isinstance(result, UserError):
            print(f'error: {result}', file=sys.stderr)
            found['errors'].append({'image': str(path), 'error': str(result)})
            continue
        found['images'].append({'image': str(path), 'predictions': result})
        if args.json != '-':
            print(printable(str(path)))
            print('\n'.join(f'{each["probability"]:8.1%}  {each["name"]}' for each in result), flush=True)
    text = json.dumps(found, indent=1, allow_nan=False)
    if report:
        with write_or_fail(report, '--json') as partial:
            partial.write_text(text)
    elif args.json:
        print(text)
    sys.exit(1 if found['errors'] else 0)


def _load(name: str, weights: str) -> nn.Module:
    """Return a classifier; messages of its loading go to stderr, as stdout may be for the JSON."""
    import torch

    from ghost_det.weights.zoo import classifier

    if weights == 'none':
        print('warning: without weights, the predicted classes are random', file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        model = classifier(name, pretrained={'published': True, 'none': False}.get(weights, weights))
    return model.eval().to('cuda' if torch.cuda.is_available() else 'cpu')


def read_rgb(path: Path) -> Image:
    """Return an image in RGB, as a detector would get it."""
    from PIL import Image

    from ghost_det.utils.images import read_image

    return Image.fromarray(read_image(path)[..., ::-1])


def classify(
    model: nn.Module, images: Sequence[Path], topk: int, batch_size: int
) -> Iterator[tuple[Path, list[dict[str, Any]] | UserError]]:
    """Yield each image with its most probable classes, or an error, at most one batch in memory.

    Source: the demo of GhostNet (arXiv 1911.11907) on PyTorch Hub.
    """
    import torch

    device = next(model.parameters()).device
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        inputs = {path: _preprocess(path) for path in batch}
        valid = [each for each in inputs.values() if not isinstance(each, UserError)]
        with torch.inference_mode():
            logits = model(torch.stack(valid).to(device)).float() if valid else []
        rows = iter(logits)
        for path, each in inputs.items():
            yield path, each if isinstance(each, UserError) else _predictions(path, next(rows), topk)


def _preprocess(path: Path) -> Any:
    from ghost_det.weights.imagenet import preprocess

    try:
        return preprocess(read_rgb(path))
    except UserError as error:
        return error


def _predictions(path: Path, logits: Any, topk: int) -> list[dict[str, Any]] | UserError:
    from ghost_det.weights.imagenet import CLASSES

    if not logits.isfinite().all():
        return UserError(f'{path}: the network returned NaN or infinite numbers; check its weights')
    values, indices = logits.softmax(0).topk(topk)
    return [
        {'index': index, 'name': CLASSES[index], 'probability': value}
        for value, index in zip(values.tolist(), indices.tolist())
    ]
