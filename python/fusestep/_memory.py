"""The memory that large gradients are written to, and that is used again when they have died."""

from __future__ import annotations

from fusestep import _native


def empty_cache() -> None:
    """Give memory that no tensor or array uses any more back to the system.

    Gradients and other results of a mebibyte or more are written to memory that is kept when they die,
    because a fresh page costs more than the kernel that fills it. Never more is kept than was in use at one
    time, nor more than :func:`set_cache_limit` allows. CUDA tensors are torch's own, see
    :func:`torch.cuda.empty_cache`.
    """
    _native.empty_cache()


def set_cache_limit(limit: int) -> None:
    """Keep at most ``limit`` bytes of idle memory; 0 turns the pool off.

    The default is a quarter of the machine's memory, or ``FUSESTEP_CACHE_LIMIT`` in the environment.

    Raises:
        ValueError: ``limit`` is negative.
    """
    if limit < 0:
        raise ValueError(f"`limit` must be 0 or more bytes, got {limit}")
    _native.set_cache_limit(limit)


def cache_stats() -> dict[str, int]:
    """Bytes of pooled memory: ``in_use`` by tensors and arrays, ``idle``, and the ``limit`` of the latter."""
    in_use, idle = _native.cache_use()
    return {"in_use": in_use, "idle": idle, "limit": _native.get_cache_limit()}
