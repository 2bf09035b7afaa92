"""The encoder and decoder of T5 (Raffel et al., JMLR 2020), sized for items in place of words.

Norms before each sublayer are root mean squares without mean and bias; no linear map has a bias; attention is not
divided by the root of its width; positions enter through a bias of attention that depends on the distance in buckets,
learned in the first layer and shared by all, and not at all where the decoder attends to the encoder.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from ...options import Options

BUCKETS, FARTHEST = 32, 128
EPS = 1e-6


class T5Options(Options):
    """Sizes of the transformer."""

    layers: int = Field(2, ge=1, description="layers of the encoder, and of the decoder")
    width: int = Field(64, ge=1, description="width of the hidden states")
    feed_forward: int = Field(256, ge=1, description="width inside the feed-forward sublayers")
    heads: int = Field(4, ge=1, description="attention heads")
    head_width: int = Field(16, ge=1, description="width of a head")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of embeddings, attention weights and sublayers")
    initialisation: Literal["t5", "normal"] = Field(
        "t5", description="t5: variances by fan-in; normal: all N(0, 0.02^2), as in ETEGRec's code"
    )


class Dropout(nn.Module):
    """Dropout whose probability is a multiple of 1 / 65,536.

    On the CPU four elements share a number of 64 bits: drawing one for each takes a third of a training step.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (..), of which a share p of the elements is 0 and the rest are divided by 1 - p, in training."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p)
        count = x.numel()
        drawn = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        threshold = round(self.p * 65_536) - 32_768
        kept = drawn.view(torch.int16)[:count].view(x.shape) >= threshold
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class RmsNorm(nn.Module):
    """x / sqrt(mean x^2 + eps), times a weight; in float32 at least."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(.., width)."""
        exact = x if x.dtype == torch.float64 else x.float()
        return self.weight * (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


def bucket_of(distance: Tensor, two_sided: bool) -> Tensor:
    """The bucket of ``distance`` = place of the key - place of the query: one each near by, logarithmic farther off."""
    n, start = BUCKETS, torch.zeros_like(distance)
    if two_sided:
        n //= 2
        start = (distance > 0).long() * n
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    near = n // 2
    far = near + (torch.log(distance.clamp_min(1).float() / near) / math.log(FARTHEST / near) * (n - near)).long()
    return start + torch.where(distance < near, distance, far.clamp_max(n - 1))


class Attention(nn.Module):
    """Multi-head attention without biases and without scaling."""

    def __init__(self, options: T5Options) -> None:
        super().__init__()
        inner = options.heads * options.head_width
        self.heads, self.dropout = options.heads, Dropout(options.dropout)
        self.q, self.k, self.v = (nn.Linear(options.width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, options.width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """(B, S, heads * width) as (B, heads, S, width)."""
        apart: Tensor = x.unflatten(-1, (self.heads, -1))
        return apart.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """(B, Q, width) from queries, keys and values (B, heads, .., head width); ``bias`` is added to the logits."""
        if self.training and self.dropout.p:
            logits = q @ k.transpose(2, 3)
            found = self.dropout(torch.softmax(logits if bias is None else logits + bias, -1)) @ v
        else:
            found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        result: Tensor = self.o(found.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Two linear maps with ReLU between."""

    def __init__(self, options: T5Options) -> None:
        super().__init__()
        self.wi = nn.Linear(options.width, options.feed_forward, bias=False)
        self.wo = nn.Linear(options.feed_forward, options.width, bias=False)
        self.dropout = Dropout(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(.., width)."""
        result: Tensor = self.wo(self.dropout(torch.relu(self.wi(x))))
        return result


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with its norm before and its input added."""

    def __init__(self, options: T5Options) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(options), FeedForward(options)
        self.norms = nn.ModuleList(RmsNorm(options.width) for _ in range(2))
        self.dropout = Dropout(options.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, S, width)."""
        a, y = self.attention, self.norms[0](x)
        x = x + self.dropout(a.attend(a.split(a.q(y)), a.split(a.k(y)), a.split(a.v(y)), bias))
        result: Tensor = x + self.dropout(self.feed_forward(self.norms[1](x)))
        return result


class Encoder(nn.Module):
    """From embedded tokens to hidden states."""

    def __init__(self, options: T5Options) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(options) for _ in range(options.layers))
        self.positions = nn.Embedding(BUCKETS, options.heads)
        self.norm, self.dropout = RmsNorm(options.width), Dropout(options.dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """(B, S, width) from embeddings (B, S, width); ``there`` (B, S) bool: False where a row is padded."""
        place = torch.arange(x.shape[1], device=x.device)
        bias = self.positions(bucket_of(place[None] - place[:, None], True)).permute(2, 0, 1)[None]
        bias = bias.to(x.dtype).masked_fill(~there[:, None, None], -torch.inf)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias)
        result: Tensor = self.dropout(self.norm(x))
        return result


class Memory(NamedTuple):
    """What the decoder reads of the encoder: keys and values by layer, once for all steps."""

    keys: list[Tensor]  # (B, heads, S, head width) each
    values: list[Tensor]
    bias: Tensor  # (B, 1, 1, S): 0, or -inf where a row is padded

    def rows(self, index: Tensor) -> Memory:
        """Those of the rows ``index`` (R,)."""
        return Memory([k[index] for k in self.keys], [v[index] for v in self.values], self.bias[index])


class Cache(NamedTuple):
    """Keys and values of the tokens of each prefix, by layer: (B, heads, W, t, head width) each."""

    keys: list[Tensor]
    values: list[Tensor]


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder, feed-forward."""

    def __init__(self, options: T5Options) -> None:
        super().__init__()
        self.attention, self.cross, self.feed_forward = Attention(options), Attention(options), FeedForward(options)
        self.norms = nn.ModuleList(RmsNorm(options.width) for _ in range(3))
        self.dropout = Dropout(options.dropout)

    def forward(self, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """(B, L, width): all steps at once, as in training."""
        a, y = self.attention, self.norms[0](x)
        x = x + self.dropout(a.attend(a.split(a.q(y)), a.split(a.k(y)), a.split(a.v(y)), bias))
        return self.rest(x, keys, values, padding)

    def step(
        self,
        x: Tensor,
        bias: Tensor,
        cache: tuple[Tensor, Tensor] | None,
        keys: Tensor,
        values: Tensor,
        padding: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, W, width): one more token of W prefixes; and the keys and values of these with it."""
        a, y = self.attention, self.norms[0](x)
        q, k, v = (a.split(f(y)).unsqueeze(3) for f in (a.q, a.k, a.v))  # (B, heads, W, 1, head width)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 3), torch.cat([cache[1], v], 3)
        logits = (q * k).sum(-1) + bias[:, :, None]  # (B, heads, W, t)
        found = (torch.softmax(logits, -1).unsqueeze(-1) * v).sum(3)  # (B, heads, W, head width)
        x = x + a.o(found.transpose(1, 2).flatten(2))
        return self.rest(x, keys, values, padding), k, v

    def rest(self, x: Tensor, keys: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """Attention to the encoder, and feed-forward."""
        c = self.cross
        x = x + self.dropout(c.attend(c.split(c.q(self.norms[1](x))), keys, values, padding))
        result: Tensor = x + self.dropout(self.feed_forward(self.norms[2](x)))
        return result


class Decoder(nn.Module):
    """From embedded tokens and the encoder's hidden states to hidden states."""

    def __init__(self, options: T5Options) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(options) for _ in range(options.layers))
        self.positions = nn.Embedding(BUCKETS, options.heads)
        self.norm, self.dropout = RmsNorm(options.width), Dropout(options.dropout)

    def memory(self, hidden: Tensor, there: Tensor) -> Memory:
        """What `forward` and `step` read of hidden states (B, S, width) of the encoder."""
        cross: list[Any] = [layer.cross for layer in self.layers]
        bias = torch.zeros(there.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~there, -torch.inf)
        keys, values = [c.split(c.k(hidden)) for c in cross], [c.split(c.v(hidden)) for c in cross]
        return Memory(keys, values, bias[:, None, None])

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, L, width) from embeddings (B, L, width) of the start and all tokens but the last."""
        bias = self._bias(x.shape[1], x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        bias = bias.masked_fill(later, -torch.inf)
        x = self.dropout(x)
        for layer, keys, values in zip(self.layers, memory.keys, memory.values, strict=True):
            x = layer(x, bias, keys, values, memory.bias)
        result: Tensor = self.dropout(self.norm(x))
        return result

    def step(self, x: Tensor, memory: Memory, cache: Cache | None) -> tuple[Tensor, Cache]:
        """(B, W, width) from embeddings (B, W, width) of the next token of W prefixes, and the longer cache."""
        length = 1 if cache is None else cache.keys[0].shape[3] + 1
        bias = self._bias(length, x)[:, :, -1]  # (1, heads, t): of the last token
        keys, values = [], []
        layers: list[Any] = list(self.layers)
        for i, layer in enumerate(layers):
            before = None if cache is None else (cache.keys[i], cache.values[i])
            x, k, v = layer.step(x, bias, before, memory.keys[i], memory.values[i], memory.bias)
            keys.append(k)
            values.append(v)
        return self.norm(x), Cache(keys, values)

    def _bias(self, length: int, x: Tensor) -> Tensor:
        place = torch.arange(length, device=x.device)
        bias: Tensor = self.positions(bucket_of(place[None] - place[:, None], False)).permute(2, 0, 1)[None].to(x.dtype)
        return bias


def initialise(module: nn.Module, options: T5Options) -> None:
    """Draws the weights of an `Encoder` or `Decoder`."""
    h, inner = options.width, options.heads * options.head_width
    for name, weight in module.named_parameters():
        part = name.split(".")[-2]
        if "norm" in name:
            continue
        if options.initialisation == "normal":
            deviation = 0.02
        elif part == "q":
            deviation = (h * options.head_width) ** -0.5
        elif part in ("k", "v", "wi", "positions"):
            deviation = h**-0.5
        else:
            deviation = {"o": inner, "wo": options.feed_forward}[part] ** -0.5
        nn.init.normal_(weight, std=deviation)
