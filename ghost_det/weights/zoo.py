"""The Ghost networks by name: ImageNet classifiers, and backbones for any framework."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.models import NETWORKS, GhostNet

from .catalog import PUBLISHED, SCHEME, SHIPPED_HEAD, VARIANTS, Variant, find_published, is_shipped
from .download import locate
from .load import (
    Loaded,
    describe,
    is_folded,
    last_blocks,
    load_pretrained,
    own_tensors,
    read_tensors,
    stages,
    title,
)

# Names are timm's; `1x` is another for width 1.0.
CLASSIFIERS = {
    **VARIANTS,
    **{name.replace('_100', '_1x'): entry for name, entry in VARIANTS.items() if name.endswith('_100')},
}


def classifier(name: str, pretrained: bool | str | Path = False, **settings: Any) -> GhostNet:
    """Build a classifier of the Ghost family.

    Args:
        name: one of `CLASSIFIERS`, such as ``ghostnet_1x``.
        pretrained: ``True`` for the published ImageNet weights; or a path, URL or ``ghost://NAME``.
        **settings: arguments of the network, such as ``num_classes``; by default 1000, and 200 for
            ``ghost://ghostnet_100.tin``, which comes with this package and learnt from Tiny-ImageNet.

    Returns:
        a network of `ghost_det.models`, from ``(N, 3, H, W)`` to logits, ``(N, num_classes)``.

    Raises:
        UserError: no such name, no published weights for it, or weights that are not available or do not fit.

    Example:
        >>> import torch
        >>> classifier('ghostnet_1x').eval()(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    head = SHIPPED_HEAD if is_shipped(pretrained) else dict(num_classes=1000)
    return _build(name, pretrained, **{**head, **settings})


def feature_extractor(
    name: str,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    pretrained: bool | str | Path = False,
    **settings: Any,
) -> GhostNet:
    """Build a backbone of the Ghost family, which needs only torch.

    It takes the same weights as `classifier`, and leaves out the classifier's own layers. What was loaded is
    logged by the logger ``ghost_det`` at level INFO.

    Args:
        name: as in `classifier`.
        out_indices: which of the maps with strides 4, 8, 16 and 32 to return; deeper stages are not built.
        pretrained: as in `classifier`.
        **settings: arguments of the network, such as ``norm_layer`` or ``frozen_stages``.

    Returns:
        a network of `ghost_det.models`, from ``(N, 3, H, W)`` to a tuple of maps, with their channels and
        strides in ``out_channels`` and ``out_strides``.

    Raises:
        UserError: as in `classifier`.
        ValueError: a setting is out of range.

    Example:
        >>> network = feature_extractor('ghostnet_100', out_indices=(1, 2, 3))
        >>> network.out_channels, network.out_strides
        ((40, 112, 160), (8, 16, 32))
    """
    if {'num_classes', 'width'} & {*settings}:
        raise UserError('feature_extractor: the width is in the name, and only classifier takes num_classes')
    return _build(name, pretrained, num_classes=None, out_indices=out_indices, **settings)


def _build(name: str, pretrained: bool | str | Path, **settings: Any) -> GhostNet:
    entry = CLASSIFIERS.get(name)
    if entry is None:
        raise UserError(f'{name}: no such network; choose from {", ".join(CLASSIFIERS)}')
    if pretrained is True:
        if entry.name not in PUBLISHED:
            known = ', '.join(other for other in PUBLISHED if PUBLISHED[other].network == entry.network)
            raise UserError(f'{name}: no published ImageNet weights; available for {known}')
        pretrained = SCHEME + entry.name
    model = NETWORKS[entry.network](width=entry.width, **settings)
    if pretrained:
        level = logging.WARNING if model.num_classes and is_shipped(pretrained) else logging.INFO
        logging.getLogger('ghost_det').log(level, '%s', load_pretrained(model, pretrained))
    return model


def verify(source: str | Path, expected: Variant | None = None) -> Loaded:
    """Load weights into the network of ``expected`` or a published name; else into the one they belong to."""
    path = locate(source)
    expected = expected or find_published(source)
    model = classifier(expected.name) if expected and expected.name in VARIANTS else _build_for(path)
    network = title(model.state_dict(), (type(model).__name__, model.width))
    return replace(load_pretrained(model, path), network=network, source=str(source))


def _build_for(path: Path) -> GhostNet:
    """Build the network to which the keys and shapes of a file belong, with its classifier if it has one."""
    own, _ = own_tensors(read_tensors(path), None, str(path))
    found = describe(own)
    if found is None:
        raise UserError(f'{path}: holds none of {", ".join(NETWORKS)}; its first tensor is {next(iter(own))}')
    ends = stages(own)
    settings: dict[str, Any] = {'width': found[1], 'out_indices': ends, 'last_blocks': last_blocks(own)}
    first = {key.removeprefix('blocks.0.0.ghost1.'): value for key, value in own.items() if value.dim() == 4}
    primary = next((value for key, value in first.items() if key.startswith('primary_')), None)
    cheap = next((value for key, value in first.items() if key.startswith('cheap_')), None)
    if primary is not None and cheap is not None:
        settings |= dict(dw_size=cheap.shape[-1], ratio=len(cheap) // len(primary) + 1)
    head = {key for key in own if key.startswith('classifier.')}
    if head and (ends[-1] < 3 or head != {'classifier.weight', 'classifier.bias'}):
        raise UserError(f'{path}: incomplete: a classifier without its last stage, weight or bias')
    if 'classifier.weight' in own and own['classifier.weight'].dim() == 2:
        settings['num_classes'] = len(own['classifier.weight'])
        settings['head_channels'] = len(own.get('conv_head.weight', ()))
    model = NETWORKS[found[0]](**settings)
    if is_folded(own):
        model.switch_to_deploy()
    return model


ENTRIES: dict[str, partial[GhostNet]] = {name: partial(classifier, name) for name in CLASSIFIERS}
"""For each name, a function of ``pretrained`` and the network's own arguments."""
