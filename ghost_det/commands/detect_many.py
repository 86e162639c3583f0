"""Detect objects in large sets of images, with many processes or machines.

If it was stopped, run the same command again to resume. Exit code: 1 if some images failed; the column error
of the results gives the reason.
"""

import argparse
import os
import sys

from ghost_det.errors import UserError
from ghost_det.utils.system import RUNTIME, missing

from ._options import COUNT, add_tiles, fraction


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('model', metavar='MODEL', help='exported detector (.xml, .onnx or .ncnn)')
    source = 'folder or bucket (s3://NAME/PREFIX) of images, or a list of paths (.txt or Parquet)'
    parser.add_argument('source', metavar='SOURCE', help=source)
    out = 'folder or bucket for the results in Parquet'
    parser.add_argument('-o', '--out', required=True, metavar='FOLDER', help=out)
    parser.add_argument('--workers', **COUNT, help='number of processes (default: as many as cores allow)')
    parser.add_argument('--threads', **COUNT, default=1, help='CPU threads per worker (default: %(default)s)')
    parser.add_argument('--batch', **COUNT, default=1, help='images per batch (default: %(default)s)')
    parser.add_argument('--score', type=fraction, default=0.3, help='minimum score (default: %(default)s)')
    add_tiles(parser)
    parser.add_argument('--shard', **COUNT, help='images per Parquet file (default: 1000 or fewer)')
    parser.add_argument('--column', default='path', help='Parquet column of the paths (default: %(default)s)')
    parser.add_argument('--limit', **COUNT, help='process only the first N images')
    address = "address of a Ray cluster, or 'auto' (default: this machine)"
    parser.add_argument('--address', metavar='RAY', help=address)
    retry = 'process shards with failed images again'
    parser.add_argument('--retry-errors', dest='retry', action='store_true', help=retry)


def run(args: argparse.Namespace) -> None:
    # No torch here and in the workers, and no usage statistics; set before Ray is imported.
    os.environ[RUNTIME] = '1'
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')  # harmless warnings about memory
    os.environ.setdefault('RAY_task_oom_retries', '3')  # else a shard that needs too much memory never ends
    absent = missing(('ray', 'pyarrow'))
    if absent:
        raise UserError(f'needs {", ".join(absent)}: pip install "ghost-det[runtime,bulk]"')
    from ghost_det.deploy.bulk import detect_many

    total = detect_many(**vars(args))
    print(f'{total.images} images, {total.failed} failed; {total.objects} objects; results in {args.out}')
    sys.exit(1 if total.failed else 0)
