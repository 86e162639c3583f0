"""Where things are in a config: data sets, evaluators, the test pipeline, heads."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Return the first dataset of a loader; nothing is changed."""
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
    """Yield the parts of a detector's config that have ``num_classes``, with their places.

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
