"""Overlaps and suppression of boxes and lanes."""

import math

import pytest
import torch

from .references import mmops, stand_ins

pytestmark = stand_ins


def random_boxes(n, size=40, dtype=torch.float32):
    """Whole-numbered, so that equal overlaps and touching boxes occur."""
    corner = torch.randint(0, size, (n, 2))
    return torch.cat((corner, corner + torch.randint(1, size, (n, 2))), 1).to(dtype)


def tied_scores(n):
    return torch.randint(1, 8, (n,)) / 8


def iou_reference(a, b, offset=0, over='union'):
    def area(x1, y1, x2, y2):
        return (x2 - x1 + offset) * (y2 - y1 + offset)

    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    return shared / (area(*a) + area(*b) - shared if over == 'union' else area(*a))


@pytest.mark.parametrize(('mode', 'offset'), [('iou', 0), ('iof', 1)])
def test_bbox_overlaps(mode, offset):
    a, b = random_boxes(9), random_boxes(9)
    over = 'union' if mode == 'iou' else 'first'
    reference = torch.tensor([[iou_reference(x, y, offset, over) for y in b.tolist()] for x in a.tolist()])
    torch.testing.assert_close(mmops.bbox_overlaps(a, b, mode, offset=offset), reference)
    torch.testing.assert_close(mmops.bbox_overlaps(a, b[:4], mode, offset=offset), reference[:, :4])
    torch.testing.assert_close(
        mmops.bbox_overlaps(a, b, mode, aligned=True, offset=offset), reference.diagonal()
    )


def nms_reference(boxes, scores, threshold, offset=0):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    keep = []
    for i in order:
        if all(iou_reference(boxes[j], boxes[i], offset) <= threshold for j in keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize(('threshold', 'offset'), [(0.3, 0), (0.5, 1)])
def test_nms(threshold, offset):
    boxes, scores = random_boxes(60), tied_scores(60)
    dets, keep = mmops.nms(boxes, scores, threshold, offset=offset)
    reference = nms_reference(boxes.tolist(), scores.tolist(), threshold, offset)
    assert 5 < len(reference) < 60
    assert keep.tolist() == reference
    assert dets.equal(torch.cat((boxes, scores[:, None]), 1)[reference])


def test_nms_keeps_an_iou_equal_to_the_threshold():
    for tenths in range(1, 10):
        boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]], dtype=torch.float32)
        assert mmops.nms(boxes, torch.tensor([0.9, 0.8]), tenths / 10)[1].tolist() == [0, 1]


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_boxes_of_other_dtypes(dtype):
    boxes, scores = random_boxes(40, size=200, dtype=dtype), tied_scores(40).to(dtype)
    assert ((boxes[:, 2:] - boxes[:, :2]).double().prod(1) > 1e4).sum() > 10  # past what float16 counts
    reference = nms_reference(boxes.tolist(), scores.tolist(), 0.4)
    assert mmops.nms(boxes, scores, 0.4)[1].tolist() == reference
    dets = torch.cat((boxes, scores[:, None]), 1)
    assert [group[0] for group in mmops.nms_match(dets, 0.4)] == [
        group[0] for group in match_reference(dets, 0.4)
    ]
    assert sorted(mmops.soft_nms(boxes, scores, 0.4, method='naive', min_score=0.01)[1].tolist()) == sorted(
        soft_nms_reference(boxes.tolist(), scores.tolist(), 0.4, 0.5, 0.01, 'naive', 0)[0]
    )
    whole = torch.tensor([[iou_reference(x, y) for y in boxes.tolist()] for x in boxes.tolist()])
    torch.testing.assert_close(mmops.bbox_overlaps(boxes, boxes), whole.to(dtype))


def soft_nms_reference(boxes, scores, threshold, sigma, min_score, method, offset):
    """The published loop: swap the best to the front, decay the rest, fill a dropped place with the last."""
    rows = [[box, score, i] for i, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    front = 0
    while front < len(rows):
        best = max(range(front, len(rows)), key=lambda i: rows[i][1])
        rows[front], rows[best] = rows[best], rows[front]
        i = front + 1
        while i < len(rows):
            iou = iou_reference(rows[front][0], rows[i][0], offset)
            if method == 'gaussian':
                rows[i][1] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                rows[i][1] *= 1 - iou if method == 'linear' else 0
            if rows[i][1] < min_score:
                last = rows.pop()
                if i < len(rows):
                    rows[i] = last
            else:
                i += 1
        front += 1
    return [row[2] for row in rows], [row[1] for row in rows]


@pytest.mark.parametrize(('method', 'offset'), [('naive', 0), ('linear', 1), ('gaussian', 0)])
def test_soft_nms(method, offset):
    boxes, scores = random_boxes(60), tied_scores(60)
    dets, keep = mmops.soft_nms(boxes, scores, 0.3, 0.4, 0.15, method, offset)
    reference, reference_scores = soft_nms_reference(
        boxes.tolist(), scores.tolist(), 0.3, 0.4, 0.15, method, offset
    )
    assert 5 < len(reference) < 60
    assert keep.tolist() == reference
    assert dets[:, :4].equal(boxes[reference])
    torch.testing.assert_close(dets[:, 4], torch.tensor(reference_scores))


@pytest.mark.parametrize(('method', 'expected'), [('naive', [1.0]), ('linear', [1.0, 0.8 * 0.4])])
def test_soft_nms_decays_at_the_threshold(method, expected):
    boxes, scores = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6.0]]), torch.tensor([1.0, 0.8])
    dets, _ = mmops.soft_nms(boxes, scores, 0.6, method=method)
    torch.testing.assert_close(dets[:, 4], torch.tensor(expected))


def test_soft_nms_of_boxes_without_area():
    boxes = [[5, 5, 5, 5], [0, 0, 10, 10], [30, 30, 40, 40], [7, 7, 7, 9], [60, 60, 70, 70], [1, 0, 10, 10]]
    scores = torch.tensor([0.95, 0.9, 0.6, 0.5, 0.7, 0.8])
    dets, keep = mmops.soft_nms(torch.tensor(boxes).float(), scores, method='gaussian')
    # What compiled mmcv gives: two of them overlap by 0 / 0, and the score that follows stays where it is.
    assert keep.tolist() == [0, 1, 4, 3, 2, 5]
    expected = torch.tensor([0.95, 0.9, 0.7, math.nan, 0.6, 0.8 * math.exp(-(0.9**2) / 0.5)])
    torch.testing.assert_close(dets[:, 4], expected, equal_nan=True)


def match_reference(dets, threshold):
    rows = dets.tolist()
    order = sorted(range(len(rows)), key=lambda i: -rows[i][4])
    groups = []
    while order:
        best = order[0]
        groups.append(
            [best] + [i for i in order[1:] if iou_reference(rows[best][:4], rows[i][:4]) >= threshold]
        )
        order = [i for i in order if i not in groups[-1]]
    return groups


@pytest.mark.parametrize('threshold', [0.3, 0.5])
def test_nms_match(threshold):
    dets = torch.cat((random_boxes(60), tied_scores(60)[:, None]), 1)
    reference = match_reference(dets, threshold)
    assert 1 < max(map(len, reference))
    assert [group.tolist() for group in mmops.nms_match(dets, threshold)] == reference


def test_nms_match_takes_an_iou_equal_to_the_threshold():
    dets = torch.tensor([[0, 0, 10, 10, 0.9], [0, 0, 10, 6, 0.8]])
    assert [group.tolist() for group in mmops.nms_match(dets, 0.6)] == [[0, 1]]


def test_no_boxes():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for dets, keep in (
        mmops.nms(boxes, scores, 0.5),
        mmops.nms(boxes, scores, 0.5, offset=1),
        mmops.nms(torch.ones(3, 4), torch.ones(3), 0.5, score_threshold=2.0),
        mmops.soft_nms(boxes, scores),
    ):
        assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.long
    assert mmops.nms_match(torch.zeros(0, 5), 0.5) == []
    assert mmops.bbox_overlaps(boxes, torch.ones(3, 4)).shape == (0, 3)
    if hasattr(mmops, 'line_nms'):
        assert mmops.line_nms(torch.zeros(0, 77), scores, overlap=6.0, top_k=3)[1] == 0


def line_nms_reference(lanes, scores, overlap, top_k):
    rows = lanes.shape[1] - 5

    def span(lane):
        start = int(lane[2] * (rows - 1) + 0.5)
        return start, start + int(lane[4]) - 1

    def close(a, b):
        first, last = max(span(a)[0], span(b)[0]), min(span(a)[1], span(b)[1], rows - 1)
        if last < first or first < 0:
            return False
        gaps = [abs(float(a[5 + row] - b[5 + row])) for row in range(first, last + 1)]
        return sum(gaps) / len(gaps) < overlap

    keep, parents, removed = [], [0] * len(lanes), set()
    order = sorted(range(len(lanes)), key=lambda i: -scores[i])
    for rank, best in enumerate(order):
        if best in removed or len(keep) == top_k:
            continue
        keep.append(best)
        for other in order[rank:]:
            if other == best or close(lanes[best], lanes[other]):
                parents[other] = len(keep)
                removed.add(other)
    return keep, parents


@pytest.mark.skipif(not hasattr(mmops, 'line_nms'), reason='this mmcv has no line_nms')
@pytest.mark.parametrize('top_k', [3, 40])
def test_line_nms(top_k):
    lanes, scores = torch.rand(40, 5 + 9), torch.rand(40)
    lanes[:, 2] = lanes[:, 2] * 1.5 - 0.5
    lanes[:, 4] = lanes[:, 4] * 8
    lanes[:, 5:] = lanes[:, 5:] * 4 + 40 * lanes[:, :1].round(decimals=1)
    keep, count, parents = mmops.line_nms(lanes, scores, overlap=6.0, top_k=top_k)
    reference, reference_parents = line_nms_reference(lanes, scores, 6.0, top_k)
    assert int(count) == len(reference) == min(top_k, len(reference))
    assert keep.tolist() == reference + [0] * (40 - len(reference))
    assert parents.tolist() == reference_parents
    assert top_k == 3 or 3 < len(reference) < 40
