"""The expression language of `multi` (3.7): numbers, variables, + - * / ^, parentheses and eight functions.

    sum     = product (("+" | "-") product)*
    product = power (("*" | "/") power)*
    power   = sign* atom ("^" sign* atom)*        right to left; -2^2 is -4 and 2^-1 is one half
    atom    = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

Our own parser, because Python's own would read ^ as exclusive or and offers names, attributes and calls that must not
be there. `log` is natural. Nothing loops and nothing is unbounded: a formula is at most 10,000 characters and 50 deep.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping

from flyball.errors import ConfigError, nearest
from flyball.graders.flags import NotGraded

FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_MANY = ("min", "max")
MAX_CHARS, MAX_DEPTH = 10_000, 50
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<sign>[-+*/^(),]))"
)

_OPERATIONS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}

Values = Mapping[str, float]
Node = Callable[[Values], float]


class Formula:
    """A formula over named numbers, checked when it is made. Raises ConfigError."""

    def __init__(self, text: str, variables: Collection[str], where: str) -> None:
        self.text = text
        self._node = _Parser(text, variables, where).parse()

    def value(self, values: Values) -> float:
        """Return the finite result. Raises NotGraded for a division by zero, an overflow or a root of minus one."""
        try:
            result = self._node(values)
        except (ArithmeticError, ValueError) as error:
            raise self._undefined(values, str(error)) from None
        if not math.isfinite(result):
            raise self._undefined(values, f"the result is {result}")
        return float(result)

    def _undefined(self, values: Values, why: str) -> NotGraded:
        given = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        return NotGraded("formula_parse_error", f"{self.text[:80]!r} has no value at {given}: {why}")


class _Parser:
    def __init__(self, text: str, variables: Collection[str], where: str) -> None:
        self._where = f"{where}: calculate_output {text[:80]!r}"
        if len(text) > MAX_CHARS:
            raise ConfigError(f"{self._where} has {len(text)} characters; a formula has at most {MAX_CHARS}")
        self._variables = variables
        self._tokens = self._split(text)
        self._depth = 0

    def parse(self) -> Node:
        node = self._sum()
        if self._tokens:
            raise self._unexpected("an operator or the end")
        return node

    def _split(self, text: str) -> list[str]:
        tokens, at = [], 0
        end = len(text.rstrip())
        while at < end:
            token = _TOKEN.match(text, at)
            if token is None:
                bad = text[at:].lstrip()[:1]
                raise ConfigError(
                    f"{self._where}: {bad!r} is no part of the language; it has + - * / ^ ( ) , and names"
                )
            tokens.append(token[0].strip())
            at = token.end()
        return tokens[::-1]

    def _peek(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def _take(self, *signs: str) -> str:
        return self._tokens.pop() if self._peek() in signs else ""

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise self._unexpected(repr(sign))

    def _unexpected(self, wanted: str) -> ConfigError:
        return ConfigError(f"{self._where}: found {self._peek() or 'the end'!r} where {wanted} belongs")

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConfigError(f"{self._where} is more than {MAX_DEPTH} deep; take it apart")
        node = self._chain(self._product, "+", "-")
        self._depth -= 1
        return node

    def _product(self) -> Node:
        return self._chain(self._power, "*", "/")

    def _chain(self, part: Callable[[], Node], *signs: str) -> Node:
        first, rest = part(), []
        while sign := self._take(*signs):
            rest.append((_OPERATIONS[sign], part()))
        return _folded_left(first, rest) if rest else first

    def _power(self) -> Node:
        tower = [(self._takes_minus(), self._atom())]
        while self._take("^"):
            tower.append((self._takes_minus(), self._atom()))
        return _folded_right(tower)

    def _takes_minus(self) -> bool:
        """Take the signs that stand here, and say whether they come to a minus."""
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        return negative

    def _atom(self) -> Node:
        if self._take("("):
            node = self._sum()
            self._need(")")
            return node
        token = self._tokens.pop() if self._tokens else ""
        if token[:1].isdigit() or token[:1] == ".":
            number = float(token)
            return lambda values: number
        if token.isidentifier():
            return self._call(token) if self._take("(") else self._variable(token)
        self._tokens += [token] if token else []
        raise self._unexpected("a number, a name or '('")

    def _variable(self, name: str) -> Node:
        if name in FUNCTIONS:
            raise ConfigError(f"{self._where}: {name} is a function; write {name}(...)")
        if name not in self._variables:
            raise ConfigError(f"{self._where}: no grader is called {name!r}{nearest(name, self._variables)}")
        return lambda values: values[name]

    def _call(self, name: str) -> Node:
        if name not in FUNCTIONS:
            raise ConfigError(f"{self._where}: no function {name!r}{nearest(name, FUNCTIONS)}")
        arguments = [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._need(")")
        if len(arguments) > 1 and name not in _MANY:
            raise ConfigError(f"{self._where}: {name} takes one argument, not {len(arguments)}")
        fn = FUNCTIONS[name]
        if name in _MANY:
            return lambda values: fn([argument(values) for argument in arguments])
        return lambda values: fn(arguments[0](values))


def _folded_left(first: Node, rest: list[tuple[Callable[[float, float], float], Node]]) -> Node:
    def node(values: Values) -> float:
        result = first(values)
        for operation, part in rest:
            result = operation(result, part(values))
        return result

    return node


def _folded_right(tower: list[tuple[bool, Node]]) -> Node:
    """Of (minus, atom) from the base up: each atom to the power of all above it, then its sign."""

    def node(values: Values) -> float:
        above: float | None = None
        for minus, atom in reversed(tower):
            value = atom(values) if above is None else math.pow(atom(values), above)
            above = -value if minus else value
        assert above is not None  # a tower has a base
        return above

    return tower[0][1] if len(tower) == 1 and not tower[0][0] else node
