"""The networks by name, where most of them have published ImageNet weights, and weights of our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError

SCHEME = 'ghost://'
DATA = Path(__file__).parent / 'data'


@dataclass(frozen=True)
class Variant:
    """A network of one width, and the ImageNet-1k weights published by its authors, if any."""

    name: str  # timm's, as in ``ghost://NAME``
    network: str  # class of `ghost_det.models`
    width: float
    params: float | None  # millions, of the folded classifier, as printed in the paper
    macs: int | None  # millions of multiply-adds at 224 px, as printed in the paper
    top1: float = 0.0  # percent at 224 px, measured by timm with the hub's file; 0 without published weights
    url: str = ''  # the authors' own file, used if the hub's is not available
    revision: str = 'main'  # commit of the hub's repository, if known
    sha256: str | None = None  # of the hub's file, if known
    git_blob: str | None = None  # git's hash of the authors' file, if known

    @property
    def hub(self) -> str:
        """The repository on the Hugging Face hub."""
        return f'timm/{self.name}.in1k'

    @property
    def licence(self) -> str:
        """The SPDX name that timm states for the hub's file."""
        return 'MIT' if self.network == 'RepGhostNet' else 'Apache-2.0'


_HUAWEI = 'https://github.com/huawei-noah/Efficient-AI-Backbones/'
_V1 = _HUAWEI + 'raw/master/ghostnet_pytorch/models/state_dict_'
_V2 = _HUAWEI + 'releases/download/GhostNetV2/ck_ghostnetv2_'
_V3 = _HUAWEI + 'releases/download/GhostNetV3/ghostnetv3-'
_REPGHOST = 'https://github.com/ChengpengChen/RepGhost/releases/download/RepGhost/repghostnet_'

# Parameters and multiply-adds from the papers and RepGhost's README, top-1 from timm's results-imagenet.csv.
# Short rows have no published weights; the figures of GhostNetV3 1.6 are second-hand, those of 0.5 unknown.
_TABLE: tuple[tuple[Any, ...], ...] = (
    ('ghostnet_050', 'GhostNet', 0.5, 2.6, 42),
    ('ghostnet_100', 'GhostNet', 1.0, 5.2, 141, 73.96, _V1 + '73.98.pth'),
    ('ghostnet_130', 'GhostNet', 1.3, 7.3, 226),
    ('ghostnetv2_100', 'GhostNetV2', 1.0, 6.1, 167, 75.19, _V2 + '10.pth.tar'),
    ('ghostnetv2_130', 'GhostNetV2', 1.3, 8.9, 269, 76.75, _V2 + '13.pth.tar'),
    ('ghostnetv2_160', 'GhostNetV2', 1.6, 12.3, 399, 77.84, _V2 + '16.pth.tar'),
    ('ghostnetv3_050', 'GhostNetV3', 0.5, None, None),
    ('ghostnetv3_100', 'GhostNetV3', 1.0, 6.1, 167, 76.94, _V3 + '1.0.pth.tar'),
    ('ghostnetv3_130', 'GhostNetV3', 1.3, 8.9, 269),
    ('ghostnetv3_160', 'GhostNetV3', 1.6, 12.3, 400),
    ('repghostnet_050', 'RepGhostNet', 0.5, 2.3, 43, 66.98, _REPGHOST + '0_5x_43M_66.95.pth.tar'),
    ('repghostnet_058', 'RepGhostNet', 0.58, 2.5, 60, 68.94, _REPGHOST + '0_58x_60M_68.94.pth.tar'),
    ('repghostnet_080', 'RepGhostNet', 0.8, 3.3, 96, 72.24, _REPGHOST + '0_8x_96M_72.24.pth.tar'),
    ('repghostnet_100', 'RepGhostNet', 1.0, 4.1, 142, 74.21, _REPGHOST + '1_0x_142M_74.22.pth.tar'),
    ('repghostnet_111', 'RepGhostNet', 1.11, 4.5, 170, 75.06, _REPGHOST + '1_11x_170M_75.07.pth.tar'),
    ('repghostnet_130', 'RepGhostNet', 1.3, 5.5, 231, 76.38, _REPGHOST + '1_3x_231M_76.37.pth.tar'),
    ('repghostnet_150', 'RepGhostNet', 1.5, 6.6, 301, 77.47, _REPGHOST + '1_5x_301M_77.45.pth.tar'),
    ('repghostnet_200', 'RepGhostNet', 2.0, 9.8, 516, 78.80, _REPGHOST + '2_0x_516M_78.81.pth.tar'),
)
# Quoted from the hub's pages and git listings, not all of which were available.
_KNOWN: dict[str, dict[str, Any]] = {
    'ghostnet_100': dict(
        revision='d461b859bf5f6b4f1828eb79e1902fd883194c83',
        sha256='8efbcf55d97872c828768b096d4ebebc51f8b7e29623fd3b3933d78cc230e2e2',
        git_blob='26da9f2807cd5ba95c607cec01ceb9700d94e0ae',
    ),
    'ghostnetv2_160': dict(revision='f29f8843944b3f614fbea96f3847e88080f9ed27'),
    'repghostnet_050': dict(
        revision='3ca3bfe43701348ad05da2d6cb15a11c224c9c9e',
        sha256='1113b67dd8459afa557de736b0aeab9bc07d6f6867b945fdb517608a207165d4',
    ),
    'repghostnet_058': dict(
        revision='768b326d48e3071415b4c93a30259c2248d08fa0',
        sha256='f4c02da20947575e1e7751001ea6abd35a846fd2ddf2f726a053e07629ba1406',
    ),
    'repghostnet_130': dict(revision='d7bf85682bd5cf35df2acd468160797a753c93d4'),
}
VARIANTS = {row[0]: Variant(*row, **_KNOWN.get(row[0], {})) for row in _TABLE}
PUBLISHED = {name: variant for name, variant in VARIANTS.items() if variant.url}


@dataclass(frozen=True)
class Shipped(Variant):
    """Weights that come with this package, trained on Tiny-ImageNet by its tools."""

    revision: str = ''
    data: str = "Tiny-ImageNet: 100,000 images of 64 px, 200 of ImageNet's classes"
    recipe: str = ''
    result: str = ''
    note: str = "learnt from ImageNet's images, whose terms allow non-commercial research; holds none of them"

    @property
    def path(self) -> Path:
        """The file, in half precision."""
        return DATA / f'{self.name}.safetensors'


CLASSIFIER, DETECTOR = 'ghostnet_100.tin', 'gfl_ghostnet.tin'
SHIPPED_HEAD = dict(num_classes=200, head_channels=0)
"""Arguments of a classifier for the weights `CLASSIFIER`."""
SHIPPED_SIZE = 128
"""Pixels of the images that it learnt last: at 224, objects are larger than any that it has seen."""
SHIPPED = {
    CLASSIFIER: Shipped(
        *(CLASSIFIER, 'GhostNet', 1.0, 2.9, None),
        sha256='ae06cf9531e290fcba1f5dc7a4b15b230a57491891afc389b9fc2ce5443b4459',
        recipe='tools/pretrain.py: 30 epochs of 64, 96 and 128 px, with soft labels of MobileNetV2',
        result='classifier, top-1 49.5 % of its 200 classes at 128 px',
    ),
    DETECTOR: Shipped(
        *(DETECTOR, 'GhostNet', 1.0, 1.9, None),
        sha256='8968fbef44cdc50f2dbdcaec216f89dba33227383d5f42515223b7cb94aed7f5',
        recipe='gfl_ghostnet_ghostpan_lite from ghostnet_100.tin, 6 epochs on mosaics of 320 px',
        result='detector, AP 6.1 on mosaics of its val images',
    ),
}


def published(name: str) -> Variant:
    """Return the catalog's entry of a name, with or without ``ghost://``, or raise a `UserError`."""
    known = {**PUBLISHED, **SHIPPED}
    found = known.get(name.removeprefix(SCHEME).replace('_1x', '_100'))
    if found is None:
        raise UserError(f'{name}: no such published weights; choose from {", ".join(known)}')
    return found


def find_published(source: str | Path) -> Variant | None:
    """Return the catalog's entry for ``ghost://NAME`` or a bare name, ``None`` for files and URLs."""
    text = str(source)
    is_name = text.replace('_1x', '_100') in {**PUBLISHED, **SHIPPED} and not Path(text).is_file()
    return published(text) if is_name or text.startswith(SCHEME) else None


def is_shipped(source: str | Path | bool | None) -> bool:
    """Return whether weights come with this package."""
    return isinstance(find_published(str(source)), Shipped)


def address(source: str) -> str:
    """Return ``ghost://NAME`` for a published name, and files and URLs unchanged."""
    found = find_published(source)
    return SCHEME + found.name if found else source
