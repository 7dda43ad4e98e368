"""The parts of MineCLIP, with the names and shapes of its checkpoint.

Source: MineDojo/MineCLIP (MIT) for names, shapes and order; CLIP's transformers are those of
Radford et al. 2021 (arXiv:2103.00020), the temporal one x-transformers' of 2022.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-normalised transformer block.

    Args:
        width: of a token.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, L, W), and what a token may not look at (L, L) -> (N, L, W)."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class ImageEncoder(nn.Module):
    """A vision transformer whose first token is the image's.

    Args:
        image: height and width in pixels.
        patch: pixels a side.
        width: of a token.
        layers: blocks.
        heads: of each.
        size: of the feature.
    """

    def __init__(
        self, image: tuple[int, int], patch: int, width: int, layers: int, heads: int, size: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        tokens = (image[0] // patch) * (image[1] // patch) + 1
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_post = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.zeros(width, size))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (N, 3, h, w) -> (N, F)."""
        patches = self.conv1(image).flatten(2).mT  # (N, L - 1, W)
        first = self.cls_token.expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], 1) + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.projection


class TextEncoder(nn.Module):
    """A causal transformer, read at the end of the text.

    Args:
        context: tokens of a text, filled up with 0.
        vocabulary: tokens that there are; the last one ends a text.
        width: of a token.
        layers: blocks.
        heads: of each.
        size: of the feature.
    """

    def __init__(
        self, context: int, vocabulary: int, width: int, layers: int, heads: int, size: int
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.pos_embed = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.zeros(width, size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Numbers of tokens (N, L) -> (N, F)."""
        L = tokens.shape[1]
        mask = torch.ones(L, L, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.token_embedding(tokens) + self.pos_embed[:L]
        for block in self.blocks:
            x = block(x, mask)
        # the end has the largest number
        last = x[torch.arange(len(x)), tokens.argmax(1)]
        return self.ln_final(last) @ self.projection


class Attention(nn.Module):
    """Attention without biases.

    Args:
        width: of a token, and of all heads together.
        heads: there are.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, W) -> (N, L, W)."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """Half of a linear layer's outputs times SiLU of the other half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.silu(gate)


class FeedForward(nn.Module):
    """A gated layer of four times the width, and one back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        # of these four the checkpoint numbers the first and the last
        self.net = nn.Sequential(
            Gate(width, inner), nn.Identity(), nn.Identity(), nn.Linear(inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, W) -> (N, L, W)."""
        return self.net(x)


class TemporalEncoder(nn.Module):
    """A transformer over the features of a video's frames, and their mean.

    Args:
        width: of a feature.
        depth: pairs of attention and feed-forward layers.
        heads: of the attention.
        frames: of the longest video.
    """

    def __init__(self, width: int, depth: int, heads: int, frames: int) -> None:
        super().__init__()
        pairs = [
            kind for _ in range(depth) for kind in (Attention(width, heads), FeedForward(width))
        ]
        self.model = nn.ModuleDict(
            {
                "pos_emb": nn.ModuleDict({"emb": nn.Embedding(frames, width)}),
                # a layer is its norms and its body; the first of the norms goes before
                "attn_layers": nn.ModuleDict(
                    {
                        "layers": nn.ModuleList(
                            nn.ModuleList([nn.ModuleList([nn.LayerNorm(width)]), body])
                            for body in pairs
                        )
                    }
                ),
                "norm": nn.LayerNorm(width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, F) -> (N, F)."""
        places = self.model["pos_emb"]["emb"].weight  # pyright: ignore[reportIndexIssue]
        x = x + places[: x.shape[1]] * x.shape[-1] ** -0.5
        for norms, body in self.model["attn_layers"]["layers"]:  # pyright: ignore
            x = x + body(norms[0](x))
        return self.model["norm"](x).mean(1)
