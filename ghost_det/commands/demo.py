"""Try detectors in the browser."""

import argparse

from ._options import COUNT, MODEL, Parser, parse, positive_int


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Try detectors on your own images, on a page in the browser.',
        usage='%(prog)s [options] MODEL.xml|MODEL.onnx|CONFIG CHECKPOINT.pth...',
    )
    parser.add_argument('models', nargs='+', metavar='MODEL', help=f'{MODEL}; the page offers them all')
    host = (
        'address to listen at (default: %(default)s, only this machine; 0.0.0.0: all who reach it, without '
        'a password or limits beyond those of gradio: only on networks that you trust)'
    )
    parser.add_argument('--host', default='127.0.0.1', help=host)
    parser.add_argument('--port', type=positive_int, default=7860, help='(default: %(default)s)')
    parser.add_argument('--threads', **COUNT, help='cores to use (default: all)')
    return parser


def main() -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    args = parse(make_parser(), light=True)
    from ghost_det.demo.server import serve

    serve(args.models, args.host, args.port, args.threads)
