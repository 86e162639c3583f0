"""For ``torch.hub.load(REPO, 'ghostnet_1x', pretrained=True)``: one entry for each classifier."""

from ghost_det.weights.zoo import ENTRIES

dependencies = ['torch', 'huggingface_hub', 'safetensors']
globals().update(ENTRIES)
