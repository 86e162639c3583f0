"""Weights into networks: every tensor is loaded, or an error says why not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models.ghost_module import make_divisible
from ghost_det.models.ghostnet import STRIDES
from ghost_det.utils.files import explain_os_error, sha256, write_file

from .catalog import VARIANTS, is_shipped
from .checkpoint import differences, load_checkpoint
from .download import check_format, locate

_WRAPPERS = re.compile(r'((module|model|_orig_mod)\.)*')  # DDP, training scripts, torch.compile
_COUNTERS = ('total_ops', 'total_params')  # left in published files by the thop profiler
# Averaged weights first: in RepGhost's and GhostNetV3's own files, they reach the published accuracy.
_CONTENTS = ('state_dict_ema', 'state_dict', 'model', 'model_state_dict')
# Parts that a network may lack, and what the log calls them.
_OPTIONAL = {f'blocks.{i}': 'deeper stages' for i in range(8)}
_OPTIONAL |= {f'blocks.8.{i}': 'last bottlenecks' for i in range(4)}  # see last_blocks
_OPTIONAL |= dict.fromkeys(('classifier', 'conv_head', 'fc', 'head', 'blocks.9'), 'classifier')
# The authors' GhostNetV3 calls the norm of a branch `bn`; timm, and so the hub's file, `bn1`.
_UPSTREAM_V3 = re.compile(r'(_rpr_(?:conv\.\d+|scale))\.bn\.')


@dataclass(frozen=True)
class Loaded:
    """What `load_pretrained` did; as a string, the line for the log."""

    network: str  # its class
    source: str  # of the tensors
    loaded: int  # parameters and buffers of the network
    total: int  # how many it has
    left_out: Mapping[str, int] = field(default_factory=dict)  # the file's other tensors, counted by part
    missing: tuple[str, ...] = ()  # what was not loaded, and why; only when loading partially

    def __str__(self) -> str:
        left = ''.join(f'; {part} left out: {count}' for part, count in self.left_out.items())
        rest = f'; NOT loaded: {_some(self.missing)}' if self.missing else ''
        return f'{self.network}: {self.loaded} of {self.total} tensors from {self.source}{left}{rest}'


def _some(items: tuple[str, ...] | list[str], count: int = 3) -> str:
    return '; '.join(items[:count]) + (f'; and {len(items) - count} more' if len(items) > count else '')


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors, only the weights, of a safetensors or torch file; code in it is never run."""
    path = Path(path).expanduser()
    with explain_os_error(path, 'read'):
        format = check_format(path, str(path)) if path.is_file() else None
    if format == 'safetensors':
        tensors: dict[str, Tensor] = load_file(path)
    else:
        content: Any = load_checkpoint(path)
        content = next((content[key] for key in _CONTENTS if isinstance(content.get(key), dict)), content)
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f'{path}: holds no tensors')
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise UserError(f'{path}: {key} is sparse, quantized or without content')
    return tensors


# Parts of keys that only one network has; the first match counts.
_FOLDED = {'.primary_conv.0.bias': 'GhostNetV3', '.cheap_operation.bias': 'RepGhostNet'}
_MARKS = {
    '_rpr_': 'GhostNetV3',
    **_FOLDED,
    '.short_conv.': 'GhostNetV2',
    '.fusion_bn.': 'RepGhostNet',
    '.ghost1.primary_conv.': 'GhostNet',
}
# Channels at width 1.0.
_ENDS = {f'blocks.{i}.0.shortcut.2.weight': channels for i, channels in ((7, 160), (5, 80), (3, 40), (1, 24))}


def describe(tensors: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """Return the network and width to which a state dict belongs, or ``None`` for other networks.

    Channels round to multiples of four, so several widths may fit: published, then round ones are preferred.
    """
    network = next((name for mark, name in _MARKS.items() if any(mark in key for key in tensors)), None)
    ends = {end: tensors[end].shape[:1] for end in _ENDS if end in tensors}
    widths = [entry.width for entry in VARIANTS.values() if entry.network == network]
    widths += [i / n for n in (20, 100) for i in range(1, 5 * n)]
    fits = (w for w in widths if all((make_divisible(_ENDS[end] * w),) == n for end, n in ends.items()))
    width = next(fits, None)
    return (network, width) if network and ends and width else None


def is_folded(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is from a network after ``switch_to_deploy``."""
    return any(mark in key for mark in _FOLDED for key in tensors)


def own_tensors(
    tensors: dict[str, Tensor], prefix: str | None, source: str
) -> tuple[dict[str, Tensor], Counter[str]]:
    """Return the backbone's tensors under its own names, and the number of others in each part."""
    tensors = {key: value for key, value in tensors.items() if key.split('.')[-1] not in _COUNTERS}
    prefix = prefix and prefix.rstrip('.') + '.'
    if prefix is None or not any(key.startswith(prefix) for key in tensors):
        wrapper = _WRAPPERS.match(commonprefix(list(tensors)))
        tensors = {key[wrapper.end() if wrapper else 0 :]: value for key, value in tensors.items()}
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in tensors) else ''
    own = {
        _UPSTREAM_V3.sub(r'\1.bn1.', key.removeprefix(prefix)): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    left = Counter(key.split('.')[0] for key in tensors if not key.startswith(prefix))
    if not own:
        parts = ', '.join(f'{part} ({count})' for part, count in left.most_common(8))
        raise UserError(f'{source}: no tensor has the prefix {prefix!r}; the parts (and tensors) are {parts}')
    return own, left


def load_pretrained(
    model: nn.Module, source: str | Path, prefix: str | None = None, partial: bool = False
) -> Loaded:
    """Load every parameter and buffer of a network from published weights or a file, or raise an error.

    The file may come from the networks' authors, from timm, from `extract_backbone`, or be a checkpoint of a
    detector with such a backbone. Classifiers, necks, heads and deeper stages that the network lacks are
    left out, and counted.

    Args:
        model: a network of `ghost_det.models`.
        source: ``ghost://NAME`` of the catalog, a path, or an http(s) URL.
        prefix: of the network's tensors in the file; by default ``backbone.`` if the file has it.
        partial: load what fits, and report what does not.

    Returns:
        what was loaded and what was left out; as a string, one line for a log.

    Raises:
        UserError: the source is not available, is not a file of weights, or does not fit; the network is
            then unchanged.
    """
    path = locate(source)
    own, left = own_tensors(read_tensors(path), prefix, str(source))
    expected = model.state_dict()
    groups = {_group(key) for key in expected}
    problems = differences(expected, own)
    unknown, fits = [], {}
    for key, value in own.items():
        if key not in expected:
            group = _group(key)
            part = 'others' if group in groups else _OPTIONAL.get(group, 'others')
            if part == 'last bottlenecks' and 'classifier.weight' in expected:
                part = 'others'  # what follows learnt from their output
            left[part] += 1
            unknown += [key] if part == 'others' else []
        elif expected[key].is_floating_point() and not value.is_floating_point():
            problems.append(f'{key}: expected {expected[key].dtype}, got {value.dtype}')
        elif expected[key].shape == value.shape:
            fits[key] = value.to(expected[key].dtype)
    broken = [key for key, value in fits.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f'{source}: tensors with NaN or infinite values: {len(broken)}: {_some(broken)}')
    if ((problems or unknown) and not partial) or not fits:
        network = title(expected, (type(model).__name__, getattr(model, 'width', None)))
        differ = f'{len(problems)} of {len(expected)} tensors differ: {_some(problems)}. ' if problems else ''
        extra = f'{len(unknown)} tensors of the file are unknown: {_some(unknown)}. ' if unknown else ''
        raise UserError(
            f'{source}: does not fit {network}: the file is of {title(own, describe(own))}. {differ}{extra}'
            'Options: another file or network; from scratch with init_cfg=None (--pretrained none); '
            'only what fits with partial=True in init_cfg'
        )
    model.load_state_dict(fits, strict=False)
    name = _origin(source, path)
    return Loaded(type(model).__name__, name, len(fits), len(expected), left, tuple(problems))


def load_pretrained_detector(model: nn.Module, source: str) -> Loaded:
    """Load all of a detector but the layer of its classes from ``ghost://NAME``, or raise a `UserError`."""
    path = locate(source)
    every = read_tensors(path), model.state_dict()
    found, expected = ({key: each[key] for key in each if '.gfl_cls.' not in key} for each in every)
    problems = [*differences(expected, found), *(f'{key} is unknown' for key in found if key not in expected)]
    if problems:
        raise UserError(
            f'load_from={source}: does not fit this {type(model).__name__}: {len(problems)} tensors '
            f'differ: {_some(problems)}. Options: the layers of '
            'gfl_ghostnet_ghostpan_lite; load_from=None, with init_cfg or --pretrained for the backbone'
        )
    model.load_state_dict(found, strict=False)
    left = {'class layer': len(every[0]) - len(found)}
    return Loaded(type(model).__name__, _origin(source, path), len(found), len(every[1]), left)


def _origin(source: str | Path, path: Path) -> str:
    about = 'Tiny-ImageNet, 200 classes; ' if is_shipped(source) else ''
    return str(source) if str(source) == str(path) else f'{source} ({about}sha256 {sha256(path)[:8]}, {path})'


def _group(key: str) -> str:
    length = 3 if key.startswith('blocks.8.') else 2 if key.startswith('blocks.') else 1
    return '.'.join(key.split('.')[:length])


def stages(tensors: Mapping[str, Tensor]) -> list[int]:
    """Return which stages, 0 to 3, a state dict has."""
    return [i for i in range(4) if any(key.startswith(f'blocks.{2 * i + 1}.') for key in tensors)]


def last_blocks(tensors: Mapping[str, Tensor]) -> int:
    """Return how many bottlenecks with stride 1 a state dict has in its last stage."""
    return len({key.split('.')[2] for key in tensors if key.startswith('blocks.8.')})


def title(tensors: Mapping[str, Tensor], network: tuple[str, float | None] | None) -> str:
    """Return, for messages, the network and width to which a state dict belongs, and what is unusual."""
    name, width = network or ('another kind of network', None)
    text = name if width is None else f'{name} of width {width:g}'
    found = stages(tensors)
    if network and found and found[-1] < 3:
        text += f', up to stride {STRIDES[found[-1]]}'
    elif network and found and (count := last_blocks(tensors)) != 4:
        text += f' with last_blocks={count} (not the usual 4)'
    if network and 'classifier.weight' in tensors:
        text += f', {len(tensors["classifier.weight"])} classes'
    return f'{text}, folded for deployment' if is_folded(tensors) else text


def extract_backbone(checkpoint: str | Path, out: str | Path, prefix: str = 'backbone') -> dict[str, Tensor]:
    """Write a detector's backbone, under its own names, as a safetensors file; return its tensors."""
    out = Path(out)
    if out.suffix != '.safetensors':
        raise UserError(f'-o {out}: expected a name that ends in .safetensors')
    own, _ = own_tensors(read_tensors(checkpoint), prefix, str(checkpoint))
    about = {'source': Path(checkpoint).name, 'format': 'pt'}
    if found := describe(own):
        about |= {'network': found[0], 'width': f'{found[1]:g}'}
    write_file(out, save({key: value.contiguous().clone() for key, value in own.items()}, about), '-o')
    return own
