"""The transformer of VAR and FlexVAR: attention over scales in AdaLN blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flexvar.components import Condition, Facts, Position
from flexvar.components.implementation import Kernel
from flexvar.config import ComponentConfig
from flexvar.layout import Layout
from flexvar.ops import heads
from flexvar.ops.heads import Cache, Turns
from flexvar.ops.linear import Linear
from flexvar.ops.precision import computing_dtype
from flexvar_plugins.backbones import attention
from flexvar_plugins.backbones.adaln import (
    AdaLnBackbone,
    AdaLnBlock,
    BlockConfig,
    Branch,
    Pending,
    join,
    shrink,
    truncated_normal,
)
from flexvar_plugins.backbones.attention import Attend, Implementation
from flexvar_plugins.backbones.cross_attention import CrossAttention, Seen

# QK-norm: the learned log-scale starts at log 4 and is held below log 100 (VAR's code).
LOG_SCALE_START, LOG_SCALE_MAX = math.log(4), math.log(100)


class TransformerConfig(ComponentConfig):
    """Options of `TransformerBackbone`.

    depth: blocks. width: 64 * depth unless given; num_heads: width / 64 unless given.
    mlp_ratio: inner width of the MLP over width. qk_norm: unit-length queries and keys with a
    learned scale per head; else the softmax scale is 0.25 / sqrt(head_dim). shared_modulation:
    one AdaLN projection for all blocks plus an offset in each, instead of one in each.
    drop_path: stochastic depth of the last block in training, falling linearly to 0 at the
    first; the papers take 0.1 * depth / 24. init_std: of the truncated normal, sqrt(1 / (3
    width)) unless given. init_modulation, init_gate: factors on the AdaLN weights that scale
    and shift, and on those that gate. implementation: of attention; ``auto`` picks by what is
    installed, device and dtype.
    """

    depth: int = Field(default=16, ge=1)
    width: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    qk_norm: bool = True
    shared_modulation: bool = False
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    init_std: float | None = Field(default=None, gt=0)
    init_modulation: float = Field(default=0.5, ge=0)
    init_gate: float = Field(default=1e-3, ge=0)
    implementation: Implementation = "auto"

    @model_validator(mode="before")
    @classmethod
    def _scale_with_depth(cls, data: Any) -> Any:
        """Width and heads follow from the depth unless given (VAR, section 4.1)."""
        if not isinstance(data, dict):
            return data
        try:
            width = int(data.get("width", 64 * int(data.get("depth", 16))))
        except (TypeError, ValueError):
            width = 64  # so that the wrong value is what gets reported
        return {"width": width, "num_heads": max(1, width // 64)} | data

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        return self

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.num_heads


class CrossTransformerConfig(TransformerConfig):
    """Options of `TransformerBackbone`: those of `TransformerConfig`, and whether it reads tokens.

    cross_attention: every block looks at the tokens of the condition too, such as the words of a
    prompt; for conditioners that give tokens. cross_norm: its layer norm has weights of its own
    (Infinity). levels: rows of a learned table with a vector for each scale, added to its tokens
    before the first block; further scales take the last row, 0 is no table. level_every: the
    vector is added before every so many blocks again.
    """

    cross_attention: bool = False
    cross_norm: bool = False
    levels: int = Field(default=0, ge=0, le=4096)
    level_every: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _switches_have_their_part(self) -> Self:
        if self.cross_norm and not self.cross_attention:
            raise ValueError("cross_norm is of cross-attention; set cross_attention too")
        if self.level_every is not None and not self.levels:
            raise ValueError("level_every needs levels, the rows of the table that is added")
        return self

    @property
    def accepts(self) -> frozenset[str]:
        """What the backbone does with what it is given."""
        return frozenset({"rotate", "tokens"} if self.cross_attention else {"rotate"})

    @property
    def needs(self) -> frozenset[str]:
        """What the conditioner has to give."""
        return frozenset({"tokens"} if self.cross_attention else ())


class Constants(NamedTuple):
    """What an attention's weights say whatever the tokens: made once for a generation.

    bias_E: of queries, keys and values. scale_H1: of unit-length queries, fp32, if there is one.
    """

    bias_E: Tensor
    scale_H1: Tensor | None


class Attention(nn.Module):
    """Multi-head self-attention; queries and values have a bias, keys have none."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.num_heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = Linear(width, width)
        self.log_scale: nn.Parameter | None = None
        self.softmax_scale = 0.25 / math.sqrt(config.head_dim)
        if config.qk_norm:
            self.log_scale = nn.Parameter(torch.full((config.num_heads,), LOG_SCALE_START))
            self.softmax_scale = 1.0

    def constants(self) -> Constants:
        """What `project` makes of the weights alone."""
        bias_E = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if self.log_scale is None:
            return Constants(bias_E, None)
        return Constants(bias_E, self.log_scale.float().clamp_max(LOG_SCALE_MAX).exp()[:, None])

    def project(
        self,
        x_BLD: Tensor,
        rotate: Tensor | Turns | None,
        constants: Constants | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B,L,H,d), normalised and rotated.

        rotate: angles (L,R), or their cosine and sine. constants: those of these weights, made
        here unless given.
        """
        bias_E, scale_H1 = constants or self.constants()
        qkv_BLE = self.qkv(x_BLD, bias_E)
        if rotate is not None and not isinstance(rotate, Turns):
            rotate = attention.turns(rotate, qkv_BLE.dtype)
        return heads.project(qkv_BLE, self.heads, scale_H1, rotate)

    def store(
        self,
        x_BLD: Tensor,
        rotate: Turns | None,
        constants: Constants,
        cache: Cache,
        *,
        fused: bool,
    ) -> Tensor:
        """The queries of `project`; keys and values go into the cache."""
        qkv_BLE = self.qkv(x_BLD, constants.bias_E)
        return heads.store(qkv_BLE, constants.scale_H1, rotate, cache, fused=fused)


class Block(AdaLnBlock):
    """Attention, then an MLP; between them attention to the condition's tokens, if asked for."""

    fusions = (*AdaLnBlock.fusions, heads.HEADS)
    # What stands before attention and after it: many small operations, worth compiling.
    REGIONS: ClassVar[tuple[str, ...]] = ("before_attention", "after_attention")

    def __init__(self, config: TransformerConfig, number: int) -> None:
        super().__init__(config, number)
        self.attention = Attention(config)
        self.cross: CrossAttention | None = None
        if getattr(config, "cross_attention", False):
            own = bool(getattr(config, "cross_norm", False))
            self.cross = CrossAttention(config.width, config.num_heads, own_norm=own)

    def seen(self, tokens_BTD: Tensor | None, mask_BT: Tensor | None) -> Seen | None:
        """What this block sees of the condition's tokens; None if it does not look."""
        if self.cross is None:
            return None
        assert tokens_BTD is not None
        return Seen(*self.cross.read(tokens_BTD), mask_BT)

    @torch.no_grad()
    def initialise(self, config: BlockConfig) -> None:
        """The published start."""
        super().initialise(config)
        for layer in (self.attention.qkv, self.attention.out):
            truncated_normal(layer, config)
        self.attention.out.weight.mul_(shrink(config))
        if self.cross is not None:
            for layer in (self.cross.query, self.cross.key_value):
                truncated_normal(layer, config)
            nn.init.zeros_(self.cross.out.weight)
            nn.init.zeros_(self.cross.out.bias)

    def forward(
        self,
        x_BLD: Tensor,
        cond_BD: Tensor,
        shared_B6D: Tensor | None,
        rotate_LR: Tensor | None,
        attend: Attend,
        tokens_BTD: Tensor | None = None,
        mask_BT: Tensor | None = None,
    ) -> Tensor:
        """Features (B,L,D) under a condition; shared_B6D: what all blocks share of it, if they do.

        tokens_BTD, mask_BT: tokens of the condition, for a block that looks at them. All weights
        of the block are used in here, so that it can be sharded by itself.
        """
        seen = self.seen(tokens_BTD, mask_BT)
        both = self.modulate(cond_BD, shared_B6D)
        x_BLD, normed_BLD = self.norm(x_BLD, None, both[0])
        q, k, v = self.attention.project(normed_BLD, rotate_LR)
        mixed_BLD = attend(q, k, v, self.attention.softmax_scale).flatten(2)
        return join(*self.after_attention(x_BLD, mixed_BLD, both, seen))

    def step(
        self,
        x_BLD: Tensor,
        pending: Pending | None,
        both: tuple[Branch, ...],
        rotate: Turns | None,
        cache: Cache,
        attend: Callable[[Tensor, float], Tensor],
        seen: Seen | None,
        constants: Constants,
    ) -> tuple[Tensor, Pending]:
        """The same of one scale, under AdaLN values and with constants that are there already.

        pending: of the block before. attend: what queries read from all that is cached so far. What
        comes back lacks what is pending then.
        """
        given = x_BLD, pending, both[0], rotate, constants, cache
        if pending is None:  # of one block: not worth another round of compiling
            x_BLD, q = type(self).before_attention(self, *given)
        else:
            x_BLD, q = self.before_attention(*given)
        mixed_BLD = attend(q, self.attention.softmax_scale).flatten(2)
        return self.after_attention(x_BLD, mixed_BLD, both, seen)

    def before_attention(
        self,
        x_BLD: Tensor,
        pending: Pending | None,
        first: Branch,
        rotate: Turns | None,
        constants: Constants,
        cache: Cache,
    ) -> tuple[Tensor, Tensor]:
        """The stream, and queries (B,L,H,d); keys and values go into the cache."""
        x_BLD, normed_BLD = self.norm(x_BLD, pending, first)
        return x_BLD, self.attention.store(normed_BLD, rotate, constants, cache, fused=self.fused)

    def after_attention(
        self, x_BLD: Tensor, mixed_BLD: Tensor, both: tuple[Branch, ...], seen: Seen | None
    ) -> tuple[Tensor, Pending]:
        """The stream with what attention made of it, and what the MLP did, pending."""
        first, second = both
        pending: Pending | None = self.pending(x_BLD, first.gate, self.attention.out(mixed_BLD))
        if self.cross is not None:
            assert seen is not None
            x_BLD = join(x_BLD, pending)
            x_BLD, pending = x_BLD + self.cross(x_BLD, seen), None
        x_BLD, normed_BLD = self.norm(x_BLD, pending, second)
        return x_BLD, self.pending(x_BLD, second.gate, self.mlp(normed_BLD))


@dataclass(slots=True)
class TransformerState:
    """One generation: AdaLN values, angles, and the keys and values of all scales so far.

    attends: the kernels, seen: keys and values of the condition's tokens, constants: what the
    weights say, by block. after_block:
    what is made of the output (B,h*w,D) of a block, whose number comes first, before the next one
    sees it; for samplers that guide inside the network.
    """

    layout: Layout
    rotate: Turns | None
    modulations: list[tuple[Branch, ...]]
    keys_BLHd: list[Tensor]
    values_BLHd: list[Tensor]
    attends: list[Attend]
    seen: list[Seen | None]
    constants: list[Constants]
    scale: int = 0
    after_block: Callable[[int, Tensor], Tensor] | None = None


class TransformerBackbone(AdaLnBackbone):
    """AdaLN transformer, block-causal over scales without a mask.

    VAR, arXiv 2404.02905, section 3.2 and appendix; FlexVAR takes the same. Parameters N =
    73728 depth^3 with AdaLN per block.
    """

    Config: ClassVar[type[ComponentConfig]] = CrossTransformerConfig
    # Tokens only with the option cross_attention, as its Config says.
    accepts: ClassVar[frozenset[str]] = frozenset({"rotate", "tokens"})
    contract_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {"depth": 2, "width": 64, "num_heads": 2},
        {"depth": 2, "width": 64, "shared_modulation": True, "drop_path": 0.2},
        {"depth": 2, "width": 64, "qk_norm": False, "implementation": "eager"},
        {"depth": 2, "width": 64, "levels": 3, "level_every": 1},
    )

    # Which keys each scale sees, when all scales are computed at once.
    over_scales = staticmethod(attention.over_scales)

    def __init__(self, config: TransformerConfig, *, facts: Facts) -> None:
        super().__init__()
        del facts  # everything it needs is in its options
        attention.require(config.implementation)
        self.config = config
        self.recompute = False
        self.width, self.head_dim = config.width, config.head_dim
        self.make_blocks(config, [Block(config, number) for number in range(config.depth)])
        self.level: nn.Parameter | None = None
        if levels := getattr(config, "levels", 0):
            self.level = nn.Parameter(torch.empty(levels, config.width))
            nn.init.normal_(self.level, std=0.01)

    @classmethod
    def kernels(cls) -> tuple[Kernel, ...]:
        """The attention kernels, and whether they can be had here."""
        return attention.kernels()

    @classmethod
    def auto(cls, device: torch.device, dtype: torch.dtype) -> str:
        """The attention kernel that ``auto`` takes on a device in a dtype."""
        return attention.choose("auto", device, dtype)

    def _level(self, x_BLD: Tensor, number: int, layout: Layout, scales: range) -> Tensor:
        """With the vectors of the scales whose tokens these are added, if they are due."""
        if self.level is None or not self._due(number):
            return x_BLD
        rows = [self.level[min(scale, len(self.level) - 1)] for scale in scales]
        parts = [row.expand(layout[s].cells, -1) for row, s in zip(rows, scales, strict=True)]
        return x_BLD + torch.cat(parts).to(x_BLD.dtype)

    def _due(self, number: int) -> bool:
        """Whether vectors of scales are added before a block."""
        every = getattr(self.config, "level_every", None)
        return self.level is not None and not (number % every if every else number)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def implementation(self) -> str:
        """The attention kernel that runs with the weights as they are, or under autocast now."""
        # No matrix, which may be in int8.
        weight = self._blocks()[0].attention.q_bias
        return attention.choose(self.config.implementation, weight.device, computing_dtype(weight))

    def forward(
        self, x_BLD: Tensor, condition: Condition | Tensor, layout: Layout, position: Position
    ) -> Tensor:
        """Features (B,L,D) of all scales at once; a condition may be its pooled vector alone."""
        condition = whole(condition)
        cond_BD = condition.pooled_BD
        kernel = self._kernel(x_BLD)

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            return self.over_scales(kernel, q, k, v, layout, scale)

        recompute = self.recompute and torch.is_grad_enabled()
        read = (condition.tokens_BTD, condition.mask_BT)
        others = (cond_BD, self.shared(cond_BD), position.rotate_LR, attend, *read)
        for number, block in enumerate(self._blocks()):
            x_BLD = self._level(x_BLD, number, layout, range(len(layout)))
            if recompute:
                x_BLD = checkpoint(block, x_BLD, *others, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, *others)
        return x_BLD

    def checkpoint_activations(self) -> None:
        """From now on keep no activations inside blocks; the backward pass computes them again."""
        self.recompute = True

    def start(
        self, condition: Condition | Tensor, layout: Layout, position: Position
    ) -> TransformerState:
        """A state with room for all tokens of the layout."""
        condition = whole(condition)
        cond_BD = condition.pooled_BD
        angle_LR = position.rotate_LR
        shape = (cond_BD.shape[0], layout.tokens, self.config.num_heads, self.head_dim)
        constants = [block.attention.constants() for block in self._blocks()]
        return TransformerState(
            layout=layout,
            rotate=None
            if angle_LR is None
            else attention.turns(angle_LR, computing_dtype(cond_BD)),
            modulations=self.modulations(cond_BD),
            keys_BLHd=[cond_BD.new_empty(shape) for _ in self.blocks],
            values_BLHd=[cond_BD.new_empty(shape) for _ in self.blocks],
            attends=[self._kernel(cond_BD, one) for one in constants],
            seen=[block.seen(condition.tokens_BTD, condition.mask_BT) for block in self._blocks()],
            constants=constants,
        )

    def step(self, x_BLD: Tensor, state: TransformerState) -> Tensor:
        """Features (B,h*w,D) of the next scale; its keys and values join the state."""
        part = state.layout.slices[state.scale]
        rotate = None if state.rotate is None else state.rotate.of(part)
        pending: Pending | None = None
        for number, block in enumerate(self._blocks()):
            keys, values = state.keys_BLHd[number], state.values_BLHd[number]
            kernel = state.attends[number]

            def attend(
                q: Tensor,
                scale: float,
                keys: Tensor = keys,
                values: Tensor = values,
                kernel: Attend = kernel,
            ) -> Tensor:
                return kernel(q, keys[:, : part.stop], values[:, : part.stop], scale)

            if self._due(number):
                scales = range(state.scale, state.scale + 1)
                x_BLD = self._level(join(x_BLD, pending), number, state.layout, scales)
                pending = None
            given = state.modulations[number], rotate, Cache(keys[:, part], values[:, part])
            own = state.seen[number], state.constants[number]
            x_BLD, pending = block.step(x_BLD, pending, *given, attend, *own)
            if state.after_block is not None:
                x_BLD, pending = state.after_block(number, join(x_BLD, pending)), None
        x_BLD = join(x_BLD, pending)
        state.scale += 1
        return x_BLD

    def _kernel(self, like: Tensor, constants: Constants | None = None) -> Attend:
        dtype, wanted = computing_dtype(like), self.config.implementation
        name = attention.choose(wanted, like.device, dtype)
        scale_H1 = None if constants is None else constants.scale_H1
        if (wanted, name) == ("auto", "sdpa") and attention.scores_may_be_rounded(
            like.device, dtype, scale_H1
        ):
            return attention.products
        return attention.KERNELS[name]


def whole(condition: Condition | Tensor) -> Condition:
    """A condition that may be given by its pooled vector alone."""
    return condition if isinstance(condition, Condition) else Condition(condition)
