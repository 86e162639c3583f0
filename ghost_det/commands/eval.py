"""Evaluate saved detections: COCO's twelve figures and an error analysis."""

import argparse
from pathlib import Path

from ._options import FOLDER, fraction


def add_options(parser: argparse.ArgumentParser) -> None:
    results = 'COCO results, as written by ghost-det test --out FILE.json'
    parser.add_argument('results', type=Path, metavar='RESULTS', help=results)
    parser.add_argument('annotations', type=Path, metavar='ANN', help='COCO annotations')
    parser.add_argument('--iou-type', choices=['bbox', 'segm'], default='bbox', help='default: %(default)s')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write figures and analysis as JSON')
    parser.add_argument('--out-dir', **FOLDER, help='draw curves, confusion matrix and errors')
    score = 'minimum score in the confusion matrix (default: %(default)s)'
    parser.add_argument('--score', type=fraction, default=0.3, help=score)


def run(args: argparse.Namespace) -> None:
    from ghost_det.evaluation.results import evaluate_saved

    places = (args.json, args.out_dir)
    for line in evaluate_saved(args.results, args.annotations, args.iou_type, *places, args.score):
        print(line)
