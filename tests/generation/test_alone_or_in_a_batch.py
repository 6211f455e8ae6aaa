"""An image is the same to the bit alone and in a batch, with every tokenizer there is.

Products and convolutions round by how many rows they are given, so all that the loop does with a
tokenizer has to be of one image at a time, or in shares of one size.
"""

import pytest
import torch
from helpers import TINY, shake

from flexvar import FlexvarError, Pipeline
from flexvar.contract.measure import randomise
from flexvar.contract.variant import variants
from flexvar.plugin import default_registry

VARIANTS = [
    variant
    for name in default_registry().names("tokenizer")
    for variant in variants(default_registry(), "tokenizer", name)
]


def pipe_of(variant):
    tokenizer = {"name": variant.name, **variant.options}
    try:
        pipe = shake(Pipeline.from_config({**TINY, "tokenizer": tokenizer}, seed=1))
    except FlexvarError as error:  # as one that no random position takes
        pytest.skip(str(error))
    randomise(pipe.tokenizer, 0)
    return pipe


@pytest.mark.parametrize("soft", [False, True], ids=["drawn", "soft"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_generated(variant, soft):
    pipe = pipe_of(variant)
    stride, groups = pipe.tokenizer.space.stride, pipe.tokenizer.space.groups
    way = {"size": (3 * stride, 5 * stride), "steps": 4, "guidance": 2.0, "soft": soft}
    if soft and groups > 1:
        with pytest.raises(FlexvarError, match=rf"tokens have {groups} parts"):
            pipe([0], seed=0, **way)
        return
    for first in (0, 20):
        labels, seeds = [0, 1, None, 3, 4], [first + i for i in range(5)]
        five = pipe(labels, seed=seeds, **way)
        three = pipe(labels[2:], seed=seeds[2:], **way)
        alone = [pipe(label, seed=[seed], **way) for label, seed in zip(labels, seeds, strict=True)]
        for number in range(5):
            for got, row in ((alone[number], 0), (three, number - 2))[: 1 + (number > 1)]:
                for scale, (one, other) in enumerate(zip(got.maps, five.maps, strict=True)):
                    assert torch.equal(one[row], other[number]), (number, scale)
                assert got.images[row].tobytes() == five.images[number].tobytes(), number


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_reconstructed_and_scored(variant):
    pipe = pipe_of(variant)
    stride = pipe.tokenizer.space.stride
    pictures = torch.rand(3, 3, 3 * stride, 5 * stride, generator=torch.Generator().manual_seed(0))
    whole = pipe.reconstruct(pictures, output="tensor")
    assert torch.equal(whole[1:2], pipe.reconstruct(pictures[1:2], output="tensor"))
