"""Interruptions of a long piece of work, held back until its files can be left whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from torch import distributed

__all__ = ["deferred_interrupt"]


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C or SIGTERM, so that no checkpoint sees half a step; it is raised on leaving.

    Yields:
        A function that says whether there was one.
    """
    pending = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal pending
        # torchrun passes on what its processes have received from the terminal already.
        if pending and not distributed.is_torchelastic_launched():
            raise KeyboardInterrupt
        pending = True

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    # Python delivers signals to the main thread only, and another handler is somebody's wish.
    main = threading.current_thread() is threading.main_thread()
    held = {number: handler for number, handler in usual.items() if main and signal.getsignal(number) is handler}
    for number in held:
        signal.signal(number, hold)
    try:
        yield lambda: pending
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    if pending:
        raise KeyboardInterrupt
