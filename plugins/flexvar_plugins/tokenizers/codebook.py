"""The codebook: nearest code, and code of an index."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Distances of one chunk of vectors to all codes, in numbers: 16 MB in fp32 on a CPU, whose cache
# they should fit; 256 MB elsewhere, where every chunk is launches.
CHUNK_NUMBERS, CHUNK_NUMBERS_GPU = 2**22, 2**26


@dataclass(frozen=True, slots=True)
class Quantised:
    """A latent after the choice of tokens: index (B,h,w) or (B,h,w,G), code (B,C,h,w).

    vectors (B,C,h,w): what was compared with the codes. The losses are None without a codebook.
    """

    index: Tensor
    vectors: Tensor
    code: Tensor
    codebook_loss: Tensor | None = None
    commitment_loss: Tensor | None = None


class Codebook(nn.Module):
    """V codes of C numbers, compared in fp32.

    normalise: codes and vectors are brought to unit length before they are compared, and codes
    come out at unit length (FlexVAR); else they are compared as they are (VAR).
    """

    # A code rounded to bf16 would move pictures and inputs; the table is small.
    keep_fp32 = frozenset({"weight"})

    def __init__(self, vocab_size: int, code_dim: int, *, normalise: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.weight = nn.Parameter(torch.empty(vocab_size, code_dim))
        nn.init.uniform_(self.weight, -1 / vocab_size, 1 / vocab_size)
        if normalise:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight, dim=-1))

    @property
    def codes_VC(self) -> Tensor:
        """The codes as they are compared and looked up, fp32."""
        weight = self.weight.float()
        return F.normalize(weight, dim=-1) if self.normalise else weight

    @torch.no_grad()
    def nearest(self, latent_BChw: Tensor) -> Tensor:
        """Index (B,h,w) of the code nearest to each vector of a latent (B,C,h,w).

        Squared Euclidean distance as |z|^2 + |e|^2 - 2 z.e in fp32, which is how the released
        models break near ties. Memory is bounded: distances are made a chunk at a time.
        """
        codes_VC = self.codes_VC
        vectors_NC = rearrange(self.comparable(latent_BChw), "B C h w -> (B h w) C")
        squares_V = codes_VC.square().sum(dim=1)
        on_cpu = codes_VC.device.type == "cpu"
        numbers = CHUNK_NUMBERS if on_cpu else CHUNK_NUMBERS_GPU
        rows = max(1, numbers // codes_VC.shape[0])
        parts = []
        # Autocast would make the product in half precision, where near codes are all alike.
        with torch.autocast(codes_VC.device.type, enabled=False):
            for chunk_NC in vectors_NC.split(rows):
                offset_NV = chunk_NC.square().sum(dim=1, keepdim=True) + squares_V
                parts.append(torch.addmm(offset_NV, chunk_NC, codes_VC.T, alpha=-2).argmin(dim=1))
        batch, _, height, width = latent_BChw.shape
        return torch.cat(parts).view(batch, height, width)

    def comparable(self, latent_BChw: Tensor) -> Tensor:
        """A latent as it is compared with the codes, (B,C,h,w) fp32."""
        latent_BChw = latent_BChw.float()
        return F.normalize(latent_BChw, dim=1) if self.normalise else latent_BChw

    def straight_through(self, latent_BChw: Tensor, *, quantize: bool = True) -> Quantised:
        """The nearest codes, whose gradient goes to the latent as if there were no choice.

        The two losses are mean squared distances: the codebook's moves the codes, the
        commitment's the latent (van den Oord et al., arXiv 1711.00937, equation 3). Without
        ``quantize`` the vectors themselves pass, and both losses are 0.
        """
        vectors = self.comparable(latent_BChw)
        index = self.nearest(vectors)
        code = self(index) if quantize else vectors.detach()
        return Quantised(
            index=index,
            vectors=vectors.detach(),
            code=vectors + (code - vectors).detach(),
            codebook_loss=F.mse_loss(code, vectors.detach()),
            commitment_loss=F.mse_loss(vectors, code.detach()),
        )

    def forward(self, index_Bhw: Tensor) -> Tensor:
        """The codes (B,C,h,w) of a map of indices, fp32."""
        code = F.embedding(index_Bhw, self.weight).float()
        code = F.normalize(code, dim=-1) if self.normalise else code
        return rearrange(code, "B h w C -> B C h w")
