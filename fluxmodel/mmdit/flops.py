"""Floating-point operations of the MM-DiT in closed form: its matrix products, two operations a multiply-add.

A linear layer of `inputs x outputs` costs 2 inputs outputs for every row that passes it; backward it costs the same
for the gradient of its rows, where they need one, and the same again for its weights, where they are trained.
Attention of n queries over m keys of width d costs 4 n m d, and twice that backward. What is no matrix product
(norms, activations, rotary turns, sums) is not counted, as in torch's FlopCounterMode, whose count this equals.

`6 N D` (parameters times tokens) overstates a training step by 1.8: a token passes only its own stream of a double
block, and the modulation, a quarter of all parameters, is used once a sample. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from fluxmodel.mmdit.config import MMDiTConfig

TIME_CHANNELS = 256


@dataclass(frozen=True)
class Flops:
    """Operations by part: double blocks, single blocks, attention, modulation, embedders, final layer."""

    forward: dict[str, int]
    backward: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.forward.values()) + sum(self.backward.values())


def forward_flops(config: MMDiTConfig, batch: int, image_tokens: int, text_tokens: int) -> Flops:
    """Return the operations of one call of the network."""
    return _Count(config, batch, image_tokens, text_tokens, "nothing", {}).flops()


def sampling_flops(
    config: MMDiTConfig, image_tokens: int, text_tokens: int, num_steps: int, num_passes: int = 1
) -> int:
    """Return the operations of one image: the text is embedded once, all else is done at every step.

    Args:
        config: the network.
        image_tokens: of the image.
        text_tokens: of a caption.
        num_steps: calls of the network.
        num_passes: rows of each call: 2 where the empty caption guides, else 1.
    """
    text_in = 2 * text_tokens * config.context_in_dim * config.hidden_size
    call = forward_flops(config, 1, image_tokens, text_tokens).total
    return num_passes * (num_steps * call - (num_steps - 1) * text_in)


def training_flops(
    config: MMDiTConfig,
    batch: int,
    image_tokens: int,
    text_tokens: int,
    adapted: Collection[str] = (),
    rank: int = 0,
) -> Flops:
    """Return the operations of forward and backward pass.

    Args:
        config: the network.
        batch: images.
        image_tokens: of an image.
        text_tokens: of a caption.
        adapted: names of the linear layers that carry adapters, the rest being frozen; none: all is trained.
        rank: of the adapters.
    """
    trained = "adapters" if adapted else "everything"
    return _Count(config, batch, image_tokens, text_tokens, trained, dict.fromkeys(adapted, rank)).flops()


class _Count:
    """Walks through the network as its forward does, knowing of each value whether it needs a gradient."""

    def __init__(
        self,
        config: MMDiTConfig,
        batch: int,
        image_tokens: int,
        text_tokens: int,
        trained: str,
        ranks: dict[str, int],
    ):
        self.config = config
        self.batch = batch
        self.tokens = {"img": image_tokens, "txt": text_tokens}
        self.trained = trained
        self.ranks = ranks
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()

    def flops(self) -> Flops:
        vec, streams = self.embedders()
        depth, singles = self.config.depth, self.config.depth_single_blocks
        for number in range(depth):
            is_last = number == depth - 1 and not singles
            streams = self.double_block(f"double_blocks.{number}", vec, streams, is_last)
        x = streams["img"] if not singles else streams["img"] or streams["txt"]
        for number in range(singles):
            x = self.single_block(f"single_blocks.{number}", vec, x, number == singles - 1)
        self.final_layer(vec, x)
        return Flops(dict(self.forward), dict(self.backward))

    def linear(
        self, part: str, name: str, rows: int, inputs: int, outputs: int, needs: bool, is_read: bool = True
    ) -> bool:
        """Add a layer that `rows` rows of each sample pass; return whether its output needs a gradient.

        Args:
            part: of the network.
            name: of the layer.
            rows: tokens of a sample, or 1.
            inputs: its width before.
            outputs: and after.
            needs: whether the rows that come in need a gradient.
            is_read: whether anything after it makes a difference to the loss.
        """
        cost = 2 * self.batch * rows * inputs * outputs
        rank = self.ranks.get(name, 0)
        down, up = (2 * self.batch * rows * rank * width for width in (inputs, outputs))
        self.forward[part] += cost + down + up
        if not is_read or self.trained == "nothing":
            return False
        if self.trained == "everything":
            self.backward[part] += cost
        if needs:
            self.backward[part] += cost + down
        self.backward[part] += down + 2 * up
        return needs or self.trained == "everything" or bool(rank)

    def embedders(self) -> tuple[bool, dict[str, bool]]:
        """Return whether the conditioning vector, and each stream, needs a gradient."""
        config, hidden = self.config, self.config.hidden_size
        sources = {"time_in": TIME_CHANNELS, "vector_in": config.vec_in_dim}
        if config.guidance_embed:
            sources["guidance_in"] = TIME_CHANNELS
        needs = []
        for name, width in sources.items():
            inner = self.linear("embedders", f"{name}.in_layer", 1, width, hidden, False)
            needs.append(self.linear("embedders", f"{name}.out_layer", 1, hidden, hidden, inner))
        text_is_read = config.depth + config.depth_single_blocks > 0
        streams = {
            "img": self.linear("embedders", "img_in", self.tokens["img"], config.in_channels, hidden, False),
            "txt": self.linear(
                "embedders", "txt_in", self.tokens["txt"], config.context_in_dim, hidden, False, text_is_read
            ),
        }
        return any(needs), streams

    def attention(self, num_queries: int, needs: bool) -> bool:
        """Add attention of so many queries over all tokens."""
        cost = 4 * self.batch * num_queries * sum(self.tokens.values()) * self.config.hidden_size
        self.forward["attention"] += cost
        if needs:
            self.backward["attention"] += 2 * cost
        return needs

    def double_block(self, name: str, vec: bool, streams: dict[str, bool], is_last: bool) -> dict[str, bool]:
        """Add a double block; where it is the network's last, nobody reads the text that leaves it."""
        hidden, inner, part = self.config.hidden_size, self.config.mlp_hidden_dim, "double blocks"
        modulation, qkv = {}, {}
        for stream in streams:
            layer = f"{name}.{stream}_mod.lin"
            modulation[stream] = self.linear("modulation", layer, 1, hidden, 6 * hidden, vec)
        for stream, needs in streams.items():
            layer, needs = f"{name}.{stream}_attn.qkv", needs or modulation[stream]
            qkv[stream] = self.linear(part, layer, self.tokens[stream], hidden, 3 * hidden, needs)
        joined = self.attention(sum(self.tokens.values()), any(qkv.values()))
        left = {}
        for stream, needs in streams.items():
            rows, is_read = self.tokens[stream], not (is_last and stream == "txt")
            shape = (rows, hidden, hidden, joined, is_read)
            needs = self.linear(part, f"{name}.{stream}_attn.proj", *shape) or needs or modulation[stream]
            grown = self.linear(part, f"{name}.{stream}_mlp.0", rows, hidden, inner, needs, is_read)
            left[stream] = (
                self.linear(part, f"{name}.{stream}_mlp.2", rows, inner, hidden, grown, is_read) or needs
            )
        return left

    def single_block(self, name: str, vec: bool, x: bool, is_last: bool) -> bool:
        """Add a single block; the last one reads only keys and values of the text."""
        hidden, inner, part = self.config.hidden_size, self.config.mlp_hidden_dim, "single blocks"
        modulation = self.linear("modulation", f"{name}.modulation.lin", 1, hidden, 3 * hidden, vec)
        needs, layer = x or modulation, f"{name}.linear1"
        rows = self.tokens["img"] if is_last else sum(self.tokens.values())
        mixed = self.linear(part, layer, rows, hidden, 3 * hidden + inner, needs)
        if is_last:
            outputs = 3 * hidden + inner if layer in self.ranks else 2 * hidden
            self.linear(part, layer, self.tokens["txt"], hidden, outputs, needs)
        self.attention(rows, mixed)
        mixed = self.linear(part, f"{name}.linear2", rows, hidden + inner, hidden, mixed)
        return mixed or needs

    def final_layer(self, vec: bool, x: bool) -> None:
        hidden, part = self.config.hidden_size, "final layer"
        modulation = self.linear("modulation", "final_layer.adaLN_modulation.1", 1, hidden, 2 * hidden, vec)
        self.linear(
            part, "final_layer.linear", self.tokens["img"], hidden, self.config.out_channels, x or modulation
        )
