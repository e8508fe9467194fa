"""What became of an object that was handed to the archive.

Not here: how each front door tells its sender (C-STORE status, STOW-RS response).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The five ends an object can come to. All but the last two are a success for the sender."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the same object was here already; nothing changed
    CONFLICT_KEPT = "conflict-kept"  # other content under a known SOP Instance UID, kept aside for a person
    CONFLICT_REFUSED = "conflict-refused"  # the same, but the site refuses such objects; nothing was kept
    QUARANTINED = "quarantined"  # not archivable, kept aside for a person


@dataclass(frozen=True)
class Stored:
    """The outcome for one object, with what could be read of its identity.

    Attributes
    ----------
    outcome : Outcome
    sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid : str or None
        None where the object was too broken to tell.
    reason : str or None
        Why it was not simply stored; without patient data.
    """

    outcome: Outcome
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    reason: str | None = None

    @property
    def success(self) -> bool:
        """Whether the sender is told that the object is safe."""
        return self.outcome in (Outcome.STORED, Outcome.DUPLICATE, Outcome.CONFLICT_KEPT)
