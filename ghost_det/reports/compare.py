"""Compare runs: figures, classes, cost, curves, and the settings in which their configs differ."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.evaluation.coco import FIGURES
from ghost_det.evaluation.results import SCHEMA
from ghost_det.utils.files import read_json, require_writable, write_file
from ghost_det.utils.html import page
from ghost_det.utils.plots import png
from ghost_det.utils.text import cut, table

from .pictures import plot_curves
from .record import RECORD

NOTES = {
    ('annotations.sha256',): 'The runs were evaluated on different annotations',
    ('cost.input',): 'Multiply-adds and latency are for different input sizes (height, width)',
    ('environment.machine.processor', 'cost.device', 'cost.threads'): 'Latency is of different machines',
}
"""What should be equal, and what to print if it is not."""
SIZES = ('width', 'depth', 'arch')
"""What tells backbones of a type apart."""
WIDTH = 60
"""Characters of a cell in a terminal."""
Run = dict[str, Any]
Row = list[str]
"""A line of the comparison: its name, and a text for each run."""


def compare(paths: Sequence[Path], out: Path | None = None) -> Iterator[str]:
    """Compare two or more runs, and yield the lines to print.

    Paths are work folders, or files: ``report.json`` of one, or what ``ghost-det test --json`` wrote. ``out``
    is an HTML page to write.

    Raises:
        UserError: fewer than two; one that holds no evaluation; or the page cannot be written.
    """
    files = [path / RECORD if path.is_dir() else path for path in paths]
    if out is not None:
        if out.suffix.lower() != '.html':
            raise UserError(f'-o {out}: expected a name that ends in .html')
        require_writable(out, '-o', files)
    runs = [read_run(file) for file in files]
    if len({file.resolve() for file in files}) < max(2, len(files)):
        raise UserError('expected two or more different runs')
    names = _short_names(paths)
    tables = {
        'Figures': _figures(runs),
        'AP by class': _classes(runs),
        'Cost': _cost(runs),
        'Config': _differences(runs),
    }
    known = {title: [row for row in rows if {*row[1:]} != {'-'}] for title, rows in tables.items()}
    tables = {title: rows for title, rows in known.items() if rows}
    for title, rows in tables.items():
        yield title
        yield table(['', *names], [[cut(cell, WIDTH) for cell in row] for row in rows])
    notes = _notes(names, runs)
    yield from notes
    if out is not None:
        curves = {name: run.get('curves') or {} for name, run in zip(names, runs)}
        picture = png(plot_curves(curves)) if any(curves.values()) else None
        found = {'names': names, 'tables': tables, 'notes': notes, 'curves': picture}
        text = page('reports/templates/comparison.html.j2', title=' vs. '.join(names), **found)
        write_file(out, text, '-o')
        yield f'{"page":<11}{out}'


def read_run(file: Path) -> Run:
    """Return the content of ``report.json`` or of an evaluation's file, or raise a `UserError`."""
    advice = 'a training writes report.json after each evaluation; ghost-det test --json FILE writes one, too'
    if not file.exists():
        raise UserError(f'{file}: no such file; {advice}')
    found = read_json(file)
    if not isinstance(found, dict) or not found.get('metrics') or found.get('schema') != SCHEMA:
        raise UserError(f'{file}: has no COCO figures of schema {SCHEMA}; {advice}')
    return found


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of work folders and files, or their paths if the names are not distinct."""
    names = [(path.parent if path.name == RECORD else path).resolve().name for path in paths]
    return names if len({*names}) == len(names) else [str(path) for path in paths]


def _figures(runs: Sequence[Run]) -> list[Row]:
    backbones = [_get(run, 'settings', 'model', 'backbone') or {} for run in runs]
    words = [
        ' '.join([each.get('type', '-'), *(f'{key} {each[key]}' for key in SIZES if key in each)])
        for each in backbones
    ]
    scores = [[row['mAP'] for row in _get(run, 'curves', 'mAP') or []] for run in runs]
    best = [max((score for score in each if score is not None), default=None) for each in scores]
    figures = [
        _row(prefix + name, [_get(run, 'metrics', kind, 'figures', name) for run in runs])
        for kind, prefix in _metrics(runs)
        for name in FIGURES
    ]
    return [['backbone', *words], *figures, _row('best mAP of the training', best)]


def _classes(runs: Sequence[Run]) -> list[Row]:
    rows = []
    for kind, prefix in _metrics(runs):
        found = [
            {each['name']: each.get('AP') for each in _get(run, 'metrics', kind, 'classes') or []}
            for run in runs
        ]
        names = dict.fromkeys(name for classes in found for name in classes)
        rows += [_row(prefix + name, [classes.get(name) for classes in found]) for name in names]
    return rows


def _cost(runs: Sequence[Run]) -> list[Row]:
    found = [_get(run, 'cost', 'parts') or {} for run in runs]
    rows = []
    for key, title, unit in (('parameters', 'parameters (M)', 1e6), ('macs', 'multiply-adds (G)', 1e9)):
        totals = [sum(part[key] for part in each.values()) / unit if each else None for each in found]
        rows.append(_row(title, totals, ratio=True))
        for part in dict.fromkeys(name for each in found for name in each):
            values = [each[part][key] / unit if part in each else None for each in found]
            rows.append(_row(f'- {part}', values, ratio=True))
    latencies = [(_get(run, 'cost', 'latency_ms') or [None] * 3)[1] for run in runs]
    finished = [None if run.get('unfinished') else run.get('seconds_by_log') for run in runs]
    rows.append(_row('latency (ms)', latencies, '.3g', ratio=True))
    rows.append(_row('training steps (s)', finished, '.0f', ratio=True))
    return [*rows, _row('iterations', [_get(run, 'trained', 'iterations') for run in runs], 'd', ratio=True)]


def _metrics(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return the metrics of the runs, as ``'bbox'``, and the prefix of their figures' names."""
    kinds = dict.fromkeys(kind for run in runs for kind in run['metrics'])
    return [(kind, '' if kind == 'bbox' else f'{kind} ') for kind in kinds]


def _row(name: str, values: Sequence[float | None], form: str = '.3f', ratio: bool = False) -> Row:
    """Return values with their differences or ratios to the first."""
    row = [name, *('-' if value is None else format(value, form) for value in values)]
    first = values[0]
    for place, value in enumerate(values[1:], start=2):
        if value is None or first is None:
            continue
        if not ratio:
            row[place] += f' ({round(value - first, 3) + 0.0:+.3f})'  # no -0.000
        elif first:
            row[place] += f' (x {value / first:.2f})'
    return row


def _notes(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return what makes figures hard to compare."""
    lines = []
    for places, text in NOTES.items():
        values = [[_get(run, *place.split('.')) for place in places] for run in runs]
        if len({str(each) for each in values if {*map(str, each)} != {'None'}}) > 1:
            each_run = (f'{name} {", ".join(map(str, found))}' for name, found in zip(names, values))
            lines.append(f'{text}: {"; ".join(map(cut, each_run))}')
    for name, run in zip(names, runs):
        if run.get('unfinished'):
            lines.append(f'{name}: unfinished, last evaluated after {run["unfinished"]}')
    return lines


def _differences(runs: Sequence[Run]) -> list[Row]:
    """Return each setting in which the configs differ, and its value in each run, as far as known."""
    found = [_flatten(run['settings']) if run.get('settings') else {} for run in runs]
    rows = []
    for key in sorted({key for each in found for key in each if key != 'work_dir'}):
        values = [each.get(key, '(none)') if each else '?' for each in found]
        if len({*values} - {'?'}) > 1:
            rows.append([key, *values])
    return rows


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
