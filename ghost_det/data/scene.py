"""Drawing a picture of the generated sample, and the COCO records of what is in it.

Any change to a pixel or a box needs another `sample.VERSION`.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
Rng = np.random.Generator


# How hard the set is. Pairs are (low, high); lengths in pixels, colours on a scale of 0 to 255.
LONG_SIDE = 320
SHORT_SIDE = (208, 320)
OBJECTS = (2, 5)
SIZE = (20.0, 215.0)  # square root of the box's area before occlusion; log-uniform
ASPECT = 1.3
TURN = 15.0  # degrees to either side; most things stand upright
TYPICAL = 0.95  # share of objects in their class's own hue; the others, and all clutter, are of any hue
HUE_SPREAD = 0.05  # of that hue to either side, as a share of the colour circle
MIN_VISIBLE = 0.85  # share of each shape; what would hide more is put elsewhere
AT_EDGE = 0.15  # share of objects that the image's edge may cut
CONTRAST = 90.0  # between an object and what it lies on
CLUTTER = (2, 6)
BLUR = (0.0, 0.5)
NOISE = (0.0, 3.0)
BRIGHTNESS = (0.75, 1.2)
SUPERSAMPLE = 4
MIN_FRAGMENT = 4.0  # px²; smaller visible pieces go the way of slivers
SLIVER = np.ones((SUPERSAMPLE + 1, SUPERSAMPLE + 1), np.uint8)


def _spokes(radii: list[float], turn: float = 0.0) -> Floats:
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii) + turn
    return np.array([radii * np.cos(angles), radii * np.sin(angles)], np.float32).T


# Each class is a set of closed outlines, filled even-odd: the ring's second outline is its hole.
SHAPES: dict[str, list[Floats]] = {
    'disc': [_spokes([1.0] * 72)],
    'ring': [_spokes([1.0] * 72), _spokes([0.58] * 72)],
    'square': [_spokes([1.0] * 4, np.pi / 4)],
    'triangle': [_spokes([1.0] * 3, -np.pi / 2)],
    'star': [_spokes([1.0, 0.42] * 5, -np.pi / 2)],
    'cross': [np.array([(1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a),
                        (-1, -a), (-a, -a), (-a, -1), (a, -1), (a, -a), (1, -a)], np.float32)
              for a in [0.34]],
}  # fmt: skip


@dataclass
class _Scene:
    """A picture in the making, and the objects that are in it."""

    canvas: Image
    labels: Image  # which object is on top, from 1, at SUPERSAMPLE times the resolution
    names: list[str] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)  # pixels of each object's shape, and those in sight
    visible: list[int] = field(default_factory=list)


def _colour(rng: Rng, saturation: tuple[float, float] = (0.1, 0.95), hue: float | None = None) -> Floats:
    turn = rng.random() if hue is None else (hue + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1
    rgb = colorsys.hsv_to_rgb(turn, rng.uniform(*saturation), rng.uniform(0.2, 1))
    return np.array(rgb, np.float32) * 255


def _ramp(height: int, width: int, angle: float) -> Floats:
    """(height, width) distance in pixels from the centre, along a direction."""
    x, y = np.arange(width) - width / 2, np.arange(height) - height / 2
    return np.asarray(x * math.cos(angle) + y[:, None] * math.sin(angle), np.float32)


def _clouds(rng: Rng, height: int, width: int, cell: float) -> Floats:
    """(height, width) smooth noise of about unit deviation with bumps `cell` pixels wide."""
    grid = rng.standard_normal((max(2, round(height / cell)), max(2, round(width / cell))), np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _background(rng: Rng, height: int, width: int) -> Image:
    first = _colour(rng, (0.05, 0.5))
    second = np.clip(first + 28 * rng.standard_normal(3, np.float32), 0, 255)
    mix = np.clip(_ramp(height, width, rng.uniform(0, 2 * np.pi)) / width + 0.5, 0, 1)[..., None]
    light = _clouds(rng, height, width, rng.uniform(30, 120)) * np.float32(rng.uniform(0, 14))
    if rng.random() < 0.4:
        waves = _ramp(height, width, rng.uniform(0, np.pi)) * np.float32(2 * np.pi / rng.uniform(8, 40))
        light += np.sin(waves) * np.float32(rng.uniform(3, 12))
    return np.clip(first * (1 - mix) + second * mix + light[..., None], 0, 255).astype(np.uint8)


def _blob(rng: Rng) -> Floats:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    # Two to four lobes, so that it never passes for a disc.
    lobes = [rng.uniform(0.1, 0.3) * np.cos(n * angles + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4)]
    radius = (1 + np.sum(lobes, axis=0)) * rng.uniform(8, 45)
    return np.array([radius * np.cos(angles), radius * np.sin(angles)], np.float32).T


def _stroke(rng: Rng) -> Floats:
    """A straight line, an open arc, or a few joined strokes as of a letter."""
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(rng.uniform(-200, 200, (2, 2)), np.float32)
    if kind == 1:
        # Up to about half a turn: an arc that nearly closes would be a ring.
        angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(1, 3.5), 40)
        axes = rng.uniform(10, 70, 2)
        return np.array([axes[0] * np.cos(angles), axes[1] * np.sin(angles)], np.float32).T
    return np.asarray(rng.uniform(-1, 1, (rng.integers(3, 6), 2)) * rng.uniform(14, 26), np.float32)


def _clutter(rng: Rng, canvas: Image) -> Image:
    """The canvas with things of no class, in the objects' own range of colours, some blobs out of focus."""
    count = int(rng.integers(*CLUTTER, endpoint=True))
    blobs, blurred = rng.binomial(count, 0.35), rng.integers(4)
    for number in range(count):
        if number == min(blurred, blobs):
            canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(2, 7)), np.uint8)
        where = rng.uniform((0, 0), canvas.shape[1::-1])
        points = np.round(((_blob(rng) if number < blobs else _stroke(rng)) + where) * 16).astype(np.int32)
        colour = _colour(rng)
        if number < blobs:
            colour += (canvas[int(where[1]), int(where[0])] - colour) * np.float32(rng.uniform(0.3, 0.75))
            cv2.fillPoly(canvas, [points], colour.tolist(), cv2.LINE_AA, 4)
        else:
            cv2.polylines(canvas, [points], False, colour.tolist(), int(rng.integers(1, 4)), cv2.LINE_AA, 4)
    return canvas


def _texture(rng: Rng, height: int, width: int, tones: tuple[Floats, Floats]) -> Floats:
    """(height, width, 3): plain, gradient, stripes or mottle of two tones."""
    kind, across = rng.integers(4), _ramp(height, width, rng.uniform(0, 2 * np.pi))
    if kind == 0:
        return np.broadcast_to(tones[0], (height, width, 3))
    if kind == 1:
        mix = across / np.float32(max(height, width))
    elif kind == 2:
        period = rng.uniform(0.12, 0.4) * max(height, width, 30)
        mix = np.sin(across * np.float32(2 * np.pi / period)) * np.float32(period / 3)
    else:
        mix = _clouds(rng, height, width, rng.uniform(1.5, 8)) * np.float32(0.4)
    mix = np.clip(mix + np.float32(0.5), 0, 1)[..., None]
    return tones[0] * (1 - mix) + tones[1] * mix


def _tones(rng: Rng, name: str, around: Image) -> tuple[Floats, Floats]:
    """Two tones of one hue, mostly the class's, that stand out from nearly all of the (h, w, 3) picture."""
    step = max(1, min(around.shape[:2]) // 12)
    pixels = around[::step, ::step].reshape(-1, 3).astype(np.float32)
    # The eye's weights for red, green and blue: pure blue on black is far apart in RGB, yet hard to see.
    weights = np.array([0.55, 0.76, 0.35], np.float32)
    typical = rng.random() < TYPICAL
    hue = list(SHAPES).index(name) / len(SHAPES) if typical else None
    found = []
    for _ in range(24):
        colour = _colour(rng, (0.4, 0.95) if typical else (0.1, 0.95), hue)
        pole = 255 if colour.mean() < 110 else 0
        tones = (colour, colour + (pole - colour) * np.float32(rng.uniform(0.2, 0.45)))
        gaps = np.linalg.norm((pixels - np.array(tones)[:, None]) * weights, axis=2)
        gap = np.sort(gaps)[:, len(pixels) // 10].min()
        found.append((gap, tones))
        if gap >= CONTRAST:
            break
    return max(found, key=lambda each: each[0])[1]


def _outlines(rng: Rng, name: str, size: float) -> list[Floats]:
    """A class's outlines, stretched, turned and scaled, with their box centred on the origin."""
    stretch = ASPECT ** rng.uniform(-0.5, 0.5)
    angle = math.radians(rng.uniform(-TURN, TURN))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = [outline * (stretch, 1 / stretch) @ turn for outline in SHAPES[name]]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    scale = size / math.sqrt(np.prod(high - low))
    return [np.asarray((outline - (low + high) / 2) * scale, np.float32) for outline in turned]


def _place(rng: Rng, scene: _Scene, name: str, size: float) -> None:
    """Paint one object on top, where all objects stay enough in sight; none if no such place is found."""
    outlines = _outlines(rng, name, size)
    half = outlines[0].max(axis=0)
    frame = np.array(scene.canvas.shape[1::-1])
    margin = np.zeros(2) if rng.random() < AT_EDGE else np.minimum(half + 1, frame / 2)
    for _ in range(20):
        centre = rng.uniform(margin, frame - margin)
        low, high = np.floor(centre - half).astype(int) - 1, np.ceil(centre + half).astype(int) + 1
        mask = np.zeros((high - low)[::-1] * SUPERSAMPLE, np.uint8)
        points = [((outline + centre - low) * SUPERSAMPLE - 0.5) * 16 for outline in outlines]
        cv2.fillPoly(mask, [np.round(p).astype(np.int32) for p in points], (1,), cv2.LINE_8, 4)
        whole = int(np.count_nonzero(mask))
        (x0, y0), (x1, y1) = (int(v) for v in np.maximum(low, 0)), (int(v) for v in np.minimum(high, frame))
        (left, top), (right, bottom) = ((x0, y0) - low) * SUPERSAMPLE, ((x1, y1) - low) * SUPERSAMPLE
        mask = mask[top:bottom, left:right]
        under = scene.labels[y0 * SUPERSAMPLE : y1 * SUPERSAMPLE, x0 * SUPERSAMPLE : x1 * SUPERSAMPLE]
        covered = np.bincount(under[mask == 1], minlength=len(scene.names) + 1)
        visible = np.append(scene.visible - covered[1:], covered.sum())
        if np.all(visible >= MIN_VISIBLE * np.append(scene.whole, whole)):
            break
    else:
        return
    scene.names.append(name)
    scene.whole.append(whole)
    scene.visible = [int(v) for v in visible]
    under[mask == 1] = len(scene.names)
    patch = scene.canvas[y0:y1, x0:x1]
    alpha = cv2.resize(mask.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)[..., None]
    patch[:] = patch * (1 - alpha) + _texture(rng, y1 - y0, x1 - x0, _tones(rng, name, patch)) * alpha


def _polygon(outer: Floats, holes: list[Floats]) -> list[float]:
    """One COCO polygon (x, y, x, y, ...) for an outline with holes, each joined to it by a cut of no width.

    COCO unites the polygons of an object and so cannot say "hole"; but it fills even-odd, and a cut passed
    both ways cancels out.
    """
    for hole in holes:
        near = np.linalg.norm(outer[:, None] - hole, axis=2)
        i, j = divmod(int(near.argmin()), len(hole))
        outer = np.concatenate([outer[: i + 1], hole[j:], hole[: j + 1], outer[i:]])
    return [round(v, 3) for v in outer.ravel().tolist()]


def _annotations(scene: _Scene) -> list[dict[str, Any]]:
    """COCO records, without ids, of what is in sight of each object."""
    found = []
    for label, name in enumerate(scene.names, 1):
        mask = np.equal(scene.labels, label).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        low = max(x - 9, 0), max(y - 9, 0)
        mask = mask[low[1] : y + height + 9, low[0] : x + width + 9]
        # Slivers thinner than a pixel between two others cannot be seen, yet would stretch the box; the
        # dilation gives pointed corners back.
        seen = cv2.dilate(cv2.morphologyEx(mask, cv2.MORPH_OPEN, SLIVER), SLIVER, iterations=2)
        seen = np.bitwise_and(mask, seen).astype(np.uint8)
        contours, tree = cv2.findContours(seen, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=low)
        large = [n for n, c in enumerate(contours) if cv2.contourArea(c) >= MIN_FRAGMENT * SUPERSAMPLE**2]
        outer = [n for n in large if tree[0][n][3] < 0]
        x, y, width, height = cv2.boundingRect(np.concatenate([contours[n] for n in outer]))
        rough = {n: cv2.approxPolyDP(contours[n], 1.0, True)[:, 0] for n in large}
        lines = {n: (line + np.float32(0.5)) / np.float32(SUPERSAMPLE) for n, line in rough.items()}
        polygons = [_polygon(lines[n], [v for h, v in lines.items() if tree[0][h][3] == n]) for n in outer]
        box, category = [v / SUPERSAMPLE for v in (x, y, width, height)], list(SHAPES).index(name) + 1
        area = scene.visible[label - 1] / SUPERSAMPLE**2
        found.append(dict(category_id=category, bbox=box, area=area, iscrowd=0, segmentation=polygons))
    return found


def draw_picture(rng: Rng, one_shape: bool) -> tuple[Image, list[dict[str, Any]]]:
    """An RGB picture and its COCO records."""
    sides = LONG_SIDE, int(rng.integers(*SHORT_SIDE, endpoint=True))
    height, width = sides if rng.random() < 0.35 else sides[::-1]
    if one_shape:
        height, width = LONG_SIDE * 3 // 4, LONG_SIDE
    canvas = _clutter(rng, _background(rng, height, width))
    scene = _Scene(canvas, np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8))
    count = int(rng.integers(*OBJECTS, endpoint=True))
    sizes = np.exp(rng.uniform(math.log(SIZE[0]), math.log(SIZE[1]), count))
    # Mostly large behind small, as there is room that way; the jitter lets some large ones cover small ones.
    for size in sizes[np.argsort(-sizes * np.exp(rng.normal(0, 0.4, count)))]:
        _place(rng, scene, list(SHAPES)[rng.integers(len(SHAPES))], float(size))
    light = scene.canvas * np.float32(rng.uniform(*BRIGHTNESS))
    if (sigma := rng.uniform(*BLUR)) > 0.2:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), np.float32)
    light += rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(*NOISE))
    return np.clip(light, 0, 255).astype(np.uint8), _annotations(scene)
