"""What each kind of component must do, one file a kind, and the values that pass between them.

A component is a class with a nested ``Config`` (a `flexvar.ComponentConfig`), made as
``Component(config, *, facts)``. Tokenizers, backbones, position embeddings and conditioners are
``torch.nn.Module``s; schedules, samplers and objectives have no weights. Modules hold no state
between calls: what one generation needs is in the state object that ``start`` returns and the
caller owns.

Beside its options, a tokenizer's ``Config`` has the attribute ``space`` (a `TokenSpace`), and a
backbone's the attributes ``width`` and ``head_dim`` - as fields or properties - so that parts
are checked against each other before any weight is made.

What a class may have beside its protocol, of any kind:

- ``contract_options``: a tuple of mappings, options that `flexvar.contract` tries it with; as a
  partner of other parts it has the first. ``contract_tolerance``: the share of tokens whose logits
  may come out otherwise where rounding decides a discrete route, such as which expert is asked.
- ``keep_fp32``: a class attribute of any module inside, a frozenset of names of its own weights
  that stay in fp32 when the model is cast: decay rates, codebooks.
- ``kernels()`` and ``auto(device, dtype)``, class methods: the implementations there are, and the
  name of the one that ``auto`` takes; ``implementation()``, the one that runs now. See
  `flexvar.components.implementation`.
- ``any_layout()``: the same part for sizes it was not made for, which ``any_size=True`` asks for;
  see `flexvar.components.position` and `flexvar.components.schedule`.

What one kind alone may have stands with its protocol.

A whole third-party backbone, on `PrefixBackbone`::

    class MeanMixer(flexvar.PrefixBackbone):
        def __init__(self, config, *, facts):
            super().__init__(config, facts=facts)
            self.mix = torch.nn.Linear(config.width, config.width)

        def forward(self, x_BLD, cond_BD, layout, position):
            mean = x_BLD[:, :1] + cond_BD[:, None]     # nothing from a later scale
            return x_BLD + self.mix(mean)
"""

from flexvar.components.backbone import Backbone, PrefixBackbone, PrefixConfig, PrefixState
from flexvar.components.conditioner import Condition, Conditioner, FrozenEncoder
from flexvar.components.converter import Converted, Converter, ReleasedState
from flexvar.components.facts import Facts, TokenSpace
from flexvar.components.implementation import Kernel
from flexvar.components.loss import Loss
from flexvar.components.objective import Objective, Pairs
from flexvar.components.position import Position, PositionEmbedding
from flexvar.components.released import ReleasedFile, ReleasedModel
from flexvar.components.sampler import Candidate, Predictor, Sampler
from flexvar.components.schedule import Rng, StepSchedule, sample, uniform
from flexvar.components.tokenizer import Tokenizer, TokenizerOutput, TrainableTokenizer

__all__ = [
    "Backbone",
    "Candidate",
    "Condition",
    "Conditioner",
    "Converted",
    "Converter",
    "Facts",
    "FrozenEncoder",
    "Kernel",
    "Loss",
    "Objective",
    "Pairs",
    "Position",
    "PositionEmbedding",
    "Predictor",
    "PrefixBackbone",
    "PrefixConfig",
    "PrefixState",
    "ReleasedFile",
    "ReleasedModel",
    "ReleasedState",
    "Rng",
    "Sampler",
    "StepSchedule",
    "TokenSpace",
    "Tokenizer",
    "TokenizerOutput",
    "TrainableTokenizer",
    "sample",
    "uniform",
]
