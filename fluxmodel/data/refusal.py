"""The one error that bytes which are no usable image raise."""

from fluxmodel.data.records import Reason
from fluxmodel.errors import FluxlineError


class Refusal(FluxlineError):
    """The bytes give no image; `reason` says in one word why, `detail` what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
