"""Who makes a data set: threads in this process, worker processes, or the workers of a dask cluster."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

__all__ = ["cluster", "processes"]

TIMEOUT = 5
"""For how many seconds a dask scheduler may keep silent."""


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """A pool of worker processes, which outlasts neither an interruption nor this process.

    Arguments:
        workers: How many.
    """
    # Spawned: a forked child of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            # The workers finish what they compute; a second interruption meanwhile would leave them waiting for ever.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            pool.shutdown(cancel_futures=True)
            raise


def _follow() -> None:
    """In a worker: leave interruptions to the process that started it, and end when that ends, killed or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of a dask cluster.

    Arguments:
        address: The address of its scheduler, such as ``tcp://10.0.0.1:8786``, or a host and a port.

    Raises:
        ValueError: If dask is not installed, or the address is none.
        ConnectionError: If no scheduler answers there.
        RuntimeError: If the cluster loses the workers or the tasks.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ValueError(
            f"--dask needs the package dask.distributed ({error}); install it: pip install 'physflow[distributed]'"
        ) from error
    try:
        host_port = distributed.comm.get_address_host_port(distributed.comm.normalize_address(address))
        # A client that finds nobody would try again for long when it is closed.
        with socket.create_connection(host_port, timeout=TIMEOUT) as connection:
            # A scheduler speaks first, and in numbers. Whoever does not would keep a client waiting for ever.
            if not address.startswith("tls://") and b"\0" not in connection.recv(8):
                raise OSError("something else answers there")
        client = distributed.Client(address, timeout=TIMEOUT, set_as_default=False)
    except OSError as error:
        raise ConnectionError(
            f"no dask scheduler answers at {address}; start one (`dask scheduler`), or correct the address ({error})"
        ) from error
    except ValueError as error:
        raise ValueError(f"--dask takes an address such as tcp://10.0.0.1:8786, got {address!r} ({error})") from error
    with client:
        try:
            yield client.get_executor(pure=False)
        except (distributed.KilledWorker, distributed.CancelledError) as error:
            raise RuntimeError(f"the dask cluster at {address} lost its workers or its tasks: {error}") from error
