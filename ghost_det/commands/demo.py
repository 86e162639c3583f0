"""Try detectors in the browser."""

import argparse

from ._options import COUNT, MODEL, pair_models, parse, positive_int


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description='Try detectors on your own images in the browser.',
        usage='%(prog)s [options] MODEL.xml|MODEL.onnx|CONFIG CHECKPOINT.pth...',
    )
    parser.add_argument('models', nargs='+', metavar='MODEL', help=f'{MODEL}; several can be compared')
    host = (
        'address to listen on (default: %(default)s, only this machine; 0.0.0.0 is everyone who can reach '
        "it, without a password and with only gradio's limits: use it only on networks you trust)"
    )
    parser.add_argument('--host', default='127.0.0.1', help=host)
    parser.add_argument('--port', type=positive_int, default=7860, help='default: %(default)s')
    parser.add_argument('--threads', **COUNT, help='CPU threads (default: all cores)')
    return parser


def main() -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    args = parse(make_parser(), light=True)
    from ghost_det.demo.server import serve

    serve(pair_models(args.models), args.host, args.port, args.threads)
