"""The rules by which a home is pruned: one class for the command's flags and for whoever calls it."""

from pydantic import BaseModel, ConfigDict, Field


class PruneRules(BaseModel):
    """What may go, of all that nothing needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_versions: int = Field(
        default=0,
        ge=0,
        description="Newest versions of each model that stay; older ones without an alias go. 0 keeps all.",
    )
    older_than: float = Field(
        default=7.0, ge=0, description="Days since its last use after which something may go."
    )
    quota: float = Field(
        default=0.0,
        ge=0,
        description="Gigabytes the store may hold: the oldest go first, no more than needed. 0 is no quota.",
    )
