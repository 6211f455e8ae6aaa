"""What a tokenizer has to do by itself."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from flexvar.components import Facts, Tokenizer, TokenSpace, TrainableTokenizer
from flexvar.contract.measure import (
    BF16_TOLERANCE,
    STEP_TOLERANCE,
    ContractViolation,
    alike,
    demand,
    demand_members,
    equal_within,
    global_seed,
    randomise,
    unchanged,
)
from flexvar.contract.variant import Variant
from flexvar.layout import Layout
from flexvar.ops import precision

LAYOUTS = (
    Layout.of(1, 2, 4),
    Layout.of(1),
    Layout.of(1, (2, 3), (4, 6)),
    Layout.of(1, (1, 5)),
    Layout.of(1, 3, (3, 5)),
)


def tokenizer_of(variant: Variant, seed: int = 0) -> Tokenizer:
    """The tokenizer with weights of a seed, in eval mode."""
    config = variant.config
    space = getattr(config, "space", None)
    if not isinstance(space, TokenSpace):
        raise ContractViolation(f"its Config has no attribute 'space', a TokenSpace: {space!r}")
    with global_seed(seed):
        facts = Facts(space.vocab_size, space.code_dim, 0, 0, 0, space.groups)
        tokenizer = variant.build(facts)
    demand(isinstance(tokenizer, nn.Module), "it is no torch.nn.Module")
    demand_members(tokenizer, Tokenizer)
    found = tokenizer.space
    demand(found == space, f"its space is {found}, its Config says {space}")
    randomise(tokenizer, seed)
    return cast(Tokenizer, tokenizer.eval())


def parts_of(space: TokenSpace) -> tuple[int, ...]:
    """The axis that maps and targets have for the parts of a token, if there are several."""
    return () if space.groups == 1 else (space.groups,)


def picture(tokenizer: Tokenizer, layout: Layout) -> Tensor:
    """Two images of the layout's size, in [-1,1]."""
    stride = tokenizer.space.stride
    h, w = layout.last
    source = torch.Generator().manual_seed(0)
    return torch.rand((2, 3, h * stride, w * stride), generator=source) * 2 - 1


@torch.no_grad()
def encoding_is_deterministic(variant: Variant) -> None:
    """``encode`` gives the same maps again, and those of ``quantize(features(image))``."""
    tokenizer = tokenizer_of(variant)
    for layout in LAYOUTS:
        image = picture(tokenizer, layout)
        kept = image.clone()
        maps = []
        for seed in (0, 1):
            with global_seed(seed):
                maps.append(tokenizer.encode(image, layout))
        in_two = tokenizer.quantize(tokenizer.features(image), layout)
        for scale, (one, again, parted) in enumerate(zip(*maps, in_two, strict=True)):
            where = f"layout {layout}, scale {scale} ({layout[scale]})"
            different = int((one != again).sum())
            demand(
                different == 0,
                f"{where}: {different} of {one.numel()} tokens changed when "
                "the same image was encoded again",
            )
            different = int((one != parted).sum())
            demand(
                different == 0,
                f"{where}: {different} of {one.numel()} tokens of encode are "
                "not those of quantize(features(image))",
            )
        demand(torch.equal(image, kept), f"layout {layout}: encode changed the image it was given")


@torch.no_grad()
def maps_fit_their_layout(variant: Variant) -> None:
    """Features and maps have the layout's shapes; tokens are int64 below vocab_size."""
    tokenizer = tokenizer_of(variant)
    space = tokenizer.space
    for layout in LAYOUTS:
        image = picture(tokenizer, layout)
        latent = tokenizer.features(image)
        wanted = (2, space.code_dim, *layout.last)
        found = tuple(latent.shape)
        demand(found == wanted, f"layout {layout}: features of shape {found}, expected {wanted}")
        demand(bool(latent.isfinite().all()), f"layout {layout}: features are not finite")
        maps = tokenizer.encode(image, layout)
        demand(len(maps) == len(layout), f"layout {layout}: encode gave {len(maps)} maps")
        for scale, (grid, tokens) in enumerate(zip(layout, maps, strict=True)):
            where = f"layout {layout}, scale {scale} ({grid})"
            own, asked = tuple(tokens.shape), (2, *grid, *parts_of(space))
            demand(own == asked, f"{where}: a map of shape {own}, expected {asked}")
            demand(tokens.dtype == torch.int64, f"{where}: a map of {tokens.dtype}, not int64")
            low, high = int(tokens.min()), int(tokens.max())
            demand(
                low >= 0 and high < space.vocab_size,
                f"{where}: tokens from {low} to {high}, vocab_size is {space.vocab_size}",
            )


@torch.no_grad()
def folds_to_the_last_grid(variant: Variant) -> None:
    """After the last scale the latent has the last grid; ``resize`` gives any grid, ``decode``
    stride times the latent's; none changes what it is given.
    """
    tokenizer = tokenizer_of(variant)
    space = tokenizer.space
    for layout in LAYOUTS:
        latent: Tensor | None = None
        maps = tokenizer.encode(picture(tokenizer, layout), layout)
        for step, (grid, tokens) in enumerate(zip(layout, maps, strict=True)):
            where = f"layout {layout}, scale {step} ({grid})"
            code = tokenizer.lookup(tokens)
            found, wanted = tuple(code.shape), (2, space.code_dim, *grid)
            demand(found == wanted, f"{where}: lookup of shape {found}, expected {wanted}")
            given = [one if one is None else one.clone() for one in (latent, code)]
            folded = tokenizer.fold(latent, code, layout, step)
            for now, before in zip((latent, code), given, strict=True):
                kept = now is None or before is None or torch.equal(now, before)
                demand(kept, f"{where}: fold changed a tensor it was given")
            latent = folded
            demand(bool(latent.isfinite().all()), f"{where}: the folded latent is not finite")
            for to in layout:
                found, wanted = tuple(tokenizer.resize(latent, to).shape), (2, space.code_dim, *to)
                demand(found == wanted, f"{where}: resize to {to} gives {found}, not {wanted}")
        assert latent is not None
        found, wanted = tuple(latent.shape), (2, space.code_dim, *layout.last)
        demand(found == wanted, f"layout {layout}: folded to {found}, expected {wanted}")
        images = tokenizer.decode(latent)
        shape = tuple(picture(tokenizer, layout).shape)
        found = tuple(images.shape)
        demand(found == shape, f"layout {layout}: decoded to {found}, expected {shape}")
        demand(bool(images.isfinite().all()), f"layout {layout}: decoded images are not finite")


@torch.no_grad()
def images_are_independent(variant: Variant) -> None:
    """Features and decoded pictures of an image are the same alone and in a batch."""
    tokenizer = tokenizer_of(variant)
    for layout in LAYOUTS:
        # Normalising a channel of one cell leaves rounding alone, and blows it up.
        if layout.last.cells == 1:
            continue
        image = picture(tokenizer, layout)
        latent = tokenizer.features(image)
        what = f"layout {layout}: features of an image alone and in its batch"
        equal_within(tokenizer.features(image[:1]), latent[:1], STEP_TOLERANCE, what)
        what = f"layout {layout}: pictures of a latent alone and in its batch"
        whole = tokenizer.decode(latent)
        equal_within(tokenizer.decode(latent[:1]), whole[:1], STEP_TOLERANCE, what)


@torch.no_grad()
def tokenizer_keeps_no_state(variant: Variant) -> None:
    """No attribute is changed by encoding, folding and decoding."""
    tokenizer = tokenizer_of(variant)
    for layout in LAYOUTS:
        image = picture(tokenizer, layout)
        with unchanged(tokenizer=tokenizer):
            maps = tokenizer.encode(image, layout)
            latent = tokenizer.fold(None, tokenizer.lookup(maps[0]), layout, 0)
            tokenizer.decode(tokenizer.resize(latent, layout.last))


@torch.no_grad()
def tokenizer_moves_between_precisions(variant: Variant) -> None:
    """bf16 features and pictures are finite and near fp32's; fp32 comes back."""
    tokenizer = tokenizer_of(variant)
    module, layout = cast(nn.Module, tokenizer), LAYOUTS[2]
    image = picture(tokenizer, layout)
    latent = tokenizer.features(image)
    exact = tokenizer.decode(latent)
    for dtype in (torch.bfloat16, torch.float32):
        precision.cast(module, dtype)
        where = f"layout {layout}, bf16 weights" if dtype == torch.bfloat16 else "back in fp32"
        found = tokenizer.features(image)
        alike(found, latent, BF16_TOLERANCE, f"{where}: features and those of fp32")
        alike(tokenizer.decode(latent), exact, BF16_TOLERANCE, f"{where}: pictures and fp32's")


def _has_forward(tokenizer: object) -> bool:
    """Whether a class defines it: every module has an attribute of the name."""
    return getattr(type(tokenizer), "forward", None) is not nn.Module.forward


@torch.no_grad()
def next_maps_follow_the_context(variant: Variant) -> None:
    """``next_map``, if there is one, gives the true map after the true coarser scales, and
    something else where they came out otherwise.
    """
    tokenizer = tokenizer_of(variant)
    next_map: Any = getattr(tokenizer, "next_map", None)
    if next_map is None:
        return
    for layout in LAYOUTS:
        latent = tokenizer.features(picture(tokenizer, layout))
        maps = tokenizer.quantize(latent, layout)
        folded: Tensor | None = None
        for step, tokens in enumerate(maps):
            where = f"layout {layout}, scale {step} ({layout[step]})"
            found = next_map(latent, folded, layout, step)
            demand(found.shape == tokens.shape, f"{where}: next_map of shape {tuple(found.shape)}")
            # The same sums in another order may break a near tie otherwise.
            share = float((found == tokens).float().mean())
            demand(share > 0.98, f"{where}: {1 - share:.1%} of next_map are not quantize's tokens")
            if folded is not None:
                other = next_map(latent, -folded, layout, step)
                demand(not torch.equal(other, found), f"{where}: the context changes nothing")
            folded = tokenizer.fold(folded, tokenizer.lookup(tokens), layout, step)


def training_pass_is_whole(variant: Variant) -> None:
    """What stage 1 needs of a tokenizer that can be trained: pictures, maps, losses, gradients."""
    tokenizer = tokenizer_of(variant)
    if not isinstance(tokenizer, TrainableTokenizer) or not _has_forward(tokenizer):
        return
    # Long enough for weights that only some scales have.
    layout = Layout.of(*range(1, 9))
    space, module = tokenizer.space, cast(nn.Module, tokenizer)
    image = picture(tokenizer, layout)
    output = module(image, layout.grids)
    found = tuple(output.reconstructions[-1].shape)
    demand(found == tuple(image.shape), f"the last reconstruction has the shape {found}")
    demand(len(output.maps) == len(layout), f"{len(output.maps)} maps for {len(layout)} grids")
    for grid, tokens in zip(layout, output.maps, strict=True):
        found, wanted = tuple(tokens.shape), (2, *grid, *parts_of(space))
        demand(found == wanted, f"grid {grid}: a map of shape {found}, expected {wanted}")
    codes = tokenizer.codes
    if codes is not None:
        own = (space.vocab_size, space.code_dim)
        shared = (space.groups, space.vocab_size, space.code_dim // space.groups)
        wanted = own if space.groups == 1 else shared
        found = tuple(codes.shape)
        demand(found == wanted, f"codes of shape {found}, expected {wanted}")
        shapes = [(len(v), v.shape[1], *v.shape[2:]) for v in output.vectors]
        wanted_all = [(2, space.code_dim, *grid) for grid in layout]
        demand(shapes == wanted_all, f"vectors of shapes {shapes}, expected {wanted_all}")
    total = torch.stack([made.square().mean() for made in output.reconstructions]).sum()
    for name, loss in output.auxiliary.items():
        demand(loss.ndim == 0 and bool(loss.isfinite()), f"the loss {name} is {loss}, no number")
        total = total + loss
    torch.autograd.backward(total)
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            demand(weight.grad is not None, f"no gradient reaches {name} in training")
