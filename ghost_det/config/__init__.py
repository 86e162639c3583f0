"""Configs: found by name, read, written, and changed by options."""
