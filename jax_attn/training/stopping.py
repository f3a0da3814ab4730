"""Stop signals: the step at hand is finished first, and a checkpoint saved."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopSignals:
    """Within it, SIGTERM and Ctrl-C only ask for a stop; a second Ctrl-C interrupts as usual.

    Args:
        every: with several processes, after how many steps they ask each other, so that all stop at one step.
    """

    SIGNALS = signal.SIGTERM, signal.SIGINT

    def __init__(self, every: int = 1):
        self._every, self._before, self.received = every, {}, None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self, step: int) -> bool:
        """Whether to stop after this step."""
        here = self.received is not None
        if jax.process_count() == 1:
            return here
        if step % self._every:
            return False
        return bool(np.any(multihost_utils.process_allgather(np.array(here))))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
