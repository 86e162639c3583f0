"""Parameters and multiply-adds of a detector: python tools/complexity.py CONFIG [--size HEIGHT WIDTH]."""

import argparse

from ghost_det.cli import parse, whole
from ghost_det.complexity import build_detector, classifier_table, complexity
from ghost_det.errors import run_tool
from ghost_det.run import load_config


def main() -> None:
    parser = argparse.ArgumentParser(description='Count the parameters and multiply-adds of a detector.')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('config', nargs='?', help='a config file')
    what.add_argument('--classifiers', action='store_true', help='every classifier, beside the papers')
    parser.add_argument('--size', type=whole, nargs=2, default=(800, 1333), metavar=('HEIGHT', 'WIDTH'))
    args = parse(parser)
    if args.classifiers:
        print(classifier_table())
        return
    parts = complexity(build_detector(load_config(args.config)), *args.size)
    parts['all'] = tuple(map(sum, zip(*parts.values())))
    print(f'{"part":<12}{"parameters (M)":>16}{"multiply-adds (G)":>19}')
    for name, (parameters, macs) in parts.items():
        print(f'{name:<12}{parameters / 1e6:>16.2f}{macs / 1e9:>19.2f}')


if __name__ == '__main__':
    run_tool(main)
