"""Threads that together need no more memory than there may be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_bounded(
    work: Callable[[Item], Result], items: Sequence[Item], needs: Sequence[float], workers: int, limit: float
) -> Iterator[tuple[Item, Result]]:
    """Each item with what ``work`` returns for it, as they finish; what raises ends the rest.

    The first in order that fits is begun next, so small ones pass one that waits. One at least is always at work,
    whatever it needs.

    Args:
        work: called in a thread.
        items: in order.
        needs: bytes of memory of each.
        workers: items at a time.
        limit: bytes of memory that those at work may need together.
    """
    waiting = list(range(len(items)))
    running: dict[Future[Result], int] = {}
    pool = ThreadPoolExecutor(workers)

    def begin() -> None:
        while waiting and len(running) < workers:
            left = limit - sum(needs[number] for number in running.values())
            fitting = next((number for number in waiting if not running or needs[number] <= left), None)
            if fitting is None:
                return
            waiting.remove(fitting)
            running[pool.submit(work, items[fitting])] = fitting

    try:
        begin()
        while running:
            done = wait(running, return_when=FIRST_COMPLETED).done
            finished = [(running.pop(future), future) for future in list(running) if future in done]
            begin()  # before the caller, who may take time
            for number, future in finished:
                yield items[number], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
