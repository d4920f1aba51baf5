"""Trials that failed: listed in files, and told in one error."""

from __future__ import annotations

from collections.abc import Mapping

from cache.errors import TrialsFailedError
from cache.places.folders import Where
from extract.engine.outcome import Outcome
from pipelines.console.escaping import printable

Check = tuple[str, Outcome, Where]
"""What was made, its outcome, and the file for its failures."""


def raise_failures(*checks: Check, kind: str = "trial") -> None:
    """List failed trials in files and raise; remove the file of an outcome without failures.

    Args:
        checks: what was made.
        kind: what the user calls a trial.

    Raises:
        TrialsFailedError: naming every failed trial.
    """
    texts = []
    for what, outcome, path in checks:
        outcome.save_failures(path)
        failed = len(outcome.failures)
        total = failed + len(outcome.computed) + len(outcome.kept)
        others = "; the others are finished and kept" if total > failed else ""
        if failed:
            listed = f"(list: '{path}').\n{list_reasons(outcome.failures)}"
            if total == 1:  # its reason has the remedy
                texts.append(f"{what}: the only {kind} failed {listed}")
            else:
                again = "Fix them and run again, only they are redone"
                texts.append(f"{what}: {failed} of {total} {kind}s failed{others}. {again} {listed}")
    if texts:
        raise TrialsFailedError("\n".join(texts))


def list_reasons(failures: Mapping[str, str]) -> str:
    """A line for each trial with its reason, sorted."""
    return "\n".join(
        f"  {printable(trial_id, keep='')}: {printable(reason, keep='')}"
        for trial_id, reason in sorted(failures.items())
    )
