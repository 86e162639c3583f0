"""Look for problems in a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, write_or_fail
from ghost_det.utils.system import require_stack

from ._options import COUNT, Parser, add_parts, inner_fraction, parse, register


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Look for problems in a data set.',
        epilog='Exit code 0: no errors; 1: errors found; 2: it could not be run.',
    )
    folder = "in COCO, Roboflow, VOC or YOLO layout, or 'sample'"
    parser.add_argument('data', nargs='?', metavar='FOLDER', help=folder)
    add_parts(parser)
    config = 'compare its classes and anchors with the data; without FOLDER, its own data'
    parser.add_argument('--config', metavar='CONFIG', help=config)
    split = 'as --val-share; -o writes the split'
    parser.add_argument('--split', type=inner_fraction, dest='val_share', metavar='SHARE', help=split)
    parser.add_argument('--quick', action='store_true', help='do not open images')
    parser.add_argument('--jobs', **COUNT, help='processes that open images')
    parser.add_argument('--html', type=Path, metavar='FILE.html', help='the report as a page')
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='the report for machines')
    parser.add_argument('--fix', '-o', type=Path, metavar='FOLDER', help='write a fixed copy')
    return parser


def main() -> None:
    """Check as the command line says; exit code 1 where errors are found."""
    parser = make_parser()
    args = parse(parser, light=True)
    require_stack(parser.prog)
    from ghost_det.data.checks.check import check_dataset
    from ghost_det.data.checks.fix import require_separate, write_fixed
    from ghost_det.data.findings import printable
    from ghost_det.data.layouts import locate

    if args.fix and args.quick:
        raise UserError('--fix --quick: a fixed copy needs the images to be opened; leave --quick out')
    for option, file in (('--html', args.html), ('--json', args.json)):
        if file:
            require_writable(file, option)
    if args.fix:
        require_separate(args.fix, [Path(args.data)] if args.data not in (None, 'sample') else [])
    parts: list[Path | None] = [args.train_ann, args.train_images, args.val_ann, args.val_images]
    config = None
    if args.config:
        if args.data:  # a wrong folder is reported before torch is imported
            locate(args.data, {'train': (parts[0], parts[1]), 'val': (parts[2], parts[3])}, args.val_share)
        register(parser.prog)
        from ghost_det.config.load import load_config

        config = load_config(args.config)
    if args.data is None and not any(parts):
        if config is None:
            raise UserError('nothing to check: give a FOLDER, --train-ann or --val-ann, or --config')
        from ghost_det.data.checks.config import data_of_config

        parts = data_of_config(config)
    train, train_images, val, val_images = parts
    report = check_dataset(
        args.data, train, train_images, val, val_images, config, args.quick, args.jobs, True, args.val_share
    )
    print(report)
    read = [part.split.annotations for part in report.parts]
    if args.html:
        require_writable(args.html, '--html', read)
        with write_or_fail(args.html, '--html') as partial:
            partial.write_text(report.to_html(), encoding='utf-8', errors='backslashreplace')
    if args.json:
        require_writable(args.json, '--json', read)
        with write_or_fail(args.json, '--json') as partial:
            partial.write_text(json.dumps(report.to_dict(), indent=2), encoding='utf-8')
    if args.fix:
        lines = [f'\n{printable(str(args.fix))}: fixed:', *write_fixed(report, args.fix)]
        print('\n  '.join(lines))
        left = check_dataset(args.fix, jobs=args.jobs, progress=True).errors
        lines = ['errors left in it:', *(error.line(3) for error in left)]
        print('\n'.join(lines) if left else 'the fixed copy has no errors')
    sys.exit(bool(report.errors))
