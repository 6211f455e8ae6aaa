"""State dicts of Infinity's tokenizers under flexvar's names."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from flexvar.components.converter import ReleasedState
from flexvar.errors import CheckpointError

State = dict[str, Tensor]
FIRST = "encoder.conv_in.conv.weight"


def convert_tokenizer(state: ReleasedState) -> tuple[dict[str, Any], State]:
    """Options, but for patchify, and weights of a tokenizer's state dict."""
    channels = state[FIRST].shape[0]
    levels = state.count(r"encoder\.down\.(\d+)\.")
    blocks = state.count(r"encoder\.down\.0\.block\.(\d+)\.")
    bits = state["encoder.conv_out.conv.weight"].shape[0]
    if state["decoder.conv_in.conv.weight"].shape[1] != bits:
        raise CheckpointError(
            f"{state.source}: its encoder makes {bits} bits, its decoder takes "
            f"{state['decoder.conv_in.conv.weight'].shape[1]}; this is no tokenizer of bits."
        )
    widths = [
        state[f"encoder.down.{level}.block.0.conv1.conv.weight"].shape[0] for level in range(levels)
    ]
    spec = {
        "name": "bsq",
        "code_dim": bits,
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "blocks": blocks,
        "latent_channels": bits,
        "projection_kernel": 0,
        "attention": False,
    }
    named = {flexvar_name(name, levels, blocks): tensor for name, tensor in state.items()}
    return spec, {name: tensor for name, tensor in named.items() if name is not None}


def flexvar_name(name: str, levels: int, blocks: int) -> str | None:
    """flexvar's name of a tensor; None for those that the network does not have."""
    if not name.startswith(("encoder.", "decoder.")):
        return None  # masks of bits, discriminators of training
    # Every convolution and norm is wrapped in a module of its own.
    name = re.sub(r"(\.(?:\w*conv\w*|norm\w*|nin_shortcut))\.(?:conv|norm)\.", r"\1.", name)
    name = name.replace(".nin_shortcut.", ".shortcut.")
    name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".middle.{2 * int(m[1]) - 2}.", name)
    pattern = r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(?:block\.(\d+)|downsample|upsample)\.(.+)"
    if match := re.fullmatch(pattern, name):
        side, level_text, number, rest = match.groups()
        # The decoder's levels are numbered fine to coarse, here in the order of the data.
        level = int(level_text) if side == "encoder" else levels - 1 - int(level_text)
        place = blocks + (side == "decoder") if number is None else int(number)
        name = f"{side}.levels.{level}.{place}.{rest}"
    return name
