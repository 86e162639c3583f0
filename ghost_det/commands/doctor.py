"""Examine the installation."""

import argparse
import sys

from ._doctor import main as examine
from ._options import Parser, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return Parser(description='Examine this installation, and say how to mend it.')


def main() -> None:
    """Print what is found; exit code 1 where something is wrong."""
    parse(make_parser(), light=True)
    sys.exit(examine())
