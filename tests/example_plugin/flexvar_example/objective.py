"""An objective that stresses the last scale."""

import torch
import torch.nn.functional as F

import flexvar
from flexvar.sequence import targets, teacher_forcing


class Late:
    """Cross-entropy, with the tokens of the last scale ``factor`` times as heavy."""

    class Config(flexvar.ComponentConfig):
        """Options of `Late`. factor: weight of the last scale's tokens over the others'."""

        factor: float = 2.0

    def __init__(self, config, *, facts):
        self.config = config

    def pairs(self, tokenizer, latent_BChw, layout, rng):
        """Inputs by teacher forcing, and a weight per token, 1 on average."""
        maps = tokenizer.quantize(latent_BChw, layout)
        weight = torch.ones(layout.tokens, device=latent_BChw.device)
        weight[layout.slices[-1]] = self.config.factor
        inputs = teacher_forcing(tokenizer, maps, layout)
        return flexvar.Pairs(inputs, targets(maps), (weight / weight.mean())[None])

    def loss(self, logits, targets):
        """Nats of each token (B,L), summed over its parts."""
        nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
        nats = nats.view(targets.shape)
        return nats if nats.ndim == 2 else nats.sum(dim=-1)
