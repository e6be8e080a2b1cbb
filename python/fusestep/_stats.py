"""How often the kernels ran, and how often torch's own implementation ran instead, and why."""

from __future__ import annotations

from collections import Counter, defaultdict

_native_calls: defaultdict[str, int] = defaultdict(int)  # twice as fast as a Counter
_torch_calls: Counter[tuple[str, str]] = Counter()


def count_native(op: str) -> None:
    _native_calls[op] += 1


def count_torch(op: str, reason: str) -> None:
    _torch_calls[op, reason] += 1


def stats() -> dict[str, dict[str, object]]:
    """Calls per op since the start or the last :func:`reset_stats`.

    Returns:
        ``{op: {"native": calls of our kernel, "torch": {reason: calls of torch's function}}}``.
        Calls inside a graph compiled by ``torch.compile`` count while it is traced, not when it runs.
    """
    result: dict[str, dict[str, object]] = {}
    for op in sorted({*_native_calls, *(op for op, _ in _torch_calls)}):
        reasons = {why: n for (other, why), n in sorted(_torch_calls.items()) if other == op}
        result[op] = {"native": _native_calls.get(op, 0), "torch": reasons}
    return result


def reset_stats() -> None:
    """Set every count of :func:`stats` back to zero."""
    _native_calls.clear()
    _torch_calls.clear()
