"""Find objects in any number of images."""

import argparse
import os
import sys

from ghost_det.errors import UserError
from ghost_det.utils.system import RUNTIME, missing

from ._options import COUNT, Parser, fraction, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Find objects in any number of images, by many processes or machines. '
        'The same command again resumes after any stop.',
        epilog='Exit code 1: some images failed; the column error says why.',
    )
    parser.add_argument('model', metavar='MODEL', help='of ghost-det export')
    source = 'folder of images, or bucket as s3://NAME/PREFIX; or a list of paths, .txt or Parquet'
    parser.add_argument('source', metavar='SOURCE', help=source)
    out = 'or bucket, for the results, in Parquet'
    parser.add_argument('-o', '--out', required=True, metavar='FOLDER', help=out)
    parser.add_argument('--workers', **COUNT, help='processes (default: as many as there are cores for)')
    parser.add_argument('--threads', **COUNT, default=1, help='cores of a worker (default: 1)')
    parser.add_argument('--batch', **COUNT, default=1, help='images at a time (default: 1)')
    parser.add_argument('--score', type=fraction, default=0.3, help='the minimum score (default: 0.3)')
    parser.add_argument('--shard', **COUNT, help='images in a Parquet file (default: 1000, or fewer)')
    parser.add_argument('--column', default='path', help='of the paths in Parquet (default: path)')
    parser.add_argument('--limit', **COUNT, help='take the first N images only')
    parser.add_argument('--address', metavar='RAY', help='a Ray cluster, as auto (default: this machine)')
    parser.add_argument('--retry-errors', action='store_true', help='do shards again in which images failed')
    return parser


def main() -> None:
    """Detect as the command line says; exit code 1 where some images failed."""
    args = parse(make_parser(), light=True)
    # No torch here and in the workers, nor Ray's reports to its makers. Set before Ray is imported.
    os.environ[RUNTIME] = '1'
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')  # it fears for what this process keeps for it
    os.environ.setdefault('RAY_task_oom_retries', '3')  # else a shard that needs too much memory never ends
    absent = missing(('ray', 'pyarrow'))
    if absent:
        raise UserError(f'needs {", ".join(absent)}: pip install "ghost-det[runtime,bulk]"')
    from ghost_det.deploy.bulk import detect_many

    total = detect_many(
        args.model,
        args.source,
        args.out,
        workers=args.workers,
        batch=args.batch,
        threads=args.threads,
        score=args.score,
        shard=args.shard,
        column=args.column,
        limit=args.limit,
        address=args.address,
        retry=args.retry_errors,
    )
    print(f'{total.images} images, {total.failed} failed; {total.objects} objects; results in {args.out}')
    sys.exit(1 if total.failed else 0)
