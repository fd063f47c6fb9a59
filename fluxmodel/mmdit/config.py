"""The shape of an MM-DiT; the field names are FLUX.1's. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MMDiTConfig(BaseModel):
    """Widths and depths of the network; the defaults are FLUX.1 dev's.

    `in_channels` counts packed channels: 2 x 2 latent positions form one token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = Field(default=64, gt=0, description="Channels of a packed image token.")
    out_channels: int = Field(default=64, gt=0, description="Channels of a predicted token.")
    vec_in_dim: int = Field(default=768, gt=0, description="Width of the pooled text embedding.")
    context_in_dim: int = Field(default=4096, gt=0, description="Width of a text token's embedding.")
    hidden_size: int = Field(default=3072, gt=0, description="Width of both streams.")
    mlp_ratio: float = Field(default=4.0, gt=0, description="MLP width over hidden size.")
    num_heads: int = Field(default=24, gt=0, description="Attention heads.")
    depth: int = Field(default=19, ge=0, description="Double-stream blocks.")
    depth_single_blocks: int = Field(default=38, ge=0, description="Single-stream blocks.")
    axes_dim: tuple[int, ...] = Field(default=(16, 56, 56), description="Rotary width of each position axis.")
    theta: int = Field(default=10_000, gt=0, description="Base of the rotary frequencies.")
    qkv_bias: bool = Field(
        default=True, description="Whether the query, key and value projections have a bias."
    )
    guidance_embed: bool = Field(default=True, description="Whether the guidance strength is an input (dev).")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def mlp_hidden_dim(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @model_validator(mode="after")
    def _fits_together(self) -> MMDiTConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; change one of them"
            )
        if sum(self.axes_dim) != self.head_dim or any(d % 2 for d in self.axes_dim):
            raise ValueError(
                f"axes_dim {self.axes_dim} must be even numbers that sum to hidden_size / num_heads = {self.head_dim}"
            )
        return self
