"""What one requirement is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """As in RFC 2119."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Tier(StrEnum):
    """In which profile a requirement counts."""

    CORE = "core"
    EXTENDED = "extended"


@dataclass(frozen=True)
class Requirement:
    """One rule of the contract, and how the suite treats it.

    Parameters:
        id: `FAMILY-NN`; never used again for another rule.
        slug: a readable name.
        sentence: the rule.
        mutants: the mutant providers that break it, all of them.
        level: MUST or SHOULD.
        capability: the capability that has to be claimed; null where everybody is bound.
        declinable: a provider that declares that it refuses the field in question is not bound, nor a target that
            declares that its backend never comes into that situation.
        timed: it brackets a time and runs apart from the busy ones.
        limit: seconds after which the suite gives the check up.
    """

    id: str
    slug: str
    sentence: str
    mutants: tuple[str, ...] = ()
    level: Level = Level.MUST
    capability: str | None = None
    declinable: bool = False
    timed: bool = False
    limit: float = 60

    @property
    def family(self) -> str:
        """The part of the id before the number."""
        return self.id.rpartition("-")[0]

    @property
    def tier(self) -> Tier:
        """Core for a MUST that binds everybody, else extended."""
        return Tier.CORE if self.level is Level.MUST and self.capability is None else Tier.EXTENDED
