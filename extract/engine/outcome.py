"""The outcome of a run, by trial."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from cache.documents.documents import write_file
from cache.places.folders import Where, remove_file


@dataclass
class Outcome:
    """Trials that a run computed, kept from before, or that failed.

    Attributes:
        computed: ids of computed trials.
        kept: ids of trials that were finished already, including by another process in the meantime.
        failures: id → reason.
        blind: computed trials without a single valid frame: no face, no sound, no word.
        frames: number of frames computed.
        seconds: duration of the run.
    """

    computed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    def add(self, other: Outcome) -> None:
        """Merge the outcome of another process on the same trials; what either of them computed counts as computed."""
        vars(self).update(vars(join_outcomes([self, other])))

    def save_failures(self, path: Where) -> None:
        """Write the failed trials with their reasons, or remove the file if there are none."""
        if self.failures:
            text = json.dumps(self.failures, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
            write_file(path, text.encode())
        else:
            remove_file(path)


def join_outcomes(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several processes on the same trials, or on parts of them; what any of them computed counts as computed."""
    joined = Outcome()
    for outcome in outcomes:
        joined.computed += outcome.computed
        joined.blind += outcome.blind
        joined.kept += outcome.kept
        joined.failures |= outcome.failures
        joined.frames += outcome.frames
        joined.seconds = max(joined.seconds, outcome.seconds)
    done = set(joined.computed)
    joined.kept = [trial_id for trial_id in dict.fromkeys(joined.kept) if trial_id not in done]
    joined.failures = {trial_id: why for trial_id, why in joined.failures.items() if trial_id not in done}
    return joined
