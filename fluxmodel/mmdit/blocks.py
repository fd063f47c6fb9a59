"""The two kinds of block: two streams that meet in attention, and one stream with attention beside its MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxmodel.mmdit.attention import QKNorm, SelfAttention, attend, split_heads
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.modulation import Modulation, modulate


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
        self.num_heads = config.num_heads
        self.img_mod = Modulation(config.hidden_size, is_double=True)
        self.img_attn = SelfAttention(config.hidden_size, config.num_heads, config.qkv_bias)
        self.img_mlp = _mlp(config)
        self.txt_mod = Modulation(config.hidden_size, is_double=True)
        self.txt_attn = SelfAttention(config.hidden_size, config.num_heads, config.qkv_bias)
        self.txt_mlp = _mlp(config)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams; img [b, n, d], txt [b, m, d], vec [b, d]; pe covers (txt, img)."""
        img_shift1, img_scale1, img_gate1, img_shift2, img_scale2, img_gate2 = self.img_mod(vec)
        txt_shift1, txt_scale1, txt_gate1, txt_shift2, txt_scale2, txt_gate2 = self.txt_mod(vec)

        img_q, img_k, img_v = split_heads(
            self.img_attn.qkv(modulate(img, img_shift1, img_scale1)), self.num_heads
        )
        img_q, img_k = self.img_attn.norm(img_q, img_k)
        txt_q, txt_k, txt_v = split_heads(
            self.txt_attn.qkv(modulate(txt, txt_shift1, txt_scale1)), self.num_heads
        )
        txt_q, txt_k = self.txt_attn.norm(txt_q, txt_k)
        q, k, v = (torch.cat(pair, dim=2) for pair in ((txt_q, img_q), (txt_k, img_k), (txt_v, img_v)))
        txt_joined, img_joined = attend(q, k, v, pe).split((txt.shape[1], img.shape[1]), dim=1)

        img = img + img_gate1 * self.img_attn.proj(img_joined)
        img = img + img_gate2 * self.img_mlp(modulate(img, img_shift2, img_scale2))
        txt = txt + txt_gate1 * self.txt_attn.proj(txt_joined)
        txt = txt + txt_gate2 * self.txt_mlp(modulate(txt, txt_shift2, txt_scale2))
        return img, txt


class SingleStreamBlock(nn.Module):
    """One stream of (txt, img); attention and MLP run side by side between two fused projections."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.widths = (3 * config.hidden_size, config.mlp_hidden_dim)
        self.linear1 = nn.Linear(config.hidden_size, sum(self.widths))
        self.linear2 = nn.Linear(config.hidden_size + config.mlp_hidden_dim, config.hidden_size)
        self.norm = QKNorm(config.head_dim)
        self.modulation = Modulation(config.hidden_size, is_double=False)

    def forward(self, x: Tensor, vec: Tensor, pe: Tensor, num_unread: int = 0) -> Tensor:
        """Return the stream from token `num_unread` on; x [b, m + n, d], vec [b, d].

        Tokens before `num_unread` give keys and values only: after the last block nobody reads the text.
        """
        shift, scale, gate = self.modulation(vec)
        tokens = modulate(x, shift, scale)
        qkv, mlp = self.linear1(tokens[:, num_unread:]).split(self.widths, dim=-1)
        q, k, v = split_heads(qkv, self.num_heads)
        q, k = self.norm(q, k)
        if num_unread:
            text_k, text_v = self._keys_and_values(tokens[:, :num_unread])
            k, v = torch.cat((text_k, k), dim=2), torch.cat((text_v, v), dim=2)
        joined = attend(q, k, v, pe)
        mixed = torch.cat((joined, functional.gelu(mlp, approximate="tanh")), dim=-1)
        return x[:, num_unread:] + gate * self.linear2(mixed)

    def _keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised keys, and values, [b, h, m, d]: those rows of `linear1` alone."""
        width = self.widths[0] // 3
        rows = slice(width, 3 * width)
        if type(self.linear1) is nn.Linear:
            kv = functional.linear(tokens, self.linear1.weight[rows], self.linear1.bias[rows])
        else:  # an adapter wraps the layer: its weight alone would pass the adapter by
            kv = self.linear1(tokens)[..., rows]
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.norm.key_norm(k), v


class LastLayer(nn.Module):
    """adaLN with (shift, scale), then the projection to the predicted velocity."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.out_channels)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(config.hidden_size, 2 * config.hidden_size)
        )

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(x, shift, scale))
