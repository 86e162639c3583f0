"""For ``torch.hub.load(REPO, 'ghostnet_1x', pretrained=True)``: one entry for each classifier, and backbones."""

from ghost_det.weights.zoo import ENTRIES, feature_extractor  # noqa: F401

dependencies = ['torch', 'huggingface_hub', 'safetensors']
globals().update(ENTRIES)
