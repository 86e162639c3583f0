"""Overlaps and suppression of boxes."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from .references import mmops


def random_boxes(n, size=40, dtype=torch.float32):
    """Whole-numbered, so equal overlaps and touching boxes occur."""
    corner = torch.randint(0, size, (n, 2))
    return torch.cat((corner, corner + torch.randint(1, size, (n, 2))), 1).to(dtype)


def tied_scores(n):
    return torch.randint(1, 8, (n,)) / 8


def ious(boxes, others=None, offset=0):
    grow = torch.tensor([0, 0, offset, offset])
    return box_iou(boxes.double() + grow, (boxes if others is None else others).double() + grow)


def test_bbox_overlaps():
    a, b = random_boxes(9), random_boxes(9)
    for offset in (0, 1):
        expected = ious(a, b, offset).float()
        torch.testing.assert_close(mmops.bbox_overlaps(a, b, offset=offset), expected)
        torch.testing.assert_close(mmops.bbox_overlaps(a, b[:4], offset=offset), expected[:, :4])
        aligned = mmops.bbox_overlaps(a, b, aligned=True, offset=offset)
        torch.testing.assert_close(aligned, expected.diagonal())
    first = torch.tensor([[0, 0, 10, 10.0]])
    assert mmops.bbox_overlaps(first, torch.tensor([[5, 5, 20, 20.0]]), 'iof').item() == 0.25
    halves = random_boxes(40, size=200, dtype=torch.float16)
    torch.testing.assert_close(mmops.bbox_overlaps(halves, halves), ious(halves).half())


def greedy(overlaps, scores, is_double):
    """The groups of the published loop: each of the best box left and of its doubles."""
    groups, order = [], sorted(range(len(scores)), key=lambda i: -scores[i])
    while order:
        groups.append([order[0], *(i for i in order[1:] if is_double(overlaps[order[0], i]))])
        order = [i for i in order if i not in groups[-1]]
    return groups


@pytest.mark.parametrize(
    ('threshold', 'offset', 'dtype'),
    [(0.3, 0, torch.float32), (0.5, 1, torch.float64), (0.4, 0, torch.float16)],
)
def test_nms(threshold, offset, dtype):
    boxes, scores = random_boxes(60, 200, dtype), tied_scores(60).to(dtype)
    dets, keep = mmops.nms(boxes, scores, threshold, offset=offset)
    groups = greedy(ious(boxes, offset=offset).float(), scores, lambda iou: iou > threshold)
    expected = [group[0] for group in groups]
    assert 5 < len(expected) < 60
    assert keep.tolist() == expected
    assert dets.equal(torch.cat((boxes, scores[:, None]), 1)[expected])
    for tenths in range(1, 10):  # an IoU equal to the threshold is kept
        pair = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]], dtype=torch.float32)
        assert mmops.nms(pair, torch.tensor([0.9, 0.8]), tenths / 10)[1].tolist() == [0, 1]


def soft_nms(overlaps, scores, threshold, sigma, min_score, method):
    """The published loop: swap the best to the front, decay the rest, fill a dropped place with the last."""
    rows, front = [[index, score] for index, score in enumerate(scores.tolist())], 0
    while front < len(rows):
        best = max(range(front, len(rows)), key=lambda i: rows[i][1])
        rows[front], rows[best] = rows[best], rows[front]
        i = front + 1
        while i < len(rows):
            iou = overlaps[rows[front][0], rows[i][0]].item()
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
    return [row[0] for row in rows], [row[1] for row in rows]


@pytest.mark.parametrize(('method', 'offset'), [('naive', 0), ('linear', 1), ('gaussian', 0)])
def test_soft_nms(method, offset):
    boxes, scores = random_boxes(60), tied_scores(60)
    before = boxes.clone(), scores.clone()
    dets, keep = mmops.soft_nms(boxes, scores, 0.3, 0.4, 0.15, method, offset)
    expected, expected_scores = soft_nms(ious(boxes, offset=offset), scores, 0.3, 0.4, 0.15, method)
    assert 5 < len(expected) < 60
    assert keep.tolist() == expected
    assert dets[:, :4].equal(boxes[expected])
    torch.testing.assert_close(dets[:, 4], torch.tensor(expected_scores))
    assert boxes.equal(before[0]) and scores.equal(before[1])


def test_soft_nms_at_the_threshold_and_without_area():
    boxes, scores = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6.0]]), torch.tensor([1.0, 0.8])
    torch.testing.assert_close(mmops.soft_nms(boxes, scores, 0.6, method='naive')[0][:, 4], torch.ones(1))
    boxes = [[5, 5, 5, 5], [0, 0, 10, 10], [30, 30, 40, 40], [7, 7, 7, 9], [60, 60, 70, 70], [1, 0, 10, 10]]
    scores = torch.tensor([0.95, 0.9, 0.6, 0.5, 0.7, 0.8])
    dets, keep = mmops.soft_nms(torch.tensor(boxes).float(), scores, method='gaussian')
    # What compiled mmcv gives: two of them overlap by 0 / 0, and the score that follows stays where it is.
    assert keep.tolist() == [0, 1, 4, 3, 2, 5]
    expected = torch.tensor([0.95, 0.9, 0.7, math.nan, 0.6, 0.8 * math.exp(-(0.9**2) / 0.5)])
    torch.testing.assert_close(dets[:, 4], expected, equal_nan=True)


def test_nms_match():
    boxes, scores = random_boxes(60), tied_scores(60)
    groups = greedy(ious(boxes).float(), scores, lambda iou: iou >= 0.5)
    assert 1 < max(map(len, groups))
    found = mmops.nms_match(torch.cat((boxes, scores[:, None]), 1), 0.5)
    assert [group.tolist() for group in found] == groups
    dets = torch.tensor([[0, 0, 10, 10, 0.9], [0, 0, 10, 6, 0.8]])
    assert [group.tolist() for group in mmops.nms_match(dets, 0.6)] == [[0, 1]]


def test_no_boxes():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for dets, keep in (mmops.nms(boxes, scores, 0.5, offset=1), mmops.soft_nms(boxes, scores)):
        assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.long
    assert mmops.nms_match(torch.zeros(0, 5), 0.5) == []
    assert mmops.bbox_overlaps(boxes, torch.ones(3, 4)).shape == (0, 3)
