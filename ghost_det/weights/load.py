"""Weights into networks: every tensor is loaded, or an error says why not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models.ghost_module import make_divisible
from ghost_det.utils.files import sha256, write_or_fail

from .catalog import PUBLISHED, SCHEME, Weights, named
from .checkpoint import differences, load_checkpoint
from .download import check_format, locate

_WRAPPERS = ('module.', 'model.', '_orig_mod.')  # of DDP, of training scripts, of torch.compile
_COUNTERS = ('total_ops', 'total_params')  # left in published files by the thop profiler
# Averaged weights first: of RepGhost's and GhostNetV3's own files, they reach the published accuracy.
_CONTENTS = ('state_dict_ema', 'state_dict', 'model', 'model_state_dict')
_CLASSIFIER = ('classifier', 'conv_head', 'fc', 'head', 'blocks.9')
# The authors' GhostNetV3 calls the norm of a branch `bn`; timm, and with it the hub's file, `bn1`.
_UPSTREAM_V3 = re.compile(r'(_rpr_(?:conv\.\d+|scale))\.bn\.')


@dataclass(frozen=True)
class Loaded:
    """What `load_pretrained` did; as a string, the line for the log."""

    network: str  # its class
    source: str  # of the tensors
    loaded: int  # parameters and buffers of the network
    total: int  # how many it has
    left_out: Mapping[str, int] = field(default_factory=dict)  # the file's other tensors, counted by part
    missing: tuple[str, ...] = ()  # what was not loaded, and why; only of partial loading

    def __str__(self) -> str:
        left = ''.join(f'; {part} left out: {count}' for part, count in self.left_out.items())
        rest = f'; NOT loaded: {_some(self.missing)}' if self.missing else ''
        return f'{self.network}: {self.loaded} of {self.total} tensors from {self.source}{left}{rest}'


def _some(items: tuple[str, ...] | list[str], count: int = 3) -> str:
    return '; '.join(items[:count]) + (f'; and {len(items) - count} more' if len(items) > count else '')


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a local safetensors or torch file; code in the file is never run.

    Of a training checkpoint only the weights are returned. A `UserError` names a file that is missing,
    damaged, a web page, or holds anything but weights.
    """
    path = Path(path).expanduser()
    try:
        format = check_format(path, str(path)) if path.is_file() else None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    if format == 'safetensors':
        tensors: dict[str, Tensor] = load_file(path)
    elif format and path.suffix == '.safetensors':  # by which torch.load takes it for one
        raise UserError(f'{path}: named .safetensors, but a file of torch: rename it to {path.stem}.pth')
    else:
        content: Any = load_checkpoint(path)
        content = next((content[key] for key in _CONTENTS if isinstance(content.get(key), dict)), content)
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f'{path}: holds no tensors')
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise UserError(f'{path}: {key} is no plain tensor, but sparse, quantised or without content')
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f'{path}: {key}, of shape {tuple(value.shape)}, has fewer numbers in the file')
    return tensors


# In the keys of a state dict, what only one network has; the first that is found counts.
_FOLDED = {'.primary_conv.0.bias': 'GhostNetV3', '.cheap_operation.bias': 'RepGhostNet'}
_MARKS = {
    '_rpr_': 'GhostNetV3',
    **_FOLDED,
    '.short_conv.': 'GhostNetV2',
    '.fusion_bn.': 'RepGhostNet',
}
# Their channels at width 1.0; the deepest tells most, and shallow backbones lack it.
_ENDS = {f'blocks.{i}.0.shortcut.2.weight': channels for i, channels in ((7, 160), (5, 80), (3, 40), (1, 24))}


def describe(tensors: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """Return network and width that a state dict's keys and shapes tell of, or ``None`` for other networks.

    Channels round to multiples of four, so widths are told apart to two digits; published ones first.
    """
    ends = {end: tensors[end].shape[0] for end in _ENDS if end in tensors and tensors[end].dim() == 4}
    if not any(ends.values()) or not any(key.startswith('blocks.0.0.ghost1.primary') for key in tensors):
        return None
    network = next((name for mark, name in _MARKS.items() if any(mark in key for key in tensors)), 'GhostNet')
    guess = round(next(iter(ends.values())) / _ENDS[next(iter(ends))], 2)
    near = sorted((guess + step / 100 for step in range(-6, 7)), key=lambda width: abs(width - guess))
    widths = [w.width for w in PUBLISHED.values() if w.network == network] + [round(w, 2) for w in near]
    fitting = (w for w in widths if all(make_divisible(_ENDS[end] * w) == n for end, n in ends.items()))
    return network, next(fitting, guess)


def is_folded(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict is of a network after ``switch_to_deploy``."""
    return any(mark in key for mark in _FOLDED for key in tensors)


def own_tensors(
    tensors: dict[str, Tensor], prefix: str | None, source: str
) -> tuple[dict[str, Tensor], Counter[str]]:
    """Return the tensors of the backbone under its own names, and how many others there are, by part."""
    left: Counter[str] = Counter()
    tensors = {key: value for key, value in tensors.items() if key.split('.')[-1] not in _COUNTERS}
    if prefix:
        prefix = prefix.rstrip('.') + '.'
    if prefix is None or not any(key.startswith(prefix) for key in tensors):
        for wrapper in _WRAPPERS * 2:
            if all(key.startswith(wrapper) for key in tensors):
                tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in tensors) else ''
    own = {}
    for key, value in tensors.items():
        if not key.startswith(prefix):
            left[key.split('.')[0]] += 1
        else:
            own[_UPSTREAM_V3.sub(r'\1.bn1.', key.removeprefix(prefix))] = value
    if not own:
        parts = ', '.join(f'{part} ({count})' for part, count in left.most_common(8))
        raise UserError(f'{source}: no tensor has the prefix {prefix!r}; the parts (and tensors) are {parts}')
    return own, left


def load_pretrained(
    model: nn.Module, source: str | Path, prefix: str | None = None, partial: bool = False
) -> Loaded:
    """Load every parameter and buffer of a network, from published weights or a file, or refuse.

    The file may be of the authors of the networks, of timm, a checkpoint of a detector with such a
    backbone, or written by `extract_backbone`. Classifiers, necks, heads and deeper stages that the
    network lacks are left out, and counted.

    Args:
        model: a network of `ghost_det.models`.
        source: ``ghost://NAME`` of the catalog, a path, or an http(s) URL.
        prefix: of the network's tensors in the file; found out by itself for ``backbone.`` and ``module.``.
        partial: load what fits, and report what does not.

    Returns:
        what was loaded and what was left out; as a string, one line for a log.

    Raises:
        UserError: the source is not available, is no file of weights, or does not fit; the network is
            then unchanged.
    """
    path = locate(source)
    own, left = own_tensors(read_tensors(path), prefix, str(source))
    check_is_published(named(source), path, own)
    loaded = load_tensors(model, own, left, str(source), partial)
    if str(source) == str(path):
        return loaded
    return replace(loaded, source=f'{source} (sha256 {sha256(path)[:8]}, {path})')


def load_tensors(
    model: nn.Module, own: dict[str, Tensor], left: Counter[str], source: str, partial: bool = False
) -> Loaded:
    """Do what `load_pretrained` does with what `own_tensors` gave."""
    expected = model.state_dict()
    groups = set(map(_group, expected))
    problems = differences(expected, own)
    strange, fits = [], {}
    for key, value in own.items():
        if key not in expected:
            part = _place(key, groups)
            if part is None:
                strange.append(key)
            else:
                left[part] += 1
        elif expected[key].is_floating_point() and not value.is_floating_point():
            problems.append(f'{key}: expected {expected[key].dtype}, got {value.dtype}')
        elif expected[key].shape == value.shape:
            fits[key] = value.to(expected[key].dtype)
    broken = [key for key, value in fits.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f'{source}: tensors with NaN or infinite values: {len(broken)}: {_some(broken)}')
    if ((problems or strange) and not partial) or not fits:
        network = _title(expected, type(model).__name__, getattr(model, 'width', None))
        text = f'{source}: does not fit {network}: the file is of {_title(own)}. '
        if problems:
            text += f'{len(problems)} of {len(expected)} tensors differ: {_some(problems)}. '
        if strange:
            text += f'{len(strange)} of the file have no place: {_some(strange)}. '
        raise UserError(
            f'{text}Options: another file or network; from scratch with init_cfg=None (--pretrained none); '
            'only what fits with partial=True in init_cfg'
        )
    model.load_state_dict(fits, strict=False)
    if strange:
        left['others'] += len(strange)
    return Loaded(type(model).__name__, source, len(fits), len(expected), left, tuple(problems))


def _group(key: str) -> str:
    return '.'.join(key.split('.')[: 2 if key.startswith('blocks.') else 1])


def _place(key: str, groups: set[str]) -> str | None:
    """Return the part of a classifier that a tensor is of, where a network has only ``groups``."""
    group = _group(key)
    if group in groups:
        return None
    if group in _CLASSIFIER:
        return 'classifier'
    return 'deeper stages' if re.fullmatch(r'blocks\.[0-8]', group) else None


def _title(tensors: Mapping[str, Tensor], name: str = '', width: float | None = None) -> str:
    """Return network, width and whether it is folded; by the tensors, where name and width are not known."""
    if not name:
        name, width = describe(tensors) or ('another kind of network', None)
    text = name if width is None else f'{name} of width {width:g}'
    return f'{text}, folded for deployment' if is_folded(tensors) else text


def check_is_published(weights: Weights | None, path: Path, own: Mapping[str, Tensor]) -> None:
    """Raise a `UserError` where a file is not of the network that a published name promises, if any."""
    if weights is not None and describe(own) != (weights.network, weights.width):
        raise UserError(
            f'{SCHEME}{weights.name}: expected {weights.network} of width {weights.width:g}, got '
            f'{_title(own)} in {path}; delete it'
        )


def extract_backbone(checkpoint: str | Path, out: str | Path, prefix: str = 'backbone') -> dict[str, Tensor]:
    """Write the backbone of mmengine's checkpoint of a detector as a safetensors file of its own.

    Returns the tensors written, under the backbone's own names, which have ``prefix`` in the checkpoint.
    """
    out = Path(out)
    if out.suffix != '.safetensors':
        raise UserError(f'-o {out}: expected a name that ends in .safetensors')
    own, _ = own_tensors(read_tensors(checkpoint), prefix, str(checkpoint))
    found = describe(own)
    about = {'source': Path(checkpoint).name, 'format': 'pt'}
    if found is not None:
        about |= {'network': found[0], 'width': f'{found[1]:g}'}
    with write_or_fail(out, '-o') as partial:
        partial.write_bytes(save({key: value.contiguous().clone() for key, value in own.items()}, about))
    return own
