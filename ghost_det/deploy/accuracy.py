"""COCO's figures of an exported detector, by the same evaluation as in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..assess import evaluate_saved, save_results
from ..data import DetectionData, innermost, missing_data
from ..errors import UserError
from ..files import require_writable
from ..results import read_truth
from ..scoring import Evaluation, evaluate
from ..texts import plural
from .media import read_image
from .runtime import Detections, Detector


@dataclass(frozen=True)
class Truth:
    """Images with known objects.

    Attributes:
        annotations: COCO's json.
        content: what it holds.
        images: of each, the id and the file.
        categories: the data set's id of each of the detector's classes.
    """

    annotations: Path
    content: dict[str, Any]
    images: list[tuple[int, Path]]
    categories: list[int]

    @classmethod
    def read(cls, annotations: Path, folder: Path, classes: Sequence[str]) -> Truth:
        """Read annotations.

        Args:
            annotations: COCO's json.
            folder: with the images.
            classes: of the detector, by label.

        Raises:
            UserError: see `read_truth`; or the data set does not have one of the classes.
        """
        content = read_truth(annotations)
        ids = {category['name']: category['id'] for category in content['categories']}
        absent = [name for name in classes if name not in ids]
        if absent:
            raise UserError(
                f'{annotations}: has no category {absent[0]!r}, which is a class of the detector; '
                f'it has {", ".join(list(ids)[:10])}'
            )
        images = [(image['id'], folder / image['file_name']) for image in content['images']]
        return cls(annotations, content, images, [ids[name] for name in classes])

    @classmethod
    def of(cls, cfg: Any, data: DetectionData | None, classes: Sequence[str]) -> Truth | None:
        """Read the validation data of a data set, or of a config where it is on this machine."""
        if data is not None:
            return cls.read(data.val.annotations, data.val.images, classes)
        if missing_data(cfg, ('test',)):
            return None
        dataset = innermost(cfg.test_dataloader)
        root = Path(dataset.get('data_root') or '')
        return cls.read(root / dataset.ann_file, root / dataset.data_prefix.img, classes)

    def some(self, places: Sequence[int]) -> Truth:
        """Return the images at some places, in their order, and what is in them."""
        images = [self.images[place] for place in places]
        ids = {number for number, _ in images}
        content = {
            **self.content,
            'images': [self.content['images'][place] for place in places],
            'annotations': [box for box in self.content['annotations'] if box['image_id'] in ids],
        }
        return Truth(self.annotations, content, images, self.categories)

    def results(self, found: Sequence[Detections]) -> list[dict[str, Any]]:
        """Return detections, of the images in their order, as COCO results."""
        return [
            result
            for (number, _), each in zip(self.images, found)
            for result in each.to_coco(number, self.categories)
        ]

    def evaluate(self, found: Sequence[Detections]) -> Evaluation:
        """Return the figures of detections, of the images in their order."""
        return evaluate(self.content, self.results(found))


def detect_all(detector: Detector, truth: Truth) -> list[Detections]:
    """Return what a detector finds in each image.

    Raises:
        UserError: an image cannot be read.
    """
    return list(detector.stream(read_image(path) for _, path in truth.images))


def evaluate_file(
    model: str,
    config: str,
    cfg: Any,
    data: DetectionData | None = None,
    work_dir: str | None = None,
    out: str | None = None,
    json_file: str | None = None,
) -> Iterator[str]:
    """Evaluate an exported detector as `ghost_det.run.test` does one in torch, and yield the lines to print.

    Args:
        model: the file.
        config: path of the config, for messages.
        cfg: the config, whose data is used where none is given.
        data: a data set.
        work_dir: for pictures and detections.
        out: a file for the detections as COCO results.
        json_file: a file for the figures and their analysis.

    Raises:
        UserError: the file or the data cannot be used.
    """
    folder = Path(work_dir or Path('work_dirs') / Path(config).stem / f'test-{Path(model).name}')
    results = Path(out) if out else folder / 'found.json'
    if results.suffix != '.json':
        raise UserError(f'--out {out}: detections of an exported file are written as .json (COCO results)')
    require_writable(results, '--out', (Path(model),))
    detector = Detector(model)
    truth = Truth.of(cfg, data, detector.classes)
    if truth is None:
        raise UserError(f'{config}: its data is not here: --data FOLDER names another (or --data sample)')
    yield f'{model}: {detector.metadata.precision}, {plural(len(truth.images), "image")}'
    save_results(results, truth.results(detect_all(detector, truth)))
    yield from evaluate_saved(
        results, truth.annotations, json_file=Path(json_file) if json_file else None, folder=folder
    )
    yield f'{"found":<11}{results}'
