_base_ = 'mmdet::_base_/datasets/coco_detection.py'
# All twelve COCO figures and the AP of each class, by the fastest evaluator that is installed.
val_evaluator = dict(type='FullCocoMetric')
test_evaluator = dict(type='FullCocoMetric')
