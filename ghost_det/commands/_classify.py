"""What an ImageNet classifier sees in images: as Python objects, text, JSON and bar charts."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic
from ghost_det.utils.images import find_images
from ghost_det.weights.imagenet import CLASSES, preprocess
from ghost_det.weights.zoo import classifier

CHART = '.classes.png'
CHART_BARS = 20
THINNEST = 100


@dataclass(frozen=True)
class Prediction:
    """One of ImageNet's 1000 classes, counted from 0, and its probability from 0 to 1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Result:
    """The likeliest classes of an image, the likeliest first; or an error and none."""

    image: Path
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None


def read_image(path: Path) -> Image.Image:
    """Return an image in RGB as a viewer shows it: upright (EXIF), transparent parts white, 16 bits as 8.

    Raises:
        UserError: the file cannot be read; the message says why.
    """
    if path.exists() and not path.is_file():
        raise UserError(f'{path}: not a readable image: no regular file')  # a pipe would be waited for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # big photographs, odd metadata: what matters is raised
            with Image.open(path) as file:
                return _upright_rgb(file)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise UserError(f'{path}: not a readable image: {str(error) or type(error).__name__}') from error


def _upright_rgb(file: Image.Image) -> Image.Image:
    if max(file.size) > THINNEST * min(file.size):
        # Enlarged until its short side has 256 pixels, it would fill the memory.
        raise ValueError(f'{file.width} x {file.height} pixels: too thin to be resized')
    if file.mode == 'F':
        raise ValueError('floating-point pixels, whose white is unknown')
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith('I'):  # convert() would cut 16 bits off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')


def classify(
    model: nn.Module, images: Sequence[Path], topk: int = 5, batch_size: int = 16
) -> Iterator[Result]:
    """Classify image files in their order, with no more than one batch of them in memory.

    Source: the demo of GhostNet (arXiv 1911.11907) on PyTorch Hub.

    Args:
        model: ``(N, 3, 224, 224)`` to logits ``(N, 1000)``; is set to evaluation mode and runs where it is.
        images: files; one that cannot be read gives a `Result` with an error, and the rest go on.
        topk: classes of each image, 1 to 1000.
        batch_size: images at a time.

    Raises:
        UserError: ``topk`` or ``batch_size`` is out of range.

    Example:
        >>> from ghost_det.weights.zoo import classifier
        >>> next(classify(classifier('ghostnet_1x'), [Path('none.jpg')])).predictions
        ()
    """
    _check(topk, batch_size)
    model.eval()
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        inputs: dict[Path, Tensor] = {}
        results: dict[Path, Result] = {}
        for path in batch:
            try:
                inputs[path] = preprocess(read_image(path))
            except UserError as error:
                results[path] = Result(path, error=str(error))
        if inputs:
            rows = _probabilities(model, torch.stack(list(inputs.values())))
            results |= {path: _result(path, row, topk) for path, row in zip(inputs, rows)}
        yield from (results[path] for path in batch)


@torch.inference_mode()
def _probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    logits: Tensor = model(inputs.to(next(model.parameters()).device))
    return logits.float().softmax(1).cpu()


def _result(image: Path, probabilities: Tensor, topk: int) -> Result:
    if not probabilities.isfinite().all():
        return Result(image, error=f'{image}: the network gave no finite numbers; are its weights sound?')
    top = zip(*(row.tolist() for row in probabilities.topk(topk)))
    return Result(image, tuple(Prediction(index, CLASSES[index], value) for value, index in top))


def _check(topk: int, batch_size: int) -> None:
    if topk not in range(1, len(CLASSES) + 1):
        raise UserError(f'topk {topk}: a number from 1 to {len(CLASSES)}')
    if batch_size < 1:
        raise UserError(f'batch size {batch_size}: a number from 1 up')


def draw_chart(result: Result, path: Path) -> None:
    """Draw an image beside bars of its likeliest classes, 20 at most, into a PNG file.

    Raises:
        UserError: the image cannot be read, or ``path`` cannot be written.
    """
    image = read_image(result.image)
    image.thumbnail((800, 800))
    shown = result.predictions[:CHART_BARS]
    places = range(len(shown))
    figure = Figure(figsize=(10, max(4.0, 0.35 * len(shown))), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.imshow(image)
    left.axis('off')
    # A name may hold bytes that are no text, and dollars that are no formula.
    left.set_title(_printable(result.image.name), fontsize=10, parse_math=False)
    right.barh(places, 1, height=0.6, color='0.94')
    bars = right.barh(places, [p.probability for p in shown], height=0.6)
    right.bar_label(bars, [f'{p.probability:.1%}' for p in shown], padding=4)
    right.set_yticks(places, [p.name for p in shown])
    right.set(xlim=(0, 1.15), ylim=(max(len(shown), 5) - 0.4, -0.6), xticks=[])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    with _whole(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')  # of a name in a script that the font lacks
        figure.savefig(partial, format='png', dpi=110, bbox_inches='tight', pad_inches=0.2)


def _printable(text: object) -> str:
    return str(text).encode(errors='backslashreplace').decode()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    try:
        with atomic(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error


def classify_files(
    paths: Iterable[Path],
    name: str,
    weights: str = 'published',
    topk: int = 5,
    batch_size: int = 16,
    json_file: str | None = None,
    out: Path | None = None,
) -> int:
    """Print the classes of images, write them as JSON and charts; return how many images failed.

    Args:
        paths: images, and folders of them.
        name: one of `ghost_det.weights.zoo.CLASSIFIERS`.
        weights: ``'published'``, ``'none'``, or a source for `classifier`.
        topk: as in `classify`.
        batch_size: as in `classify`.
        json_file: a file for all results, or ``'-'`` for stdout, which holds nothing else then.
        out: a folder for charts, in it laid out as the images are.

    Raises:
        UserError: an argument is wrong, or a file cannot be written.
    """
    _check(topk, batch_size)
    images = find_images(paths, skip=lambda path: path.name.endswith(CHART))
    root = os.path.commonpath([os.path.abspath(image.parent) for image in images])
    report = Path(json_file) if json_file not in (None, '-') else None
    if report and (not report.parent.is_dir() or report.exists() and not report.is_file()):
        raise UserError(f'{report}: a file in a folder that exists is wanted for the JSON')
    if weights == 'none':
        print('warning: a network without weights knows nothing: its classes are noise', file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        model = classifier(name, pretrained={'published': True, 'none': False}.get(weights, weights))
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    results = []
    for result in classify(model, images, topk, batch_size):
        results.append(result)
        if result.error is not None:
            print(f'error: {result.error}', file=sys.stderr)
            continue
        if json_file != '-':
            print(_printable(result.image))
            print('\n'.join(f'{p.probability:8.1%}  {p.name}' for p in result.predictions), flush=True)
        if out:
            draw_chart(result, out / f'{os.path.relpath(result.image, root)}{CHART}')
    failed = [result for result in results if result.error is not None]
    content = {
        'model': name,
        'weights': weights,
        'images': [
            {'image': str(result.image), 'predictions': [asdict(p) for p in result.predictions]}
            for result in results
            if result.error is None
        ],
        'errors': [{'image': str(result.image), 'error': result.error} for result in failed],
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    if report:
        with _whole(report) as partial:
            partial.write_text(text)
    elif json_file:
        print(text)
    return len(failed)
