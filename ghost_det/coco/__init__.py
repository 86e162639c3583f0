"""COCO 2017 on this machine: fetched, verified, repaired; or a small part of it for a first try."""

from .catalogue import COCO, Archive, Catalogue, Part
from .fetch import prepare, subset
from .state import verify

__all__ = ['COCO', 'Archive', 'Catalogue', 'Part', 'prepare', 'subset', 'verify']
