"""Step down to fewer CPU threads where more are slower, and up again.

A forward pass is some hundred parallel regions, and each ends when its last thread has ended. Beside another process
that computes, one of the threads is always waiting for a core, and the others wait for it: two threads on two cores
can be several times slower than one. To wait without spinning is no way out: waking a sleeping thread a hundred times
per token costs more on an idle machine than it saves on a busy one (measured in docs/threads.md).

So the time of each pass is compared with what such passes took before. Where it is much longer, half as many threads
are tried in turn with the number in use, and the quicker number is kept; where the kernel says that the thread itself
waited for a core, there is no need to try. A single such pass can take seconds, so the kernel is asked before each pass
how many threads of others want a core: where there is none left, fewer are used from the first pass on. After 2 to 10
seconds more are used again, sooner when the thread no longer waits and nobody else wants the cores, later while it
does. A trial is at most six passes, mostly two.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import torch

from engine.transformers.threads import others_running

T = TypeVar("T")

# Longer passes are not compared: a trial of one would be felt, and threads that wait weigh little there.
_LONGEST_PASS = 128

_SAMPLES = 3
# A pass that takes this many times the usual is suspect, and so is a median of three.
_SUDDEN, _LASTING = 2.0, 1.5
# A trial ends early when one number is so much quicker than the other; else three passes of each are compared.
_CLEARLY, _QUICKER = 0.75, 0.95
# The usual time follows slower passes by this share of the difference (contexts grow), and quicker ones at once.
_DRIFT = 0.05
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 2.0, 10.0
# After a false alarm.
_CALM_S = 1.0
# Shares of a pass that the thread waited for a core: more is a contended pass, less a quiet one.
_CONTENDED, _QUIET = 0.25, 0.05
_QUIET_PASSES = 5
# So many looks, so far apart, all find no core left: one alone may have met a client that has just sent its request.
_LOOKS, _BETWEEN_LOOKS_S = 3, 0.001
# During a pass there is a look after so long: others may have begun meanwhile.
_LOOK_AGAIN_S = 0.1
# More threads than there are cores for are tried all the same after so long: others may be of low priority.
_CROWDED_WAIT_S = 30.0


@dataclass(frozen=True)
class Kind:
    """Passes whose times per token are comparable: as many sequences, about as many new tokens behind about as many."""

    sequences: int
    magnitude: int
    magnitude_behind: int

    @staticmethod
    def of(sequences: int, new_tokens: int, behind: int) -> Kind | None:
        """Return the kind of a pass by its tokens in all sequences together; None where it is too long."""
        if new_tokens > _LONGEST_PASS:
            return None
        return Kind(sequences, new_tokens.bit_length(), behind.bit_length())


@dataclass
class _Trial:
    """Another number of threads, tried in turn with the one in use on one kind of passes."""

    kind: Kind
    in_use: int
    other: int
    before: float
    warm: bool
    """Whether such passes ran with the other number before: the first prepares the library's kernels for it."""
    with_other: list[float] = field(default_factory=list)
    with_in_use: list[float] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Whose turn it is."""
        return self.other if len(self.with_other) <= len(self.with_in_use) else self.in_use

    def take(self, threads: int, cost: float) -> None:
        if threads == self.in_use:
            self.with_in_use.append(cost)
        elif self.warm:
            self.with_other.append(cost)
        self.warm = self.warm or threads == self.other

    def better(self) -> bool | None:
        """Say whether the other number is the better one; None while that is open."""
        if not self.with_in_use:
            hopeless = (
                self.other > self.in_use and bool(self.with_other) and self.with_other[0] > self.before / _CLEARLY
            )
            return False if hopeless else None
        ratio = median(self.with_other) / median(self.with_in_use)
        if ratio < _CLEARLY or ratio > 1 / _CLEARLY:
            return ratio < 1
        return ratio < _QUICKER if len(self.with_in_use) == _SAMPLES else None


class ThreadGovernor:
    """Choose the number of threads for each forward pass, from 1 to ``most``. Owned by the thread that computes.

    ``steps_down`` counts how often fewer were found to be quicker. Without ``adaptive`` it is always ``most``: sums are
    then added up in the same order each time, and the same passes agree to the last bit.
    """

    def __init__(
        self,
        most: int,
        *,
        adaptive: bool = True,
        clock: Callable[[], float] = time.monotonic,
        others: Callable[[int], int | None] = others_running,
        cores: int | None = None,
    ) -> None:
        self.most = most
        self._others = others
        self._cores = cores or os.cpu_count() or most
        self._sees_others = False
        """Whether the kernel tells how many threads of others want a core."""
        self._free = True
        """Whether others left cores for more threads at the last look."""
        self._crowded = False
        """Whether others wanted all cores when all threads were used last."""
        self._broken = False
        """Whether the number was changed during the pass that is under way."""
        self._harmless = False
        """Whether passes are as quick as ever although others want all cores."""
        self._adaptive = adaptive and most > 1
        self.threads = most
        self.steps_down = 0
        self._clock = clock
        self._trial: _Trial | None = None
        self._usual: dict[tuple[int, Kind], float] = {}
        self._recent: deque[float] = deque(maxlen=_SAMPLES)
        self._recent_kind: Kind | None = None
        self._quiet_passes = _QUIET_PASSES
        self._settled = False
        self._wait_s = _SHORTEST_WAIT_S
        self._not_before = 0.0
        self._up_at = -_LONGEST_WAIT_S
        self._told = False
        """Whether the kernel tells how long the thread waited for a core."""

    def threads_for(self, kind: Kind | None) -> int:
        """Give the number of threads for the next pass. Passes of kind None are not compared."""
        if self._adaptive:
            self._look_around()
            self._step_up()
        if kind is None or not self._adaptive:
            return self.threads
        if kind != self._recent_kind:
            self._recent.clear()
            self._recent_kind, self._trial = kind, None
        if self._trial is None and (other := self._to_try(kind)) is not None:
            known = (other, kind) in self._usual
            self._trial = _Trial(kind, self.threads, other, median(self._recent), known)
        return self.threads if self._trial is None else self._trial.threads

    def watching(self, interrupt: Callable[[], bool] | None) -> Callable[[], bool] | None:
        """Give ``interrupt`` with a look around now and then, for a pass to call between its layers: if others have
        begun to want all cores, the rest of the pass is computed with fewer threads."""
        if not self._adaptive:
            return interrupt
        look_at = self._clock() + _LOOK_AGAIN_S

        def between_layers() -> bool:
            nonlocal look_at
            now = self._clock()
            if now >= look_at:
                look_at = now + _LOOK_AGAIN_S
                before = self.threads
                self._look_around()
                if self.threads < before:
                    torch.set_num_threads(self.threads)
                    self._broken = True
            return interrupt is not None and interrupt()

        return between_layers

    def observe(self, kind: Kind | None, threads: int, cost: float, waited: float | None = None) -> None:
        """Take in what a pass with that number of threads took, in seconds per new token, and the share of it that the
        calling thread waited for a core (None: unknown)."""
        if self._broken:
            self._broken = False
            return
        if waited is not None and threads == self.threads:
            self._told = True
            self._note_waiting(waited)
        if kind is None or kind != self._recent_kind:
            return
        known = self._usual.get((threads, kind))
        if threads > 1 and waited is not None and waited > _CONTENDED and (known is None or cost > _SUDDEN * known):
            self._harmless = False
            self._step_down(threads // 2)
            return
        self._harmless = self._harmless or (
            threads == self.most and self._crowded and waited is not None and waited < _QUIET
        )
        usual = cost if known is None else known
        self._usual[threads, kind] = min(cost, usual + _DRIFT * (cost - usual))
        if self._trial is None:
            self._recent.append(cost)
            return
        self._trial.take(threads, cost)
        better = self._trial.better()
        if better is not None:
            self._end(self._trial, better)

    def _look_around(self) -> None:
        """Ask whether others leave cores for the threads that this pass should have, and use fewer where not."""
        wanted = min(2 * self.threads, self.most)
        if self.threads < self.most:
            others = self._others(self._cores - wanted + 1)
            self._free = others is None or others + wanted <= self._cores
        else:
            others = self._others(self._cores)
            self._crowded = others is not None and others >= self._cores
            if self._crowded and not self._harmless and self._stays_crowded():
                self._step_down(self.threads // 2)
        self._sees_others = others is not None

    def _stays_crowded(self) -> bool:
        for _ in range(_LOOKS - 1):
            time.sleep(_BETWEEN_LOOKS_S)
            others = self._others(self._cores)
            if others is None or others < self._cores:
                return False
        return True

    def _note_waiting(self, waited: float) -> None:
        if waited > _QUIET or not (self._free or self._harmless):
            self._quiet_passes = 0
            return
        self._quiet_passes += 1
        if self._quiet_passes == _QUIET_PASSES:  # whoever computed beside this may have ended
            calm_s = 0.0 if self._sees_others else _CALM_S / 2
            self._not_before = min(self._not_before, self._clock() + calm_s)

    def _step_down(self, threads: int) -> None:
        """Use fewer threads without a trial; a trial of more that is under way has failed."""
        now = self._clock()
        self._wait_s = (
            min(2 * self._wait_s, _LONGEST_WAIT_S) if now < self._up_at + _LONGEST_WAIT_S else _SHORTEST_WAIT_S
        )
        self._trial = None
        self._recent.clear()
        if threads < self.threads:
            self.threads = threads
            self.steps_down += 1
        self._settled = True
        self._not_before = now + self._wait_s

    def _step_up(self) -> None:
        """Use more threads again without a trial, whatever kinds of passes there are: a contended one steps down."""
        if self.threads == self.most or self._trial is not None or not self._told:
            return
        now = self._clock()
        quiet = self._quiet_passes >= _QUIET_PASSES
        more_s = 0.0 if quiet else _LONGEST_WAIT_S if self._free or self._harmless else _CROWDED_WAIT_S
        if now >= self._not_before + more_s:
            self.threads = min(2 * self.threads, self.most)
            self._recent.clear()
            self._up_at = now

    def _to_try(self, kind: Kind) -> int | None:
        """Give the number of threads to compare with the one in use, if it is time for that."""
        fewer, more = self.threads // 2, min(2 * self.threads, self.most)
        if not self._recent or self._clock() < self._not_before:
            return None
        if not self._settled:  # the machine may have been busy from the start; the kernel would have told
            if self._told and self._sees_others:
                return None
            return fewer if len(self._recent) == _SAMPLES else None
        if self.threads > 1 and self._suspect(kind):
            return fewer
        return more if more > self.threads and not self._told else None

    def _suspect(self, kind: Kind) -> bool:
        usual = self._usual[self.threads, kind]
        lasting = len(self._recent) == _SAMPLES and median(self._recent) > _LASTING * usual
        return lasting or self._recent[-1] > _SUDDEN * usual

    def _end(self, trial: _Trial, better: bool) -> None:
        down = trial.other < trial.in_use
        self._trial = None
        self._recent.clear()
        if better:
            self.steps_down += down
            self.threads = trial.other
            self._wait_s = _SHORTEST_WAIT_S
        elif not down:
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        else:  # a false alarm: slower passes are the usual ones now
            self._usual[trial.in_use, trial.kind] = median(trial.with_in_use)
        if better and down and self.threads > 1:  # still fewer may be better still: that is found out at once
            self._settled, wait_s = False, 0.0
        else:
            self._settled, wait_s = True, _CALM_S if down and not better else self._wait_s
        self._not_before = self._clock() + wait_s


def governed(governor: ThreadGovernor, kind: Kind | None, n_tokens: int, forward: Callable[[], T]) -> T:
    """Give what ``forward`` gives, a pass of ``n_tokens`` new tokens on this thread with the threads to be used."""
    threads = governor.threads_for(kind)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    began, waited_before = time.perf_counter(), _waited_s()
    result = forward()
    took, waited = time.perf_counter() - began, _waited_s()
    share = None if waited is None or waited_before is None else (waited - waited_before) / took
    governor.observe(kind, threads, took / n_tokens, share)
    return result


def _waited_s() -> float | None:
    """Give the seconds that this thread has been ready to run and had no core; None where the kernel does not tell."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read(96).split()[1]) / 1e9
    except OSError:
        return None
