"""Print the objects in the images of the command line, without torch: pip install 'ghost-det[runtime]'."""

import os
import sys

os.environ['GHOST_DET_RUNTIME'] = '1'  # does not import torch, so that it starts in a second

import cv2

from ghost_det.deploy import Detector
from ghost_det.errors import UserError

model, *names = sys.argv[1:]
detector = Detector(model, score_threshold=0.3)
images = (cv2.imread(name) for name in names)
try:
    for name, found in zip(names, detector.stream(images)):  # in order, while later images are processed
        for (x1, y1, x2, y2), score, label in zip(found.boxes, found.scores, found.labels):
            print(f'{name}: {detector.classes[label]} {score:.2f} at {x1:.0f},{y1:.0f} to {x2:.0f},{y2:.0f}')
except UserError as error:  # OpenCV could not read an image
    sys.exit(str(error))
