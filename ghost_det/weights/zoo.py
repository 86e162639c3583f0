"""The Ghost networks as ImageNet classifiers, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models import NETWORKS, GhostNet

from .catalog import PUBLISHED, SCHEME, VARIANTS, Weights, named
from .download import locate
from .load import (
    Loaded,
    check_is_published,
    describe,
    is_folded,
    load_pretrained,
    load_tensors,
    own_tensors,
    read_tensors,
)

# Names are timm's; `1x` is another for width 1.0.
CLASSIFIERS = {
    **VARIANTS,
    **{name.replace('_100', '_1x'): entry for name, entry in VARIANTS.items() if name.endswith('_100')},
}


def classifier(name: str, pretrained: bool | str = False, **settings: Any) -> GhostNet:
    """Build a classifier of the Ghost family.

    Args:
        name: one of `CLASSIFIERS`, as ``ghostnet_1x``.
        pretrained: ``True`` for the published ImageNet weights; or a path, URL or ``ghost://NAME``.
        **settings: arguments of the network, as ``num_classes`` (1000 by default).

    Returns:
        a network of `ghost_det.models`, from ``(N, 3, H, W)`` to logits, ``(N, num_classes)``.

    Raises:
        UserError: no such name, no published weights for it, or weights that are not available or do not fit.

    Example:
        >>> import torch
        >>> classifier('ghostnet_1x').eval()(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    entry = CLASSIFIERS.get(name)
    if entry is None:
        raise UserError(f'{name}: no such classifier; there are {", ".join(CLASSIFIERS)}')
    model = NETWORKS[entry.network](width=entry.width, **{'num_classes': 1000, **settings})
    if pretrained is True:
        if entry.name not in PUBLISHED:
            family = [each for each in CLASSIFIERS if CLASSIFIERS[each].network == entry.network]
            known = ', '.join(each for each in family if CLASSIFIERS[each].name in PUBLISHED)
            raise UserError(f'{name}: no ImageNet weights are published for it; there are some for {known}')
        pretrained = SCHEME + entry.name
    if pretrained:
        load_pretrained(model, pretrained)
    return model


def verify(source: str | Path, expected: Weights | None = None) -> Loaded:
    """Load weights into the network that their keys and shapes tell of, with its classifier if it is there.

    They must be what is ``expected``, by default what a published name promises.
    """
    path = locate(source)
    own, left = own_tensors(read_tensors(path), None, str(source))
    check_is_published(expected or named(source), path, own)
    found = describe(own)
    if found is None:
        raise UserError(f'{source}: of none of {", ".join(NETWORKS)}; its first tensor is {next(iter(own))}')
    network, width = found
    model = NETWORKS[network](width=width, **_settings(own))
    if is_folded(own):
        model.switch_to_deploy()
    loaded = load_tensors(model, own, left, str(source))
    return replace(loaded, network=f'{network} of width {width:g}')


def _settings(own: dict[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of a network, besides its width, that tensors tell of."""
    first = 'blocks.0.0.ghost1.'
    kernels = {key.removeprefix(first): value for key, value in own.items() if value.dim() == 4}
    primary = kernels.get('primary_rpr_conv.0.conv.weight', kernels.get('primary_conv.0.weight'))
    cheap = next((k for key, k in kernels.items() if re.match(r'cheap_(operation|rpr_conv\.0)', key)), None)
    groups = [int(key.split('.')[1]) for key in own if re.match(r'blocks\.[0-8]\.', key)]
    settings: dict[str, Any] = {'out_indices': range(sum(end <= max(groups) for end in (2, 4, 6, 8)))}
    if primary is not None and cheap is not None:
        settings['dw_size'] = cheap.shape[-1]
        if not any('fusion_bn' in key or key.endswith('cheap_operation.weight') for key in own):
            settings['ratio'] = cheap.shape[0] // primary.shape[0] + 1
    if 'bn1.running_mean' not in own:
        settings['norm_layer'] = partial(nn.GroupNorm, 1)  # of which any number has these tensors
    if 'classifier.weight' in own and own['classifier.weight'].dim() == 2:
        settings['num_classes'] = own['classifier.weight'].shape[0]
    return settings


def _entry(name: str) -> Callable[..., GhostNet]:
    def build(pretrained: bool | str = False, **settings: Any) -> GhostNet:
        return classifier(name, pretrained, **settings)

    entry = CLASSIFIERS[name]
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f'Build {entry.network} at width {entry.width:g} as a classifier; see `classifier`.'
    if entry.name not in PUBLISHED:
        build.__doc__ += ' No ImageNet weights are published for it.'
    return build


ENTRIES: dict[str, Callable[..., GhostNet]] = {name: _entry(name) for name in CLASSIFIERS}
"""For each name, a function of ``pretrained`` and the network's own arguments."""
