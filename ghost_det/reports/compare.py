"""Runs side by side: figures, classes, cost, curves, and what their configs differ in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from ghost_det.evaluation.coco import FIGURES
from ghost_det.evaluation.results import SCHEMA
from ghost_det.reports.elements import Html, chart, element, folded, page, png, shortened, table
from ghost_det.utils.files import atomic, read_json, require_writable
from ghost_det.utils.text import cut
from ghost_det.utils.text import table as text_table

from .logs import by_epoch, curves, last_figures, read_scalars, training_seconds, unfinished

RECORD = 'report.json'
IGNORED = ('work_dir',)  # settings that differ between any two runs
WIDTH = 60  # characters of a setting that are shown in a terminal


class Row(NamedTuple):
    """A line of the comparison: a figure of each run, the first being what the others are held against."""

    name: str
    values: Sequence[float | str | None]
    form: str = ''
    ratio: bool = False


_ODD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What data of another shape leads to."""


def compare(paths: Sequence[Path], out: Path | None = None) -> Iterator[str]:
    """Compare two or more runs, and yield the lines to print.

    Args:
        paths: work folders; or files, ``report.json`` of one or what ``ghost-det test --json`` wrote.
        out: an HTML page to write.

    Raises:
        UserError: fewer than two; one that holds no evaluation; or the page cannot be written.
    """
    if len(paths) < 2:
        raise UserError(
            'two or more runs are wanted: work folders of trainings, or files of ghost-det test --json'
        )
    if out is not None:
        if out.suffix.lower() not in ('.html', '.htm'):
            raise UserError(f'-o {out}: a name that ends in .html is wanted')
        require_writable(out, '-o', [path for path in paths if path.is_file()])
    places = [(path / RECORD if path.is_dir() else path).resolve() for path in paths]
    for place, path in zip(places, paths):
        if places.count(place) > 1:
            raise UserError(f'{path}: is given twice; the others are held against the first')
    runs = [read_run(path) for path in paths]
    names = _names(paths)
    for path, run in zip(paths, runs):
        try:  # each alone, so that the one that is damaged is named
            for row in (*_figures([run]), *_classes([run]), *_cost([run])):
                _texts(row)
            if out is not None:
                _overlay([path.name], [run])
        except _ODD as error:
            raise UserError(f'{path}: damaged: {type(error).__name__}: {error}; {_advice(path)}') from None
    groups = {
        'Figures': list(_figures(runs)),
        'AP by class': list(_classes(runs)),
        'Cost': list(_cost(runs)),
    }
    said = notes(names, runs)
    differences = list(_differences(runs))
    for title, rows in groups.items():
        if rows:
            yield title
            yield text_table(['', *names], [[cut(row.name), *_texts(row)] for row in rows])
    if differences:
        yield 'Config'
        shown = [[cut(value, WIDTH) for value in row] for row in differences]
        yield text_table(['setting', *names], shown)
    yield from said
    if out is not None:
        try:
            with atomic(out) as partial:
                partial.write_text(_page(names, runs, groups, differences, said), encoding='utf-8')
        except OSError as error:
            raise UserError(f'-o {out}: cannot be written ({error.strerror})') from None
        yield f'{"page":<11}{out}'


def read_run(path: Path) -> dict[str, Any]:
    """Return what is known of a run: its ``report.json``, an evaluation's file, or what its logs hold.

    Raises:
        UserError: there is none of these; the message says how to make one.
    """
    file = path / RECORD if path.is_dir() else path
    if path.is_dir() and not file.exists():
        return _from_logs(path)
    if not file.exists():
        raise UserError(f'{path}: no such folder or file')
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get('metrics'), dict):
        raise UserError(
            f'{file}: neither {RECORD} of a training nor a file of ghost-det test --json: it has no metrics'
        )
    if found.get('schema') != SCHEMA:
        raise UserError(
            f'{file}: is of schema {found.get("schema")!r}, this ghost_det reads {SCHEMA}: '
            'make it anew with this one, or compare with the one that wrote it'
        )
    if not found['metrics']:
        raise UserError(f'{file}: has no COCO figures. {_advice(path)}')
    return found


def _from_logs(folder: Path) -> dict[str, Any]:
    """Return what the logs and the config of an older training hold."""
    settings: Any = {}
    configs = sorted(folder.glob('*.py'), key=lambda file: file.stat().st_mtime)
    if configs:
        settings = load_config(configs[-1]).to_dict()
    try:
        rows = read_scalars(folder)
        found = {
            'metrics': last_figures(rows),
            'seconds_by_log': training_seconds(rows),
            'curves': curves(rows, not settings or by_epoch(settings)),
            'trained': {'iterations': max((row['iter'] for row in rows if 'loss' in row), default=None)},
            'unfinished': unfinished(rows, settings),
        }
    except _ODD as error:
        raise UserError(
            f"{folder}: its logs, {folder}/*/vis_data/scalars.json, are not mmengine's: {error}"
        ) from None
    if not found['metrics']:
        raise UserError(f'{folder}: no {RECORD}, and no evaluation in its logs. {_advice(folder)}')
    return {**found, 'settings': settings, 'by_logs': True}


def _advice(path: Path) -> str:
    return (
        f'A training writes it at its end (an unfinished one: ghost-det train CONFIG --work-dir '
        f'{path if path.is_dir() else "FOLDER"} --resume); or evaluate a checkpoint with '
        f'ghost-det test CONFIG CHECKPOINT --json FILE.json, and give FILE.json here'
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart; a run's record is called as its folder."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    parts = [(path.parent if path.name == RECORD else path).parts for path in whole]
    ends = (['/'.join(part[-length:]) for part in parts] for length in range(1, max(map(len, parts)) + 1))
    return next(names for names in ends if len(set(names)) == len(names))


def _figures(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    backbones = [_backbone(run.get('settings') or {}) for run in runs]
    if any(backbones):
        yield Row('backbone', backbones)
    for kind in dict.fromkeys(kind for run in runs for kind in run['metrics']):
        part = '' if kind == 'bbox' else f'{kind} '
        for name in FIGURES:
            yield Row(part + name, [_get(run, 'metrics', kind, 'figures', name) for run in runs], '.3f')
    best = [max((each['mAP'] for each in _map_curve(run)), default=None) for run in runs]
    yield Row('best mAP of the training', best, '.3f')


def _backbone(settings: Mapping[str, Any]) -> str | None:
    backbone = _get(settings, 'model', 'backbone') or {}
    words = [f'{key} {backbone[key]}' for key in ('width', 'depth', 'arch') if key in backbone]
    return ' '.join([str(backbone['type']), *words]) if 'type' in backbone else None


def _classes(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    for kind in dict.fromkeys(kind for run in runs for kind in run['metrics']):
        part = '' if kind == 'bbox' else f'{kind} '
        found = [
            {str(each['name']): each.get('AP') for each in _get(run, 'metrics', kind, 'classes') or []}
            for run in runs
        ]
        for name in dict.fromkeys(name for classes in found for name in classes):
            yield Row(part + name, [classes.get(name) for classes in found], '.3f')


def _cost(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    found = [_get(run, 'cost', 'parts') or {} for run in runs]
    parts = list(dict.fromkeys(name for each in found for name in each))
    for key, title, unit in (('parameters', 'parameters (M)', 1e6), ('macs', 'multiply-adds (G)', 1e9)):
        if parts:
            totals = [sum(part[key] for part in each.values()) / unit if each else None for each in found]
            yield Row(title, totals, '.3f', ratio=True)
        for part in parts:
            yield Row(
                f'  {part}', [each[part][key] / unit if part in each else None for each in found], '.3f', True
            )
    if parts:
        yield Row(
            'latency (ms)', [(_get(run, 'cost', 'latency_ms') or [None] * 3)[1] for run in runs], '.3g', True
        )
    # Text where a training has not ended, so that no ratio is made of its time.
    seconds = [
        f'{run["seconds_by_log"]:.0f}, unfinished' if run.get('unfinished') else run.get('seconds_by_log')
        for run in runs
    ]
    yield Row('training steps (s)', seconds, '.0f', ratio=True)
    yield Row('iterations', [_get(run, 'trained', 'iterations') for run in runs], '.0f')


def _texts(row: Row) -> list[str]:
    """Return the values as text, each but the first with its difference, or ratio, to that."""
    first = row.values[0]
    texts = []
    for place, value in enumerate(row.values):
        if value is None or isinstance(value, str):
            texts.append(value or '-')
            continue
        text = format(value, row.form)
        if place and isinstance(first, int | float) and row.ratio and first:
            text += f' (x {value / first:.2f})'
        elif place and isinstance(first, int | float) and row.form == '.3f' and not row.ratio:
            text += f' ({round(value - first, 3) + 0.0:+.3f})'  # no -0.000
        texts.append(text)
    return texts


def notes(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> list[str]:
    """Say what makes figures hard to compare."""
    said = []
    truths = [_get(run, 'annotations', 'sha256') for run in runs]
    if len(set(filter(None, truths))) > 1:
        said.append('Different annotations were evaluated on: the figures are of different data.')
    if len({str(_get(run, 'cost', 'input')) for run in runs if 'cost' in run}) > 1:
        sizes = ', '.join(f'{n} {_get(run, "cost", "input")}' for n, run in zip(names, runs) if 'cost' in run)
        said.append(f'Multiply-adds and latency are at different inputs (height, width): {sizes}.')
    places = [
        (
            _get(r, 'environment', 'machine', 'processor'),
            _get(r, 'cost', 'device'),
            _get(r, 'cost', 'threads'),
        )
        for r in runs
    ]
    if len({place for place, run in zip(places, runs) if 'cost' in run}) > 1:
        said.append(
            'Times are of different machines, or numbers of threads: ghost-det benchmark compares in turns.'
        )
    for name, run in zip(names, runs):
        if run.get('unfinished'):
            said.append(f'{name}: unfinished, its last evaluation is of {run["unfinished"]}.')
        if run.get('by_logs'):
            said.append(f'{name}: no {RECORD}; what its logs hold is shown, iterations to the last logged.')
    return said


def _differences(runs: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield each setting in which the configs differ, and its value in each run."""
    found = [_flat(run['settings']) if run.get('settings') else None for run in runs]
    known = [each for each in found if each is not None]
    for key in sorted({key for each in known for key in each}):
        values = [each.get(key, '(none)') for each in known]
        if key.partition('.')[0] not in IGNORED and len(set(values)) > 1:
            yield [key, *('?' if each is None else each.get(key, '(none)') for each in found)]


def _flat(settings: Any, prefix: str = '') -> dict[str, str]:
    """Return settings by dotted names; a list is one setting, unless it is of dictionaries."""
    if isinstance(settings, Mapping) and settings:
        pairs = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list | tuple) and any(isinstance(each, Mapping) for each in settings):
        pairs = [(str(place), value) for place, value in enumerate(settings)]
    else:
        return {prefix: repr(list(settings) if isinstance(settings, tuple) else settings)}
    found: dict[str, str] = {}
    for key, value in pairs:
        if key != '_scope_':
            found.update(_flat(value, f'{prefix}.{key}' if prefix else key))
    return found


def _get(found: Any, *keys: str) -> Any:
    """Return a value within nested dictionaries, or ``None`` where it is not."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _map_curve(run: dict[str, Any]) -> list[dict[str, float]]:
    return [each for each in _get(run, 'curves', 'mAP') or [] if each.get('mAP') is not None]


def _page(
    names: Sequence[str],
    runs: Sequence[dict[str, Any]],
    groups: dict[str, list[Row]],
    differences: list[list[str]],
    said: Sequence[str],
) -> str:
    parts = [element('h1', ' against '.join(names))]
    parts += [element('p', note, 'warning') for note in said]
    parts.append(element('p', 'In brackets: the difference, or the ratio, to the first.', 'note'))
    for title, rows in groups.items():
        if rows:
            shown = table([['', *names], *([shortened(row.name), *_coloured(row)] for row in rows)])
            parts += [
                element('h2', title),
                folded(f'{len(rows)} classes', shown) if len(rows) > 25 else shown,
            ]
    if any(_get(run, 'curves') for run in runs):
        parts += [element('h2', 'Curves'), chart(_overlay(names, runs))]
    if differences:
        parts += [element('h2', 'Config'), table([['setting', *names], *differences], 'words')]
    return page(' against '.join(names), parts)


def _coloured(row: Row) -> Iterator[Html]:
    """Yield the cells of a row: of figures, what is better or worse than the first in its colour."""
    first = row.values[0]
    for value, text in zip(row.values, _texts(row)):
        kind = ''
        if isinstance(value, float) and isinstance(first, float) and row.form == '.3f' and not row.ratio:
            kind = 'good' if value - first >= 0.0005 else 'bad' if first - value >= 0.0005 else ''
        yield element('span', text, kind)


def _overlay(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> bytes:
    import matplotlib.pyplot as plt

    from ghost_det.evaluation.plots import plot_steps  # which chooses a backend without a screen

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    units = []
    for name, run in zip(names, runs):
        label = ' ' * name.startswith('_') + name.replace('$', r'\$')  # else matplotlib hides it
        losses = [point for point in _get(run, 'curves', 'loss') or [] if point[1] is not None]
        plot_steps(left, [point[0] for point in losses], [point[1] for point in losses], label=label)
        scores = _map_curve(run)
        plot_steps(right, [each['step'] for each in scores], [each['mAP'] for each in scores], label=label)
        units.append(_get(run, 'curves', 'unit'))
    left.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='Training loss')
    unit = ' or '.join(dict.fromkeys(filter(None, units)))
    right.set(xlabel=unit, ylabel='mAP', ylim=(0, None), title='COCO mAP on the validation split')
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    return png(figure)
