"""What every row of the catalogue must do. A test class names its rows and gets a test of each promise.

class TestCausal(TwinContract):
    rows = ("causal", "causal-bias")
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare_cases
from jax_attn.parity.lanes import LANES, is_floating
from jax_attn.parity.runners.quick import quick_options
from jax_attn.weights.state_dict import load_state_dict, state_dict
from jax_attn.weights.tensors import as_numpy

# A kind each: plain, with a cache and positions, with experts and losses, in a loop, whole models.
IN_LINEN = ("causal", "attention", "mixture-of-experts", "encoder-scanned", "bert", "seq2seq-lm")
_FLOAT32 = {np.dtype(np.float64): torch.float32}


class TwinContract:
    """The promises of a twin; `rows` are names of the catalogue.

    What hangs on the class and not on its arguments is shown on one row of each class, plain and scanned; so are
    rounding and what a row shares with those before it, where the slow tests are left out.
    """

    rows: ClassVar[tuple[str, ...]] = ()
    # False where slow tests alone show the rounding and the edges of shapes: its parts, or a class that holds this
    # one whole, show them too, and `jax-attn verify` shows them of every row.
    rounds: ClassVar[bool] = True
    # False where its parts show that dropout is drawn in the order of torch: it is replayed operation by operation.
    drops: ClassVar[bool] = True
    # Rows that slow tests alone run: what they have is shown beside a reference of others, too, or by their parts.
    elsewhere: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def row_of_each_class(cls) -> tuple[str, ...]:
        """The first of the rows that are of one class."""
        kinds: dict[Any, str] = {}
        for row in cls.rows:
            kinds.setdefault(_kind(row), row)
        return tuple(kinds.values())

    @classmethod
    def lanes_of(cls, row: str) -> tuple[str, ...]:
        """All lanes for the first row of a class, which shows its rounding; a stack has dropout of its own.

        A whole model that is scanned draws as its stacks do, and its dropout is replayed operation by operation.
        """
        twin = CATALOGUE[row]
        if cls.rounds and not cls._before(row):
            return LANES
        scanned = twin.whole_model and twin.arguments.get("scan", False)
        drops = cls.drops and row in cls.row_of_each_class() and not scanned
        return ("float64", "dropout") if drops else ("float64",)

    @classmethod
    def _before(cls, row: str) -> list[str]:
        """The rows of its class before it, plain or scanned."""
        where = CATALOGUE[row].where
        return [other for other in cls.rows[: cls.rows.index(row)] if CATALOGUE[other].where == where]

    @classmethod
    def new_cases(cls, row: str) -> list[Case]:
        """The first case of the row, and those of a name that no row of its class before it has.

        A form of arguments costs a compilation in each lane: those of one form show the rounding, others run in
        float64.
        """
        before = cls._before(row)
        names = {case.name for other in before for case in CATALOGUE[other].cases()}
        first, *others = CATALOGUE[row].cases()
        new = [case for case in others if case.name not in names and (cls.rounds or not _is_edge(case))]
        return _rounded_in_one_form([first, *new])

    @classmethod
    def lane_tests(cls) -> Iterator[Any]:
        """Every row where it shows something new; and in all lanes on all cases: there among the slow tests."""
        for row in cls.rows:
            lanes = cls.lanes_of(row)
            if row not in cls.elsewhere:
                yield pytest.param(row, lanes, True, id=row if lanes == LANES else "-".join((row, *lanes)))
            whole = [(case.name, case.lanes) for case in CATALOGUE[row].cases()]
            if (
                row in cls.elsewhere
                or lanes != LANES
                or whole != [(case.name, case.lanes) for case in cls.new_cases(row)]
            ):
                yield pytest.param(row, LANES, False, id=f"{row}-all", marks=pytest.mark.slow)

    def test_every_lane_passes(self, row: str, lanes: tuple[str, ...], new: bool):
        """On all cases, or on those that are `new`."""
        twin = CATALOGUE[row]
        cases = self.new_cases(row) if new else twin.cases()
        sides = twin.flax(), twin.torch(), cases
        report = compare_cases(*sides, lanes=lanes, whole_model=twin.whole_model, title=twin.name)
        report.assert_passed()
        meant = {
            lane for lane in lanes if any(case.runs_in(lane) for case in cases)
        }  # edges: in float64 alone
        assert meant - {"dropout"} <= set(report.lanes)

    @classmethod
    def row_tests(cls) -> Iterator[Any]:
        """Every row; by default one of each class, for the others go one way when their lanes are compared."""
        firsts = cls.row_of_each_class()
        for row in cls.rows:
            yield pytest.param(row, marks=[pytest.mark.slow] * (row not in firsts))

    def test_weights_go_both_ways_bit_for_bit(self, row: str):
        twin = CATALOGUE[row]
        flax, torch = twin.flax(), twin.torch()
        theirs = torch.state_dict()
        load_state_dict(flax, theirs)
        back = state_dict(flax)
        assert set(back) == set(theirs)
        for key, tensor in theirs.items():
            assert_bitwise(back[key], tensor, key)
        torch.load_state_dict(back, strict=True)
        ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(flax, nnx.Param)))
        assert ours == sum(parameter.numel() for parameter in torch.parameters())

    def test_traces_once_and_in_either_graph_mode(self, row_of_each_class: str):
        """`jax.jit` over split and merge finds its program again, and `nnx.jit` finds the same in both modes."""
        module, case, pure = compiled_over_split(row_of_each_class)
        expected = pure.trace(nnx.state(module), case.args).out_info
        pure.trace(nnx.state(module), moved(case))
        for mode in (True, False):
            with nnx.set_graph_mode(mode):
                found = nnx.eval_shape(lambda module, args: outputs(module, args, case), module, case.args)
            assert [(o.shape, o.dtype) for o in found] == [(o.shape, o.dtype) for o in expected]

    @pytest.mark.slow
    def test_every_way_of_compiling_gives_the_same(self, row_of_each_class: str):
        assert_compiled_either_way_is_the_same(row_of_each_class)

    @pytest.mark.slow
    def test_without_compiling_it_is_the_same(self, row_of_each_class: str):
        """Each operation for itself, as when a user looks at what a module gives."""
        module = CATALOGUE[row_of_each_class].flax()
        module.eval()
        case = in_jax(CATALOGUE[row_of_each_class].cases()[0])
        graphdef, state = nnx.split(module)
        expected = jax.jit(lambda state, args: outputs(nnx.merge(graphdef, state), args, case))(
            state, case.args
        )
        assert_close(outputs(module, case.args, case), expected)

    def test_takes_an_empty_batch(self, row_of_each_class: str):
        """As torch does: what is left of a batch when all of it was filtered out."""
        twin = CATALOGUE[row_of_each_class]
        empty = [arg[:0] for arg in twin.cases()[0].args]
        theirs = twin.torch()(*(torch.from_numpy(arg).to(_FLOAT32.get(arg.dtype)) for arg in empty))
        ours = nnx.eval_shape(lambda module, *args: module(*args), twin.flax(), *map(jnp.asarray, empty))
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(theirs)]
        assert [leaf.shape for leaf in jax.tree.leaves(ours)] == shapes

    @classmethod
    def rows_in_linen(cls) -> Iterator[Any]:
        """One row of each class; those that are not `IN_LINEN` among the slow tests."""
        for row in cls.row_of_each_class():
            yield pytest.param(row, marks=[pytest.mark.slow] * (row not in IN_LINEN))

    def test_runs_in_linen(self, row_in_linen: str):
        twin = CATALOGUE[row_in_linen]
        case = in_jax(twin.cases()[0])
        linen = nnx.bridge.ToLinen(twin.flax_from)

        def run() -> Any:
            keys = {
                name: jax.random.key(index) for index, name in enumerate(("params", "dropout", "default"))
            }
            variables = linen.init(keys, nnx_method=lambda module: None)  # it is whole once it is built
            return jax.tree.leaves(linen.apply(variables, *case.args, rngs=keys, **case.kwargs))

        assert jax.eval_shape(run)


def _kind(row: str) -> tuple[str, bool]:
    """The class of a row, and whether it is scanned."""
    twin = CATALOGUE[row]
    return twin.where, twin.arguments.get("scan", False)


def _is_edge(case: Case) -> bool:
    """Whether it is of a shape that has less than usual."""
    return "unbatched" in case.name or case.name.startswith("one token")


def _rounded_in_one_form(cases: Sequence[Case]) -> list[Case]:
    """The cases, in float64 alone but for those of the form of the first that runs in all lanes."""
    form = next((_form(case) for case in cases if case.lanes is None), None)
    return [case if _form(case) == form else replace(case, lanes=("float64",)) for case in cases]


def _form(case: Case) -> Any:
    leaves, structure = jax.tree.flatten((case.args, dict(case.kwargs)))
    return structure, [np.shape(leaf) for leaf in leaves]


def compiled_over_split(row: str) -> tuple[nnx.Module, Case, Any]:
    """The Flax module of a row, its first case, and `(state, args) -> outputs`, which may be traced but once."""
    twin = CATALOGUE[row]
    module = twin.flax()
    module.eval()
    case = in_jax(twin.cases()[0])
    graphdef = nnx.graphdef(module)
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def pure(state: Any, args: Any) -> Any:
        return outputs(nnx.merge(graphdef, state), args, case)

    return module, case, jax.jit(pure, compiler_options=quick_options())


def assert_compiled_either_way_is_the_same(row: str) -> None:
    """`nnx.jit` in both graph modes, and `jax.jit` over split and merge, which compiles but once."""
    module, case, pure = compiled_over_split(row)
    expected = pure(nnx.state(module), case.args)
    pure(nnx.state(module), moved(case))
    for mode in (True, False):
        with nnx.set_graph_mode(mode):
            run = nnx.jit(lambda module, args: outputs(module, args, case))
            assert_close(run(module, case.args), expected)


def moved(case: Case) -> tuple[Any, ...]:
    """The arguments of a case, with other numbers."""
    return tuple(np.asarray(arg) + 1 if is_floating(arg) else arg for arg in case.args)


def outputs(module: nnx.Module, args: Any, case: Case) -> list[jax.Array]:
    """The arrays that the module returns."""
    return jax.tree.leaves(module(*args, **case.kwargs))


def in_jax(case: Case) -> Case:
    """The case with JAX's arrays for NumPy's."""
    arrays = jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf,
        (case.args, dict(case.kwargs)),
    )
    return Case(case.name, *arrays)


def assert_bitwise(actual: Any, expected: Any, key: str) -> None:
    actual, expected = as_numpy(actual), as_numpy(expected)
    assert actual.dtype == expected.dtype, key
    assert actual.shape == expected.shape, key
    assert actual.tobytes() == expected.tobytes(), key


def assert_close(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    """Equal up to float32's rounding: the same mathematics, computed or compiled otherwise."""
    assert len(actual) == len(expected)
    for one, other in zip(map(np.asarray, actual), map(np.asarray, expected), strict=True):
        assert one.shape == other.shape
        error = np.max(np.abs(one - other), initial=0) / max(1, np.max(np.abs(other), initial=0))
        assert error <= tolerances.SAME_FLOAT32, f"{error:.1e}"
