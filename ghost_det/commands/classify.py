"""Classify images with ImageNet classifiers.

ghost-det weights list shows the models. Exit code: 1 if an image could not be classified.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.data.findings import printable
from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, write_file
from ghost_det.utils.system import require_torch

from ._options import COUNT, known_source

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image or folder of images')
    parser.add_argument('--model', default='ghostnet_1x', metavar='NAME', help='default: %(default)s')
    source = "weights: 'published' (default), 'none', a file, a URL or ghost://NAME"
    parser.add_argument('--pretrained', default='published', metavar='SOURCE', help=source)
    parser.add_argument('--topk', **COUNT, default=5, help='classes per image (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='save the results')


def run(args: argparse.Namespace) -> None:
    require_torch('ghost-det classify')
    from ghost_det.utils.images import find_images
    from ghost_det.weights.imagenet import class_names

    names = class_names(args.pretrained)
    if args.topk > len(names):
        raise UserError(f'--topk {args.topk}: expected 1 to {len(names)}')
    images = find_images(args.images)
    if args.json:
        require_writable(args.json, '--json', images)
    if args.pretrained != 'published':
        known_source(args.pretrained)
    model = _load(args.model, args.pretrained)
    if len(names) == 200:
        print("note: these weights know only Tiny-ImageNet's 200 of the 1000 classes", file=sys.stderr)
    found: dict[str, Any] = {'model': args.model, 'weights': args.pretrained, 'images': [], 'errors': []}
    for path in images:
        try:
            predictions = classify(model, path, args.topk, args.pretrained)
        except UserError as error:
            print(f'error: {error}', file=sys.stderr)
            found['errors'].append({'image': str(path), 'error': str(error)})
            continue
        found['images'].append({'image': str(path), 'predictions': predictions})
        print(printable(str(path)))
        print('\n'.join(f'{each["probability"]:8.1%}  {each["name"]}' for each in predictions), flush=True)
    if args.json:
        write_file(args.json, json.dumps(found, indent=1, allow_nan=False), '--json')
    sys.exit(1 if found['errors'] else 0)


def _load(name: str, weights: str) -> nn.Module:
    """Return a classifier in evaluation mode."""
    import torch

    from ghost_det.weights.zoo import classifier

    model = classifier(name, pretrained={'published': True, 'none': False}.get(weights, weights))
    if weights == 'none':
        print('warning: without weights, the predicted classes are random', file=sys.stderr)
    return model.eval().to('cuda' if torch.cuda.is_available() else 'cpu')


def read_rgb(path: Path) -> Image:
    """Return an image in RGB, as a detector would get it."""
    from PIL import Image

    from ghost_det.utils.images import read_image

    return Image.fromarray(read_image(path)[..., ::-1])


def classify(model: nn.Module, path: Path, topk: int, weights: str) -> list[dict[str, Any]]:
    """Return the most probable classes of an image, or raise a `UserError`.

    Source: the demo of GhostNet (arXiv 1911.11907) on PyTorch Hub.
    """
    import torch

    from ghost_det.weights.imagenet import class_names, transform

    names = class_names(weights)
    image = transform(weights)(read_rgb(path))[None].to(next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(image)[0].float()
    if not logits.isfinite().all():
        raise UserError(f'{path}: the network returned NaN or infinite numbers; check its weights')
    values, indices = logits.softmax(0).topk(topk)
    return [
        {'index': index, 'name': names[index], 'probability': value}
        for value, index in zip(values.tolist(), indices.tolist())
    ]
