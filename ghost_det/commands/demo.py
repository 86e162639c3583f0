"""Try detectors on your own images in the browser."""

import argparse

from ghost_det.config.shipped import is_config
from ghost_det.errors import UserError
from ghost_det.utils.system import missing

from ._options import COUNT, MODEL, open_detector, pair_models, port


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = '%(prog)s [options] MODEL.xml|MODEL.onnx|CONFIG CHECKPOINT.pth...'
    parser.add_argument('models', nargs='+', metavar='MODEL', help=f'{MODEL}; several can be compared')
    host = (
        'address to listen on (default: %(default)s, only this machine; 0.0.0.0 lets in everyone who can '
        "reach it, without a password and with only gradio's limits: use it only on networks you trust)"
    )
    parser.add_argument('--host', default='127.0.0.1', help=host)
    parser.add_argument('--port', type=port, default=7860, help='default: %(default)s')
    parser.add_argument('--threads', **COUNT, help='CPU threads (default: all cores)')


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    if missing(['gradio']):
        raise UserError('the demo needs gradio: pip install "ghost-det[demo]"')
    from ghost_det.demo.results import Model
    from ghost_det.demo.server import serve

    models = {}
    for name, (model, checkpoint) in pair_models(args.models).items():
        if is_config(model) and checkpoint is None:
            raise UserError(f'{model}: expected a checkpoint after a config')
        files = (model, checkpoint) if checkpoint else None
        models[name] = Model(open_detector(model, checkpoint, args.threads), files)
    serve(models, args.host, args.port)
