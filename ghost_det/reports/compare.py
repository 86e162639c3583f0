"""Runs side by side: figures, classes, cost, curves, and what their configs differ in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ghost_det.errors import UserError
from ghost_det.evaluation.coco import FIGURES
from ghost_det.evaluation.results import SCHEMA
from ghost_det.utils.files import read_json, require_writable, write_or_fail
from ghost_det.utils.html import page
from ghost_det.utils.plots import png
from ghost_det.utils.text import cut, table

from .pictures import plot_run_curves
from .record import RECORD

IGNORED = ('work_dir',)  # settings that differ between any two runs
WIDTH = 60  # characters of a setting that are shown in a terminal


class Cell(NamedTuple):
    """A value as text, and whether it is ``'good'`` or ``'bad'`` compared with the first run's."""

    text: str
    kind: str = ''


class Row(NamedTuple):
    """A line of the comparison, with a cell for each run."""

    name: str
    cells: list[Cell]


def compare(paths: Sequence[Path], out: Path | None = None) -> Iterator[str]:
    """Compare two or more runs, and yield the lines to print.

    Paths are work folders, or files: ``report.json`` of one, or what ``ghost-det test --json`` wrote. ``out``
    is an HTML page to write.

    Raises:
        UserError: fewer than two; one that holds no evaluation; or the page cannot be written.
    """
    if len(paths) < 2:
        raise UserError(
            'expected two or more runs: work folders of trainings, or files of ghost-det test --json'
        )
    if out is not None:
        if out.suffix.lower() not in ('.html', '.htm'):
            raise UserError(f'-o {out}: expected a name that ends in .html')
        require_writable(out, '-o', [path for path in paths if path.is_file()])
    places = [(path / RECORD if path.is_dir() else path).resolve() for path in paths]
    for place, path in zip(places, paths):
        if places.count(place) > 1:
            raise UserError(f'{path}: is given twice; each run is compared with the first')
    runs = [read_run(path) for path in paths]
    names = _short_names(paths)
    groups = _groups(runs)
    differences = list(_differences(runs))
    warnings = notes(names, runs)
    curves = {name: run.get('curves') or {} for name, run in zip(names, runs)}
    for title, rows in groups.items():
        if rows:
            yield title
            yield table(['', *names], [[cut(row.name), *(cell.text for cell in row.cells)] for row in rows])
    if differences:
        yield 'Config'
        yield table(['setting', *names], [[cut(value, WIDTH) for value in row] for row in differences])
    yield from warnings
    if out is not None:
        text = page(
            'reports/templates/comparison.html.j2',
            title=' against '.join(names),
            names=names,
            groups=groups,
            differences=differences,
            notes=warnings,
            curves=png(plot_run_curves(curves)) if any(curves.values()) else None,
        )
        with write_or_fail(out, '-o') as partial:
            partial.write_text(text, encoding='utf-8')
        yield f'{"page":<11}{out}'


def read_run(path: Path) -> dict[str, Any]:
    """Return a run's ``report.json``, or an evaluation's file.

    Raises:
        UserError: there is none of these, or it is damaged; the message says how to make one.
    """
    file = path / RECORD if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f'{path}: no {RECORD}. {_advice(path)}' if path.is_dir() else f'{path}: no such folder or file'
        )
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get('metrics'), dict):
        raise UserError(
            f'{file}: neither {RECORD} of a training nor a file of ghost-det test --json: it has no metrics'
        )
    if found.get('schema') != SCHEMA:
        raise UserError(
            f'{file}: is of schema {found.get("schema")!r}, this ghost_det reads {SCHEMA}: '
            'make it again with this version, or compare with the version that wrote it'
        )
    if not found['metrics']:
        raise UserError(f'{file}: has no COCO figures. {_advice(path)}')
    try:
        _groups([found])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f'{file}: damaged: {type(error).__name__}: {error}. {_advice(path)}') from None
    return found


def _advice(path: Path) -> str:
    folder = path if path.is_dir() else 'FOLDER'
    return (
        'A training writes it after each evaluation by FullCocoMetric (ghost-det train CONFIG --work-dir '
        f'{folder} --resume); or evaluate a checkpoint with ghost-det test CONFIG CHECKPOINT --json '
        'FILE.json, and give FILE.json here'
    )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart; a run's record has its folder's name."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    parts = [(path.parent if path.name == RECORD else path).parts for path in absolute]
    ends = (['/'.join(part[-length:]) for part in parts] for length in range(1, max(map(len, parts)) + 1))
    return next(names for names in ends if len(set(names)) == len(names))


def _groups(runs: Sequence[dict[str, Any]]) -> dict[str, list[Row]]:
    return {
        'Figures': list(_figures(runs)),
        'AP by class': list(_classes(runs)),
        'Cost': list(_cost(runs)),
    }


def _figures(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    backbones = [_backbone(run.get('settings') or {}) for run in runs]
    if any(backbones):
        yield _row('backbone', backbones)
    for kind, part in _kinds(runs):
        for name in FIGURES:
            yield _difference(part + name, [_get(run, 'metrics', kind, 'figures', name) for run in runs])
    scores = [[each['mAP'] for each in _get(run, 'curves', 'mAP') or []] for run in runs]
    best = [max((score for score in each if score is not None), default=None) for each in scores]
    yield _difference('best mAP of the training', best)


def _classes(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    for kind, part in _kinds(runs):
        found = [
            {str(each['name']): each.get('AP') for each in _get(run, 'metrics', kind, 'classes') or []}
            for run in runs
        ]
        for name in dict.fromkeys(name for classes in found for name in classes):
            yield _difference(part + name, [classes.get(name) for classes in found])


def _cost(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    found = [_get(run, 'cost', 'parts') or {} for run in runs]
    parts = list(dict.fromkeys(name for each in found for name in each))
    for key, title, unit in (('parameters', 'parameters (M)', 1e6), ('macs', 'multiply-adds (G)', 1e9)):
        if parts:
            totals = [sum(part[key] for part in each.values()) / unit if each else None for each in found]
            yield _ratio(title, totals)
        for part in parts:
            yield _ratio(f'  {part}', [each[part][key] / unit if part in each else None for each in found])
    if parts:
        latencies = [(_get(run, 'cost', 'latency_ms') or [None] * 3)[1] for run in runs]
        yield _ratio('latency (ms)', latencies, '.3g')
    # Text where a training has not ended, so that no ratio is made of its time.
    seconds = [
        f'{run["seconds_by_log"]:.0f}, unfinished' if run.get('unfinished') else run.get('seconds_by_log')
        for run in runs
    ]
    yield _ratio('training steps (s)', seconds, '.0f')
    yield _row('iterations', [_get(run, 'trained', 'iterations') for run in runs], '.0f')


def _kinds(runs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the metrics that a run has, as ``'bbox'``, and what their figures' names start with."""
    kinds = dict.fromkeys(kind for run in runs for kind in run['metrics'])
    return [(kind, '' if kind == 'bbox' else f'{kind} ') for kind in kinds]


def _row(name: str, values: Sequence[Any], form: str = '') -> Row:
    cells = [
        value or '-' if value is None or isinstance(value, str) else format(value, form) for value in values
    ]
    return Row(name, [Cell(text) for text in cells])


def _difference(name: str, values: Sequence[float | None]) -> Row:
    """Return a row of figures, each but the first with its difference to that."""
    row = _row(name, values, '.3f')
    first = values[0]
    for place, value in enumerate(values[1:], start=1):
        if first is not None and value is not None:
            change = round(value - first, 3) + 0.0  # no -0.000
            kind = 'good' if change > 0 else 'bad' if change < 0 else ''
            row.cells[place] = Cell(f'{row.cells[place].text} ({change:+.3f})', kind)
    return row


def _ratio(name: str, values: Sequence[float | str | None], form: str = '.3f') -> Row:
    """Return a row of costs, each but the first with its ratio to that."""
    row = _row(name, values, form)
    first = values[0]
    for place, value in enumerate(values[1:], start=1):
        if isinstance(first, int | float) and isinstance(value, int | float) and first:
            row.cells[place] = Cell(f'{row.cells[place].text} (x {value / first:.2f})')
    return row


def notes(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what makes figures hard to compare."""
    lines = []
    if len({_get(run, 'annotations', 'sha256') for run in runs} - {None}) > 1:
        lines.append('Different annotations were evaluated on: the figures are of different data.')
    measured = {name: run for name, run in zip(names, runs) if 'cost' in run}
    if len({str(_get(run, 'cost', 'input')) for run in measured.values()}) > 1:
        sizes = ', '.join(f'{name} {_get(run, "cost", "input")}' for name, run in measured.items())
        lines.append(f'Multiply-adds and latency are at different inputs (height, width): {sizes}.')
    places = {
        (
            _get(run, 'environment', 'machine', 'processor'),
            *(_get(run, 'cost', key) for key in ('device', 'threads')),
        )
        for run in measured.values()
    }
    if len(places) > 1:
        lines.append(
            'Times are of different machines, or numbers of threads; ghost-det benchmark alternates runs.'
        )
    for name, run in zip(names, runs):
        if run.get('unfinished'):
            lines.append(f'{name}: unfinished, its last evaluation is of {run["unfinished"]}.')
    return lines


def _differences(runs: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield each setting in which the configs differ, and its value in each run."""
    found = [_flatten(run['settings']) if run.get('settings') else None for run in runs]
    known = [each for each in found if each is not None]
    for key in sorted({key for each in known for key in each}):
        values = [each.get(key, '(none)') for each in known]
        if key.partition('.')[0] not in IGNORED and len(set(values)) > 1:
            yield [key, *('?' if each is None else each.get(key, '(none)') for each in found)]


def _flatten(settings: Any, prefix: str = '') -> dict[str, str]:
    """Return settings by dotted names; a list is one setting, unless it is of dictionaries."""
    if isinstance(settings, Mapping) and settings:
        pairs = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list) and any(isinstance(each, Mapping) for each in settings):
        pairs = [(str(place), value) for place, value in enumerate(settings)]
    else:
        return {prefix: repr(settings)}
    found: dict[str, str] = {}
    for key, value in pairs:
        if key != '_scope_':
            found.update(_flatten(value, f'{prefix}.{key}' if prefix else key))
    return found


def _backbone(settings: Mapping[str, Any]) -> str | None:
    backbone = _get(settings, 'model', 'backbone') or {}
    words = [f'{key} {backbone[key]}' for key in ('width', 'depth', 'arch') if key in backbone]
    return ' '.join([str(backbone['type']), *words]) if 'type' in backbone else None


def _get(found: Any, *keys: str) -> Any:
    """Return a value within nested dictionaries, or ``None`` where it is not."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
