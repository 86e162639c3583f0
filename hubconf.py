"""For ``torch.hub.load(REPO, 'ghostnet_1x', pretrained=True)``: an entry for each classifier; backbones."""

from ghost_det.weights.zoo import ENTRIES, feature_extractor  # noqa: F401

dependencies = ['torch', 'huggingface_hub', 'safetensors']
globals().update(ENTRIES)
