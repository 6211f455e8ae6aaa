"""What the parts of a model are told about each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenSpace:
    """What a tokenizer's tokens are.

    vocab_size: number of values V of a token part. code_dim: length C of a code. stride: pixels
    per latent cell. groups: independent parts G of a token, of ``vocab_size`` values each - the
    bits of a binary code, levels, several codebooks. With one part a map is (B,h,w) and logits
    are (B,L,V); with several they are (B,h,w,G) and (B,L,G,V).
    """

    vocab_size: int
    code_dim: int
    stride: int
    groups: int = 1

    def describe(self) -> str:
        """What a token is, in words."""
        if self.groups == 1:
            return f"{self.vocab_size} codes of {self.code_dim} numbers"
        return (
            f"tokens of {self.groups} parts with {self.vocab_size} values each, codes of "
            f"{self.code_dim} numbers"
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What a component is told at build time beside its own options.

    For a tokenizer alone ``width``, ``head_dim`` and ``num_classes`` are 0. groups: parts of a
    token, see `TokenSpace`. class_names: one per class, if there are names. reads_tokens: whether
    the backbone reads the tokens that the conditioner gives, beside its pooled vector.
    """

    vocab_size: int
    code_dim: int
    width: int
    head_dim: int
    num_classes: int
    groups: int = 1
    class_names: tuple[str, ...] | None = None
    reads_tokens: bool = False
