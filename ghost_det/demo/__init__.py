"""A browser page, made with gradio, to try detectors on images."""
