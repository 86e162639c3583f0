"""A page for the browser that shows what detectors find in one's own images; gradio draws it."""
