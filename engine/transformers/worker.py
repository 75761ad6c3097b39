"""The engine's thread: continuous batching over prompts in chunks and decoding streams.

One turn of the loop, ``_step``, is: take in what has arrived; admit what there is room for (segments in memory
are injected at once, those on disk are read by a second thread meanwhile); pick a batch of one token of every
decoding stream and as many prompt tokens as the chunk size allows; one forward pass; send what it gave.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch

from engine.base import Capacity
from engine.config import BatchingConfig, CompositionConfig
from engine.errors import EngineClosed, EngineError
from engine.transformers.admission import Admission
from engine.transformers.attention.ragged import Interrupted
from engine.transformers.composing import Composer
from engine.transformers.cost import CostModel
from engine.transformers.device_memory import DeviceMemory
from engine.transformers.governor import ThreadGovernor
from engine.transformers.idle import IdleTask
from engine.transformers.loading import LoadedModel
from engine.transformers.requests import Requests
from engine.transformers.results import Results
from engine.transformers.runner import ModelRunner, Work
from engine.transformers.sequence import Group
from engine.transformers.step import Step, pick
from engine.transformers.threads import set_thread_count, usable_threads
from engine.vocabulary import Vocabulary
from kvcache import TieredStore
from kvcache.copies import use_device

log = logging.getLogger(__name__)
T = TypeVar("T")


class EngineWorker(threading.Thread):
    """Owns the model. Others talk to it through :meth:`submit`, :meth:`abort` and :meth:`stop`."""

    def __init__(
        self,
        model: LoadedModel,
        store: TieredStore,
        config: BatchingConfig,
        composing: CompositionConfig,
        vocabulary: Vocabulary,
        cost: CostModel | None = None,
        governor: ThreadGovernor | None = None,
    ) -> None:
        super().__init__(name="engine", daemon=True)
        self.governor = governor or ThreadGovernor(usable_threads(), adaptive=False)
        self.ready = threading.Event()
        self.memory = DeviceMemory(model, store, config.kv_bytes)
        self.requests = Requests(store, self.memory)
        self._model = model
        self._max_running = config.max_running
        self._chunk, self._busy_chunk = config.chunks(model.device)
        self._runner = ModelRunner(model.model, self.governor)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        composer = Composer(model, self._runner, self._chunk)
        self._admission = Admission(
            model, self.requests, composer, composing, config.max_running, cost, self._inbox.put
        )
        self._results = Results(model, self.requests, vocabulary, self._admission.observe_loads)
        self._idle: deque[IdleTask] = deque()
        self._urgent = threading.Event()
        self._stopping = False

    # -- called from other threads ---------------------------------------------------------------------------

    def submit(self, group: Group) -> None:
        self._inbox.put(lambda: self.requests.waiting.append(group))
        if not group.background:
            self._urgent.set()

    def abort(self, group: Group) -> None:
        """Drop a request before the next step; its sink hears nothing more."""
        group.aborted = True
        self._inbox.put(lambda: None)

    def when_idle(self, steps: Generator[None, None, bool]) -> Future[bool]:
        """Run ``steps`` on this thread, one at a time and only while no request is here."""
        future: Future[bool] = Future()
        self._inbox.put(lambda: self._idle.append(IdleTask(steps, future)))
        return future

    @property
    def background(self) -> tuple[int, Callable[[], bool]]:
        """Return, for work in idle time, the tokens of a step, and what to ask in the middle of one whether to break it
        off."""
        return self._chunk, self._urgent.is_set

    def call(self, work: Callable[[ModelRunner], T]) -> Future[T]:
        """Run ``work`` on the model between two steps, on this thread (a benchmark's bare forward pass, say)."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work(self._runner))
            except Exception as error:  # noqa: BLE001 - handed on to whoever asked
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def stop(self) -> None:
        """End after the current step; requests that are left fail with ``EngineClosed``."""
        self._stopping = True
        self._inbox.put(None)

    def capacity(self) -> Capacity:
        # Lengths read without a lock: good enough for a gauge.
        requests = self.requests
        waiting = len(requests.waiting) + len(requests.loading)
        return Capacity(self._model.context, self._max_running, len(requests.running), waiting, self._model.parameters)

    def has_requests(self) -> bool:
        """Say whether a request is here or has just come."""
        return self._urgent.is_set() or bool(self.requests)

    # -- the loop --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self) -> None:
        use_device(self._model.device)
        set_thread_count(self.governor.most)
        self.ready.set()
        while not self._stopping:
            try:
                self._step()
            except Exception as error:
                # The worker's edge: a failed step fails the requests in it, not the server.
                log.exception("a step of the engine failed")
                self.requests.failures += 1
                self.requests.fail_all(EngineError(f"the engine failed: {type(error).__name__}"))
        self._admission.close()
        self._receive(block=False)
        self.requests.fail_all(EngineClosed("the engine is shutting down"))
        for task in self._idle:
            task.cancel()

    def _step(self) -> None:
        """Receive, schedule, forward, process."""
        self._receive(block=not (self.requests.running or self.requests.waiting or self._idle))
        self._drop_finished()
        self._admission.admit()
        if self._idle and not self.requests:
            self._advance_idle()
            return
        self._admission.settle()
        step = pick(self.requests.running, self._chunk, self._busy_chunk)
        if not step.is_empty:
            self._compute(step)
        elif self.requests.loading or self.requests.waiting:
            self._receive(block=True)  # a load that ends, or a new request, wakes the loop

    def _receive(self, *, block: bool) -> None:
        """Do what others have posted; with ``block`` wait until there is something."""
        self._urgent.clear()  # before the inbox is read: what comes later sets it again
        while not self._stopping:
            try:
                message = self._inbox.get(block=block)
            except queue.Empty:
                return
            if message is not None:
                message()
            block = False

    def _drop_finished(self) -> None:
        for group in [group for group in self.requests.running if group.finished]:
            self.requests.running.remove(group)
            self._results.store_session(group)
            self.requests.release(group)
        for group in [group for group in self.requests.waiting if group.aborted]:
            self.requests.waiting.remove(group)
            group.sink(None)

    def _advance_idle(self) -> None:
        if not self._idle[0].advance():
            self._idle.popleft()

    def _compute(self, step: Step) -> None:
        work = step.work
        try:
            logits = self.memory.retried(lambda: self._forward(step, work))
        except Interrupted:  # taken up again when nobody waits
            return
        except torch.OutOfMemoryError:
            self.requests.fail_for_memory(step.largest)  # the others' turn comes again: sequences have not grown
            return
        self._process(step, work, logits)

    def _forward(self, step: Step, work: Sequence[Work]) -> torch.Tensor:
        logits = self._runner.forward(work, self._urgent.is_set if step.in_background else None)
        if step.in_background:
            self._runner.wait()
        return logits

    def _process(self, step: Step, work: Sequence[Work], logits: torch.Tensor) -> None:
        try:
            rows, chosen = self._results.choose(step, work, logits)
        except torch.OutOfMemoryError:
            for group in step.groups:  # their sequences have grown
                self.requests.fail_for_memory(group)
            return
        self._results.deliver(step, rows, chosen)
        self._drop_finished()
