"""The MM-DiT of FLUX.1: double-stream blocks, parallel single-stream blocks, rotary positions, adaLN, QK-norm."""
