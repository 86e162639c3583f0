"""COCO 2017 on this machine: downloaded, verified, repaired; or a small part of it for a first try."""

from .catalog import COCO, Archive, Catalog, Part
from .prepare import prepare, subset
from .verify import verify

__all__ = ['COCO', 'Archive', 'Catalog', 'Part', 'prepare', 'subset', 'verify']
