"""Memory that a program on a CPU frees is kept for its next step, where the C library would give it back.

XLA's CPU client allocates the temporaries of a program anew at every call. glibc maps each block beyond 32 MB
(beyond 64 MB outside of the main thread's arena, whatever is set) and unmaps it when it is freed, so that at the
next call the kernel finds and zeroes each of its pages again: up to a third of a training step's processor time.
"""

import ctypes
import os

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

SETTINGS = {
    M_ARENA_MAX: 1,  # only the main arena can grow beyond 64 MB; threads that have another keep it
    M_MMAP_MAX: 0,  # no block is mapped, and with that unmapped, by itself
    M_TRIM_THRESHOLD: -1,  # and the end of the arena stays
}


def keep_freed_memory() -> bool:
    """Have this process keep what it frees for what it allocates next.

    Call it first, before JAX starts its threads. The programs of this package call it; one of your own, which runs
    large batches on a CPU, does well to. The process never becomes smaller than it was at its largest. The memory
    of an accelerator is not touched.

    Returns:
        Whether it is kept: not without glibc, nor where the environment sets `malloc` up itself.
    """
    tuned = "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if tuned or mallopt is None:
        return False
    taken = [mallopt(name, value) for name, value in SETTINGS.items()]
    return all(taken)
