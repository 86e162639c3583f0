"""The files of COCO 2017: addresses, sizes, hashes, counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A published zip file."""

    path: str  # below the server's address
    size: int  # in bytes
    sha256: str

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.rpartition('/')[2]


@dataclass(frozen=True)
class Part:
    """A published split."""

    name: str  # of its folder, such as 'val2017'
    archive: Archive  # its images
    images: int
    sha256: str  # of its instances_*.json

    @property
    def annotations(self) -> Path:
        """Its annotation file, relative to the data set."""
        return Path('annotations', f'instances_{self.name}.json')


@dataclass(frozen=True)
class Catalog:
    """What can be downloaded, and from where; keys of ``parts`` are the names of ``--splits``."""

    annotations: Archive
    parts: dict[str, Part]
    url: str = 'http://images.cocodataset.org'


# COCO publishes no hashes. Sizes and SHA-256 of the archives come from TensorFlow Datasets
# (tensorflow_datasets/url_checksums/coco.txt) and agree with torchvision
# (torchvision/prototype/datasets/_builtin/coco.py). The hashes of the two json files are those that several
# people published after unpacking these archives.
_ANNOTATIONS = '113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268'
_TRAIN = '69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929'
_TRAIN_BOXES = '610fce4944abdeb15354cc765333805529359d12d88f2f711393ca586901d01d'
_VAL = '4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05'
_VAL_BOXES = 'e8c7f7908f1d7278341fae127d0da654f102f11bd7b21d8aeefa635b8c810b6f'
COCO = Catalog(
    Archive('annotations/annotations_trainval2017.zip', 252_907_541, _ANNOTATIONS),
    {
        'train': Part(
            'train2017', Archive('zips/train2017.zip', 19_336_861_798, _TRAIN), 118_287, _TRAIN_BOXES
        ),
        'val': Part('val2017', Archive('zips/val2017.zip', 815_585_330, _VAL), 5_000, _VAL_BOXES),
    },
)
