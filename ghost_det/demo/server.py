"""The page's server: gradio's, by default for this machine only, offline, and with no files left behind."""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from threading import Event

import numpy as np

from ghost_det.errors import UserError

from .results import Model

VISITORS = 50
"""Visitors whose last image is kept in memory, at most 8 MB each."""


def serve(models: Mapping[str, Model], host: str, port: int) -> None:
    """Serve a page of models until Ctrl-C or SIGTERM."""
    for model in models.values():
        model.detector(np.zeros((64, 64, 3), np.uint8))  # the first run is slow
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix='ghost_det-demo-', ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = os.environ['GRADIO_TEMP_DIR'] = os.path.realpath(folder)
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
        os.environ['no_proxy'] = '*'  # gradio requests its own address
        import gradio as gr  # reads GRADIO_TEMP_DIR when it is imported
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from .page import CSS, FONTS, MAX_UPLOAD, make_page

        page = make_page(models)
        address = f'[{host}]' if ':' in host else host
        # With any name, a web site could point its own name here and read the page in the visitor's browser
        # (DNS rebinding).
        everyone = host in ('0.0.0.0', '::')
        hosts = ['*'] if everyone else [address, 'localhost', '127.0.0.1', '[::1]']
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(page):
            try:
                page.launch(
                    server_name=address,
                    server_port=port,
                    app_kwargs={'middleware': [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
                    max_file_size=MAX_UPLOAD,
                    state_session_capacity=VISITORS,
                    theme=gr.themes.Default(**FONTS),
                    css=CSS,
                    prevent_thread_lock=True,
                    quiet=True,
                    share=False,
                    enable_monitoring=False,
                    run_history=False,
                    footer_links=[],
                )
            except (OSError, OverflowError):
                raise UserError(f'--host {host} --port {port}: cannot listen on this address') from None
            note = ' (open to everyone who can reach this machine)' if everyone else ''
            print(f'http://{address}:{port}{note}: {", ".join(models)}; stop it with Ctrl-C', flush=True)
            Event().wait()
