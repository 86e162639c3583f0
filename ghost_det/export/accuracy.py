"""COCO's figures of an exported detector, by the same evaluation as in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghost_det.config.load import load_config
from ghost_det.config.query import innermost
from ghost_det.data.dataset import DetectionData, missing_data
from ghost_det.deploy.detector import AnyDetector, Detections, Detector
from ghost_det.engine.inference import TorchDetector
from ghost_det.errors import UserError
from ghost_det.evaluation.coco import evaluate
from ghost_det.evaluation.results import evaluate_saved, read_truth, write_results
from ghost_det.utils.files import require_writable, sha256
from ghost_det.utils.images import read_image
from ghost_det.utils.text import plural

FAR = 0.005
"""A larger difference between a file's mAP and torch's is a warning."""


@dataclass(frozen=True)
class GroundTruth:
    """Images with known objects: ``categories`` are the data set's ids of the detector's classes."""

    annotations: Path
    content: dict[str, Any]
    images: list[tuple[int, Path]]
    categories: list[int]

    @classmethod
    def read(cls, annotations: Path, folder: Path, classes: Sequence[str]) -> GroundTruth:
        """Read annotations of images in a folder, which must have all classes of a detector."""
        content = read_truth(annotations)
        ids = {category['name']: category['id'] for category in content['categories']}
        absent = [name for name in classes if name not in ids]
        if absent:
            there = ', '.join(list(ids)[:10])
            raise UserError(f'{annotations}: has no class {absent[0]!r} of the detector; only {there}')
        images = [(image['id'], folder / image['file_name']) for image in content['images']]
        return cls(annotations, content, images, [ids[name] for name in classes])

    @classmethod
    def of(cls, cfg: Any, data: DetectionData | None, classes: Sequence[str]) -> GroundTruth | None:
        """Read the validation data of a data set, or the test data of a config if it is on this machine."""
        if data is not None:
            return cls.read(data.val.annotations, data.val.images, classes)
        if missing_data(cfg, ('test',)):
            return None
        dataset = innermost(cfg.test_dataloader)
        root = Path(dataset.get('data_root') or '')
        return cls.read(root / dataset.ann_file, root / dataset.data_prefix.img, classes)

    def select(self, places: Sequence[int]) -> GroundTruth:
        """Return some of the images, in this order, with their objects."""
        images = [self.images[place] for place in places]
        ids = {number for number, _ in images}
        content = {
            **self.content,
            'images': [self.content['images'][place] for place in places],
            'annotations': [box for box in self.content['annotations'] if box['image_id'] in ids],
        }
        return GroundTruth(self.annotations, content, images, self.categories)

    def detect(self, detector: AnyDetector) -> list[Detections]:
        """Return the detections in each image."""
        return list(detector.stream(read_image(path) for _, path in self.images))

    def results(self, found: Sequence[Detections]) -> list[dict[str, Any]]:
        """Return the detections in each image as COCO results."""
        pairs = zip(self.images, found, strict=True)
        return [box for (number, _), each in pairs for box in each.to_coco(number, self.categories)]

    def mean_precision(self, found: Sequence[Detections]) -> float:
        """Return the mAP of the detections in each image."""
        return evaluate(self.content, self.results(found)).figures['mAP']


def evaluate_file(
    model: str,
    config: str,
    options: dict[str, Any] | None = None,
    data: DetectionData | None = None,
    work_dir: str | None = None,
    out: str | None = None,
    json_file: str | None = None,
) -> Iterator[str]:
    """Evaluate an exported detector, and its checkpoint if in the same folder, as ``ghost-det test`` does."""
    folder = Path(work_dir or Path('work_dirs') / Path(config).stem / f'test-{Path(model).stem}')
    results = Path(out) if out else folder / 'found.json'
    if results.suffix != '.json':
        raise UserError(f'--out: expected a .json file, for COCO results, got {out}')
    require_writable(results, '--out', (Path(model),))
    detector = Detector(model)
    near = (path for path in Path(model).parent.glob('*.pth') if path.is_file())
    weights = next((path for path in near if sha256(path) == detector.metadata.checkpoint_sha256), None)
    truth = GroundTruth.of(load_config(config, options), data, detector.classes)
    if truth is None:
        raise UserError(f'{config}: its data is not on this machine: use --data FOLDER (or --data sample)')
    yield f'{model}: {detector.metadata.precision}, {plural(len(truth.images), "image")}'
    found = truth.detect(detector)
    write_results(results, truth.results(found))
    json_path = Path(json_file) if json_file else None
    yield from evaluate_saved(results, truth.annotations, json_file=json_path, folder=folder)
    yield f'{"found":<11}{results}'
    if weights is None:
        yield 'not compared with torch: the checkpoint that it was exported from is not in its folder'
        return
    in_torch = TorchDetector(config, str(weights), None, detector.metadata.score_threshold, options)
    figure, reference = truth.mean_precision(found), truth.mean_precision(truth.detect(in_torch))
    line = f'mAP {figure:.4f} of the file, {reference:.4f} of its checkpoint in torch'
    far = abs(figure - reference) > FAR
    yield f'warning: {line}: more than {FAR} apart; --dynamic pads as mmdet does' if far else line
