"""What a target of this provider can be configured with, and what a spec can ask of it."""

from pathlib import Path
from typing import Literal

from agora.model.base import Model
from pydantic import Field, field_validator

DEFAULT_LOG_CAP = 100_000_000
#: The smallest log that still holds whole reads of a pipe in each of its files.
MIN_LOG_CAP = 1_000_000


class LocalConfig(Model):
    """A target on this machine.

    Parameters:
        state_dir: where journals, logs and control sockets are kept; absolute, since every later command comes back
            to it from its own working directory, and on a disk of this machine.
            Default: `local/<target>` in the installation's directory.
        log_cap: bytes of output kept per dispatch; the oldest are dropped beyond it.
        cgroup: `auto` makes a control group per workload where the machine allows it, which makes killing a
            tree one step; `never` leaves that to the walk over the tree, which does the same.
    """

    state_dir: Path | None = None
    log_cap: int = Field(default=DEFAULT_LOG_CAP, ge=MIN_LOG_CAP)
    cgroup: Literal["auto", "never"] = "auto"

    @field_validator("state_dir")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value


class LocalOptions(Model):
    """What `spec.options` may say.

    Parameters:
        nice: added to the workload's niceness, see nice(1).
    """

    nice: int = Field(default=0, ge=0, le=19)
