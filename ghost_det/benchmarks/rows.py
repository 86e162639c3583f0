"""What a comparison of speed found: rows, their file, and the tables made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ghost_det import __version__
from ghost_det.errors import UserError
from ghost_det.utils.files import atomic, read_json
from ghost_det.utils.system import machine
from ghost_det.utils.timing import Sample, Spread, ratio, spread

Setting = tuple[int, int, int, int]
FORMAT = 1
PACKAGES = (
    *('torch', 'torchvision', 'timm', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'numpy'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmengine', 'mmcv-lite', 'mmcv', 'mmdet'),
)


@dataclass(frozen=True)
class Row:
    """One contender under one setting.

    Attributes:
        network: what runs.
        engine: what runs it.
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: images a call.
        threads: that the engine may use.
        rounds: how many turns it had.
        milliseconds: of a call: quartiles.
        ratio: to the baseline of the same setting, round by round: quartiles.
        cpu: milliseconds of all threads an image, the median: what stands in for energy here.
        parameters: of the network.
        macs: multiply-adds an image.
        bound: milliseconds that the roofline allows, caches counted and not; see `roofline`.
        memory: MB that loading and running it adds at the peak, in a process of its own.
        note: what else to know, as how many boxes were found.
    """

    network: str
    engine: str
    height: int
    width: int
    batch: int
    threads: int
    rounds: int
    milliseconds: Spread
    ratio: Spread
    cpu: float
    parameters: int = 0
    macs: int = 0
    bound: tuple[float, float] | None = None
    memory: float | None = None
    note: str = ''

    @property
    def setting(self) -> Setting:
        """Height, width, batch and threads: only rows that agree in them compare."""
        return self.height, self.width, self.batch, self.threads


@dataclass(frozen=True)
class Results:
    """Rows, and what they were measured on and with."""

    what: str
    baseline: str
    rows: tuple[Row, ...]
    rates: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=lambda: versions())


def timed(samples: Sequence[Sample], baseline: Sequence[Sample], batch: int = 1) -> dict[str, Any]:
    """Return a row's fields of times: ``rounds``, ``milliseconds``, ``ratio`` and ``cpu``."""
    return dict(
        rounds=len(samples),
        milliseconds=spread([1e3 * sample.seconds for sample in samples]),
        ratio=ratio(samples, baseline),
        cpu=spread([1e3 * sample.cpu / batch for sample in samples]).middle,
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that have a part in the times."""
    found = {'ghost_det': __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_rows(path: Path, results: Results) -> None:
    """Write results as strict json."""
    content = {'format': FORMAT, **asdict(results)}
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')


def read_rows(path: Path) -> Results:
    """Read what `write_rows` wrote.

    Raises:
        UserError: it is another file, or of another format.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.pop('format', None) != FORMAT:
        raise UserError(
            f'{path}: not the results of ghost-det benchmark backbones or detectors, format {FORMAT}'
        )
    try:
        rows = tuple(_row(row) for row in content.pop('rows'))
        results = Results(rows=rows, **content)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f'{path}: not whole: {error}; measure again') from None
    kinds = {'what': str, 'baseline': str, 'rates': dict, 'machine': dict, 'versions': dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(results, name), kind)]
    if wrong:
        raise UserError(f'{path}: {wrong[0]} is of the wrong kind; measure again')
    return results


def _row(content: dict[str, Any]) -> Row:
    made = Row(**content)
    wanted: dict[str, Any] = {'str': str, 'int': int, 'float': (int, float)}
    for each in fields(Row):
        value = getattr(made, each.name)
        if each.type == 'Spread':
            value = Spread(*map(float, value))
        elif each.type == 'tuple[float, float] | None':
            value = None if value is None else tuple(map(float, value))
        elif value is not None and not isinstance(value, wanted[str(each.type).partition(' ')[0]]):
            raise ValueError(f'{each.name} is {value!r}')
        object.__setattr__(made, each.name, value)
    return made


def digits(number: float) -> str:
    """Write a number with three digits, or all that it has before the point."""
    return f'{number:,.0f}' if abs(number) >= 100 else f'{number:.3g}'


def table(results: Results) -> Iterator[str]:
    """Yield the lines of Markdown tables: one for each size, batch and number of threads."""
    yield describe(results)
    for setting in dict.fromkeys(row.setting for row in results.rows):
        yield from part(results, setting)


def part(results: Results, setting: Setting) -> Iterator[str]:
    """Yield the lines of one setting's table."""
    rows = [row for row in results.rows if row.setting == setting]
    height, width, batch, threads = setting
    # A call computes all the time: where its threads together were on a core for less, others were.
    own = spread([row.cpu * row.batch / row.milliseconds.middle for row in rows]).middle
    yield ''
    yield (
        f'{height} x {width} px, batch {batch}, {threads} thread{"s" * (threads > 1)}, '
        f'{min(row.rounds for row in rows)} rounds, ratio to {results.baseline}'
        + (
            f'; other programs held the cores for {1 - own:.0%} of the time: trust ratios alone'
            if own < 0.9
            else ''
        )
    )
    yield ''
    yield from _lines(rows)


def describe(results: Results) -> str:
    """Tell what the rows were measured on and with, in one line."""
    about, packages = results.machine, results.versions
    shown = [name for name in ('torch', 'onnxruntime', 'openvino', 'timm') if name in packages]
    return (
        f'{about.get("processor")}, {about.get("cores")} cores ({", ".join(about.get("units", []))}); '
        f'Python {about.get("python")}, {", ".join(f"{name} {packages[name]}" for name in shown)}'
    )


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    heads = ['network', 'engine', 'ms (quartiles)', 'ratio (quartiles)', 'images/s', 'CPU ms/image']
    columns: list[Callable[[Row], str]] = [
        lambda row: row.network,
        lambda row: row.engine,
        lambda row: _spread(row.milliseconds),
        lambda row: _spread(row.ratio),
        lambda row: digits(1e3 * row.batch / row.milliseconds.middle),
        lambda row: digits(row.cpu),
    ]
    if any(row.macs for row in rows):
        heads += ['M parameters', 'G multiply-adds']
        columns += [lambda row: f'{row.parameters / 1e6:.2f}', lambda row: f'{row.macs / 1e9:.3f}']
    if any(row.bound for row in rows):
        heads += ['times the bound, caches', 'memory only']
        columns += [lambda row: _over(row, 0), lambda row: _over(row, 1)]
    if any(row.memory is not None for row in rows):
        heads.append('peak MB')
        columns.append(lambda row: '' if row.memory is None else digits(row.memory))
    if any(row.note for row in rows):
        heads.append('note')
        columns.append(lambda row: row.note)
    yield f'| {" | ".join(heads)} |'
    yield '|---' * len(heads) + '|'
    for row in rows:
        yield f'| {" | ".join(column(row) for column in columns)} |'


def _spread(found: Spread) -> str:
    return f'{digits(found.middle)} ({digits(found.low)}-{digits(found.high)})'


def _over(row: Row, index: int) -> str:
    return '' if row.bound is None else f'{row.milliseconds.middle / row.bound[index]:.1f}'
