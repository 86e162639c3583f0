"""For ``torch.hub.load(REPO, 'ghostnet_1x', pretrained=True)``: one entry for each classifier."""

from ghost_det.weights.zoo import ENTRIES

dependencies = ['torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'huggingface_hub', 'safetensors']
globals().update(ENTRIES)
