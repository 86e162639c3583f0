"""What a check can find: the kinds of problems, one finding, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SHOWN = 10
SEVERITIES = ('error', 'warning', 'note')


class Kind(NamedTuple):
    """One kind of problem: its severity, what it does to a training or an evaluation, how to fix it."""

    severity: str
    why: str
    fix: str


DROP = '--fix drops it'
KINDS = {
    'wrong json': Kind('error', 'not readable as COCO annotations', 'export it again'),
    'wrong entry': Kind('error', 'it lacks what mmdet reads, or has an invalid value for it', DROP),
    'id as text': Kind('error', 'mmdet and pycocotools need integers', '--fix numbers them'),
    'name in another form': Kind(
        'warning', 'a path with backslashes, or a class name as a number', '--fix and --data correct it'
    ),
    'no bbox': Kind('error', 'only a polygon or mask: mmdet stops at it', '--fix computes the box'),
    'image without size': Kind(
        'error', 'width or height is missing or no integer: mmdet stops', '--fix reads it from the file'
    ),
    'wrong label file': Kind(
        'error', 'a VOC or YOLO label file, or a line of it, is unreadable', 'correct or remove it'
    ),
    'label file without image': Kind(
        'warning', 'its boxes are not used', 'put its image where the layout expects it'
    ),
    'image without labels': Kind(
        'note', 'it is background; a warning if over a tenth lack labels', 'label it, unless it is background'
    ),
    'data not used': Kind(
        'warning', 'only one of several data sets in the folder is read', 'name another with --data'
    ),
    'byte order mark': Kind(
        'warning', 'pycocotools refuses the file; --data can read it', '--fix removes it'
    ),
    'empty split': Kind('error', 'there are no images or no categories', 'export it again'),
    'missing split': Kind('warning', 'only one of train and val exists', 'split the data'),
    'val was chosen': Kind(
        'note', 'val is missing or empty', 'none needed; --val-share sets the share of train'
    ),
    'no boxes': Kind('error', 'nothing to learn from, and every metric would be -1', 'label it'),
    'duplicate image id': Kind(
        'error', 'it is ambiguous which image its boxes belong to', '--fix keeps the first image'
    ),
    'duplicate box id': Kind(
        'error', 'mmdet stops, or pycocotools counts one box twice', '--fix and --data renumber them'
    ),
    'duplicate category id': Kind('error', 'one name replaces the other', '--fix keeps the first'),
    'duplicate category name': Kind(
        'error', 'mmdet makes two labels of it, and shifts all later ones', '--fix merges them'
    ),
    'empty duplicate category': Kind(
        'warning', 'mmdet makes a label of it, and shifts all later ones', '--fix and --data drop it'
    ),
    'duplicate file name': Kind(
        'warning', 'the boxes of each entry are background for the other', '--fix merges them'
    ),
    'unknown category': Kind('error', 'a box has a category_id that no category has', DROP),
    'unknown image': Kind('error', 'a box has an image_id that no image has', DROP),
    'category without boxes': Kind(
        'warning', 'it cannot be learned, or its AP is -1', 'label some, or remove it from both splits'
    ),
    'no area or iscrowd': Kind(
        'warning', 'mmdet needs the area, pycocotools iscrowd', '--fix and --data add them'
    ),
    'impossible area': Kind(
        'warning', 'mmdet silently ignores boxes without a positive area', '--fix and --data compute it'
    ),
    'number as text': Kind(
        'warning', 'mmdet takes "0" for true, and stops at an area in quotes', '--fix and --data convert it'
    ),
    'ignored box': Kind(
        'warning', 'not trained on, but counted in evaluation', 'remove ignore, or set iscrowd to 1'
    ),
    'rotated box': Kind('warning', 'CVAT rotated the object, but not its box', 'draw an upright box'),
    'box not finite': Kind('error', 'NaN or infinite: the loss becomes NaN', DROP),
    'swapped corners': Kind(
        'error', 'negative width or height: mmdet silently drops it', '--fix swaps them back'
    ),
    'corners for sizes': Kind(
        'error', 'it sticks far out, but fits as x1, y1, x2, y2', '--fix reads it so; look at a few first'
    ),
    'empty box': Kind('warning', 'less than 1 px wide or high: mmdet silently drops it', DROP),
    'box outside': Kind('error', 'completely outside of its image: mmdet silently drops it', DROP),
    'box sticks out': Kind('warning', 'more than 1 px of it is outside of its image', '--fix clips it'),
    'tiny box': Kind(
        'warning',
        'less than 3 px wide or high: hardly learned; one can halve mAP_s',
        'remove those drawn by accident',
    ),
    'box unlike its polygon': Kind(
        'error', 'it is not the box around it (IoU below 0.9)', '--fix redraws it; or remove the polygons'
    ),
    'same box twice': Kind(
        'warning', 'learned twice; in evaluation, one is never found', '--fix keeps the first'
    ),
    'crowd box': Kind('note', 'a group: not trained on, ignored in evaluation', 'none needed'),
    'image without boxes': Kind('note', 'most configs do not train on it', 'none needed'),
    'missing file': Kind('error', 'the training stops when it reaches it', DROP),
    'wrong image folder': Kind(
        'error', 'none of the images is there', 'name it with --train-images or --val-images'
    ),
    'unreadable image': Kind('error', 'damaged or truncated: the training stops at it', DROP),
    'wrong size': Kind(
        'error',
        'not the size in which its boxes were drawn',
        '--fix writes the true size; look at a few first',
    ),
    'EXIF rotation': Kind(
        'warning', 'not every program rotates it as mmcv does', '--fix writes it as mmcv loads it'
    ),
    'EXIF against boxes': Kind(
        'error', 'the boxes do not fit the image as mmcv rotates it, or not', '--fix rotates it'
    ),
    'turned boxes': Kind(
        'warning', 'drawn in the stored image, which EXIF rotates, and rotated with it', 'look at a few'
    ),
    'grey image': Kind('note', 'mmcv makes three equal channels of one', 'none needed'),
    'image with alpha': Kind('note', 'mmcv drops alpha, so what it hides becomes visible', 'none needed'),
    '16-bit image': Kind(
        'warning', 'mmcv keeps the upper 8 bits: 12-bit images are nearly black', '--fix makes it 8-bit'
    ),
    '32-bit image': Kind(
        'error', 'mmcv cannot read it, or cuts off its values', '--fix makes it 8-bit; look at a few first'
    ),
    'CMYK image': Kind('warning', 'decoders differ in its colours', '--fix makes it RGB'),
    'huge image': Kind(
        'warning', 'over 100 megapixels: not decoded here; loaders need gigabytes', 'cut it into tiles'
    ),
    'same image twice': Kind('warning', 'the same bytes under two names', 'remove one, with its boxes'),
    'image in both splits': Kind(
        'error', 'the same bytes: the metrics are too good', '--fix drops it from train'
    ),
    'class unknown in train': Kind(
        'error', 'only val has boxes of it', 'label it in train; --fix drops it from val'
    ),
    'classes differ': Kind(
        'warning',
        'plain mmdet silently shifts labels, --data corrects them',
        '--fix gives val those of train',
    ),
    'class name in config': Kind(
        'error', 'not in the data: mmdet silently shifts all later labels', 'write it as the annotations do'
    ),
    'class order in config': Kind(
        'error', 'mmdet numbers labels in the order of the annotations', 'order metainfo.classes like them'
    ),
    'CLASSES in config': Kind('error', "mmdet 3 ignores it and uses COCO's 80", 'rename it to classes'),
    'classes is a text': Kind(
        'error', 'each letter would be a class', "add a comma to make it a tuple: classes=('cat',)"
    ),
    'num_classes': Kind('error', 'a head has another number of classes than the data', 'set it in each head'),
    'few anchors fit': Kind(
        'warning', 'over a tenth of the boxes have no anchor at IoU 0.5', 'see the suggestion'
    ),
}


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one split."""

    kind: str  # a key of `KINDS`
    severity: str  # one of `SEVERITIES`
    split: str  # 'train', 'val', or '' for what concerns both, or the config
    what: str  # it does
    where: tuple[str, ...]  # the first ten places: position in the json, file, and what is there
    count: int
    fix: str  # how to fix it

    def line(self, places: int = 1) -> str:
        """Return it on one line with its first places."""
        more = f' and {self.count - places} more' if self.count > places else ''
        split = f'{self.split}: ' if self.split else ''
        return f'{split}{self.kind} ({self.count}): {"; ".join(self.where[:places])}{more}'


def found(
    kind: str,
    split: str,
    where: Iterable[str],
    count: int | None = None,
    severity: str | None = None,
) -> list[Finding]:
    """Return the finding as a list of one, or an empty list where there are no places.

    Only the first ten places are read where ``count`` is given.
    """
    if count is None:
        where = list(where)
        count = len(where)
    if not count:
        return []
    first = tuple(printable(place) for place, _ in zip(where, range(SHOWN)))
    default, why, fix = KINDS[kind]
    return [Finding(kind, severity or default, split, why, first, count, fix)]


def printable(text: str) -> str:
    """Escape what a terminal would obey or cannot print: names come from others."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the most severe first, otherwise in the order of `KINDS`."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind), f.split))


def of_severity(findings: Sequence[Finding], severity: str) -> list[Finding]:
    """Return the findings of one severity."""
    return [finding for finding in findings if finding.severity == severity]
