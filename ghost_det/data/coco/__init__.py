"""COCO 2017 on this machine: fetched, verified, repaired; or a small part of it for a first try."""

from .catalog import COCO, Archive, Catalogue, Part
from .prepare import prepare, subset
from .verify import verify

__all__ = ['COCO', 'Archive', 'Catalogue', 'Part', 'prepare', 'subset', 'verify']
