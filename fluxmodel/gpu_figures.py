"""What vendors publish of their GPUs: memory, and dense matrix products a second. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Figures of a data sheet: memory in GB, operations a second without sparsity; bf16 adds up in fp32."""

    memory_gb: float
    bf16: float
    fp32: float

    def peak(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32


GPUS = {
    "l4": Gpu(24, 121e12, 30.3e12),
    "rtx3090": Gpu(24, 71e12, 35.6e12),
    "rtx4090": Gpu(24, 165.2e12, 82.6e12),
    "a100-40": Gpu(40, 312e12, 19.5e12),
    "l40s": Gpu(48, 362e12, 91.6e12),
    "a100": Gpu(80, 312e12, 19.5e12),
    "h100": Gpu(80, 989e12, 67e12),
    "h200": Gpu(141, 989e12, 67e12),
}
"""By the names of their SXM forms, where there are several."""
