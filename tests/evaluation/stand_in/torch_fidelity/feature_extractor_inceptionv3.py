"""The one class that flexvar takes from torch-fidelity, with one layer in place of Inception."""

import torch
from torch import nn


class FeatureExtractorInceptionV3(nn.Module):
    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.fc = nn.Linear(2048, 1008)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, image_B3HW):
        assert image_B3HW.dtype == torch.uint8
        pooled = nn.functional.adaptive_avg_pool2d(image_B3HW.float() / 255, 4).flatten(1)
        pooled = nn.functional.pad(pooled, (0, 2048 - pooled.shape[1]))
        return pooled, pooled @ self.fc.weight.T
