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


_DROPPED = '--fix drops it'
KINDS = {
    'wrong json': Kind('error', 'the file cannot be read as COCO annotations', 'export it again'),
    'wrong entry': Kind('error', 'an entry lacks what mmdet reads, or has an invalid value for it', _DROPPED),
    'id as text': Kind('error', 'mmdet and pycocotools need integers', '--fix numbers them'),
    'name in another form': Kind(
        'warning',
        'a file name with backslashes, or a class whose name is a number',
        '--fix and --data correct it',
    ),
    'no bbox': Kind(
        'error', 'it has only a polygon or mask: mmdet stops at it', '--fix computes the box around that'
    ),
    'image without size': Kind(
        'error',
        'width or height is missing or not an integer: mmdet stops at it',
        '--fix reads it from the file',
    ),
    'wrong label file': Kind(
        'error', 'a VOC or YOLO label file, or a line of it, cannot be read', 'correct or remove it'
    ),
    'label file without image': Kind(
        'warning', 'its boxes are not used', 'put its image where the layout expects it, or remove it'
    ),
    'image without labels': Kind(
        'note',
        'it has no label file, so it is background; a warning if over a tenth of the images have none',
        'label it, unless it is background',
    ),
    'data not used': Kind(
        'warning',
        'the folder contains several data sets, and only one is read',
        'move it out, or name the other with --data',
    ),
    'byte order mark': Kind(
        'warning', 'pycocotools refuses the file; --data can read it', '--fix removes it'
    ),
    'empty split': Kind('error', 'there are no images or no categories', 'export it again'),
    'missing split': Kind('warning', 'only one of train and val exists', 'split the data'),
    'val was chosen': Kind(
        'note',
        'val is missing or empty, so something else is used instead',
        'none needed; --val-share sets the share of train, --val-ann names another',
    ),
    'no boxes': Kind('error', 'nothing to learn from, and every metric would be -1', 'label it'),
    'duplicate image id': Kind(
        'error', 'it is ambiguous which image its boxes belong to', '--fix keeps the first image'
    ),
    'duplicate box id': Kind(
        'error', 'mmdet stops at it, or pycocotools counts one box twice', '--fix and --data renumber them'
    ),
    'duplicate category id': Kind('error', 'one name replaces the other', '--fix keeps the first'),
    'duplicate category name': Kind(
        'error', 'mmdet makes two labels of one class, and shifts all later ones', '--fix merges them'
    ),
    'empty duplicate category': Kind(
        'warning',
        'it has no boxes, and the name of another: mmdet makes a label of it, and shifts all later ones',
        '--fix and --data drop it',
    ),
    'duplicate file name': Kind(
        'warning', 'the boxes of each entry are background for the other', '--fix merges them'
    ),
    'unknown category': Kind('error', 'a box has a category_id that no category has', _DROPPED),
    'unknown image': Kind('error', 'a box has an image_id that no image has', _DROPPED),
    'category without boxes': Kind(
        'warning', 'the class cannot be learned, or its AP is -1', 'label some, or remove it from both splits'
    ),
    'no area or iscrowd': Kind(
        'warning',
        'mmdet stops where area is missing, pycocotools where iscrowd is',
        '--fix and --data add them',
    ),
    'impossible area': Kind(
        'warning',
        'mmdet silently ignores boxes in training whose area is 0 or below',
        '--fix and --data compute it from the box',
    ),
    'number as text': Kind(
        'warning',
        'mmdet takes the text "0" for true, and stops at an area in quotes',
        '--fix and --data convert it',
    ),
    'ignored box': Kind(
        'warning',
        'mmdet does not train on boxes with ignore, but COCO counts them in evaluation',
        'remove ignore, or set iscrowd to 1, which excludes them from both',
    ),
    'rotated box': Kind(
        'warning', 'CVAT rotated the object by attributes.rotation, but not its box', 'draw an upright box'
    ),
    'box not finite': Kind('error', 'NaN or infinite: the loss becomes NaN', _DROPPED),
    'swapped corners': Kind(
        'error', 'negative width or height: mmdet silently drops it', '--fix swaps them back'
    ),
    'corners for sizes': Kind(
        'error',
        'it sticks far out of its image, but fits if read as x1, y1, x2, y2',
        '--fix reads it that way; look at a few first',
    ),
    'empty box': Kind('warning', 'less than 1 px wide or high: mmdet silently drops it', _DROPPED),
    'box outside': Kind('error', 'completely outside of its image: mmdet silently drops it', _DROPPED),
    'box sticks out': Kind('warning', 'more than 1 px of it is outside of its image', '--fix clips it'),
    'tiny box': Kind(
        'warning',
        'less than 3 px wide or high: hardly learned, and a single one can halve mAP_s',
        'look at a few, and remove those drawn by accident',
    ),
    'box unlike its polygon': Kind(
        'error',
        'it is not the box around its polygon (IoU below 0.9)',
        '--fix takes the box around the polygon; if the boxes are right, remove the polygons',
    ),
    'same box twice': Kind(
        'warning', 'learned twice, and in evaluation one of the two is never found', '--fix keeps the first'
    ),
    'crowd box': Kind(
        'note', 'a group of objects: excluded from training, ignored in evaluation', 'none needed'
    ),
    'image without boxes': Kind('note', 'most configs do not train on it', 'none needed'),
    'missing file': Kind('error', 'the training stops when it reaches it', _DROPPED),
    'wrong image folder': Kind(
        'error',
        'none of the images is where the annotations say',
        'name their folder with --train-images or --val-images',
    ),
    'unreadable image': Kind(
        'error', 'damaged or truncated: the training stops when it reaches it', _DROPPED
    ),
    'wrong size': Kind(
        'error',
        'the image does not have the size in which its boxes were drawn',
        '--fix writes the true size; look at a few first',
    ),
    'EXIF rotation': Kind(
        'warning',
        'only some programs rotate the image by its tag; its size is that which mmcv loads',
        '--fix writes the pixels as mmcv loads them',
    ),
    'EXIF against boxes': Kind(
        'error',
        'mmcv rotates the image by its tag and the boxes do not fit that, or the reverse',
        '--fix rotates the pixels to fit the boxes',
    ),
    'turned boxes': Kind(
        'warning', 'drawn in the stored image, which EXIF rotates: they are rotated with it', 'look at a few'
    ),
    'grey image': Kind('note', 'mmcv makes three equal channels of one', 'none needed'),
    'image with alpha': Kind('note', 'mmcv drops alpha, so what it hides becomes visible', 'none needed'),
    '16-bit image': Kind(
        'warning',
        'mmcv keeps the upper 8 bits: images of 12-bit cameras become nearly black',
        '--fix makes it 8-bit',
    ),
    '32-bit image': Kind(
        'error', 'mmcv cannot read it, or cuts off its values', '--fix makes it 8-bit; look at a few first'
    ),
    'CMYK image': Kind('warning', 'decoders differ in its colours', '--fix makes it RGB'),
    'huge image': Kind(
        'warning',
        'over 100 megapixels: not decoded here, and each loader would need gigabytes',
        'cut it into tiles',
    ),
    'same image twice': Kind('warning', 'the same bytes under two names', 'remove one, with its boxes'),
    'image in both splits': Kind(
        'error', 'the same bytes in train and val: the metrics are too good', '--fix drops it from train'
    ),
    'class unknown in train': Kind(
        'error',
        'val has boxes of a class that train does not have',
        'label it in train; --fix drops it from val',
    ),
    'classes differ': Kind(
        'warning',
        'between train and val: plain mmdet silently shifts labels, --data corrects them',
        '--fix gives both the categories of train',
    ),
    'class name in config': Kind(
        'error',
        'metainfo names a class that the data does not have: mmdet silently shifts all later labels',
        'write it as the annotations do',
    ),
    'class order in config': Kind(
        'error',
        'mmdet numbers labels in the order of the annotations, not in that of metainfo',
        'order metainfo.classes as the annotations do',
    ),
    'CLASSES in config': Kind(
        'error',
        "mmdet 3 reads metainfo.classes; CLASSES is ignored, and COCO's 80 are used",
        'rename CLASSES to classes',
    ),
    'classes is a text': Kind(
        'error', 'each letter would be a class', "add a comma to make it a tuple: classes=('cat',)"
    ),
    'num_classes': Kind('error', 'a head has another number of classes than the data', 'set it in each head'),
    'few anchors fit': Kind(
        'warning', 'no anchor reaches an IoU of 0.5 with over a tenth of the boxes', 'see the suggestion'
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
