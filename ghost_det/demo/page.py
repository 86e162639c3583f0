"""The page: what is on it, what happens at a click, and the application that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from ghost_det.deploy.detect import SCORE
from ghost_det.errors import UserError

from .calls import checked
from .results import Model, Seen, as_json, look, picture, summary

MAX_UPLOAD = '20mb'
WAITING = 16
"""Visitors who wait for a model; others are told to try again."""
KEPT = 600
"""Seconds for which an image is kept."""
VISITORS = 50
"""Whose last image is kept in memory, at most 8 MB of each."""
FONTS = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']}
ABOUT = 'See what detectors find in an image. It stays on the machine that serves this page.'
CSS = """
footer { display: none !important }
.problem { color: #b91c1c; font-weight: 600 }
.dark .problem { color: #fca5a5 }
.message:not(:has(p)) { display: none }
.boxes :is(button, .image-frame, img) { width: 100%; max-height: 75vh; object-fit: contain }
.maps figure { margin: 0 0 24px }
.maps img { width: 100%; background: white; cursor: zoom-in }
.maps input { position: absolute; opacity: 0 }
.maps input:focus-visible + img { outline: 2px solid var(--color-accent) }
.maps label:has(:checked) { position: fixed; inset: 0; z-index: 9999; overflow: auto; background: white }
.maps input:checked + img { cursor: zoom-out }
input[type=radio]:checked { background-color: var(--color-accent) !important } /* white under the mouse */
.numbers table { width: 100%; font-size: 0.85em; font-variant-numeric: tabular-nums }
.numbers :is(table, tr, th, td) { border: 0 !important }
.numbers :is(th, td) { padding: 3px 0 3px 6px !important; text-align: right }
.numbers :is(th, td):first-child { text-align: left; padding-left: 0 !important; overflow-wrap: anywhere }
.numbers tbody tr { border-top: 1px solid var(--border-color-primary) !important }
"""


def build(models: Mapping[str, Model]) -> gr.Blocks:
    """Return the page.

    Args:
        models: by the name that the page gives them.
    """

    def run(upload: dict[str, Any] | None, name: str, least: float, before: Seen | None) -> tuple[Any, ...]:
        """Find objects; a file that is no image is taken off the page, with a message in its place."""
        if upload is None:
            return None, '', None, *nothing
        try:
            seen = look(Path(upload['path']), name, models[name], before)
        except UserError as error:
            return None, problem(error), None, *nothing
        return gr.skip(), '', seen, *show(least, seen)

    def show(least: float, seen: Seen | None) -> tuple[Any, ...]:
        """Filter the boxes that were found."""
        if seen is None:
            return nothing
        return picture(seen, least), summary(seen, least), as_json(seen, least)

    def show_maps(upload: dict[str, Any] | None, name: str) -> str:
        """Draw feature maps."""
        files = models[name].files
        try:
            if upload is None or files is None:
                raise UserError(
                    'choose an image first'
                    if files
                    else f'{name}: feature maps are shown of torch models alone'
                )
            from .maps import maps_page

            return maps_page(Path(upload['path']), *files)
        except UserError as error:
            return problem(error)

    nothing = None, '', ''
    with gr.Blocks(title='ghost_det', analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        seen = gr.State(time_to_live=KEPT)
        gr.HTML(ABOUT, padding=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = gr.Image(
                    label=f'Image, up to {MAX_UPLOAD.upper()}',
                    type='filepath',
                    image_mode=None,
                    height=280,
                    buttons=['fullscreen'],  # and none that shares on gradio's site
                    webcam_options=gr.WebcamOptions(mirror=False),
                )
                message = gr.HTML(elem_classes='message')
                choice = gr.Radio(
                    [(f'{name} ({model.kind})', name) for name, model in models.items()],
                    value=next(iter(models)),
                    label='Model',
                )
                least = gr.Slider(0, 1, SCORE, step=0.01, label='Score threshold')
                numbers = gr.HTML(elem_classes='numbers')
            with gr.Column(scale=3, min_width=300):
                with gr.Tab('Boxes'):
                    boxes = gr.Image(
                        show_label=False,
                        format='jpeg',
                        interactive=False,
                        elem_classes='boxes',
                        buttons=['fullscreen', 'download'],
                    )
                with gr.Tab('JSON'):
                    text = gr.Code(language='json', interactive=False, max_lines=24, show_label=False)
                with gr.Tab('Feature maps', visible=any(model.files for model in models.values())):
                    button = gr.Button('Draw the feature maps of the image')
                    maps = gr.HTML(elem_classes='maps')
        views = [boxes, numbers, text]
        # No preprocessing: gradio's own opens the file, and ends in a traceback where it is no image.
        alone: dict[str, Any] = dict(preprocess=False, concurrency_limit=1, concurrency_id='models')
        gr.on(
            [upload.input, choice.input],
            run,
            [upload, choice, least, seen],
            [upload, message, seen, *views],
            show_progress_on=boxes,
            **alone,
        )
        least.input(show, [least, seen], views, trigger_mode='always_last', show_progress='hidden')
        button.click(show_maps, [upload, choice], maps, **alone)
    return page.queue(max_size=WAITING)


def problem(error: UserError) -> str:
    """Return a message as HTML."""
    return f'<p class="problem" role="alert">{escape(str(error))}</p>'


def application(models: Mapping[str, Model], folder: Path) -> FastAPI:
    """Return an application that has the page at ``/``; see `build`, and `checked` of the folder."""
    page = build(models)
    page.state_session_capacity = VISITORS
    # Of a page that is not "launched", and one that is mounted is not, gradio takes any path of this machine
    # that a client calls its upload, copies the file, and gives it out.
    page.has_launched = True
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        '/',
        theme=gr.themes.Default(**FONTS),
        css=CSS,
        footer_links=[],
        run_history=False,
        max_file_size=MAX_UPLOAD,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
    app.add_middleware(checked, page=page, folder=folder)
    return app
