"""What the gate asks, each rule's threshold by name. No torch here."""

from pydantic import BaseModel, ConfigDict, Field

from .budget import Budget


class GateSettings(BaseModel):
    """What the gate asks; shares are of 1, so 0.005 is half a point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_effect: float = Field(
        default=0.005,
        ge=0,
        description="Least difference of the primary that counts; below it nothing is promoted.",
    )
    attr_acc_margin: float = Field(
        default=0.01, ge=0, description="Loss of attribute accuracy that is borne."
    )
    held_out_margin: float = Field(
        default=0.05, ge=0, description="Loss of held-out images all correct that is borne."
    )
    clip_margin: float = Field(default=1.0, ge=0, description="Loss of CLIP score (of 100) that is borne.")
    fd_margin: float = Field(
        default=0.5,
        ge=0,
        description="Rise of the Frechet distance that is borne, as a share of the champion's.",
    )
    memorised_margin: float = Field(
        default=0.02, ge=0, description="Rise of the share of memorised images that is borne."
    )
    contrast_margin: float = Field(
        default=0.02, ge=0, description="Loss of contrast that is borne, as a share of the champion's."
    )
    lora_margin: float = Field(default=0.1, ge=0, description="Loss of a LoRA's figures that is borne.")
    coverage_ratio: float = Field(
        default=0.5, ge=0, description="Least coverage, as a share of the champion's; 0 asks nothing."
    )
    group_margin: float = Field(
        default=0.05,
        gt=0,
        description="Loss of a group (a colour, a shape, a number of objects) that is borne.",
    )
    latency_ratio: float = Field(
        default=1.1, ge=0, description="Most time an image may take, by the champion's; 0 asks nothing."
    )
    max_leakage: float = Field(
        default=1,
        ge=0,
        le=1,
        description="Most of the evaluation that may have a near twin in training, as a share; 1 asks nothing.",
    )
    yearly_alpha: float = Field(
        default=0.05, gt=0, lt=1, description="Probability of a false promotion in a year of gates, at most."
    )
    gates_per_year: int = Field(
        default=365, ge=1, description="Gates of a model in 365 days that share that probability."
    )
    max_rounds: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Noise seeds a prompt drawn at most while undecided; 1 draws no more.",
    )
    needs_approval: bool = Field(
        default=False, description="Whether a promotion waits for a person: `fluxline promote NAME`."
    )
    reevaluate: bool = Field(
        default=True,
        description="Whether a champion measured on other data or by other code is evaluated again.",
    )
    thresholds: dict[str, float] = Field(
        default={},
        description="Least value of a metric by name (most, where lower is better), champion or not.",
    )

    @property
    def budget(self) -> Budget:
        """What each look may spend; a look doubles the noise seeds a prompt, the last takes the most allowed."""
        doubled = [2**look for look in range(self.max_rounds.bit_length())]
        rounds = [count for count in doubled if count < self.max_rounds]
        return Budget(self.yearly_alpha, self.gates_per_year, (*rounds, self.max_rounds))

    def margin(self, name: str, champion: float) -> float:
        """Margin of a guarded number."""
        if name == "fd":
            return self.fd_margin * champion
        if name == "contrast":
            return self.contrast_margin * champion
        if name.startswith("lora/"):
            return self.lora_margin
        return {
            "attr_acc": self.attr_acc_margin,
            "held_out/all_correct": self.held_out_margin,
            "clip": self.clip_margin,
            "memorised": self.memorised_margin,
        }[name]
