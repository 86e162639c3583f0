"""Evaluate saved detections without their model: python tools/eval.py RESULTS.json ANN.json [options]."""

import argparse
from pathlib import Path

from ghost_det.assess import evaluate_saved
from ghost_det.cli import parse
from ghost_det.errors import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description="COCO's twelve figures and an analysis of saved detections.")
    parser.add_argument('results', type=Path, help='COCO results, as of tools/test.py --out FILE.json')
    parser.add_argument('annotations', type=Path, metavar='ANN', help="ground truth in COCO's format")
    parser.add_argument('--iou-type', choices=['bbox', 'segm'], default='bbox', help='(default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all of it for other programs')
    parser.add_argument('--out-dir', type=Path, metavar='FOLDER', help='draw curves, confusion, errors there')
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='from which on detections count in the confusion matrix (default: %(default)s)',
    )
    args = parse(parser)
    for line in evaluate_saved(
        args.results, args.annotations, args.iou_type, args.json, args.out_dir, args.score
    ):
        print(line)


if __name__ == '__main__':
    run_tool(main)
