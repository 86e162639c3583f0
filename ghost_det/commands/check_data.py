"""Check a data set for problems.

Exit code: 0 without errors, 1 if errors were found, 2 if the check could not run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ghost_det.data.findings import printable
from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, write_file
from ghost_det.utils.system import require_stack

from ._options import COUNT, FOLDER, add_splits, register


def add_options(parser: argparse.ArgumentParser) -> None:
    folder = "data set in COCO, Roboflow, VOC or YOLO layout, or 'sample'"
    parser.add_argument('data', nargs='?', metavar='FOLDER', help=folder)
    add_splits(parser)
    config = 'also check whether its classes and anchors fit the data; without FOLDER, check its own data'
    parser.add_argument('--config', metavar='CONFIG', help=config)
    parser.add_argument('--quick', action='store_true', help='do not open the images')
    parser.add_argument('--jobs', **COUNT, help='processes that open images')
    parser.add_argument('--html', type=Path, metavar='FILE.html', help='write the report as a page')
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='write the report as JSON')
    parser.add_argument('--fix', '-o', **FOLDER, help='write a fixed copy of the data set')


def run(args: argparse.Namespace) -> None:
    require_stack('ghost-det check-data')
    from ghost_det.data.checks.check import check_dataset
    from ghost_det.data.checks.fix import require_separate, write_fixed

    if args.fix and args.quick:
        raise UserError('--fix --quick: a fixed copy needs the images to be opened; remove --quick')
    for option, file in (('--html', args.html), ('--json', args.json)):
        if file:
            require_writable(file, option)
    if args.fix:
        require_separate(args.fix, [Path(args.data)] if args.data not in (None, 'sample') else [])
    config, parts = _config_and_splits(args, 'ghost-det check-data')
    options = {'quick': args.quick, 'jobs': args.jobs, 'val_share': args.val_share}
    report = check_dataset(args.data, **parts, config=config, progress=True, **options)
    print(report)
    if args.html:
        _write(args.html, '--html', report.to_html(), report)
    if args.json:
        _write(args.json, '--json', json.dumps(report.to_dict(), indent=2), report)
    if args.fix:
        print('\n  '.join([f'\n{printable(str(args.fix))}: fixed:', *write_fixed(report, args.fix)]))
        left = check_dataset(args.fix, jobs=args.jobs, progress=True).errors
        lines = ['remaining errors:', *(error.line(3) for error in left)]
        print('\n'.join(lines) if left else 'the fixed copy has no errors')
    sys.exit(bool(report.errors))


def _config_and_splits(args: argparse.Namespace, what: str) -> tuple[Any, dict[str, Any]]:
    """Return the config to compare with, if any, and the annotations and images of train and val."""
    names = ('train_ann', 'train_images', 'val_ann', 'val_images')
    parts: dict[str, Any] = {name: getattr(args, name) for name in names}
    is_given = args.data is not None or any(parts.values())
    if not args.config:
        if not is_given:
            raise UserError('nothing to check: give FOLDER, --train-ann, --val-ann or --config')
        return None, parts
    register(what)
    from ghost_det.config.load import load_config

    config = load_config(args.config)
    if not is_given:
        from ghost_det.data.checks.config import data_of_config

        parts = dict(zip(names, data_of_config(config)))
    return config, parts


def _write(path: Path, option: str, text: str, report: Any) -> None:
    require_writable(path, option, [part.split.annotations for part in report.parts])
    write_file(path, text, option)
    print(f'{printable(str(path))}: written')
