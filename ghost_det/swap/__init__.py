"""Another backbone for the detector of a config."""
