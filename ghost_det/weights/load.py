"""Weights into networks: every tensor is loaded, or the reason is told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models.ghost_module import make_divisible
from ghost_det.utils.files import atomic, sha256

from .catalog import PUBLISHED, SCHEME, Weights, locate, named, refuse_others
from .checkpoint import differences, load_checkpoint

_WRAPPERS = ('module.', 'model.', '_orig_mod.')  # of DDP, of training scripts, of torch.compile
_COUNTERS = ('total_ops', 'total_params')  # left in published files by the thop profiler
# Averaged weights first: of RepGhost's and GhostNetV3's own files, they reach the published accuracy.
_CONTENTS = ('state_dict_ema', 'state_dict', 'model', 'model_state_dict')
_CLASSIFIER = ('classifier', 'conv_head', 'fc', 'head', 'blocks.9')
# The authors' GhostNetV3 calls the norm of a branch `bn`; timm, and with it the hub's file, `bn1`.
_UPSTREAM_V3 = re.compile(r'(_rpr_(?:conv\.\d+|scale))\.bn\.')


@dataclass(frozen=True)
class Loaded:
    """What `load_pretrained` did; as a string, the line for the log.

    Attributes:
        network: class of the network.
        source: where the tensors came from.
        loaded: how many of the network's parameters and buffers were loaded.
        wanted: how many it has.
        left_out: tensors of the file that the network has no use for, counted by part.
        missing: what was not loaded, and why; only where partial loading was asked for.
    """

    network: str
    source: str
    loaded: int
    wanted: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = ''.join(f'; {part} left out: {count}' for part, count in self.left_out.items())
        rest = f'; NOT loaded: {_some(self.missing)}' if self.missing else ''
        return f'{self.network}: {self.loaded} of {self.wanted} tensors from {self.source}{left}{rest}'


def _some(items: tuple[str, ...] | list[str], count: int = 3) -> str:
    return '; '.join(items[:count]) + (f'; and {len(items) - count} more' if len(items) > count else '')


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors or a torch file; code in the file is never run.

    Args:
        path: a local file; of a training checkpoint the weights alone are returned.

    Raises:
        UserError: the file is missing, damaged, a web page, or holds anything but weights.
    """
    path = Path(path).expanduser()
    head = b''
    try:
        if path.is_file():
            refuse_others(path, str(path))
            with path.open('rb') as file:
                head = file.read(9)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    if head[8:9] == b'{':
        tensors: dict[str, Tensor] = load_file(path)
    elif head and path.suffix == '.safetensors':  # by which torch.load takes it for one
        raise UserError(f'{path}: named .safetensors, but a file of torch: rename it to {path.stem}.pth')
    else:
        content: Any = load_checkpoint(path)
        for key in _CONTENTS:
            if isinstance(content.get(key), dict):
                content = content[key]
                break
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


def _group(key: str) -> str:
    return '.'.join(key.split('.')[: 2 if key.startswith('blocks.') else 1])


def _place(key: str, groups: set[str]) -> str | None:
    """Return the part of a classifier that a tensor is of, where a network has ``groups`` alone."""
    group = _group(key)
    if group in groups:
        return None
    if group in _CLASSIFIER:
        return 'classifier'
    return 'deeper stages' if re.fullmatch(r'blocks\.[0-8]', group) else None


def load_pretrained(
    model: nn.Module, source: str | Path, prefix: str | None = None, partial: bool = False
) -> Loaded:
    """Load every parameter and buffer of a network, from published weights or a file, or refuse.

    The file may be of the authors of the networks, of timm, a checkpoint of a detector with such a
    backbone, or written by `extract_backbone`. Classifiers, necks, heads and deeper stages that the
    network lacks are left out, and counted.

    Args:
        model: a network of `ghost_det.models`.
        source: ``ghost://NAME`` of the catalogue, a path, or an http(s) URL.
        prefix: of the network's tensors in the file; found out by itself for ``backbone.`` and ``module.``.
        partial: load what fits, and report what does not.

    Raises:
        UserError: the source cannot be had, is no file of weights, or does not fit; the network is
            then unchanged.
    """
    path = locate(source)
    own, left = own_tensors(read_tensors(path), prefix, str(source))
    check_is_published(named(source), path, own)
    return load_tensors(model, own, left, _name(source, path), str(source), partial)


def load_tensors(
    model: nn.Module,
    own: dict[str, Tensor],
    left: Counter[str],
    name: str,
    source: str,
    partial: bool = False,
) -> Loaded:
    """Do what `load_pretrained` does with what `own_tensors` gave.

    Args:
        model: a network of `ghost_det.models`.
        own: tensors under the network's names.
        left: tensors of the file that are not among them, by part.
        name: of the source, for the log.
        source: of the tensors, for errors.
        partial: load what fits, and report what does not.

    Raises:
        UserError: the tensors do not fit; the network is then unchanged.
    """
    wanted = model.state_dict()
    groups = set(map(_group, wanted))
    faults = differences(wanted, own)
    strange, fits = [], {}
    for key, value in own.items():
        if key not in wanted:
            part = _place(key, groups)
            if part is None:
                strange.append(key)
            else:
                left[part] += 1
        elif wanted[key].is_floating_point() and not value.is_floating_point():
            faults.append(f'{key} is {value.dtype}, {wanted[key].dtype} is wanted')
        elif wanted[key].shape == value.shape:
            fits[key] = value.to(wanted[key].dtype)
    broken = [key for key, value in fits.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f'{source}: tensors with NaN or infinite values: {len(broken)}: {_some(broken)}')
    if ((faults or strange) and not partial) or not fits:
        raise UserError(f'{source}: {_misfit(model, own, faults, strange)}')
    model.load_state_dict(fits, strict=False)
    if strange:
        left['others'] += len(strange)
    return Loaded(type(model).__name__, name, len(fits), len(wanted), left, tuple(faults))


def check_is_published(weights: Weights | None, path: Path, own: Mapping[str, Tensor]) -> None:
    """Compare a file with the network that a published name promises; ``None`` promises nothing.

    Raises:
        UserError: it is of another network or width.
    """
    found = describe(own)
    if weights is not None and found != (weights.network, weights.width):
        holds = f'{found[0]} of width {found[1]:g}' if found else 'another kind of network'
        raise UserError(
            f'{SCHEME}{weights.name}: {path} holds {holds}, not {weights.network} of width '
            f'{weights.width:g}; delete it'
        )


def _name(source: str | Path, path: Path) -> str:
    return f'{source} (sha256 {sha256(path)[:8]}, {path})' if str(source) != str(path) else str(source)


def _misfit(model: nn.Module, own: dict[str, Tensor], faults: list[str], strange: list[str]) -> str:
    """Say what does not fit, guess why, and say what to do."""
    wanted = model.state_dict()
    name, width = type(model).__name__, getattr(model, 'width', None)
    model_is = name if width is None else f'{name} of width {width:g}'
    text = f'does not fit {model_is}: '
    if faults:
        text += f'{len(faults)} of {len(wanted)} tensors differ: {_some(faults)}. '
    if strange:
        text += f'{len(strange)} of the file have no place: {_some(strange)}. '
    nested = next((key.partition('backbone.')[0] for key in own if 'backbone.' in key), None)
    if nested:
        text += f"Its {nested}backbone is chosen by prefix='{nested}backbone' in init_cfg. "
    kind, own_kind = describe(wanted), describe(own)
    folded, own_folded = is_folded(wanted), is_folded(own)
    ends = [end for end in _ENDS if end in wanted and end in own]
    if own_kind is None or kind is None:
        text += 'It seems to be of another kind of network. '
    elif own_kind[0] != kind[0] or any(own[end].shape[0] != wanted[end].shape[0] for end in ends):
        text += f'It seems to hold {own_kind[0]} of width {own_kind[1]:g}. '
    elif folded != own_folded:
        which = ('network', 'file') if folded else ('file', 'network')
        text += (
            f'The {which[0]} is folded for deployment, the {which[1]} is not: load, then switch_to_deploy. '
        )
    elif all(_group(fault) in _CLASSIFIER and fault.endswith('is missing') for fault in faults) and faults:
        text += 'The file is a backbone, without a classifier. '
    elif not strange and all(_group(fault) == 'classifier' for fault in faults):
        text += 'The classes differ: without num_classes the backbone alone is loaded. '
    else:
        text += (
            'Network and width agree: norm_cfg, ratio, dw_size or out_indices differ, or tensors got lost. '
        )
    published = [f'{w.width:g} ({SCHEME}{w.name})' for w in PUBLISHED.values() if w.network == name]
    if published and width is not None:
        text += f'Published for {name}: width {", ".join(published)}. '
    return text + (
        'Ways on: another file or network; from scratch with init_cfg=None (tools: --pretrained none); '
        'what fits alone with partial=True in init_cfg'
    )


def extract_backbone(checkpoint: str | Path, out: str | Path, prefix: str = 'backbone') -> dict[str, Tensor]:
    """Write the backbone of a detector's checkpoint as a safetensors file of its own.

    Args:
        checkpoint: a checkpoint of mmengine.
        out: the ``.safetensors`` file to write.
        prefix: of the backbone's tensors in the checkpoint.

    Returns:
        the tensors written, under the backbone's own names.

    Raises:
        UserError: the checkpoint has no backbone, or ``out`` cannot be written.
    """
    out = Path(out)
    if out.suffix != '.safetensors':
        raise UserError(f'-o {out}: a name that ends in .safetensors is wanted')
    own, _ = own_tensors(read_tensors(checkpoint), prefix, str(checkpoint))
    found = describe(own)
    about = {'source': Path(checkpoint).name, 'format': 'pt'}
    if found is not None:
        about |= {'network': found[0], 'width': f'{found[1]:g}'}
    try:
        with atomic(out) as partial:
            save_file({key: value.contiguous().clone() for key, value in own.items()}, partial, about)
    except (OSError, SafetensorError) as error:
        raise UserError(f'-o {out}: cannot be written ({getattr(error, "strerror", error)})') from None
    return own
