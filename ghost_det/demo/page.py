"""The page: its components and what they call."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ghost_det.deploy.detect import SCORE
from ghost_det.errors import UserError

from .results import ImageResult, Model, detect, draw_boxes, to_html, to_json

MAX_UPLOAD = '20mb'
QUEUE = 16
"""Requests that may wait for a model."""
KEPT = 600
"""Seconds for which an image is kept."""
FONTS = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']}
"""The visitor's own: gradio's come from Google."""
ABOUT = 'See what detectors find in an image. It stays on the machine that serves this page.'
CSS = """
footer { display: none !important }
.boxes :is(button, .image-frame, img) { width: 100%; max-height: 75vh; object-fit: contain }
input[type=radio]:checked { background-color: var(--color-accent) !important } /* white under the mouse */
"""
NOTHING = None, '', None
"""Boxes, numbers and JSON without an image."""


def make_page(models: Mapping[str, Model]) -> gr.Blocks:
    """Return a page that offers models by these names."""

    def run(
        upload: dict[str, Any] | None, name: str, least: float, before: ImageResult | None
    ) -> tuple[Any, ...]:
        """Detect objects; a file that is not an image is removed with a warning."""
        if upload is None:
            return None, None, *NOTHING
        try:
            result = detect(Path(upload['path']), name, models[name], before)
        except UserError as error:
            gr.Warning(escape(str(error)))
            return None, None, *NOTHING
        return gr.skip(), result, *filter_boxes(least, result)

    def draw_maps(upload: dict[str, Any] | None, name: str) -> Any:
        files = models[name].files
        try:
            if files is None:
                raise UserError(f'{name}: feature maps need a torch model')
            if upload is None:
                raise UserError('choose an image first')
            from .maps import draw_all  # imports torch, which exported detectors do not need

            return [*draw_all(Path(upload['path']), *files)]
        except UserError as error:
            gr.Warning(escape(str(error)))
            return []

    with gr.Blocks(title='ghost_det', analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        last = gr.State(time_to_live=KEPT)
        gr.HTML(ABOUT, padding=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = gr.Image(
                    label=f'Image, up to {MAX_UPLOAD.upper()}',
                    type='filepath',
                    image_mode=None,
                    height=280,
                    buttons=['fullscreen'],  # without sharing on gradio's site
                    webcam_options=gr.WebcamOptions(mirror=False),
                )
                choice = gr.Radio([*models], value=next(iter(models)), label='Model')
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
                    text = gr.JSON(show_label=False, open=True)
                with gr.Tab('Feature maps', visible=any(model.files for model in models.values())):
                    button = gr.Button('Draw feature maps')
                    maps = gr.Gallery(
                        show_label=False,
                        format='png',
                        columns=1,
                        object_fit='contain',
                        elem_classes='maps',
                        buttons=['fullscreen', 'download'],
                    )
        views = [boxes, numbers, text]
        # gradio's preprocessing would raise for a file that is not an image.
        exclusive: dict[str, Any] = dict(preprocess=False, concurrency_limit=1, concurrency_id='models')
        gr.on(
            [upload.input, choice.input],
            run,
            [upload, choice, least, last],
            [upload, last, *views],
            show_progress_on=boxes,
            **exclusive,
        )
        least.input(filter_boxes, [least, last], views, trigger_mode='always_last', show_progress='hidden')
        button.click(draw_maps, [upload, choice], maps, **exclusive)
    return page.queue(max_size=QUEUE)


def filter_boxes(least: float, result: ImageResult | None) -> tuple[Any, ...]:
    """Return the views for another minimum score, without running a model."""
    if result is None:
        return NOTHING
    return draw_boxes(result, least), to_html(result, least), to_json(result, least)
