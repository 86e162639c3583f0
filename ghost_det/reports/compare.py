"""Compare runs: figures, classes, cost, curves, and the settings in which their configs differ."""

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

from .pictures import plot_curves
from .record import RECORD

IGNORED = ('work_dir',)
"""Settings that differ between any two runs."""
NOTES = {
    ('annotations.sha256',): 'The runs were evaluated on different annotations',
    ('cost.input',): 'Multiply-adds and latency are for different input sizes (height, width)',
    ('environment.machine.processor', 'cost.device', 'cost.threads'): 'Latency is of different machines',
}
"""What should be equal, and what to print where it is not."""
WIDTH = 60
"""Characters of a setting in a terminal."""
Run = dict[str, Any]


class Row(NamedTuple):
    """A line of the comparison: a text for each run, and ``'good'`` or ``'bad'`` compared with the first."""

    name: str
    texts: list[str]
    kinds: list[str]


def compare(paths: Sequence[Path], out: Path | None = None) -> Iterator[str]:
    """Compare two or more runs, and yield the lines to print.

    Paths are work folders, or files: ``report.json`` of one, or what ``ghost-det test --json`` wrote. ``out``
    is an HTML page to write.

    Raises:
        UserError: fewer than two; one that holds no evaluation; or the page cannot be written.
    """
    files = [path / RECORD if path.is_dir() else path for path in paths]
    if len({file.resolve() for file in files}) < max(2, len(files)):
        raise UserError('expected two or more different runs')
    if out is not None:
        if out.suffix.lower() != '.html':
            raise UserError(f'-o {out}: expected a name that ends in .html')
        require_writable(out, '-o', files)
    runs = [read_run(file) for file in files]
    names = _short_names(paths)
    groups = {
        'Figures': [*_figures(runs)],
        'AP by class': [*_classes(runs)],
        'Cost': [*_cost(runs)],
    }
    differences = list(_differences(runs))
    warnings = notes(names, runs)
    for title, rows in groups.items():
        if rows:
            yield title
            yield table(['', *names], [[cut(row.name), *row.texts] for row in rows])
    if differences:
        yield 'Config'
        yield table(['setting', *names], [[cut(value, WIDTH) for value in row] for row in differences])
    yield from warnings
    if out is not None:
        curves = {name: run.get('curves') or {} for name, run in zip(names, runs)}
        text = page(
            'reports/templates/comparison.html.j2',
            title=' vs. '.join(names),
            names=names,
            groups=groups,
            differences=differences,
            notes=warnings,
            curves=png(plot_curves(curves)) if any(curves.values()) else None,
        )
        with write_or_fail(out, '-o') as partial:
            partial.write_text(text, encoding='utf-8')
        yield f'{"page":<11}{out}'


def read_run(file: Path) -> Run:
    """Return the content of ``report.json`` or of an evaluation's file, or raise a `UserError`."""
    advice = 'a training writes report.json after each evaluation; ghost-det test --json FILE writes one, too'
    if not file.exists():
        raise UserError(f'{file}: no such file; {advice}')
    found = read_json(file)
    if not isinstance(found, dict) or not found.get('metrics'):
        raise UserError(f'{file}: has no COCO figures; {advice}')
    if found.get('schema') != SCHEMA:
        raise UserError(f'{file}: expected schema {SCHEMA}, got {found.get("schema")!r}: evaluate again')
    return found


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that are distinct; ``report.json`` goes by its folder's name."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    parts = [(path.parent if path.name == RECORD else path).parts for path in absolute]
    length = 1
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return ['/'.join(part[-length:]) for part in parts]


def _figures(runs: Sequence[Run]) -> Iterator[Row]:
    backbones = [_backbone(run) for run in runs]
    if any(backbones):
        yield _row('backbone', backbones)
    for kind, prefix in _metrics(runs):
        for name in FIGURES:
            yield _difference(prefix + name, [_get(run, 'metrics', kind, 'figures', name) for run in runs])
    scores = [[row['mAP'] for row in _get(run, 'curves', 'mAP') or []] for run in runs]
    best = [max((score for score in each if score is not None), default=None) for each in scores]
    yield _difference('best mAP of the training', best)


def _backbone(run: Run) -> str | None:
    backbone = _get(run, 'settings', 'model', 'backbone') or {}
    words = [f'{key} {backbone[key]}' for key in ('width', 'depth', 'arch') if key in backbone]
    return ' '.join([str(backbone['type']), *words]) if 'type' in backbone else None


def _classes(runs: Sequence[Run]) -> Iterator[Row]:
    for kind, prefix in _metrics(runs):
        found = [
            {each['name']: each.get('AP') for each in _get(run, 'metrics', kind, 'classes') or []}
            for run in runs
        ]
        for name in dict.fromkeys(name for classes in found for name in classes):
            yield _difference(f'{prefix}{name}', [classes.get(name) for classes in found])


def _cost(runs: Sequence[Run]) -> Iterator[Row]:
    found = [_get(run, 'cost', 'parts') or {} for run in runs]
    parts = dict.fromkeys(name for each in found for name in each)
    for key, title, unit in (('parameters', 'parameters (M)', 1e6), ('macs', 'multiply-adds (G)', 1e9)):
        if parts:
            totals = [sum(part[key] for part in each.values()) / unit if each else None for each in found]
            yield _ratio(title, totals)
        for part in parts:
            yield _ratio(f'  {part}', [each[part][key] / unit if part in each else None for each in found])
    if parts:
        latencies = [(_get(run, 'cost', 'latency_ms') or [None] * 3)[1] for run in runs]
        yield _ratio('latency (ms)', latencies, '.3g')
    finished = [None if run.get('unfinished') else run.get('seconds_by_log') for run in runs]
    yield _ratio('training steps (s)', finished, '.0f')
    yield _row('iterations', [_get(run, 'trained', 'iterations') for run in runs])


def _metrics(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return the metrics of the runs, as ``'bbox'``, and the prefix of their figures' names."""
    kinds = dict.fromkeys(kind for run in runs for kind in run['metrics'])
    return [(kind, '' if kind == 'bbox' else f'{kind} ') for kind in kinds]


def _row(name: str, values: Sequence[Any], form: str = '') -> Row:
    texts = ['-' if value is None else format(value, form) for value in values]
    return Row(name, texts, [''] * len(texts))


def _difference(name: str, values: Sequence[float | None]) -> Row:
    """Return a row of figures with their differences to the first."""
    row = _row(name, values, '.3f')
    first = values[0]
    for place, value in enumerate(values[1:], start=1):
        if first is not None and value is not None:
            change = round(value - first, 3) + 0.0  # no -0.000
            row.texts[place] += f' ({change:+.3f})'
            row.kinds[place] = 'good' if change > 0 else 'bad' if change < 0 else ''
    return row


def _ratio(name: str, values: Sequence[float | None], form: str = '.3f') -> Row:
    """Return a row of costs with their ratios to the first."""
    row = _row(name, values, form)
    for place, value in enumerate(values[1:], start=1):
        if values[0] and value is not None:
            row.texts[place] += f' (x {value / values[0]:.2f})'
    return row


def notes(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return what makes figures hard to compare."""
    lines = []
    for places, text in NOTES.items():
        values = [[_get(run, *place.split('.')) for place in places] for run in runs]
        if len({str(each) for each in values if None not in each}) > 1:
            listing = '; '.join(
                f'{name} {cut(", ".join(map(str, each)))}' for name, each in zip(names, values)
            )
            lines.append(f'{text}: {listing}')
    for name, run in zip(names, runs):
        if run.get('unfinished'):
            lines.append(f'{name}: unfinished, last evaluated after {run["unfinished"]}')
    return lines


def _differences(runs: Sequence[Run]) -> Iterator[list[str]]:
    """Yield each setting in which the configs differ, and its value in each run."""
    found = [_flatten(run['settings']) if run.get('settings') else None for run in runs]
    known = [each for each in found if each is not None]
    for key in sorted({key for each in known for key in each}):
        values = [each.get(key, '(none)') for each in known]
        if key.partition('.')[0] not in IGNORED and len(set(values)) > 1:
            yield [key, *('?' if each is None else each.get(key, '(none)') for each in found)]


def _flatten(settings: Any, prefix: str = '') -> dict[str, str]:
    """Return settings by dotted names; a list is one setting, unless it holds dictionaries."""
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


def _get(found: Any, *keys: str) -> Any:
    """Return a value within nested dictionaries, or ``None`` if it is absent."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
