"""COCO 2017 into data/coco: python tools/prepare_coco.py [--subset N | --verify] [options]."""

from ghost_det_main import main

if __name__ == '__main__':
    main('prepare-coco')
