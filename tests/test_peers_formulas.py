"""Update rules: bugs that other fused optimizers shipped, each test named after one.

The numbers are those of 63 items distilled from the issues of PyTorch, Apex, TransformerEngine (TE),
DeepSpeed, ColossalAI, bitsandbytes (bnb), torchao, FlagGems and others. torch's for-loop is the reference,
or float64: its fused and foreach paths are among the peers.
"""

from __future__ import annotations

import copy
import inspect
from itertools import product
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import fusestep.optim as optim
from cases import DTYPES, ISAS, rule_options, torch_optimizer
from fusestep import _native
from peers import (
    INF,
    NAN,
    SPARSE,
    accepted,
    as_torch,
    close,
    follow,
    item,
    one,
    same_bits,
    tensors,
    with_states,
)
from test_optim import NAMES, make, parameters, train

# ---- formulas ----


@item(23)  # DeepSpeed: 5e-5 off in 1 - beta2; apex
def test_one_minus_beta_is_rounded_to_float32() -> None:
    """At beta2 = 1 - 1e-6 float32 has lost a tenth of it; what is stored here is exact to its last bits."""
    beta2 = 1 - 1e-6
    squares = {"Adam": "exp_avg_sq", "NAdam": "exp_avg_sq", "RAdam": "exp_avg_sq", "AdamW": "exp_avg_sq"}
    for name, key in squares.items():
        param = one(grad=3.0, size=37)
        optimizer = make(name, True, betas=(0.9, beta2))([param])
        optimizer.step()
        close(optimizer.state[param][key].double(), torch.full((37,), 9 * (1 - beta2)).double(), 2e-7, 0)
    for name, key in {"RMSprop": "square_avg", "Adadelta": "square_avg"}.items():
        param = one(grad=3.0, size=37)
        optimizer = make(name, True, **accepted(name, alpha=beta2, rho=beta2))([param])
        optimizer.step()
        exact = torch.full((37,), 9 * (1 - beta2), dtype=torch.float64)
        close(optimizer.state[param][key].double(), exact, 2e-7, 0)


@item(23, name=NAMES)
def test_numbers_of_a_float64_parameter_pass_through_float32(name: str) -> None:
    options = {**with_states(name), **accepted(name, betas=(0.9, 1 - 1e-6), eps=1 / 3e7), "lr": 1 / 30}
    start = parameters(torch.float64)
    mine, _ = train(make(name, True, **options), start, 20)
    right, _ = train(make(name, False, **options), start, 20)
    for a, b in zip(mine, right, strict=True):
        close(a, b, rtol=1e-13, atol=1e-13)


@item(24, name=NAMES)  # bnb#2010, FlagGems#4988
def test_decay_is_applied_after_the_update_or_beside_the_moments(name: str) -> None:
    """Large, so that the order shows; torch refuses a negative one, and computes with it if set later."""
    if "weight_decay" not in inspect.signature(torch_optimizer(name)).parameters:
        assert name == "Rprop"
        return
    with pytest.raises(ValueError, match="weight_decay"):
        make(name, True, weight_decay=-0.1)([one()])
    variants = [
        {},
        *([{"decoupled_weight_decay": True}] if accepted(name, decoupled_weight_decay=True) else []),
    ]
    for decay, variant in product((0.5, -0.5), variants):

        def script(optimizer_of: Any, decay: float = decay) -> Any:
            param = one(2.0, grad=0.3)
            optimizer = optimizer_of([param])
            optimizer.param_groups[0]["weight_decay"] = decay
            for _ in range(3):
                optimizer.step()
            return tensors(optimizer)

        as_torch(name, script, **variant, **with_states(name), lr=0.1)
    if name == "AdamW":
        param = one(2.0, grad=0.3)
        optim.AdamW([param], lr=0.1, weight_decay=0.5).step()
        close(param.detach(), torch.full((5,), 2 * (1 - 0.05) - 0.1))


@item(25, name=NAMES)  # an older CUDA kernel of torch decayed, then turned the sign
def test_ascent_turns_the_decay_around(name: str) -> None:
    for decay in (0.0, 0.5):
        options = accepted(name, weight_decay=decay, momentum=0.9, nesterov=True)
        as_torch(
            name,
            lambda optimizer_of: tensors(train(optimizer_of, parameters(), 4)[1]),
            1e-5,  # where parameter and update cancel
            **options,
            maximize=True,
        )
    if accepted(name, weight_decay=0.5):
        param = one(2.0, grad=0.0)
        make(name, True, maximize=True, weight_decay=0.5, lr=0.1)([param]).step()
        assert name == "ASGD" or (param < 2).all()


@item(26, name=["Adam", "AdamW"])
def test_amsgrad_compares_corrected_moments(name: str) -> None:
    """The largest of the raw ones, which after one large gradient the correction would not leave alone."""

    def script(optimizer_of: Any) -> Any:
        param = one()
        optimizer = optimizer_of([param])
        for value in (1.0, 10.0, 0.1, 0.1, 2.0, 0.0):
            param.grad = torch.full((5,), value)
            optimizer.step()
        return tensors(optimizer)

    as_torch(name, script, amsgrad=True, betas=(0.5, 0.6), lr=0.1)


@item(26, name=["Adam", "AdamW"])
def test_amsgrad_turned_on_without_its_state_is_garbage(name: str) -> None:
    param = one()
    optimizer = make(name, True)([param])
    optimizer.step()
    before = [t.clone() for t in tensors(optimizer)]
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(KeyError, match="max_exp_avg_sq"):
        optimizer.step()
    assert all(same_bits(a, b) for a, b in zip(tensors(optimizer), before, strict=True))
    older = optimizer.__getstate__()
    del older["param_groups"][0]["amsgrad"]  # as of before there was such an option
    again = getattr(optim, name).__new__(getattr(optim, name))
    again.__setstate__(older)
    assert again.param_groups[0]["amsgrad"] is False
    again.step()


def trained_with(name: str, values: list[float], size: int, **options: Any) -> list[list[Any]]:
    """Parameters and states of ours and of torch after gradients that are special at some elements."""
    results = []
    for ours in (True, False):
        param = Parameter(torch.ones(size))
        optimizer = make(name, ours, **options)([param])
        for value in values:
            grad = torch.linspace(-1, 1, size)
            grad[::17] = value
            grad[-1] = value
            param.grad = grad
            optimizer.step()
        results.append(tensors(optimizer))
    return results


@item(27, 61, name=NAMES, isa=ISAS)  # torch's fused amsgrad keeps NaN in vectors and drops it in the tail
def test_nan_is_dropped_by_a_maximum(name: str, isa: str) -> None:
    """In parameters and in states, at every size; the signs of zeros too."""
    _native.set_isa(isa)
    options = {**with_states(name), **accepted(name, amsgrad=True, centered=True)}
    for size, values in product(
        (1, 20, 37, 70), ([NAN, 1.0], [0.5, NAN, 0.5], [-0.0, 0.0], [0.0, NAN, -0.0])
    ):
        mine, right = trained_with(name, values, size, **options)
        close(mine, right)
        for a, b in zip(mine, right, strict=True):
            assert torch.equal(torch.signbit(a[~a.isnan()]), torch.signbit(b[~b.isnan()]))


@item(28, name=NAMES, value=[INF, -INF])  # bnb's 8-bit states are set to zero
def test_infinite_gradient_resets_states_or_neighbours(name: str, value: float) -> None:
    for options in rule_options(name):
        mine, right = trained_with(name, [0.5, value, 0.5], 40, **options)
        close(mine, right)
        assert torch.isfinite(mine[0][1:17]).all()


# ---- the rules, one by one ----


def exactly(name: str, grads: list[float], **options: Any) -> list[Any]:
    mine, right = (follow(name, grads, wide, **options) for wide in (False, True))
    close(mine, right, rtol=2e-6, atol=1e-7)
    return mine


@item(46, 62, alpha=[0.5, 0.99], momentum=[0.0, 0.9])  # torch: 667 of 1000 parameters NaN
def test_centered_variance_rounds_below_zero(alpha: float, momentum: float) -> None:
    """Of gradients that stay the same it is zero in the end, and the clamp is there at every size."""
    options = {"alpha": alpha, "momentum": momentum, "centered": True, "lr": 1e-5}
    grads = torch.rand(1000)
    params = [Parameter(torch.zeros(n)) for n in (1000, 1, 37)]
    optimizer = optim.RMSprop(params, **options)
    for _ in range(200):
        for param in params:
            param.grad = grads[: param.numel()]
        optimizer.step()
    assert all(torch.isfinite(t).all() for t in tensors(optimizer))
    assert same_bits(params[2], params[0][:37])
    states = ["step", "square_avg", *(["momentum_buffer"] if momentum else []), "grad_avg"]
    assert list(optimizer.state[params[0]]) == states
    exactly("RMSprop", [0.5, -0.25, 1.0, 0.125], **options)


@item(47)
def test_rprop_forgets_to_forget_a_gradient_that_turned() -> None:
    """After a turn the parameter rests for one step, whatever the sign, and its size does not change."""
    param, sizes, values = one(0.0), [], []
    optimizer = optim.Rprop([param], lr=0.1)
    for grad in (1.0, 1.0, -1.0, -1.0, -1.0, 0.0, 1.0, NAN, 1.0):
        param.grad = torch.full((5,), grad)
        optimizer.step()
        sizes.append(float(optimizer.state[param]["step_size"][0]))
        values.append(float(param.detach()[0]))
        close(optimizer.state[param]["prev"][0], torch.tensor(0.0 if len(sizes) == 3 else grad))
    close(torch.tensor(sizes), torch.tensor([0.1, 0.12, 0.06, 0.06, 0.072, 0.072, 0.072, 0.072, 0.072]))
    moves = torch.tensor([-0.1, -0.12, 0, 0.06, 0.072, 0, -0.072, 0, -0.072])
    close(torch.tensor(values), moves.cumsum(0))
    assert "weight_decay" not in optimizer.param_groups[0]
    with pytest.raises(TypeError, match="weight_decay"):
        optim.Rprop([param], weight_decay=0.1)


@item(47, dtype=DTYPES)
def test_rprop_step_sizes_leave_their_bounds(dtype: torch.dtype) -> None:
    for grads, bound in (([1.0] * 60, 50.0), ([1.0, -1.0] * 60, 1e-6)):
        params = [one(0.0, 37, dtype), Parameter(torch.zeros(37, dtype=torch.float64))]
        both = [optim.Rprop(params[:1], lr=0.1), torch.optim.Rprop(params[1:], lr=0.1)]
        for grad in grads:
            for param, optimizer in zip(params, both, strict=True):
                param.grad = torch.full_like(param, grad)
                optimizer.step()
        close(both[0].state[params[0]]["step_size"], torch.full((37,), bound, dtype=dtype), 0, 0)
        close(params[0].double(), params[1], 0.1 if dtype.itemsize == 2 else 1e-5, 1e-3)


@item(48)
def test_asgd_average_or_rate_is_a_step_off() -> None:
    exactly("ASGD", [0.5, -0.25, 1.0, 0.5, 0.0, 2.0], t0=2.0, lambd=0.1, lr=0.1)
    exactly("ASGD", [0.0] * 4, lambd=0.5, lr=0.1)
    param = one(grad=1.0)
    optimizer = optim.ASGD([param], lr=0.1, lambd=0.0)
    seen = []
    for lr in (0.1, 0.2, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        before = float(param.detach()[0])
        optimizer.step()
        seen.append(before - float(param.detach()[0]))
    close(torch.tensor(seen), torch.tensor([0.1, 0.1, 0.2]))
    moved = one(grad=0.0)
    optim.ASGD([moved], lr=0.1, lambd=0.5).step()
    assert (moved < 1).all()  # a zero gradient moves it, as in torch


@item(49)
def test_nadam_product_is_not_kept() -> None:
    exactly("NAdam", [0.5, -0.25, 1.0, 0.5], momentum_decay=0.1)
    exactly("NAdam", [0.5, -0.25, 1.0], weight_decay=0.1, decoupled_weight_decay=True)
    results = []
    for first, second in ((True, True), (False, True), (False, False)):
        param = one()
        optimizer = make("NAdam", first)([param])
        for _ in range(3):
            optimizer.step()
        saved, loader = copy.deepcopy(optimizer.state_dict()), make("NAdam", second)([param])
        assert saved["state"][0]["mu_product"].dtype is torch.float32
        loader.load_state_dict(saved)
        loader.step()
        results.append(tensors(loader))
    close(results[0], results[2])
    close(results[1], results[2])


@item(50)
def test_radam_rectifies_a_step_early_or_corrects_eps() -> None:
    grads = [0.5, -0.25, 1.0, 0.5, 0.75, 2.0, 0.5]
    for steps in (4, 5, 6, 7):
        exactly("RAdam", grads[:steps], lr=0.1, eps=1e-2)
    exactly("RAdam", grads, lr=0.1, betas=(0.5, 0.9))
    exactly("RAdam", grads, weight_decay=0.1, decoupled_weight_decay=True)
    param = one(grad=1.0)
    optimizer = optim.RAdam([param], lr=0.1)
    moves = []
    for _ in range(7):
        before = float(param.detach()[0])
        optimizer.step()
        moves.append(before - float(param.detach()[0]))
    close(torch.tensor(moves[:5]), torch.full((5,), 0.1))
    assert max(moves[5:]) < 0.05


@item(51)
def test_adadelta_eps_is_outside_of_its_roots() -> None:
    for eps in (1e-6, 1e-2):
        (param, *_), root = exactly("Adadelta", [0.5], eps=eps, rho=0.5), (0.125 + eps) ** 0.5
        close(param, torch.full((5,), 1 - eps**0.5 / root * 0.5).double())
        exactly("Adadelta", [0.5, -0.25, 0.0, 1.0], eps=eps, lr=0.3)
    by_tensor, by_number = one(), one()
    optim.Adadelta([by_tensor], lr=torch.tensor(0.3)).step()
    optim.Adadelta([by_number], lr=0.3).step()
    close(by_tensor, by_number)


@item(52)
def test_adagrad_rate_decays_a_step_early() -> None:
    exactly("Adagrad", [0.5, -0.25, 1.0, 0.0, 0.5], lr_decay=0.3, lr=0.1, initial_accumulator_value=0.5)
    param = Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = optim.Adagrad([param], initial_accumulator_value=0.5)
    close(optimizer.state[param]["sum"], torch.full((3,), 0.5 + 0.5j, dtype=torch.complex64))
    shared = one()
    optimizer = optim.Adagrad([shared], lr=0.1)
    optimizer.share_memory()
    address = optimizer.state[shared]["sum"].data_ptr()
    optimizer.step()
    state = optimizer.state[shared]
    assert state["sum"].is_shared()
    assert (state["sum"].data_ptr(), float(state["step"])) == (address, 1)


@item(52)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_adagrad_of_sparse_gradients_is_dense_or_decayed() -> None:
    def script(optimizer_of: Any) -> Any:
        param = Parameter(torch.linspace(-1, 1, 24).view(6, 4))
        optimizer = optimizer_of([param])
        for kind in ("duplicates", "sorted", "nothing"):
            torch.manual_seed(0)
            param.grad = SPARSE[kind]()
            optimizer.step()
        return tensors(optimizer)

    as_torch("Adagrad", script, lr=0.1, lr_decay=0.1)
    for ours in (True, False):
        param = Parameter(torch.ones(6, 4))
        param.grad = SPARSE["duplicates"]()
        with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse gradients"):
            make("Adagrad", ours, weight_decay=0.1)([param]).step()
        assert (param == 1).all()
