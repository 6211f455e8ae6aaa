"""What each kind of component must do, one file a kind, and the values that pass between them.

A component is a class with a nested ``Config`` (a `flexvar.ComponentConfig`), made as
``Component(config, *, facts)``. Tokenizers, backbones, position embeddings and conditioners are
``torch.nn.Module``s; schedules, samplers and objectives have no weights. Modules hold no state
between calls: what one generation needs is in the state object that ``start`` returns and the
caller owns.

Beside its options, a tokenizer's ``Config`` has the attribute ``space`` (a `TokenSpace`), and a
backbone's the attributes ``width`` and ``head_dim`` - as fields or properties - so that parts
are checked against each other before any weight is made.

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
from flexvar.components.conditioner import Condition, Conditioner
from flexvar.components.converter import Converted, Converter, ReleasedState
from flexvar.components.facts import Facts, TokenSpace
from flexvar.components.implementation import Kernel
from flexvar.components.loss import Loss
from flexvar.components.objective import Objective, Pairs
from flexvar.components.position import Position, PositionEmbedding
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
