"""Looking into networks: ghost features, the evidence for a box, the levels of a pyramid.

Functions take an opened `Network` and an image, and return arrays; ``draw_*`` make figures of these.
"""

from ghost_det.utils.plots import save_figure

from .cams import Cam, cam, overlay, pyramid
from .figures import draw_cam, draw_ghosts, draw_pyramid, draw_redundancy
from .ghosts import GhostMaps, ghost_maps, ghost_modules
from .maps import Maps, layers, maps_at
from .networks import Network, open_network
from .redundancy import Pair, Redundancy, fit_kernel, redundancy

__all__ = [
    'Cam',
    'GhostMaps',
    'Maps',
    'Network',
    'Pair',
    'Redundancy',
    'cam',
    'draw_cam',
    'draw_ghosts',
    'draw_pyramid',
    'draw_redundancy',
    'fit_kernel',
    'ghost_maps',
    'ghost_modules',
    'layers',
    'maps_at',
    'open_network',
    'overlay',
    'pyramid',
    'redundancy',
    'save_figure',
]
