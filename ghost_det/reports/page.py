"""`report.html`: what a person wants to know of a training, on one page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ghost_det.evaluation.coco import CLASS_FIGURES, FIGURES
from ghost_det.reports.elements import (
    Bar,
    Html,
    chart,
    element,
    folded,
    gallery,
    page,
    shortened,
    table,
    tiles,
)
from ghost_det.utils.text import plural

OPEN_ROWS = 20  # classes up to which a table is not folded
OPEN_LINES = 40  # of a config
SIZES = {'all': '', 'small': 's', 'medium': 'm', 'large': 'l'}


def render(record: dict[str, Any], pictures: dict[str, list[tuple[str, bytes]]]) -> str:
    """Return the page of a training.

    Args:
        record: of `ghost_det.reports.record.make_record`.
        pictures: with it, and ``'curves'``.
    """
    parts = [element('h1', record['name']), element('p', _origin(record), 'note'), tiles(_first(record))]
    parts += [element('p', f'Without {name}: {why}', 'warning') for name, why in record['lacking'].items()]
    parts += [element('h2', 'Curves'), chart(pictures['curves'][0][1])] if 'curves' in pictures else []
    for kind, metric in record['metrics'].items():
        parts += _metric(kind, metric, pictures.get(kind, []))
    if 'images' in record:
        parts += _images(record['images'], pictures)
    parts += _data(record.get('data', {}))
    parts += _cost(record)
    parts += [element('h2', 'Commands')]
    for name, line in record['commands'].items():
        parts += [element('h3', name.capitalize()), element('pre', line, 'line')]
    parts += _config(record)
    parts += _environment(record)
    return page(f'{record["name"]}: training report', parts)


def number(value: float | None, form: str = '.3f') -> str:
    """Return a number for a table; a dash where there is none."""
    return '-' if value is None else format(value, form)


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min {rest} s' if minutes else f'{rest} s'


def _origin(record: dict[str, Any]) -> str:
    trained = record['trained']
    epochs = f'{plural(trained["epochs"], "epoch")}, ' if record['curves']['unit'] == 'epoch' else ''
    many = f', {trained["processes"]} processes' if trained['processes'] > 1 else ''
    return (
        f'{record["config"]}, trained for {epochs}{plural(trained["iterations"], "step")}{many}; '
        f'ghost_det {record["ghost_det"]}, {record["created"]}'
    )


def _first(record: dict[str, Any]) -> dict[str, str]:
    """Return the figures of the tiles."""
    found = {}
    for kind, metric in record['metrics'].items():
        part = '' if kind == 'bbox' else f' {kind}'
        for name in ('mAP', 'mAP_50'):
            if metric['figures'].get(name) is not None:
                found[f'{name}{part}, last evaluation'] = number(metric['figures'][name])
    best = max((row for row in record['curves']['mAP'] if row['mAP'] is not None), key=_map, default=None)
    if best is not None:
        found[f'best mAP, {record["curves"]["unit"]} {best["step"]:.0f}'] = number(best['mAP'])
    if 'cost' in record:
        parts = record['cost']['parts'].values()
        found['parameters'] = f'{sum(part["parameters"] for part in parts) / 1e6:.2f} M'
        found['ms an image, here'] = number(record['cost']['latency_ms'][1], '.3g')
    found['training'] = duration(record['seconds_by_log'] or record['seconds']['train'])
    return found


def _map(row: dict[str, Any]) -> float:
    return float(row['mAP'])


def _metric(kind: str, metric: dict[str, Any], pictures: list[tuple[str, bytes]]) -> Iterator[Html]:
    figures = metric['figures']
    yield element('h2', 'COCO figures of the boxes' if kind == 'bbox' else f'COCO figures, {kind}')
    if counts := metric.get('counts'):
        done, images = plural(counts['detections'], 'detection'), plural(counts['images'], 'image')
        text = f'The last evaluation: {done} in {images} with {plural(counts["boxes"], "box")} to be found.'
        yield element('p', text, 'note')
    rows: list[list[object]] = [['by size', 'mAP', 'AR@100']]
    for name, letter in SIZES.items():
        keys = (f'mAP_{letter}', f'AR_{letter}@100') if letter else ('mAP', 'AR@100')
        rows.append([name, *(Bar(figures.get(key)) for key in keys)])
    yield table(rows)
    others = [name for name in FIGURES if name in figures and name[-2:] not in ('_s', '_m', '_l')]
    others = [name for name in others if name not in ('mAP', 'AR@100') and not name.endswith('@100')]
    yield table([others, [number(figures[name]) for name in others]])
    for note in metric.get('notes', []):
        yield element('p', note, 'note')
    classes = metric['classes']
    columns = [name for name in CLASS_FIGURES if any(name in each for each in classes)]
    rows = [['class', 'boxes', *columns]]
    for each in sorted(classes, key=lambda each: -(-1 if each['AP'] is None else each['AP'])):
        rows.append(
            [shortened(each['name']), each.get('boxes', '-'), *(Bar(each.get(name)) for name in columns)]
        )
    by_class = table(rows)
    yield (
        by_class if len(classes) <= OPEN_ROWS else folded(f'{len(classes)} classes, the best first', by_class)
    )
    for title, data in pictures:
        yield element('h3', title) + chart(data)


def _images(listed: dict[str, Any], pictures: dict[str, list[tuple[str, bytes]]]) -> Iterator[Html]:
    yield element('h2', 'Best and worst images')
    yield element(
        'p',
        f'By F1 = 2 x right / (true + found): detections with a score from {listed["score"]:g}, right by '
        f"COCO's rules at IoU {listed['iou']:g}. True boxes on the left, found ones on the right.",
        'note',
    )
    for name in ('best', 'worst'):
        yield element('h3', name.capitalize())
        yield gallery(pictures[name]) if pictures[name] else element('p', 'None.')


def _data(data: dict[str, Any]) -> Iterator[Html]:
    if not data:
        return
    yield element('h2', 'Data')
    head = ['split', 'images', 'without boxes', 'boxes', 'small', 'medium', 'large']
    keys = ('images', 'images_without_boxes', 'boxes')
    yield table(
        [head, *([name, *(part[key] for key in keys), *part['by_size']] for name, part in data.items())]
    )
    yield element('p', 'Sizes by the area of boxes: to 32 x 32 pixels, to 96 x 96, over.', 'note')
    names = list(dict.fromkeys(name for part in data.values() for name in part['by_class']))
    rows: list[list[object]] = [['class', *(f'{name} boxes' for name in data)]]
    rows += [[shortened(name), *(part['by_class'].get(name, 0) for part in data.values())] for name in names]
    yield folded(plural(len(names), 'class'), table(rows))
    yield folded(
        'Files', table([['split', 'annotations'], *([n, p['annotations']] for n, p in data.items())], 'words')
    )


def _cost(record: dict[str, Any]) -> Iterator[Html]:
    yield element('h2', 'Cost')
    seconds = record['seconds']
    yield element(
        'p',
        f'The steps took {duration(record["seconds_by_log"])} by the log, with those before a resumption; '
        f'the last run {duration(seconds["train"])}, and its evaluations {duration(seconds["evaluate"])}.',
    )
    if 'cost' not in record:
        return
    cost = record['cost']
    parts = cost['parts']
    total = {key: sum(part[key] for part in parts.values()) for key in ('parameters', 'macs')}
    rows: list[list[object]] = [['part', 'parameters (M)', 'multiply-adds (G)']]
    for name, part in {**parts, 'all': total}.items():
        rows.append([name, f'{part["parameters"] / 1e6:.3f}', f'{part["macs"] / 1e9:.3f}'])
    yield table(rows)
    low, middle, high = cost['latency_ms']
    height, width = cost['input']
    yield element(
        'p',
        f'For one image of {height} x {width} (height x width). The whole detector, in torch as trained, '
        f'takes {middle:.3g} ms (quartiles {low:.3g} to {high:.3g}) on {cost["device"]}; threads: '
        f'{cost["threads"]}; a short measure, right after the training.',
    )


def _config(record: dict[str, Any]) -> Iterator[Html]:
    yield element('h2', 'Config')
    if 'child' in record:
        child = element('pre', record['child'])
        yield child if record['child'].count('\n') <= OPEN_LINES else folded('The file', child)
    whole = json.dumps(record['settings'], indent=1)
    yield folded('The whole, as it was trained', element('pre', whole))


def _environment(record: dict[str, Any]) -> Iterator[Html]:
    yield element('h2', 'Environment')
    rows: list[list[object]] = [['', '']]
    found = record.get('environment', {})
    machine = found.get('machine', {})
    rows += [[name.replace('_', ' '), _words(value)] for name, value in machine.items() if value]
    rows += [
        [name.replace('_', ' '), _words(value)]
        for name, value in found.items()
        if value and name != 'machine'
    ]
    rows += [[name, version] for name, version in record['versions'].items() if name != 'python']
    for name in ('checkpoint', 'annotations'):
        if record.get(name):
            rows.append([f'{name}, SHA-256', f'{record[name]["path"]} {record[name]["sha256"]}'])
    yield table(rows, 'words')


def _words(value: object) -> str:
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)
