"""The Ghost networks as ImageNet classifiers, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError
from .loading import Loaded, describe, load_pretrained, own_tensors, read_tensors
from .models import NETWORKS, GhostNet
from .weights import PUBLISHED, SCHEME, locate


class Classifier(NamedTuple):
    """A named variant.

    Attributes:
        network: class of `ghost_det.models`.
        width: its width.
        weights: name of its published weights, ``None`` where there are none.
        params: parameters in millions, as the paper prints them; ``None`` where no paper does.
        macs: multiply-adds at 224 px in millions, likewise.
    """

    network: type[GhostNet]
    width: float
    weights: str | None
    params: float | None
    macs: int | None


# GhostNetV3's at width 1.6 are second-hand, those at 0.5 not to be had.
_UNPUBLISHED: dict[str, tuple[str, float, float | None, int | None]] = {
    'ghostnet_050': ('GhostNet', 0.5, 2.6, 42),
    'ghostnet_130': ('GhostNet', 1.3, 7.3, 226),
    'ghostnetv3_050': ('GhostNetV3', 0.5, None, None),
    'ghostnetv3_130': ('GhostNetV3', 1.3, 8.9, 269),
    'ghostnetv3_160': ('GhostNetV3', 1.6, 12.3, 400),
}
# Names are timm's; `1x` is the seed's own for width 1.0.
CLASSIFIERS: dict[str, Classifier] = dict(
    sorted(
        [
            (w.name, Classifier(NETWORKS[w.network], w.width, w.name, w.params, w.macs))
            for w in PUBLISHED.values()
        ]
        + [
            (name, Classifier(NETWORKS[network], width, None, params, macs))
            for name, (network, width, params, macs) in _UNPUBLISHED.items()
        ]
    )
)
CLASSIFIERS.update(
    {name.replace('_100', '_1x'): entry for name, entry in CLASSIFIERS.items() if name.endswith('_100')}
)


def classifier(name: str, pretrained: bool | str = False, **settings: Any) -> GhostNet:
    """Build a classifier of the Ghost family.

    Args:
        name: one of `CLASSIFIERS`, as ``ghostnet_1x``.
        pretrained: ``True`` for the published ImageNet weights; or a path, URL or ``ghost://NAME``.
        **settings: arguments of the network, as ``num_classes`` (1000 by default).

    Raises:
        UserError: no such name, no published weights for it, or weights that cannot be had or do not fit.

    Example:
        >>> import torch
        >>> classifier('ghostnet_1x').eval()(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    entry = CLASSIFIERS.get(name)
    if entry is None:
        raise UserError(f'{name}: no such classifier; there are {", ".join(CLASSIFIERS)}')
    model = entry.network(width=entry.width, **{'num_classes': 1000, **settings})
    if pretrained is True:
        if entry.weights is None:
            known = ', '.join(n for n, e in CLASSIFIERS.items() if e.weights and e.network is entry.network)
            raise UserError(
                f'{name}: nobody has published ImageNet weights for it; there are some for {known}'
            )
        pretrained = SCHEME + entry.weights
    if pretrained:
        load_pretrained(model, pretrained)
    return model


def verify(source: str | Path) -> Loaded:
    """Load weights into the network that their keys and shapes tell of, its classifier too if it is there.

    Args:
        source: ``ghost://NAME``, a path, or a URL.

    Raises:
        UserError: the file cannot be had, is of none of our networks, or does not fit.
    """
    own, _ = own_tensors(read_tensors(locate(source)), None, str(source))
    found = describe(own)
    if found is None:
        raise UserError(f'{source}: of none of {", ".join(NETWORKS)}; its first tensor is {next(iter(own))}')
    classes = own['classifier.weight'].shape[0] if 'classifier.weight' in own else None
    return load_pretrained(NETWORKS[found[0]](width=found[1], num_classes=classes), source)


def _entry(name: str) -> Callable[..., GhostNet]:
    def build(pretrained: bool | str = False, **settings: Any) -> GhostNet:
        return classifier(name, pretrained, **settings)

    network, width, weights, *_ = CLASSIFIERS[name]
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f'Build {network.__name__} at width {width:g} as a classifier; see `classifier`.' + (
        '' if weights else ' Nobody has published ImageNet weights for it.'
    )
    return build


ENTRIES: dict[str, Callable[..., GhostNet]] = {name: _entry(name) for name in CLASSIFIERS}
"""For each name, a function of ``pretrained`` and the network's own arguments."""
