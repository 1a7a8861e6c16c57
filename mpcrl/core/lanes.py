"""From a user's plain Python function to source that LLVM can run with one trajectory per SIMD lane.

A lane loop vectorises only if the function in it is straight arithmetic of one float type. So the source is rewritten:
numbers become typed, `math.*` becomes the branch-free functions of `vecmath`, constant loops are unrolled, fields of
the parameters become arguments, look-ups in arrays become guarded gathers. What cannot run in lanes (allocation,
exceptions, unknown calls) is refused with the user's file and line.

What a rewritten function computes differs from the plain one by rounding, and by intent where Python would raise or
hang. A computed index out of range (below 0 too) and a `while` loop without an end give NaN, and arithmetic without a
result gives NaN or inf: the sample counts as failed.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import inspect
import math
import textwrap
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpcrl.core import vecmath
from mpcrl.core.errors import LaneError

MAX_UNROLL = 64
MAX_TURNS = 10_000
"""Turns of a `while` loop, after which what it assigns is NaN: a diverged sample must not hang its controller."""
_ADVICE = "use tuples, arithmetic, min, max, abs, math.* and plain helper functions"

_FLOAT, _INT, _SQRT = "lane_float", "lane_int", "lane_sqrt"
_MATH: dict[Any, str] = {**vecmath.PLAIN_TO_LANE, math.sqrt: "sqrt", np.sqrt: "sqrt"}
_RENAMED: dict[Any, str] = {
    math.floor: "floor", np.floor: "floor", math.ceil: "ceil", np.ceil: "ceil", math.trunc: "trunc", np.trunc: "trunc",
    round: "rint", np.rint: "rint", math.fabs: "abs", np.abs: "abs", abs: "abs", np.fabs: "abs",
    math.copysign: "copysign", np.copysign: "copysign", math.isnan: "isnan", np.isnan: "isnan",
    math.isfinite: "isfinite", np.isfinite: "isfinite", math.isinf: "isinf", np.isinf: "isinf",
    min: "min", max: "max", np.minimum: "min", np.maximum: "max", float: "float", bool: "bool",
}  # fmt: skip
_TRUTHS = ("isnan", "isfinite", "isinf", "bool")
_ARITY = {"atan2": 2, "copysign": 2, "smooth_abs": 2, "min": 2, "max": 2}


@dataclass(frozen=True)
class Field:
    """One field of the parameters as the kernel takes it.

    Attributes
    ----------
    name : str
    shape : tuple of int, or None
        The fixed shape of an array; None for a number.
    """

    name: str
    shape: tuple[int, ...] | None


def fields_of(params: Any) -> tuple[Field, ...]:
    """How the kernel takes each field of a NamedTuple of numbers and arrays."""
    if not (isinstance(params, tuple) and hasattr(params, "_fields")):
        raise LaneError(f"params must be a NamedTuple of numbers and arrays, got {type(params).__name__}")
    fields = []
    for name, value in zip(params._fields, params, strict=True):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" or array.ndim > 3 or not array.size:
            raise LaneError(
                f"params.{name} must be a number or an array of numbers, not empty and with at most 3 axes, "
                f"got {type(value).__name__} of {array.dtype} with shape {array.shape}"
            )
        fields.append(Field(name, array.shape if array.ndim else None))
    return tuple(fields)


def coerce(params: Any, fields: tuple[Field, ...], dtype: np.dtype) -> tuple[Any, ...]:
    """The parameters' values in the types and layout that the kernel was compiled for."""
    if getattr(params, "_fields", None) != tuple(f.name for f in fields):
        raise LaneError(
            f"params must have the fields {[f.name for f in fields]}, got {getattr(params, '_fields', type(params))}"
        )
    return tuple(coerce_field(f, value, dtype) for f, value in zip(fields, params, strict=True))


def coerce_field(f: Field, value: Any, dtype: np.dtype) -> Any:
    """One parameter's value in the type and layout that the kernel was compiled for."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise LaneError(f"params.{f.name} must stay numeric, got {value!r}")
    if array.shape != (f.shape or ()):
        kept = "stay a number" if f.shape is None else f"keep its shape {f.shape}"
        raise LaneError(f"params.{f.name} must {kept}, got the shape {array.shape}; build a new model")
    # read-only and unaligned arrays are types of their own to Numba, which would compile for them in mid-plan
    return dtype.type(value) if f.shape is None else np.require(array, dtype, ("C", "A", "W", "E"))


@dataclass
class LaneProgram:
    """Rewritten functions of one model, in the order in which a module must define them."""

    dtype: np.dtype
    fields: tuple[Field, ...]
    texts: list[str] = field(default_factory=list)
    _names: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _reads: dict[str, list[str]] = field(default_factory=dict)
    _looping: set[str] = field(default_factory=set)

    def add(self, function: Callable[..., Any], roles: tuple[str, ...]) -> str:
        """Rewrite a function and all that it calls; the name under which the module defines it.

        Parameters
        ----------
        function : callable
            The user's.
        roles : tuple of str
            For each of its parameters "float" (numbers and tuples of them), "index" (an integer) or "params".
        """
        key = (function, roles)
        if key not in self._names:
            self._names[key] = ""  # in progress: met again means recursion
            name = f"user{len(self._names)}_{_identifier(function)}"
            rewriter = _Rewriter(self, function, roles)
            definition = rewriter.rewritten(name)
            self.texts.append(ast.unparse(definition) + "\n")
            self._names[key], self._reads[name] = name, rewriter.reads()
            if self.loops(definition):
                self._looping.add(name)
        if not self._names[key]:
            raise LaneError(f"{_where(function)}: a recursive function cannot run in SIMD lanes; write a constant loop")
        return self._names[key]

    @property
    def arguments(self) -> str:
        """All fields' names as the tail of an argument list."""
        return "".join(f", {_argument(f)}" for f in self.fields)

    def reads(self, name: str) -> list[str]:
        """The fields that a function takes instead of params, as arguments: those that it and its helpers read."""
        return self._reads[name]

    def call(self, name: str, *arguments: str) -> str:
        """Source of a call of a function whose last parameter is params."""
        return f"{name}({', '.join((*arguments, *self._reads[name]))})"

    def loops(self, node: ast.AST) -> bool:
        """Whether rewritten code loops at run time, or calls a function of the user's that does."""
        return any(
            isinstance(part, ast.For | ast.While)
            or (isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in self._looping)
            for part in ast.walk(node)
        )

    def text(self) -> str:
        """Source of all functions, with what they need from mpcrl."""
        real = f"np.{self.dtype.name}"
        names = sorted(set(_MATH.values()) - {"sqrt"})
        lines = [
            "import math",
            "import numpy as np",
            "from mpcrl.core import gather, vecmath",
            "from mpcrl.core.intrinsics import nan_like as lane_nan_like, pick as lane_pick, select as lane_select",
            "from mpcrl.core.compile import inlined, kernel",
            f"{_FLOAT} = {real}",
            "lane_floor, lane_ceil, lane_trunc, lane_rint = np.floor, np.ceil, np.trunc, np.rint",
            "lane_sqrt, lane_abs, lane_copysign, lane_bool = math.sqrt, abs, math.copysign, bool",
            "lane_isnan, lane_isfinite, lane_isinf = np.isnan, np.isfinite, np.isinf",
            "lane_min, lane_max = gather.smaller, gather.larger",
            f"lane_int = gather.to_index_{self.dtype.name}",
            f"lane_nan, lane_inf = {real}(np.nan), {real}(np.inf)",
            "lane_gather1, lane_gather2, lane_gather3 = gather.gather1, gather.gather2, gather.gather3",
            f"lane_quotient, lane_remainder, lane_power = gather.python_arithmetic({real})",
            f"_math = vecmath.lane_functions({real})",
            *(f'lane_{name} = _math["{name}"]' for name in names),
        ]
        return "\n".join(lines) + "\n\n" + "\n".join(self.texts)


def _argument(field: Field) -> str:
    """The kernel's name for a field; no local variable of the user's has it."""
    return f"lane_p_{field.name}"


def _identifier(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "function")
    return name if name.isidentifier() else "function"


def _where(function: Callable[..., Any], line: int = 0) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno + line}, in {function.__name__}"


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _lane(name: str, *arguments: ast.expr) -> ast.Call:
    return _call(f"lane_{name}", *arguments)


def definition_of(function: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax tree of a plain function or of a lambda, as a function definition."""
    if not isinstance(function, types.FunctionType):
        raise LaneError(f"expected a plain Python function, got {function!r}")
    if hasattr(function, "__wrapped__"):
        raise LaneError(f"{_where(function)}: has a decorator, which SIMD lanes would leave out; take it off")
    try:
        source = textwrap.dedent(inspect.getsource(function))
        if function.__name__ != "<lambda>":
            definition = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise LaneError(
            f"{_where(function)}: its source cannot be read ({error}); write it in a file or a notebook cell"
        ) from error
    if function.__name__ != "<lambda>":
        if not isinstance(definition, ast.FunctionDef):
            raise LaneError(f"{_where(function)}: expected a plain `def` function")
        return definition
    lambdas = [node for node in ast.walk(_parse_fragment(source, function)) if isinstance(node, ast.Lambda)]
    arity = function.__code__.co_argcount
    lambdas = [node for node in lambdas if len(node.args.args) == arity]
    if len(lambdas) != 1:
        raise LaneError(f"{_where(function)}: several lambdas stand on these lines; write `def` functions")
    body = ast.copy_location(ast.Return(lambdas[0].body), lambdas[0].body)
    definition = ast.parse("def function(): pass").body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.args, definition.body = lambdas[0].args, [body]
    return definition


def _parse_fragment(source: str, function: Callable[..., Any]) -> ast.AST:
    """Parse the lines around a lambda, which may begin in the middle of a call."""
    text = source.strip().rstrip(",")
    for candidate in (text, f"({text})", text.rstrip(")"), f"f({text}", f"dict({text})", f"({text}"):
        try:
            return ast.parse(candidate)
        except SyntaxError:
            continue
    raise LaneError(f"{_where(function)}: this lambda cannot be read from its source; write a `def` function")


class _Rewriter(ast.NodeTransformer):
    """Rewrites one function; `self.index` is true inside subscripts and ranges, where integers stay integers."""

    def __init__(self, program: LaneProgram, function: Callable[..., Any], roles: tuple[str, ...]) -> None:
        self.program, self.function = program, function
        self.definition = _without_our_names(copy.deepcopy(definition_of(function)))
        closure = inspect.getclosurevars(function)
        self.outer: dict[str, Any] = {**function.__globals__, **closure.nonlocals}
        arguments = self.definition.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
            raise LaneError(f"{_where(function)}: takes *, ** or keyword-only arguments; give it plain ones")
        names = [a.arg for a in arguments.posonlyargs + arguments.args]
        if len(names) != len(roles):
            raise LaneError(f"{_where(function)}: takes {len(names)} arguments {tuple(names)}, expected {len(roles)}")
        self.roles = dict(zip(names, roles, strict=True))
        self.params = {name for name, role in self.roles.items() if role == "params"}
        self.fields = {f.name: f for f in program.fields}
        self.locals = set(names) | _stored([self.definition])
        self.integers = {n for n, role in self.roles.items() if role == "index"} | _index_names(self.definition)
        self.index = False
        self.read: set[str] = set()
        self.copies = 1  # of the statement at hand, by the unrolled loops around it
        self.temporaries = 0
        self.own: set[str] = set()  # names that `_temporary` gave
        self.assigned = set(
            names
        )  # local names that have a value at the statement at hand, whichever way it is reached

    def rewritten(self, name: str) -> ast.FunctionDef:
        body: list[ast.stmt] = [
            ast.Assign([ast.Name(n, ast.Store())], _call(_INT, ast.Name(n, ast.Load())))
            for n, role in self.roles.items()
            if role == "float" and n in self.integers
        ]
        body += self._with_one_return(
            [statement for old in self.definition.body for statement in self._statements(old)]
        )
        if not _always_returns(self.definition.body):
            raise LaneError(f"{_where(self.function)}: may end without `return`; add one at its end")
        arguments: list[str] = []
        for parameter in self.roles:
            arguments += self.reads() if parameter in self.params else [parameter]
        definition = ast.parse(f"@inlined\ndef {name}({', '.join(arguments)}): pass").body[0]
        assert isinstance(definition, ast.FunctionDef)
        definition.body = body
        return ast.fix_missing_locations(definition)

    def reads(self) -> list[str]:
        """See `LaneProgram.reads`."""
        return [_argument(f) for f in self.fields.values() if _argument(f) in self.read]

    def refuse(self, node: ast.AST, reason: str) -> LaneError:
        line = getattr(node, "lineno", 1) - 1
        return LaneError(f"{_where(self.function, line)}: `{ast.unparse(node).splitlines()[0]}` {reason}")

    def _temporary(self) -> str:
        """A new name of our own."""
        self.temporaries += 1
        name = f"lane_{self.temporaries}"
        self.locals.add(name)
        self.own.add(name)
        return name

    # ---- statements ----------------------------------------------------------------------------------------------
    def _statements(self, node: ast.stmt) -> list[ast.stmt]:
        result = self.visit(node)
        statements = result if isinstance(result, list) else [] if result is None else [result]
        self.assigned |= _stored(s for s in statements if isinstance(s, ast.Assign))
        return statements

    def _block(self, nodes: Iterable[ast.stmt]) -> list[ast.stmt]:
        """The statements of a branch or a loop, which may be passed by."""
        assigned = set(self.assigned)
        statements = [statement for node in nodes for statement in self._statements(node)]
        self.assigned = assigned
        return statements or [ast.Pass()]

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            raise self.refuse(node, "has no effect in SIMD lanes; take it out")

    def visit_Pass(self, node: ast.Pass) -> ast.stmt:
        return node

    visit_Break = visit_Continue = visit_Pass  # type: ignore[assignment]

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        if node.value is None:
            raise self.refuse(node, "returns nothing; return a number or a tuple")
        return ast.Return(self.visit(node.value))

    def _value_for(self, target: ast.expr, value: ast.expr) -> ast.expr:
        """A right-hand side; an integer one where the name is used as an index."""
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = zip(target.elts, value.elts, strict=True)
            return ast.Tuple([self._value_for(*pair) for pair in pairs], ast.Load())
        if isinstance(target, ast.Name) and target.id in self.integers:
            if self._is_fraction(value):
                raise self.refuse(value, f"is no integer, but {target.id!r} is an index; give the number another name")
            return self._indexing(value)
        return self._real(value)

    def _is_fraction(self, node: ast.expr) -> bool:
        """Whether an expression is a number that a plain Python function could not index with."""
        if isinstance(node, ast.Call):
            target = self._resolve(node.func)
            return target in (*_MATH, float, math.hypot, math.fabs)
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else []
        fraction = (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)) or isinstance(_literal(node), float)
        return fraction or any(map(self._is_fraction, parts))

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        targets = [self._target(target) for target in node.targets]
        if len(targets) == 1:
            return ast.Assign(targets, self._value_for(targets[0], node.value))
        values = [self._value_for(target, node.value) for target in targets]
        return ast.Assign([ast.Tuple(targets, ast.Store())], ast.Tuple(values, ast.Load()))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if node.value is None:
            return None
        return ast.Assign([self._target(node.target)], self._value_for(node.target, node.value))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        if not isinstance(node.target, ast.Name):
            raise self.refuse(node, f"changes something in place; {_ADVICE}")
        value = ast.copy_location(ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value), node)
        return ast.Assign([node.target], self._value_for(node.target, value))

    def _target(self, node: ast.expr) -> ast.expr:
        for part in ast.walk(node):
            if isinstance(part, ast.Starred | ast.Subscript | ast.Attribute | ast.List):
                raise self.refuse(node, f"cannot be assigned to in SIMD lanes; {_ADVICE}")
        return node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        test, body = self._truth(node.test), self._block(node.body)
        orelse = self._block(node.orelse) if node.orelse else []
        return self._selected(test, body, orelse) or ast.If(test, body, orelse)

    def _selected(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> list[ast.stmt]:
        """Branches that only assign, as selections between the values of both; nothing where they do more.

        LLVM leaves a loop over lanes scalar where a branch in it reads an array.
        """
        if not all(map(self._selectable, body + orelse)):
            return []
        condition = self._temporary()
        (first, names), (second, others) = self._renamed(body), self._renamed(orelse)

        def value(name: str, mine: _Names, theirs: _Names) -> ast.expr:
            known = name in mine or name in self.assigned
            read: ast.expr = ast.Name(mine[name] if known else theirs[name], ast.Load())
            return read if known else _lane("nan_like", read)  # where Python finds no value

        chosen = []
        for name in sorted({*names, *others} - self.own):
            values = value(name, names, others), value(name, others, names)
            selected = _lane("select", ast.Name(condition, ast.Load()), *values)
            chosen.append(ast.Assign([ast.Name(name, ast.Store())], selected))
        return [ast.Assign([ast.Name(condition, ast.Store())], test), *first, *second, *chosen]

    def _selectable(self, node: ast.stmt) -> bool:
        """Whether a statement may run although its branch is not taken: it only assigns numbers, and soon ends."""
        if isinstance(node, ast.Assign):
            grouped = isinstance(node.value, ast.Tuple) and not isinstance(node.targets[0], ast.Tuple)
            return not grouped and not self.program.loops(node)
        return isinstance(node, ast.Pass)

    def _renamed(self, block: list[ast.stmt]) -> tuple[list[ast.stmt], _Names]:
        """Assignments to names of our own, and what the block's names are called at its end."""
        names = _Names()
        statements: list[ast.stmt] = []
        for statement in copy.deepcopy(block):
            if isinstance(statement, ast.Pass):
                continue
            for part in ast.walk(statement):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                    part.id = names[part.id]
            for part in ast.walk(statement):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    names[part.id] = part.id = self._temporary()
            statements.append(statement)
        return statements, names

    def _with_one_return(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """A function's body with early returns as selections, where all that it does is assign and return."""
        for i, node in enumerate(body):
            if not isinstance(node, ast.If):
                continue
            rest = self._with_one_return([*node.orelse, *body[i + 1 :]])
            if (
                not all(isinstance(s, ast.Assign) for s in body[:i])
                or not self._ends(node.body)
                or not self._ends(rest)
            ):
                return body
            condition, kept = self._temporary(), self._temporary()
            *early, leaving = self._renamed(node.body)[0]
            *late, ending = rest
            values = [end.value for end in (leaving, ending) if isinstance(end, ast.Return) and end.value is not None]
            return [
                *body[:i],
                ast.Assign([ast.Name(condition, ast.Store())], node.test),
                *early,
                ast.Assign([ast.Name(kept, ast.Store())], values[0]),  # before what follows changes its names
                *late,
                ast.Return(_lane("select", *(ast.Name(n, ast.Load()) for n in (condition, kept)), values[1])),
            ]
        return body

    def _ends(self, block: list[ast.stmt]) -> bool:
        """Whether a block only assigns and then returns, so that it may run although it is not taken."""
        if not block or not isinstance(block[-1], ast.Return) or self.program.loops(block[-1]):
            return False
        return all(map(self._selectable, block[:-1]))

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        if node.orelse:
            raise self.refuse(node.orelse[0], "stands in the `else` of a loop; move it behind the loop")
        turns = self._temporary()
        begin, count, stop, endless = ast.parse(
            f"{turns} = 0\n{turns} += 1\nif {turns} > {MAX_TURNS}: break\nif {turns} > {MAX_TURNS}: pass"
        ).body
        assert isinstance(endless, ast.If)
        endless.body += [
            ast.Assign([ast.Name(n, ast.Store())], _lane("nan_like", ast.Name(n, ast.Load())))
            for n in sorted(_stored(node.body))
        ]
        return [begin, ast.While(self._truth(node.test), [count, stop, *self._block(node.body)], []), endless]

    def visit_For(self, node: ast.For) -> ast.stmt | list[ast.stmt]:
        if node.orelse:
            raise self.refuse(node.orelse[0], "stands in the `else` of a loop; move it behind the loop")
        items = self._items(node.iter)
        jumps = any(isinstance(n, ast.Break | ast.Continue) for n in ast.walk(node))
        if items is not None and not jumps and self.copies * len(items) <= MAX_UNROLL:
            return self._unrolled(node, items)
        counter = self._temporary()
        self.integers.add(counter)
        element: ast.expr = ast.Name(counter, ast.Load())
        statements: list[ast.stmt] = []
        if self._is_range(node.iter):
            bounds = [self._indexing(a) for a in node.iter.args]  # type: ignore[attr-defined]
        else:
            items = items or []
            staged, bounds = self._temporary(), [ast.Constant(len(items))]
            statements.append(self.visit(ast.Assign([ast.Name(staged, ast.Store())], ast.Tuple(items, ast.Load()))))
            element = ast.Subscript(ast.Name(staged, ast.Load()), element, ast.Load())
        first = self.visit(ast.Assign([node.target], element))
        body = [first, *self._block(node.body)]
        return [*statements, ast.For(ast.Name(counter, ast.Store()), _call("range", *bounds), body, [])]

    def _is_range(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and self._resolve(node.func) is range and not node.keywords

    def _items(self, node: ast.expr) -> list[ast.expr] | None:
        """What a loop runs over, one by one; None for a range with bounds that are known at run time only."""
        if isinstance(node, ast.Tuple):
            return node.elts
        if isinstance(node, ast.Call) and self._is_range(node):
            bounds = [_integer(self._indexing(a)) for a in node.args]
            known = range(*bounds) if all(b is not None for b in bounds) else None  # type: ignore[arg-type]
            return None if known is None or len(known) > MAX_UNROLL else [ast.Constant(i) for i in known]
        if isinstance(node, ast.Name | ast.Attribute) and not _loads([node]) & self.locals:
            value = self._resolve(node)
            if isinstance(value, tuple):
                return [_written(v) for v in value]
        raise self.refuse(
            node, "cannot be looped over in SIMD lanes; loop over range(constant), or a tuple written out or global"
        )

    def _unrolled(self, node: ast.For, items: list[ast.expr]) -> list[ast.stmt]:
        stored, statements = _stored(node.body), []
        if _loads(items) & stored:  # the body changes what later elements are made of: evaluate them before
            staged = [self._temporary() for _ in items]
            for name, item in zip(staged, items, strict=True):
                statements += self._statements(ast.Assign([ast.Name(name, ast.Store())], item))
            items = [ast.Name(name, ast.Load()) for name in staged]
        self.copies *= max(len(items), 1)
        for k, item in enumerate(items):
            plain = isinstance(node.target, ast.Name) and node.target.id not in stored
            if not plain or k == len(items) - 1:  # after the loop the name keeps its last value
                statements += self._statements(ast.Assign([node.target], item))
            for statement in node.body:
                statement = copy.deepcopy(statement)
                if plain:
                    statement = _Substitute(node.target.id, item).visit(statement)  # type: ignore[attr-defined]
                statements += self._statements(statement)
        self.copies //= max(len(items), 1)
        return statements

    def _refused_statement(self, node: ast.AST) -> ast.AST:
        raise self.refuse(
            node, "cannot run in SIMD lanes (no exceptions, no nested functions); return math.inf for a bad state"
        )

    visit_Raise = visit_Try = visit_TryStar = visit_With = visit_Assert = visit_FunctionDef = visit_ClassDef = (
        _refused_statement
    )
    visit_Import = visit_ImportFrom = visit_Global = visit_Nonlocal = visit_Delete = visit_Match = _refused_statement

    def _refused_allocation(self, node: ast.AST) -> ast.AST:
        raise self.refuse(node, f"allocates or suspends, which SIMD lanes cannot; {_ADVICE}")

    visit_List = visit_ListComp = visit_Dict = visit_DictComp = visit_Set = visit_SetComp = _refused_allocation
    visit_GeneratorExp = visit_Lambda = visit_JoinedStr = visit_Yield = visit_YieldFrom = _refused_allocation

    def _refused_shorthand(self, node: ast.AST) -> ast.AST:
        raise self.refuse(node, "is a shorthand that SIMD lanes do not know; write it out")

    visit_Starred = visit_NamedExpr = _refused_shorthand

    # ---- expressions ---------------------------------------------------------------------------------------------
    def _indexing(self, node: ast.expr) -> ast.expr:
        before, self.index = self.index, True
        result: ast.expr = self.visit(node)
        self.index = before
        return result

    def _real(self, node: ast.expr) -> ast.expr:
        before, self.index = self.index, False
        result: ast.expr = self.visit(node)
        self.index = before
        return result

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool):
            return node
        if isinstance(node.value, int | float):
            return ast.Constant(node.value) if self.index and isinstance(node.value, int) else _number(node.value)
        raise self.refuse(node, f"is no number; {_ADVICE}")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.params:
            raise self.refuse(node, "can only be read field by field, or passed on to a helper function")
        if node.id not in self.locals:
            return self._constant(node, self._resolve(node))
        if self.index:
            return node if node.id in self.integers else _call(_INT, node)
        return _call(_FLOAT, node) if node.id in self.integers else node

    def _constant(self, node: ast.expr, value: Any) -> ast.expr:
        """A global number, or tuple of numbers, compiled in."""
        if isinstance(value, bool | np.bool_):
            return ast.Constant(bool(value))
        if isinstance(value, int | float | np.integer | np.floating):
            return self.visit_Constant(ast.copy_location(ast.Constant(_plain(value)), node))
        if isinstance(value, tuple):
            return ast.Tuple([self._constant(node, v) for v in value], ast.Load())
        if isinstance(value, np.ndarray):
            raise self.refuse(node, "is a global array; make it a field of params, where it can change at run time")
        raise self.refuse(node, f"is a {type(value).__name__}, no number; {_ADVICE}")

    def _resolve(self, node: ast.expr) -> Any:
        """The object that a name or a dotted name outside of the function stands for."""
        if isinstance(node, ast.Name):
            if node.id in self.locals:
                raise self.refuse(node, f"is a local variable: it has no attributes and cannot be called; {_ADVICE}")
            if node.id in self.outer:
                return self.outer[node.id]
            if hasattr(builtins, node.id):
                return getattr(builtins, node.id)
            raise self.refuse(node, "is not defined")
        if isinstance(node, ast.Attribute):
            owner = self._resolve(node.value)
            if not hasattr(owner, node.attr):
                raise self.refuse(node, "does not exist")
            return getattr(owner, node.attr)
        raise self.refuse(node, f"cannot run in SIMD lanes; {_ADVICE}")

    def _field(self, node: ast.expr) -> Field | None:
        """The parameter field that an expression `p.name` reads."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self.params:
            if node.attr not in self.fields:
                raise self.refuse(node, f"does not exist; params has the fields {list(self.fields)}")
            return self.fields[node.attr]
        return None

    def _read(self, found: Field) -> ast.expr:
        self.read.add(_argument(found))
        return ast.Name(_argument(found), ast.Load())

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        found = self._field(node)
        if found is None:
            return self._constant(node, self._resolve(node))
        if found.shape is not None:
            raise self.refuse(node, "is an array; read single elements of it, as in p.array[i, j]")
        name = self._read(found)
        return _call(_INT, name) if self.index else name

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            found, axis = self._field(node.value.value), _integer(self._indexing(node.slice))
            if found is not None and found.shape is not None and axis is not None:
                return self.visit_Constant(ast.Constant(found.shape[axis]))
        found = self._field(node.value)
        if found is not None:
            return self._look_up(node, found)
        value = self._real(node.value)
        if isinstance(node.slice, ast.Slice):
            parts = (node.slice.lower, node.slice.upper, node.slice.step)
            bounds = [None if part is None else self._indexing(part) for part in parts]
            if any(b is not None and _integer(b) is None for b in bounds):
                raise self.refuse(node, "has a slice that is not constant")
            return ast.Subscript(value, ast.Slice(*bounds), ast.Load())
        index = self._indexing(node.slice)
        if _integer(index) is None:
            element: ast.expr = _lane("pick", value, index)
        else:
            element = ast.Subscript(value, index, ast.Load())
        return _call(_INT, element) if self.index else element

    def _look_up(self, node: ast.Subscript, found: Field) -> ast.expr:
        """An element of an array field: loaded directly where the index is constant, else a guarded gather."""
        indices = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if found.shape is None or len(indices) != len(found.shape) or any(isinstance(i, ast.Slice) for i in indices):
            raise self.refuse(node, f"reads no single element: p.{found.name} has the shape {found.shape}")
        array = self._read(found)
        rewritten = [self._indexing(i) for i in indices]
        constants = [_integer(i) for i in rewritten]
        for constant, size in zip(constants, found.shape, strict=True):
            if constant is not None and not -size <= constant < size:
                raise self.refuse(node, f"is out of range: p.{found.name} has the shape {found.shape}")
        if all(c is not None for c in constants):
            element: ast.expr = ast.Subscript(array, ast.Tuple(rewritten, ast.Load()), ast.Load())
        else:
            element = _lane(f"gather{len(indices)}", array, ast.Name("lane_nan", ast.Load()), *rewritten)
        return _call(_INT, element) if self.index else element

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if self.index:
            return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))
        if isinstance(node.op, ast.Pow):
            return self._power(node.left, node.right)
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.FloorDiv | ast.Mod):
            return _lane("quotient" if isinstance(node.op, ast.FloorDiv) else "remainder", left, right)
        if not isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            raise self.refuse(node, f"is no floating-point operation; {_ADVICE}")
        return ast.BinOp(left, node.op, right)

    def _power(self, base: ast.expr, exponent: ast.expr) -> ast.expr:
        value = _literal(exponent)
        if value is None and isinstance(exponent, ast.Name) and exponent.id not in self.locals:
            value = self._resolve(exponent)
        left = self.visit(base)
        if isinstance(value, int | float) and abs(value) <= 16 and value == int(value):
            power = ast.BinOp(left, ast.Pow(), ast.Constant(abs(int(value))))
            return power if value >= 0 else ast.BinOp(_number(1), ast.Div(), power)
        if value == 0.5:
            return _call(_SQRT, left)
        return _lane("power", left, self.visit(exponent))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Invert):
            raise self.refuse(node, f"is no floating-point operation; {_ADVICE}")
        operand = self.visit(node.operand)
        value = _integer(operand)
        if isinstance(node.op, ast.USub) and value is not None:
            return ast.Constant(-value)
        return ast.UnaryOp(node.op, operand)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops):
            raise self.refuse(node, f"compares objects; {_ADVICE}")
        operands = [self._real(operand) for operand in (node.left, *node.comparators)]
        steps = zip(operands, node.ops, operands[1:], strict=False)
        pairs: list[ast.expr] = [ast.Compare(left, [op], [copy.deepcopy(right)]) for left, op, right in steps]
        return functools.reduce(lambda a, b: ast.BinOp(a, ast.BitAnd(), b), pairs)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        return self._truth(node) if self._is_truth(node) else ast.BoolOp(node.op, [self.visit(v) for v in node.values])

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return _lane("select", self._truth(node.test), self.visit(node.body), self.visit(node.orelse))

    def _is_truth(self, node: ast.expr) -> bool:
        """Whether an expression is sure to be True or False, not a number."""
        if isinstance(node, ast.BoolOp):
            return any(map(self._is_truth, node.values))
        if isinstance(node, ast.Call):
            return _known_name(self._resolve(node.func)) in _TRUTHS
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, ast.Not)
        return isinstance(node, ast.Compare) or (isinstance(node, ast.Constant) and isinstance(node.value, bool))

    def _truth(self, node: ast.expr) -> ast.expr:
        """A condition without jumps: `and` and `or` evaluate all of their operands, which cannot fail here."""
        if isinstance(node, ast.BoolOp):
            op = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
            return functools.reduce(lambda a, b: ast.BinOp(a, op, b), map(self._truth, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ast.UnaryOp(ast.Not(), self._truth(node.operand))
        return self._real(node) if self._is_truth(node) else _lane("bool", self._real(node))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        target = self._resolve(node.func)
        if isinstance(target, types.FunctionType) and target not in _MATH:
            return self._helper(node, target)
        if isinstance(target, type) and issubclass(target, tuple) and hasattr(target, "_fields"):
            return ast.Tuple([self._real(a) for a in self._bound(node, target)], ast.Load())
        if node.keywords:
            raise self.refuse(node, "takes keyword arguments, which SIMD lanes cannot pass on; give them by position")
        if target is len:
            return self._length(node)
        if target is int and len(node.args) == 1:
            return _call(_INT, self._real(node.args[0])) if self.index else _lane("trunc", self._real(node.args[0]))
        arguments = [self.visit(a) for a in node.args]
        if not self.index or target in (min, max, abs):
            return self._known(node, target, arguments)
        return _call(_INT, self._known(node, target, [self._real(a) for a in node.args]))

    def _length(self, node: ast.Call) -> ast.expr:
        """len() of an array field or of a tuple written out or global."""
        (of,) = node.args
        found = self._field(of)
        if found is not None and found.shape is not None:
            return self.visit_Constant(ast.Constant(found.shape[0]))
        if isinstance(of, ast.Name | ast.Attribute) and not _loads([of]) & self.locals:
            value = self._resolve(of)
            if isinstance(value, tuple):
                return self.visit_Constant(ast.Constant(len(value)))
        raise self.refuse(node, "is not known before the kernel runs; write the number")

    def _known(self, node: ast.Call, target: Any, arguments: list[ast.expr]) -> ast.expr:
        """A call of a function that lanes have a version of."""
        if target is math.hypot or target is np.hypot:
            squares = [ast.BinOp(a, ast.Pow(), ast.Constant(2)) for a in arguments]
            total: ast.expr = squares[0]
            for square in squares[1:]:
                total = ast.BinOp(total, ast.Add(), square)
            return _call(_SQRT, total)
        if target is np.clip and len(arguments) == 3:
            return _lane("min", _lane("max", arguments[0], arguments[1]), arguments[2])
        if target is np.where and len(arguments) == 3:
            return _lane("select", self._truth(node.args[0]), *arguments[1:])
        if target in (pow, math.pow) and len(arguments) == 2:
            return self._power(*node.args)
        if target in (math.fmod, np.fmod) and len(arguments) == 2:
            whole = _lane("trunc", ast.BinOp(arguments[0], ast.Div(), arguments[1]))
            return ast.BinOp(arguments[0], ast.Sub(), ast.BinOp(arguments[1], ast.Mult(), whole))
        name = _known_name(target)
        if name is None:
            raise self.refuse(node, f"is no function that runs in SIMD lanes; {_ADVICE}")
        if name in ("min", "max") and len(arguments) > 1:
            return functools.reduce(lambda a, b: _lane(name, a, b), arguments)
        if len(arguments) != _ARITY.get(name, 1):
            raise self.refuse(node, f"takes {_ARITY.get(name, 1)} argument(s) in SIMD lanes, got {len(arguments)}")
        return _call(_FLOAT, *arguments) if name == "float" else _lane(name, *arguments)

    def _bound(self, node: ast.Call, target: Callable[..., Any]) -> list[ast.expr]:
        """A call's arguments in the order of the callee's parameters, defaults filled in."""
        try:
            signature = inspect.signature(target)
            bound = signature.bind(*node.args, **{str(k.arg): k.value for k in node.keywords})
        except TypeError as error:
            raise self.refuse(node, f"does not fit {_identifier(target)}: {error}") from error
        bound.apply_defaults()
        return [a if isinstance(a, ast.expr) else _written(a) for a in bound.arguments.values()]

    def _helper(self, node: ast.Call, target: types.FunctionType) -> ast.expr:
        """Another function of the user's: rewritten as well; params passed on become their fields."""
        given = self._bound(node, target)
        names = [argument.id if isinstance(argument, ast.Name) else None for argument in given]
        roles = ["params" if n in self.params else "index" if n in self.integers else "float" for n in names]
        name = self.program.add(target, tuple(roles))
        fields = self.program.reads(name)
        self.read.update(fields)
        arguments: list[ast.expr] = []
        for argument, role in zip(given, roles, strict=True):
            if role == "params":
                arguments += [ast.Name(f, ast.Load()) for f in fields]
            else:
                arguments.append(argument if role == "index" else self._real(argument))
        result = _call(name, *arguments)
        return _call(_INT, result) if self.index else result


class _Names(dict[str, str]):
    """New names; a name that has none keeps its own."""

    def __missing__(self, name: str) -> str:
        return name


class _Substitute(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(copy.deepcopy(self.value), node) if node.id == self.name else node


def _literal(node: ast.expr) -> Any:
    """The number of a literal with or without a sign, else None."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


def _integer(node: ast.expr) -> int | None:
    value = _literal(node)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: float) -> ast.expr:
    """A literal of the lanes' float type, non-finite ones by name."""
    if math.isnan(value):
        return ast.Name("lane_nan", ast.Load())
    if math.isinf(value):
        infinity = ast.Name("lane_inf", ast.Load())
        return infinity if value > 0 else ast.UnaryOp(ast.USub(), infinity)
    return _call(_FLOAT, ast.Constant(value))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _written(value: Any) -> ast.expr:
    """A number, or tuple of them, as if it stood in the source."""
    if isinstance(value, tuple):
        return ast.Tuple([_written(v) for v in value], ast.Load())
    return ast.Constant(_plain(value))


def _known_name(target: Any) -> str | None:
    """The lanes' name of a function that they have a version of."""
    try:
        return _MATH.get(target) or _RENAMED.get(target)
    except TypeError:  # unhashable
        return None


def _stored(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that statements assign to."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _loads(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that expressions read."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _without_our_names(definition: ast.FunctionDef) -> ast.FunctionDef:
    """Local variables that begin like the names of this module get another beginning."""
    arguments = [node for node in ast.walk(definition) if isinstance(node, ast.arg)]
    taken = {n for n in _stored([definition]) | {a.arg for a in arguments} if n.startswith("lane_")}
    for node in ast.walk(definition):
        if isinstance(node, ast.Name) and node.id in taken:
            node.id = f"user_{node.id}"
        elif isinstance(node, ast.arg) and node.arg in taken:
            node.arg = f"user_{node.arg}"
    return definition


def _always_returns(body: list[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _always_returns(last.body) and _always_returns(last.orelse)
    return isinstance(last, ast.Return | ast.Raise)


def _index_names(definition: ast.FunctionDef) -> set[str]:
    """Names that stand in subscripts or ranges, and those that these are computed from as integers."""

    def names(node: ast.AST) -> set[str]:
        if isinstance(node, ast.Name):
            return {node.id}
        if isinstance(node, ast.Subscript):
            return names(node.slice)
        if isinstance(node, ast.IfExp):
            return names(node.body) | names(node.orelse)
        if isinstance(node, ast.Call):  # other calls make an integer of what they are given
            plain = isinstance(node.func, ast.Name) and node.func.id in ("min", "max", "abs")
            return set().union(*map(names, node.args)) if plain else set()
        if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Tuple | ast.Slice):
            return set().union(*map(names, ast.iter_child_nodes(node)))
        return set()

    used: set[str] = set()
    assigned: dict[str, list[ast.expr]] = {a.arg: [] for a in definition.args.posonlyargs + definition.args.args}

    def assign(target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            assigned.setdefault(target.id, []).extend([] if value is None else [value])
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple | None):
            values = value.elts if value else [None] * len(target.elts)
            for pair in zip(target.elts, values, strict=False):
                assign(*pair)

    for node in ast.walk(definition):
        if isinstance(node, ast.Subscript):
            used |= names(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            used |= set().union(*map(names, node.args))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                assign(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            assign(node.target, node.value)
        elif isinstance(node, ast.For):
            assign(node.target, None)
    pending = list(used)
    while pending:
        for value in assigned.get(pending.pop(), []):
            new = names(value) - used
            used |= new
            pending += new
    return used & set(assigned)
