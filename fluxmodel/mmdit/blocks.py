"""The two kinds of block: two streams that meet in attention, and one stream with attention beside its MLP."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from fluxmodel.mmdit.attention import QKNorm, SelfAttention, attend, normalize_and_turn
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.modulation import Modulated, Modulation, modulate


def _mlp(config: MMDiTConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.hidden_size, config.mlp_hidden_dim),
        nn.GELU(approximate="tanh"),
        nn.Linear(config.mlp_hidden_dim, config.hidden_size),
    )


class DoubleStreamBlock(nn.Module):
    """Image and text tokens keep weights of their own and attend to each other."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.heads = (3, config.num_heads, config.head_dim)
        self.img_mod = Modulation(config.hidden_size, is_double=True)
        self.img_attn = SelfAttention(config.hidden_size, config.num_heads, config.qkv_bias)
        self.img_mlp = _mlp(config)
        self.txt_mod = Modulation(config.hidden_size, is_double=True)
        self.txt_attn = SelfAttention(config.hidden_size, config.num_heads, config.qkv_bias)
        self.txt_mlp = _mlp(config)

    def forward(
        self,
        img: Float[Tensor, "b n d"],
        txt: Float[Tensor, "b m d"],
        img_mods: list[Modulated],
        txt_mods: list[Modulated],
        pe: Complex[Tensor, "#b m+n d/2"],
    ) -> tuple[Tensor, Tensor]:
        """Return both streams; `pe` covers (txt, img)."""
        img_mod1, img_mod2 = img_mods
        txt_mod1, txt_mod2 = txt_mods
        lengths = txt.shape[1], img.shape[1]

        txt_qkv = self.txt_attn.qkv(modulate(txt, txt_mod1.shift, txt_mod1.gain))
        img_qkv = self.img_attn.qkv(modulate(img, img_mod1.shift, img_mod1.gain))
        qk, v = torch.cat((txt_qkv, img_qkv), dim=1).unflatten(-1, self.heads).split((2, 1), dim=2)
        scales = [attn.norm.scales() for attn in (self.txt_attn, self.img_attn)]
        scale = torch.cat([each.expand(num, -1, -1, -1) for each, num in zip(scales, lengths, strict=True)])
        q, k = normalize_and_turn(qk, scale, pe).unbind(2)
        txt_joined, img_joined = attend(q, k, v.squeeze(2)).split(lengths, dim=1)

        img = torch.addcmul(img, img_mod1.gate, self.img_attn.proj(img_joined))
        txt = torch.addcmul(txt, txt_mod1.gate, self.txt_attn.proj(txt_joined))
        img_out = self.img_mlp(modulate(img, img_mod2.shift, img_mod2.gain))
        txt_out = self.txt_mlp(modulate(txt, txt_mod2.shift, txt_mod2.gain))
        return torch.addcmul(img, img_mod2.gate, img_out), torch.addcmul(txt, txt_mod2.gate, txt_out)


class SingleStreamBlock(nn.Module):
    """One stream of (txt, img); attention and MLP run side by side between two fused projections."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.heads = (3, config.num_heads, config.head_dim)
        self.widths = (3 * config.hidden_size, config.mlp_hidden_dim)
        self.linear1 = nn.Linear(config.hidden_size, sum(self.widths))
        self.linear2 = nn.Linear(config.hidden_size + config.mlp_hidden_dim, config.hidden_size)
        self.norm = QKNorm(config.head_dim)
        self.modulation = Modulation(config.hidden_size, is_double=False)

    def forward(
        self,
        x: Float[Tensor, "b m+n d"],
        mod: Modulated,
        pe: Complex[Tensor, "#b m+n d/2"],
        num_unread: int = 0,
    ) -> Float[Tensor, "b m+n-num_unread d"]:
        """Return the stream from token `num_unread` on.

        Tokens before `num_unread` give keys and values only: after the last block nobody reads the text.
        """
        tokens = modulate(x, mod.shift, mod.gain)
        if num_unread:
            return self._last(x, tokens, mod.gate, pe, num_unread)
        qkv, mlp = self.linear1(tokens).split(self.widths, dim=-1)
        qk, v = qkv.unflatten(-1, self.heads).split((2, 1), dim=2)
        q, k = normalize_and_turn(qk, self.norm.scales(), pe).unbind(2)
        mixed = torch.cat((attend(q, k, v.squeeze(2)), functional.gelu(mlp, approximate="tanh")), dim=-1)
        return torch.addcmul(x, mod.gate, self.linear2(mixed))

    def _last(self, x: Tensor, tokens: Tensor, gate: Tensor, pe: Tensor, num_unread: int) -> Tensor:
        """Return the stream from token `num_unread` on, whose keys and values alone come from the tokens before."""
        lengths = num_unread, x.shape[1] - num_unread
        unread, read = tokens.split(lengths, dim=1)
        qkv, mlp = self.linear1(read).split(self.widths, dim=-1)
        q, kv = qkv.unflatten(-1, self.heads).split((1, 2), dim=2)
        k, v = torch.cat((self._keys_and_values(unread), kv), dim=1).split(1, dim=2)
        scales = self.norm.scales()
        q = normalize_and_turn(q, scales[:, :1], pe[:, num_unread:])
        k = normalize_and_turn(k, scales[:, 1:], pe)
        joined = attend(q.squeeze(2), k.squeeze(2), v.squeeze(2))
        mixed = torch.cat((joined, functional.gelu(mlp, approximate="tanh")), dim=-1)
        return torch.addcmul(x[:, num_unread:], gate, self.linear2(mixed))

    def _keys_and_values(self, tokens: Tensor) -> Float[Tensor, "b m 2 h d"]:
        """Return keys and values: those rows of `linear1` alone."""
        width = self.widths[0] // 3
        rows = slice(width, 3 * width)
        if type(self.linear1) is nn.Linear:
            kv = functional.linear(tokens, self.linear1.weight[rows], self.linear1.bias[rows])
        else:  # an adapter wraps the layer: its weight alone would pass the adapter by
            kv = self.linear1(tokens)[..., rows]
        return kv.unflatten(-1, (2, *self.heads[1:]))


class LastLayer(nn.Module):
    """adaLN with (shift, scale), then the projection to the predicted velocity."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.out_channels)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(config.hidden_size, 2 * config.hidden_size)
        )

    def modulation(self, active: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor]:
        """Return shift and 1 + scale, each [b, 1, d], from silu(vec)."""
        shift, scale = self.adaLN_modulation[1](active)[:, None].chunk(2, dim=-1)
        return shift, 1 + scale

    def forward(self, x: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
        return self.linear(modulate(x, shift, gain))
