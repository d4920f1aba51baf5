"""Post-processing of predictions, fitted on the validation trials of a fold, for each target by itself [Trigeorgis2016].

A chain is at most one kind of smoothing, then `delay`, then `scale`. When a network is trained, every step of every chain is
fitted to what the steps before it leave: the parameters with the highest CCC over all labelled validation frames, or none if
nothing is gained. Steps work on predictions in [-1, 1] and count in frames, as windows do.

Deviations from [Trigeorgis2016]: scale and shift are one step, whose moments are those of the validation trials; every chain is
fitted; there are two more kinds of smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cache.settings import expected_one_of
from fusion.training.reading import TIE

Array = NDArray[np.float64]
Parameters = list[float]
"""Parameters of a step; none if the values are to stay as they are."""
Fitted = Mapping[str, list[Parameters]]
"""Chain, as "median+delay" → parameters of its last step for each target."""

_LENGTHS = [[float(2**power + 1)] for power in range(2, 9)]  # 5 to 257 frames
_SHIFTS = [1, 2, 3, 5, 8, 12, 18, 25, 37, 50, 75, 100, 150]  # frames


def _median(values: Array, frames: float) -> Array:
    """The median of so many frames around each one [Tukey1977]."""
    from scipy.ndimage import median_filter

    return np.asarray(median_filter(values, int(frames), mode="nearest"))


def _exponential(values: Array, frames: float) -> Array:
    """y_t = y_{t-1} + a (x_t - y_{t-1}) with a = 2 / (frames + 1), from y_0 = x_0 [Brown1959]; it looks at no later frame."""
    from scipy.signal import lfilter

    share = 2 / (frames + 1)
    return np.asarray(lfilter([share], [1, share - 1], values, zi=(1 - share) * values[:1])[0])


def _savgol(values: Array, frames: float) -> Array:
    """A parabola through so many frames around each one [Savitzky1964]."""
    from scipy.signal import savgol_filter

    return np.asarray(savgol_filter(values, int(frames), 2, mode="nearest"))


def _delay(values: Array, frames: float) -> Array:
    """Each value so many frames later, as annotators react late [Mariooryad2015]; earlier if negative. Ends are repeated."""
    return values[(np.arange(len(values)) - int(frames)).clip(0, len(values) - 1)]


def _scale(values: Array, factor: float, shift: float) -> Array:
    return np.asarray((factor * values + shift).clip(-1, 1))


def _same_moments(prediction: Array, label: Array) -> list[Parameters]:
    """Scale and shift that give predictions the mean and standard deviation of labels, where CCC = PCC [Lin1989]."""
    spread = float(prediction.std())
    if not spread:
        return []
    factor = float(label.std()) / spread
    return [[factor, float(label.mean()) - factor * float(prediction.mean())]]


@dataclass(frozen=True)
class _Step:
    """How a step changes a trial (T,), and which parameters are tried, given all labelled frames (N,) before it."""

    apply: Callable[..., Array]
    propose: Callable[[Array, Array], list[Parameters]]


def _grid(candidates: list[Parameters]) -> Callable[[Array, Array], list[Parameters]]:
    """The same candidates for any frames."""
    return lambda prediction, label: candidates


STEPS = {
    "median": _Step(_median, _grid(_LENGTHS)),
    "exponential": _Step(_exponential, _grid(_LENGTHS)),
    "savgol": _Step(_savgol, _grid(_LENGTHS)),
    "delay": _Step(_delay, _grid([[float(sign * frames)] for frames in _SHIFTS for sign in (1, -1)])),
    "scale": _Step(_scale, _same_moments),
}
SMOOTHING = ("median", "exponential", "savgol")
"""Of these a chain has at most one."""
CHAINS = sorted(
    (
        (*smoothing, *delay, *scale)
        for smoothing, delay, scale in product(
            [(), *((name,) for name in SMOOTHING)], [(), ("delay",)], [(), ("scale",)]
        )
    ),
    key=len,
)[1:]
"""Every chain, shorter ones first."""


def fit_chains(predictions: Sequence[NDArray[np.floating]], labels: Sequence[NDArray[np.floating]]) -> Fitted:
    """Fit every chain to the predictions of a fold's validation trials.

    Args:
        predictions: (T, C) of each trial, in [-1, 1].
        labels: the same of its labels, nan where there is none.
    """
    fitted: dict[str, list[Parameters]] = {}
    labels = [own for own in labels if len(own)]
    after: dict[tuple[str, ...], list[Array]] = {(): [np.asarray(own, np.float64) for own in predictions if len(own)]}
    for chain in CHAINS:
        before = after[chain[:-1]]
        step = STEPS[chain[-1]]
        columns = range(before[0].shape[1])
        found = [_fit(step, [own[:, c] for own in before], [own[:, c] for own in labels]) for c in columns]
        fitted["+".join(chain)] = found
        after[chain] = [_apply(step, own, found) for own in before]
    return fitted


def _fit(step: _Step, series: Sequence[Array], labels: Sequence[NDArray[np.floating]]) -> Parameters:
    """The best parameters of a step for one target; none if leaving the values alone is as good."""
    counted = np.isfinite(np.concatenate(labels))
    label = np.concatenate(labels).astype(np.float64)[counted]
    apart, spread = label - label.mean(), label.var()

    def score(prediction: Array) -> float:
        """The CCC [Lin1989], as `fusion.scores.ccc` has it, in a tenth of the time for few frames."""
        mean = prediction.mean()
        divisor = prediction.var() + spread + (mean - label.mean()) ** 2
        return float(2 * (prediction @ apart) / len(label) / divisor) if divisor else np.nan

    before = np.concatenate(series)[counted]
    best: Parameters = []
    reached = score(before)
    for parameters in step.propose(before, label):
        found = score(np.concatenate([step.apply(own, *parameters) for own in series])[counted])
        if found > reached + TIE:
            best, reached = parameters, found
    return best


def _apply(step: _Step, values: Array, parameters: Sequence[Parameters]) -> Array:
    """A step on each column of a trial (T, C)."""
    columns = zip(values.T, parameters, strict=True)
    return np.stack([step.apply(column, *own) if own else column for column, own in columns], axis=1)


def apply_chain(values: NDArray[np.float32], fitted: Fitted, chain: Sequence[str]) -> NDArray[np.float32]:
    """A trial's prediction (T, C) in [-1, 1] after the steps of a chain that was fitted."""
    if not chain:
        return values
    result = values.astype(np.float64)
    for place, name in enumerate(chain, 1):
        result = _apply(STEPS[name], result, fitted["+".join(chain[:place])])
    return result.astype(np.float32)


def find_chain_faults(names: Sequence[str]) -> str:
    """What is wrong with a chain; "" if it can be applied."""
    if tuple(names) in [(), *CHAINS]:
        return ""
    if unknown := [name for name in names if name not in STEPS]:
        return f"names '{unknown[0]}', {expected_one_of(unknown[0], STEPS)}"
    return f"is {list(names)}, expected some of {', '.join(STEPS)} in this order, of {', '.join(SMOOTHING)} at most one"
