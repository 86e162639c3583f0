"""Sizes of every classifier next to what the papers print, at 224 px, as a table in Markdown.

Multiply-adds are those of the network folded for deployment, as the papers count.

python -m tools.classifiers
"""

from __future__ import annotations

import torch
from tabulate import tabulate

from ghost_det.swap.probe import count_macs, parameters
from ghost_det.weights.catalog import VARIANTS
from ghost_det.weights.zoo import classifier

HEAD = ('variant', 'tensors', 'parameters (M)', 'folded (M)', 'paper (M)', 'multiply-adds (M)', 'paper (M)')


@torch.no_grad()
def main() -> None:
    rows = []
    for name, entry in VARIANTS.items():
        model = classifier(name).eval()
        tensors, training = len(model.state_dict()), parameters(model)
        model.switch_to_deploy()
        _, macs = count_macs(model, torch.zeros(1, 3, 224, 224))
        sizes = f'{training / 1e6:.2f}', f'{parameters(model) / 1e6:.2f}', entry.params or '?'
        rows.append((name, tensors, *sizes, f'{macs / 1e6:.1f}', entry.macs or '?'))
    print(tabulate(rows, HEAD, 'github', disable_numparse=True))


if __name__ == '__main__':
    main()
