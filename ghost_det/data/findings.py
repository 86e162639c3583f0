"""What a check can find: the kinds of faults, one fault, and the list of those found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SHOWN = 10
SEVERITIES = ('error', 'warning', 'note')


class Kind(NamedTuple):
    """One kind of fault: how grave, what it does to a training or an evaluation, how to fix it."""

    severity: str
    why: str
    mend: str


_DROPPED = '--fix leaves it out'
KINDS = {
    'wrong json': Kind('error', 'the file cannot be read as COCO annotations', 'export it again'),
    'wrong entry': Kind('error', 'an entry lacks what mmdet reads, or has it in another form', _DROPPED),
    'id as text': Kind('error', 'mmdet and pycocotools need whole numbers', '--fix numbers them'),
    'name in another form': Kind(
        'warning', 'a file name with backslashes, or a class named by a number', '--fix and --data correct it'
    ),
    'no bbox': Kind('error', 'a polygon or mask only: mmdet stops at it', '--fix takes its extent'),
    'image without size': Kind(
        'error', 'no width or height, or no whole number: mmdet stops at it', '--fix takes it from the file'
    ),
    'wrong label file': Kind(
        'error', 'a VOC or YOLO file of labels, or a line of it, cannot be read', 'correct or remove it'
    ),
    'label file without image': Kind(
        'warning', 'its boxes are not used', 'put its image where the layout has it, or remove it'
    ),
    'image without labels': Kind(
        'note',
        'it has no label file, so it is background; a warning where over a tenth has none',
        'label it, or none needed',
    ),
    'data not used': Kind(
        'warning',
        'the folder has more than one data set, of which one is read',
        'move it out, or name the other with --data',
    ),
    'byte order mark': Kind(
        'warning', 'pycocotools refuses the file; --data of the tools reads it', '--fix takes it off'
    ),
    'empty split': Kind('error', 'there are no images or no categories', 'export it again'),
    'missing split': Kind('warning', 'there is only one of train and val', 'split the data'),
    'val was chosen': Kind(
        'note',
        'there is no val, or it is empty: what stands in for it',
        'none needed; --val-share is the part of train, --val-ann names another',
    ),
    'no boxes': Kind('error', 'nothing to learn from, and every figure would be -1', 'label it'),
    'duplicate image id': Kind(
        'error',
        'boxes with it belong to one of the images, nobody knows which',
        '--fix keeps the first image',
    ),
    'duplicate box id': Kind(
        'error', 'mmdet stops at it, or pycocotools takes one box twice', '--fix and --data renumber them'
    ),
    'duplicate category id': Kind('error', 'one name replaces the other', '--fix keeps the first'),
    'duplicate category name': Kind(
        'error', 'mmdet makes two labels of one class, and shifts all later ones', '--fix makes them one'
    ),
    'empty duplicate category': Kind(
        'warning',
        'without boxes, of the name of another: mmdet makes a label of it, and shifts all later ones',
        '--fix and --data leave it out',
    ),
    'duplicate file name': Kind(
        'warning', "each entry's boxes are background in the other's picture", '--fix makes them one'
    ),
    'unknown category': Kind('error', 'a box has a category_id that no category has', _DROPPED),
    'unknown image': Kind('error', 'a box has an image_id that no image has', _DROPPED),
    'category without boxes': Kind(
        'warning', 'the class cannot be learnt, or its AP is -1', 'label some, or remove it from both splits'
    ),
    'no area or iscrowd': Kind(
        'warning',
        'mmdet stops where area is missing, pycocotools at iscrowd',
        '--fix and --data fill them in',
    ),
    'impossible area': Kind(
        'warning',
        'mmdet silently leaves boxes out of training whose area is 0 or below',
        '--fix and --data compute it from the box',
    ),
    'number as text': Kind(
        'warning',
        'mmdet takes the text "0" for true, and stops at an area in quotes',
        '--fix and --data make a number of it',
    ),
    'ignored box': Kind(
        'warning',
        'mmdet does not train on boxes with ignore, but COCO counts them in evaluation',
        'remove ignore; or set iscrowd to 1, which both leave out',
    ),
    'rotated box': Kind(
        'warning', 'CVAT turned the object by attributes.rotation, but not its box', 'draw an upright one'
    ),
    'box not finite': Kind('error', 'NaN or infinity: the loss becomes NaN', _DROPPED),
    'swapped corners': Kind('error', 'negative width or height: mmdet silently drops it', '--fix turns it'),
    'corners for sizes': Kind(
        'error',
        'it sticks far out, yet fits if read as x1, y1, x2, y2',
        '--fix reads it so; look at a few first',
    ),
    'empty box': Kind('warning', 'under 1 px wide or high: mmdet silently drops it', _DROPPED),
    'box outside': Kind('error', 'completely outside its image: mmdet silently drops it', _DROPPED),
    'box sticks out': Kind('warning', 'more than 1 px of it are outside of its image', '--fix clips it'),
    'tiny box': Kind(
        'warning',
        'under 3 px wide or high: hardly learnt, and one can halve mAP_s',
        'look at a few: leave out those drawn by accident',
    ),
    'box unlike its polygon': Kind(
        'error',
        'it is not the box around its polygon (IoU below 0.9)',
        '--fix takes the extent of the polygon; if the boxes are right, remove the polygons',
    ),
    'same box twice': Kind(
        'warning', 'learnt twice, and in evaluation one of the two is never found', '--fix keeps the first'
    ),
    'crowd box': Kind('note', 'a group: left out of training, ignored in evaluation', 'none needed'),
    'image without boxes': Kind('note', 'the training of most configs leaves it out', 'none needed'),
    'missing file': Kind('error', 'the training stops when it comes to it', _DROPPED),
    'wrong image folder': Kind(
        'error',
        'none of the images is where the annotations say',
        'name their folder with --train-images or --val-images',
    ),
    'unreadable image': Kind(
        'error', 'damaged or cut short: the training stops when it comes to it', _DROPPED
    ),
    'wrong size': Kind(
        'error',
        'the image has not the size that its boxes were drawn in',
        '--fix writes the true size: look first',
    ),
    'EXIF rotation': Kind(
        'warning',
        'only some programs turn the image as its tag says; its size fits what mmcv loads',
        '--fix writes the pixels as mmcv loads them',
    ),
    'EXIF against boxes': Kind(
        'error',
        'the boxes are of the image turned by its tag and mmcv loads it unturned, or the reverse',
        '--fix turns the pixels to fit the boxes',
    ),
    'turned boxes': Kind(
        'warning', 'drawn in the stored image, which EXIF turns: they are turned with it', 'look at a few'
    ),
    'grey image': Kind('note', 'mmcv makes three equal channels of one', 'none needed'),
    'image with alpha': Kind('note', 'mmcv drops alpha: what it hides will show', 'none needed'),
    '16-bit image': Kind(
        'warning', 'mmcv keeps the upper 8 bits: 12-bit cameras give nearly black', '--fix makes it 8-bit'
    ),
    '32-bit image': Kind(
        'error', 'mmcv cannot read it, or cuts its values off', '--fix makes it 8-bit: look at a few first'
    ),
    'CMYK image': Kind('warning', 'decoders differ in its colours', '--fix makes it RGB'),
    'huge image': Kind(
        'warning', 'over 100 megapixels: not decoded here, and each loader would need GB', 'cut it into tiles'
    ),
    'same image twice': Kind('warning', 'the same bytes under two names', 'remove one, with its boxes'),
    'image in both splits': Kind(
        'error', 'the same bytes in train and val: its figures are too good', '--fix leaves it out of train'
    ),
    'class unknown in train': Kind(
        'error',
        'val has boxes of a class that train has not',
        'label it in train; --fix leaves it out of val',
    ),
    'classes differ': Kind(
        'warning',
        'between train and val: plain mmdet silently shifts labels; --data of the tools corrects them',
        '--fix gives both the categories of train',
    ),
    'class name in config': Kind(
        'error',
        'metainfo names a class that the data has not: mmdet silently shifts all later labels',
        'write it as the annotations do',
    ),
    'class order in config': Kind(
        'error',
        'mmdet numbers labels in the order of the annotations, not in that of metainfo',
        'order metainfo.classes as the annotations do',
    ),
    'CLASSES in config': Kind(
        'error',
        "mmdet 3 reads metainfo.classes; CLASSES is overlooked, and COCO's 80 take its place",
        'write classes for CLASSES',
    ),
    'classes is a text': Kind(
        'error', 'each letter would be a class', "a comma makes it a tuple: classes=('cat',)"
    ),
    'num_classes': Kind('error', 'a head has another number of classes than the data', 'set it in each head'),
    'few anchors fit': Kind(
        'warning', 'over a tenth of the boxes is not reached by any anchor at IoU 0.5', 'see the suggestion'
    ),
}


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one split.

    Attributes:
        kind: a key of `KINDS`.
        severity: ``'error'``, ``'warning'`` or ``'note'``.
        split: ``'train'``, ``'val'``, or ``''`` for what concerns both, or the config.
        what: what it does.
        where: the first ten places: position in the json, file, and what is there.
        count: how many there are.
        mend: how to fix it.
    """

    kind: str
    severity: str
    split: str
    what: str
    where: tuple[str, ...]
    count: int
    mend: str

    def line(self, places: int = 1) -> str:
        """Return it on one line with its first places."""
        more = f' and {self.count - places} more' if self.count > places else ''
        at = f'{self.split}: ' if self.split else ''
        return f'{at}{self.kind} ({self.count}): {"; ".join(self.where[:places])}{more}'


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
    default, why, mend = KINDS[kind]
    return [Finding(kind, severity or default, split, why, first, count, mend)]


def printable(text: str) -> str:
    """Return a text without what a terminal would obey or cannot print: names are others' input."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the gravest first, otherwise in the order of `KINDS`."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind), f.split))


def of_severity(findings: Sequence[Finding], severity: str) -> list[Finding]:
    """Return the findings of one severity."""
    return [finding for finding in findings if finding.severity == severity]
