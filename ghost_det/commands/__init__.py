"""The commands: one module for each, which the tools call."""
