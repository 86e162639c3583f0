"""Where things are in a config: data sets, evaluators, the test pipeline, backbone, necks, heads."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def all_innermost(part: Any) -> Iterator[Any]:
    """Yield the datasets of a loader, in a config or built, under wrappers such as ``ConcatDataset``."""
    one, several = (
        part.get(key) if isinstance(part, dict) else getattr(part, key, None)
        for key in ('dataset', 'datasets')
    )
    inner = several or [] if one is None else [one]
    for dataset in inner:
        yield from all_innermost(dataset)
    if not inner:
        yield part


def innermost(loader: Any) -> Any:
    """Return the first dataset of a loader."""
    return next(all_innermost(loader))


def leave_first(part: Any) -> None:
    """Leave one dataset in each ``ConcatDataset`` of a loader, in place."""
    if part.get('datasets'):
        part['datasets'] = part['datasets'][:1]
    for inner in [part['dataset']] if part.get('dataset') else part.get('datasets') or []:
        leave_first(inner)


def evaluators(cfg: Any, name: str) -> list[Any]:
    """Return the evaluators of a split as a list, whether the config has one or several."""
    found = cfg[f'{name}_evaluator']
    return found if isinstance(found, list) else [found]


def test_pipeline(cfg: Any) -> list[Any]:
    """Return the steps by which a config prepares the images of its test data."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    return (innermost(loader).get('pipeline') if loader else None) or cfg.get('test_pipeline') or []


def heads(part: Any, place: str = 'model') -> Iterator[tuple[str, Any]]:
    """Yield the parts of a detector's config with ``num_classes``, and their places.

    Backbones, necks and some heads use the word for something else.
    """
    if isinstance(part, list | tuple):
        for index, inner in enumerate(part):
            yield from heads(inner, f'{place}[{index}]')
    elif isinstance(part, dict):
        if 'num_classes' in part:
            yield place, part
        for key, value in part.items():
            if key not in ('backbone', 'neck', 'semantic_head', 'rpn_head'):
                yield from heads(value, f'{place}.{key}')


def set_num_classes(model: Any, count: int) -> None:
    """Set ``num_classes`` in every head of a detector's config."""
    for _, head in heads(model):
        head['num_classes'] = count


def detector_path(model: Any) -> tuple[str, ...]:
    """Return the keys that lead from a config to the detector, which another model may wrap."""
    wrapped = 'backbone' not in model and isinstance(model.get('detector'), Mapping)
    return ('model', 'detector') if wrapped else ('model',)


def get_path(cfg: Any, path: Iterable[str]) -> Any:
    """Return the part of a config at the end of a path of keys."""
    for key in path:
        cfg = cfg[key]
    return cfg


def backbone_of(model: Any) -> Any:
    """Return the config of the backbone in ``model`` or ``model.detector``, or ``None``."""
    return get_path({'model': model}, detector_path(model)).get('backbone')


def necks(detector: Mapping[str, Any]) -> list[Any]:
    """Return the configs of a detector's necks, first to last."""
    neck = detector.get('neck')
    return list(neck) if isinstance(neck, list | tuple) else [neck] if neck else []


def default_arguments(kind: str) -> dict[str, Any]:
    """Return the default arguments of a registered type, including those of its base classes."""
    from mmdet.registry import MODELS  # here, as data sets are searched before torch is imported

    found: dict[str, Any] = {}
    for cls in reversed(getattr(MODELS.get(kind), '__mro__', ())):  # there may be no such type
        if '__init__' in vars(cls) and cls is not object:
            parameters = inspect.signature(cls.__init__).parameters.values()
            found |= {p.name: p.default for p in parameters if p.default is not p.empty}
    return found


def input_size(cfg: Any) -> tuple[int, int]:
    """Return height and width of a config's test images; COCO's usual ones if it is not a plain resize."""
    steps = test_pipeline(cfg)
    scale: Any = next((step['scale'] for step in steps if 'Resize' in step['type'] and 'scale' in step), None)
    scale = (scale, scale) if isinstance(scale, int) else scale
    if not isinstance(scale, list | tuple) or [type(side) for side in scale] != [int, int]:
        scale = (1333, 800)
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor') or 1
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width
