"""What this machine can compute with."""


def describe_torch() -> str:
    """Return torch's version and its device, in words."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU computes"
    return f"{torch.__version__}, {device}"


def describe_bf16() -> str:
    """Return how fast bf16 is here, and whether it is used."""
    from fluxmodel.training.precision import WORTHWHILE_SPEEDUP, bf16_speedup

    speedup = bf16_speedup()
    verdict = "used" if speedup >= WORTHWHILE_SPEEDUP else "not used: fp32 is"
    return f"{speedup:.1f}x the speed of fp32 here, {verdict}"
