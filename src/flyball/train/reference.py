"""Reference mode: equal seeds give equal weights to the bit (invariant 12).

It takes an engine that computes each conversation alone, a schedule in which nothing depends on time, and one thread:
a sum that several threads share depends on how many they are.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch


def compute_with_one_thread() -> None:
    """From here on, in this thread and those of the running event loop; each must be told by itself."""
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(thread_name_prefix="flyball", initializer=torch.set_num_threads, initargs=(1,))
    asyncio.get_running_loop().set_default_executor(workers)
