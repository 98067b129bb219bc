"""Chat templates: Jinja from a file somebody else wrote, so a small dialect with a bounded cost.

Two walls. The dialect: Jinja's immutable sandbox, with only the statements, filters, tests and methods that
chat templates use, and no way to build nested values; so no attribute of Python's own is in reach. The
budget: every turn of a loop, call, comparison and printed value is paid for by its size, and a template that
spends more than WORK and WORK_PER_CHARACTER allow is stopped. Whatever it does wrong is a TemplateError.

Not in the dialect, although some templates use them: macros, includes, blocks, `strftime_now`, lists of
computed values.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from mythos.records.errors import MythosError

MAX_SOURCE = 64 * 1024  # characters of a template
WORK = 16_000_000  # about a second; a turn of a loop costs 16 and 8 for each node in it
WORK_PER_CHARACTER = 32  # of the messages
PER_CALL = 64
MAX_RANGE = 10_000
MAX_NUMBER = 2**53

CURE = "Take the chat template that belongs to the model."

STATEMENTS = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.AssignBlock,
    nodes.Break, nodes.Continue,
)  # fmt: skip
EXPRESSIONS = (
    nodes.Name, nodes.NSRef, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.CondExpr,
    nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword, nodes.Getitem, nodes.Getattr, nodes.Slice,
    nodes.Concat, nodes.Compare, nodes.Operand, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv,
    nodes.Mod, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos,
)  # fmt: skip
LITERALS = (nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair)

TESTS = (
    "defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false",
    "mapping", "sequence", "iterable", "even", "odd",
)  # fmt: skip
ATTRIBUTES: dict[type, tuple[str, ...]] = {
    str: (
        "strip", "lstrip", "rstrip", "startswith", "endswith", "split", "rsplit", "splitlines", "upper",
        "lower", "capitalize", "title", "find", "count", "removeprefix", "removesuffix", "replace", "join",
    ),
    dict: ("items", "keys", "values", "get"),
    LoopContext: (
        "first", "last", "index", "index0", "revindex", "revindex0", "length", "previtem", "nextitem",
    ),
}  # fmt: skip


class TemplateError(MythosError):
    """The chat template is malformed, leaves the dialect, or costs too much."""


class ChatError(MythosError):
    """These messages cannot be rendered; the template is not at fault."""


class _Budget:
    """What a rendering may still spend; None of it is shared."""

    def __init__(self, work: int) -> None:
        self.left = work

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise TemplateError("The chat template does too much work.", CURE)


_budget: ContextVar[_Budget] = ContextVar("budget")


def render(template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
    """The text that `template` makes of `messages`, whose values are text."""
    size = sum(len(value) for message in messages for value in message.values())
    compiled = _compile(template)
    token = _budget.set(_Budget(WORK + WORK_PER_CHARACTER * size))
    try:
        return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt)
    except MythosError:
        raise
    except Exception as error:  # the sandbox passes on whatever the template provokes
        raise TemplateError(
            f"The chat template fails ({type(error).__name__}: {str(error)[:200]}).", CURE
        ) from None
    finally:
        _budget.reset(token)


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"The chat template has {len(source)} characters; {MAX_SOURCE} are read.", CURE)
    token = _budget.set(_Budget(WORK))  # constants are folded while compiling
    try:
        environment = _Environment()
        tree = environment.parse(source)
        _check(tree)
        return environment.from_string(_Meter().visit(tree))
    except TemplateSyntaxError as error:
        raise TemplateError(f"The chat template is malformed: {str(error.message)[:200]}.", CURE) from None
    except MythosError:
        raise
    except Exception as error:  # RecursionError, SyntaxError or MemoryError of deep nesting among them
        raise TemplateError(f"The chat template cannot be compiled ({type(error).__name__}).", CURE) from None
    finally:
        _budget.reset(token)


def _check(node: nodes.Node) -> None:
    if not isinstance(node, STATEMENTS + EXPRESSIONS) or isinstance(node, nodes.For) and node.recursive:
        raise TemplateError(f"The chat template uses {type(node).__name__}, which is not read.", CURE)
    children = list(node.iter_child_nodes())
    # Values within values would let a short template make a text of any length.
    target = isinstance(node, nodes.Tuple) and node.ctx == "store"
    if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict | nodes.Pair) and not target:
        for child in children:
            if not isinstance(child, LITERALS):
                raise TemplateError(
                    "The chat template makes a list of computed values, which is not read.", CURE
                )
    for child in children:
        _check(child)


class _Meter(NodeTransformer):
    """Puts a payment into what the sandbox does not intercept: loops, comparisons and `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        cost = 16 + sum(8 + len(getattr(inner, "data", "")) for inner in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_each", nodes.Const(cost))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _filter(node.expr, "_paid")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "_paid")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "join")


def _filter(value: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


def _paid(value: Any) -> Any:
    """`value`, its size paid for."""
    _budget.get().spend(len(value) if isinstance(value, str | list | tuple) else 1)
    return value


def _text(value: Any) -> str:
    """A printed value: text, a number, a truth value, nothing; never a container."""
    if isinstance(value, str | int | float | Undefined) or value is None:
        return _paid(str(value))
    raise TemplateError(f"The chat template prints a {type(value).__name__}.", CURE)


def _each(value: Any, cost: int) -> list[Any]:
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, str | Sequence | Mapping | Iterable):
        raise TemplateError(f"The chat template loops over a {type(value).__name__}.", CURE)
    items = list(value)  # every value in reach is finite and already paid for
    _budget.get().spend(cost * (len(items) + 1))
    return items


def _join(values: Any, separator: str = "") -> str:
    texts = [_text(value) for value in _each(values, 1)]
    _budget.get().spend(len(texts) * len(separator))
    return separator.join(texts)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old) if count < 0 else min(count, text.count(old))
    _budget.get().spend(len(text) + found * len(new))
    return text.replace(old, new, count)


def _to_json(value: Any, indent: int | None = None) -> str:
    if indent is not None and not 0 <= indent <= 8:
        raise TemplateError("The chat template indents by an odd number.", CURE)
    return _paid(json.dumps(value, ensure_ascii=False, indent=indent))


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise TemplateError(f"The chat template counts past {MAX_RANGE}.", CURE)
    return numbers


def _refuse(message: str) -> NoReturn:
    raise ChatError(
        f"The chat template refuses the messages: {_text(message)[:500]}.", "Send other messages."
    )


def _default(value: Any, other: Any = "", boolean: bool = False) -> Any:
    return other if isinstance(value, Undefined) or boolean and not value else value


FILTERS = {
    "_each": _each,
    "_paid": _paid,
    "join": _join,
    "replace": _replace,
    "tojson": _to_json,
    "default": _default,
    "d": _default,
    "trim": lambda value, characters=None: _text(value).strip(characters),
    "upper": lambda value: _text(value).upper(),
    "lower": lambda value: _text(value).lower(),
    "capitalize": lambda value: _text(value).capitalize(),
    "title": lambda value: _text(value).title(),
    "string": _text,
    "safe": _text,
    "int": lambda value: int(_text(value)[:20]),
    "length": len,
    "count": len,
    "first": lambda value: _each(value, 1)[0],
    "last": lambda value: _each(value, 1)[-1],
    "list": lambda value: _each(value, 1),
    "items": lambda value: list(value.items()) if isinstance(value, dict) else [],
}


def _as_filter(function: Any) -> Any:
    # One that wants the context is never run, and so never paid for, at compile time only.
    @pass_context
    def run(_context: Any, *args: Any, **options: Any) -> Any:
        return _paid(function(*args, **options))

    return run


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_text,
            extensions=["jinja2.ext.loopcontrols"],
        )
        self.filters = {name: _as_filter(function) for name, function in FILTERS.items()}
        self.tests = {name: self.tests[name] for name in TESTS}
        self.globals = {"range": _range, "namespace": Namespace, "raise_exception": _refuse}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in names for kind, names in ATTRIBUTES.items())

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise TemplateError(f"The chat template asks for {attribute!r} of a {type(obj).__name__}.", CURE)

    def wrap_str_format(self, value: Any) -> None:
        return None  # formatting widths are unbounded; `is_safe_attribute` leaves `format` out

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _paid(super().getitem(obj, argument))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _budget.get().spend(len(left) + len(right))
            return left + right
        for value in (left, right):
            if not isinstance(value, int | float) or abs(value) > MAX_NUMBER or operator == "**":
                kinds = f"{type(left).__name__} {operator} {type(right).__name__}"
                raise TemplateError(f"The chat template computes {kinds}, which is not read.", CURE)
        _budget.get().spend(1)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        budget, owner = _budget.get(), getattr(function, "__self__", None)
        budget.spend(PER_CALL)
        for name in ("_loop_vars", "_block_vars"):  # scopes that compiled templates pass for Jinja's own use
            options.pop(name, None)
        if isinstance(owner, str):
            for text in (owner, *args):
                _paid(text)
            bounded = {"replace": _replace, "join": lambda text, values: _join(values, text)}
            if function.__name__ in bounded:
                return bounded[function.__name__](owner, *args, **options)
        elif not isinstance(owner, dict) and function not in (_range, Namespace, _refuse):
            raise TemplateError("The chat template calls what is no function of it.", CURE)
        return _paid(function(*args, **options))
