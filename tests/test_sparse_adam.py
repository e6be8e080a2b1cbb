"""SparseAdam: rows of a sparse gradient, added up where they come several times, and nothing else."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fusestep
import fusestep.numpy as fnp
import fusestep.optim as optim
from cases import DTYPES, ISAS, assert_accurate
from fusestep import _native


@pytest.fixture(autouse=True)
def checked() -> Iterator[None]:
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def sparse(
    shape: tuple[int, ...], rows: list[int], dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), *shape[1:], generator=generator, dtype=torch.float64).to(dtype)
    return torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, shape)


def run(
    make: Any, start: Tensor, grads: list[Tensor], wide: bool = False, **options: Any
) -> tuple[Tensor, Any]:
    param = Parameter(start.double() if wide else start.clone(memory_format=torch.preserve_format))
    optimizer = make([param], **options)
    for grad in grads:
        param.grad = grad.double() if wide else grad
        optimizer.step()
    return param.detach(), optimizer


ROWS = [[3, 0, 3, 19, 3], [], [7], list(range(20)), [19, 18, 0], [5] * 40]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 3, 64, 5000])
def test_rows_in_any_order_and_number(width: int, dtype: torch.dtype) -> None:
    fusestep.reset_stats()
    shape = (20, width)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for options in ({}, {"lr": 0.05}, {"betas": (0.5, 0.9)}, {"eps": 1e-3}, {"maximize": True}):
        # Each row once in torch's runs: it adds duplicates up in the dtype of the gradient.
        grads = [sparse(shape, rows, dtype, i) for i, rows in enumerate(ROWS * 3)]
        ours, optimizer = run(optim.SparseAdam, start, grads, **options)
        summed = [grad.double().coalesce() for grad in grads]
        exact, _ = run(torch.optim.SparseAdam, start, summed, wide=True, **options)
        theirs, _ = run(torch.optim.SparseAdam, start, grads, **options)
        assert_accurate(ours, theirs, exact, f"{dtype} {width} {options}", largest_term=4.0)
        assert optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] == len(grads)
    assert fusestep.stats()["sparse_adam"] == {"native": 5 * 18, "torch": {}}


@pytest.mark.parametrize("isa", ISAS)
def test_every_width_around_the_vector(isa: str) -> None:
    _native.set_isa(isa)
    for width in range(1, 70):
        grads = [sparse((9, width), [8, 0, 8, 4], seed=i) for i in range(2)]
        start = torch.ones(9, width)
        ours, _ = run(optim.SparseAdam, start, grads)
        theirs, _ = run(torch.optim.SparseAdam, start, grads)
        torch.testing.assert_close(ours, theirs, msg=str(width))
        assert torch.equal(ours[[1, 2, 3, 5, 6, 7]], torch.ones(6, width)), "a row without gradient moved"


def test_more_than_one_sparse_dimension_and_none_dense() -> None:
    indices = torch.tensor([[0, 2, 0, 2], [1, 3, 1, 0]])
    for dense in ((), (5,), (2, 3)):
        values = torch.randn(4, *dense)
        grad = torch.sparse_coo_tensor(indices, values, (3, 4, *dense))
        start = torch.randn(3, 4, *dense)
        ours, _ = run(optim.SparseAdam, start, [grad, grad])
        theirs, _ = run(torch.optim.SparseAdam, start, [grad, grad])
        torch.testing.assert_close(ours, theirs)


def test_no_sparse_dimension() -> None:
    number = torch.tensor(1.0)
    row = torch.sparse_coo_tensor(torch.empty(0, 3, dtype=torch.int64), torch.randn(3, 4), (4,))
    for start, grad in ((number, number.to_sparse()), (torch.ones(4), row)):
        ours, _ = run(optim.SparseAdam, start, [grad, grad])
        theirs, _ = run(torch.optim.SparseAdam, start, [grad, grad])
        torch.testing.assert_close(ours, theirs)


def test_strided_parameters_and_gradients() -> None:
    base = torch.randn(6, 10, 4)
    for start in (base.transpose(0, 1), base.permute(2, 1, 0), base[:, ::2]):
        shape = tuple(start.shape)
        values = torch.randn(*shape[1:], 3).movedim(-1, 0)  # strided
        rows = torch.tensor([[2, 9, 0, 9, 2, 9]])[:, ::2]  # and strided rows
        rows = rows % shape[0]
        grad = torch.sparse_coo_tensor(rows, values, shape)
        ours, _ = run(optim.SparseAdam, start, [grad] * 3)
        theirs, _ = run(torch.optim.SparseAdam, start, [grad] * 3)
        torch.testing.assert_close(ours, theirs)


def test_embedding_trains_as_in_torch() -> None:
    results = []
    for make in (optim.SparseAdam, torch.optim.SparseAdam):
        torch.manual_seed(0)
        table = torch.nn.EmbeddingBag(1000, 16, sparse=True)
        optimizer = make(table.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        for _ in range(10):
            words = torch.randint(0, 1000, (32, 20))
            optimizer.zero_grad()
            loss = (table(words) - 1).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step(1.0)
        results.append(table.weight.detach())
    torch.testing.assert_close(*results)


def test_bit_identical_for_any_number_of_threads() -> None:
    rows = torch.randint(0, 5000, (40_000,), generator=torch.Generator().manual_seed(0)).tolist()
    grads = [sparse((5000, 64), rows, seed=i) for i in range(2)]
    results = []
    for threads in (1, 2, 7):
        fusestep.set_num_threads(threads)
        results.append(run(optim.SparseAdam, torch.zeros(5000, 64), grads)[0])
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_row_does_not_depend_on_the_others() -> None:
    """Alone, or with others around it; sorted, or not."""
    values = torch.randn(3, 33)
    alone = torch.sparse_coo_tensor(torch.tensor([[4]]), values[:1], (6, 33))
    sorted_ = torch.sparse_coo_tensor(torch.tensor([[4, 5, 0]]), values, (6, 33))
    a, _ = run(optim.SparseAdam, torch.ones(6, 33), [alone])
    b, _ = run(optim.SparseAdam, torch.ones(6, 33), [sorted_])
    c, _ = run(optim.SparseAdam, torch.ones(6, 33), [sorted_.coalesce()])
    assert torch.equal(a[4], b[4])
    assert torch.equal(b, c)


def test_no_rows_count_as_a_step_and_change_nothing() -> None:
    start = torch.ones(4, 3)
    empty = torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.int64), torch.empty(0, 3), (4, 3))
    ours, optimizer = run(optim.SparseAdam, start, [empty, empty])
    assert torch.equal(ours, start)
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    assert type(state["step"]) is int
    assert state["step"] == 2
    nothing = Parameter(torch.empty(0, 3))
    nothing.grad = torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.int64), torch.empty(0, 3), (0, 3))
    optim.SparseAdam([nothing]).step()


def test_state_and_checkpoints_are_torchs_both_ways() -> None:
    grads = [sparse((20, 5), rows, seed=i) for i, rows in enumerate(ROWS)]
    start = torch.randn(20, 5)
    expected, whole = run(torch.optim.SparseAdam, start, grads * 2)
    for first, second in (
        (optim.SparseAdam, torch.optim.SparseAdam),
        (torch.optim.SparseAdam, optim.SparseAdam),
    ):
        before, saver = run(first, start, grads)
        file = io.BytesIO()
        torch.save(saver.state_dict(), file)
        file.seek(0)
        param = Parameter(before.clone())
        loader = second([param])
        loader.load_state_dict(torch.load(file, weights_only=True))
        for grad in grads:
            param.grad = grad
            loader.step()
        torch.testing.assert_close(param.detach(), expected)
        mine, theirs = loader.state_dict(), whole.state_dict()
        assert mine["param_groups"] == theirs["param_groups"]
        assert list(mine["state"][0]) == list(theirs["state"][0])
        assert mine["state"][0]["step"] == theirs["state"][0]["step"]


def test_resumed_training_is_bit_identical() -> None:
    grads = [sparse((20, 5), rows, seed=i) for i, rows in enumerate(ROWS)]
    expected, _ = run(optim.SparseAdam, torch.ones(20, 5), grads * 2)
    _, optimizer = run(optim.SparseAdam, torch.ones(20, 5), grads)
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (param,) = copied.param_groups[0]["params"]
        for grad in grads:
            param.grad = grad
            copied.step()
        assert torch.equal(param.detach(), expected)


def test_special_values_stay_in_their_elements() -> None:
    for value in (float("nan"), float("inf"), 1e-42, 3e38):
        results = []
        for make in (optim.SparseAdam, torch.optim.SparseAdam):
            values = torch.ones(2, 20)
            values[1, 17] = value
            grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), values, (5, 20))
            results.append(run(make, torch.ones(5, 20), [grad, grad])[0])
        assert torch.equal(torch.isnan(results[0]), torch.isnan(results[1]))
        torch.testing.assert_close(*results, equal_nan=True)


def test_what_is_refused_changes_nothing() -> None:
    good, bad = Parameter(torch.ones(4, 2)), Parameter(torch.ones(3))
    good.grad = sparse((4, 2), [1])
    bad.grad = torch.ones(3)
    optimizer = optim.SparseAdam([good, bad])
    with pytest.raises(RuntimeError, match="does not support dense gradients, please consider Adam"):
        optimizer.step()
    assert not any(optimizer.state.values())
    wrong = torch.sparse_coo_tensor(torch.tensor([[9]]), torch.ones(1, 2), (4, 2), check_invariants=False)
    bad.grad = None
    for_later = Parameter(torch.ones(4, 2))
    for_later.grad = wrong
    optimizer = optim.SparseAdam([good, for_later])
    with pytest.raises(IndexError, match="out of range"):
        optimizer.step()
    assert torch.equal(good.detach(), torch.ones(4, 2))
    assert not any(optimizer.state.values())
    for options in ({"lr": 0.0}, {"eps": 0.0}, {"betas": (1.0, 0.9)}):
        messages = []
        for make in (optim.SparseAdam, torch.optim.SparseAdam):
            with pytest.raises(ValueError, match="Invalid") as caught:
                make([good], **options)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    with pytest.raises(TypeError):
        optim.SparseAdam([good], max_grad_norm=1.0)


def test_a_graph_from_before_the_step_is_refused() -> None:
    param = Parameter(torch.ones(4, 2))
    loss = (param**2).sum()
    param.grad = sparse((4, 2), [1])
    optim.SparseAdam([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_groups_closure_and_hooks() -> None:
    results = []
    for make in (optim.SparseAdam, torch.optim.SparseAdam):
        a, b = Parameter(torch.ones(4, 2)), Parameter(torch.ones(4, 2))
        optimizer = make([{"params": [a], "lr": 0.5}, {"params": [b], "maximize": True}])
        seen: list[str] = []
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("post"))

        def closure(a: Parameter = a, b: Parameter = b) -> float:
            assert torch.is_grad_enabled()
            a.grad, b.grad = sparse((4, 2), [1, 1, 2]), sparse((4, 2), [0])
            return 3.0

        assert optimizer.step(closure) == 3.0
        assert seen == ["post"]
        results.append(torch.cat([a.detach(), b.detach()]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_numpy_does_the_same_bits(dtype: type) -> None:
    start = np.linspace(-1, 1, 60).reshape(20, 3).astype(dtype)
    array, param = start.copy(), Parameter(torch.from_numpy(start.copy()))
    ours, theirs = fnp.SparseAdam([array], lr=0.1), optim.SparseAdam([param], lr=0.1)
    for step, rows in enumerate(ROWS):
        values = np.random.default_rng(step).normal(size=(len(rows), 3)).astype(dtype)
        ours.step([(np.array(rows, np.int32), values)])
        indices = torch.tensor([rows], dtype=torch.int64)
        param.grad = torch.sparse_coo_tensor(indices, torch.from_numpy(values), (20, 3))
        theirs.step()
    np.testing.assert_array_equal(array, param.detach().numpy())
    saved = theirs.state_dict()["state"][0]
    assert list(ours.state[0]) == list(saved)
    assert ours.state[0]["step"] == saved["step"]
    np.testing.assert_array_equal(ours.state[0]["exp_avg"], saved["exp_avg"].numpy())


@pytest.mark.parametrize(
    ("grad", "kind", "message"),
    [
        (np.ones((4, 2)), TypeError, "must be a tuple"),
        ((np.array([0.5]), np.ones((1, 2))), TypeError, "vector of integers"),
        ((np.array([[0]]), np.ones((1, 2))), TypeError, "vector of integers"),
        ((np.array([0, 1]), np.ones((1, 2))), RuntimeError, r"must have shape \(2, 2\)"),
        ((np.array([4]), np.ones((1, 2))), IndexError, "out of range"),
        ((np.array([-1]), np.ones((1, 2))), IndexError, "out of range"),
        ((np.array([0]), np.ones((1, 2), int)), TypeError, "floating point"),
    ],
)
def test_numpy_refuses(grad: Any, kind: type[Exception], message: str) -> None:
    first, second = np.ones((4, 2)), np.ones((4, 2))
    optimizer = fnp.SparseAdam([first, second])
    with pytest.raises(kind, match=message):
        optimizer.step([(np.array([0]), np.ones((1, 2))), grad])
    assert (first == 1).all()
    assert not any(optimizer.state)
