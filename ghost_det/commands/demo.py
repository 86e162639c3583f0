"""Try detectors on your own images in the browser."""

import argparse

from ._options import COUNT, MODEL, pair_models, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = '%(prog)s [options] MODEL.xml|MODEL.onnx|CONFIG CHECKPOINT.pth...'
    parser.add_argument('models', nargs='+', metavar='MODEL', help=f'{MODEL}; several can be compared')
    host = (
        'address to listen on (default: %(default)s, only this machine; 0.0.0.0 is everyone who can reach '
        "it, without a password and with only gradio's limits: use it only on networks you trust)"
    )
    parser.add_argument('--host', default='127.0.0.1', help=host)
    parser.add_argument('--port', type=positive_int, default=7860, help='default: %(default)s')
    parser.add_argument('--threads', **COUNT, help='CPU threads (default: all cores)')


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    from ghost_det.demo.server import serve

    serve(pair_models(args.models), args.host, args.port, args.threads)
