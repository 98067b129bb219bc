"""Hostile chat templates: refused or stopped, in bounded time and memory, with a MythosError."""

import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.data.template import MAX_SOURCE, TemplateError, render
from mythos.records.errors import MythosError

MESSAGES = [{"role": "user", "content": "hello " * 100}]
NEST = 40


def doubled(start: str, step: str) -> str:
    return f"{{% set s = {start} %}}" + step * NEST + "{{ s }}"


def nested(loop: str, depth: int) -> str:
    return loop * depth + "x" + "{% endfor %}" * depth


HOSTILE = {
    # reaching for Python
    "class": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by item": "{{ ''['__class__'] }}{{ messages['__class__']['__base__'] }}",
    "by computed name": "{{ messages[0]['__cl' ~ 'ass__'].__init__ }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "self": "{{ self.__init__.__globals__ }}",
    "namespace class": "{{ namespace.__init__ }}",
    "range class": "{{ range.__wrapped__() }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "map attribute": "{{ messages|map(attribute='__class__')|list }}",
    "loop context": "{% for m in messages %}{{ loop._iterator }}{{ loop.__init__ }}{% endfor %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends 'x' %}",
    "mutation": "{{ messages.append(1) }}",
    "dict mutation": "{{ messages[0].clear() }}",
    "cycler": "{{ cycler(1, 2) }}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "call a message": "{{ messages[0].content() }}",
    # time
    "long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested ranges": nested("{% for a in range(9999) %}", 2),
    "deeper": nested("{% for x in range(99) %}", 9),
    "literal loops": nested("{% for x in " + str(list(range(500))) + " %}", 4),
    "string loops": "{% for a in 'x'*9999 %}{% endfor %}",
    "character loops": "{% set s = 'x' %}" + "{% set s = s ~ s %}" * 14 + nested("{% for a in s %}", 2),
    "recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "macro": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "searches": "{% set s = messages[0].content %}" + "{% set s = s ~ s %}" * 9
    + "{% for a in range(9999) %}{% if 'zz' in s %}{% endif %}{% endfor %}",
    "filtered loop": "{% for a in range(9999) if 0 %}{% endfor %}" * 900,
    "calls": "{% for a in range(9999) %}" + "{{ 'x'.strip() }}" * 100 + "{% endfor %}",
    # size
    "power": "{{ 10 ** 10 ** 10 }}",
    "product": "{{ 'x' * 10 ** 9 }}",
    "long product": "{{ 'x' * 999999999 }}",
    "list product": "{{ [1] * 999999999 }}",
    "growing number": "{% set n = namespace(x=9999999) %}" + "{% set n.x = n.x * n.x %}" * NEST + "{{ n.x }}",
    "doubling": doubled("'xx'", "{% set s = s ~ s %}"),
    "doubling by +": doubled("'xx'", "{% set s = s + s %}"),
    "doubling by capture": doubled("'xx'", "{% set s %}{{ s }}{{ s }}{% endset %}"),
    "doubling by replace": doubled("'xx'", "{% set s = s.replace('x', 'xx') %}"),
    "doubling by replace filter": doubled("'xx'", "{% set s = s | replace('', 'x') %}"),
    "doubling by join": doubled("'xx'", "{% set s = s.join(s) %}"),
    "doubling by json": doubled("'xx'", "{% set s = s | tojson | tojson %}"),
    "nested lists": doubled("[1]", "{% set s = [s, s] %}"),
    "nested namespaces": doubled("1", "{% set s = namespace(x=s, y=s) %}"),
    "a namespace in itself": "{% set a = namespace(x=1) %}{% set a.x = a %}{{ a }}{{ a | tojson }}",
    "list sum": doubled("messages", "{% set s = s + s %}"),
    "formatting": "{{ '%1000000000d' % 1 }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "center": "{{ 'x' | center(1000000000) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "indent": "{{ messages | tojson(indent=1000000000) }}",
    "much output": nested("{% for i in range(9999) %}", 2).replace("x", "x" * 1000),
    "printed list": "{{ messages }}",
    # compiling
    "long": " " * (MAX_SOURCE + 1),
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep not": "{{ " + "not " * 5000 + "1 }}",
    "deep ifs": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep loops": "{% for a in messages %}" * 30 + "{% endfor %}" * 30,
    "long sum": "{{ " + "1 + " * 15000 + "1 }}",
    "open": "{{ " * 15000,
    "open comment": "{# " * 15000,
    "malformed": "{% for %}",
    "unknown": "{% frobnicate %}",
    "undefined": "{{ nothing.at.all }}",
    "division": "{{ 1 / 0 }}",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_templates_end_in_an_error(case: str) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            render(HOSTILE[case], MESSAGES, True)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    worker.join(30)  # far above what any takes
    assert not worker.is_alive()
    (error,) = errors
    assert isinstance(error, TemplateError), repr(error)
    assert error.cure and len(error.message) < 500


ALLOWED = {
    "{{ messages | length }}": "1",
    "{{ messages[0].content[:5] ~ messages[0]['role'] ~ 1 ~ true ~ none }}": "hellouser1TrueNone",
    "{{ messages[0].get('name', 'nobody') }}": "nobody",
    "{{ missing | default('x') }}{{ missing }}": "x",
    "{% for k, v in messages[0].items() %}{{ k }},{% endfor %}": "role,content,",
    "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{{ loop.last }}{% endfor %}": (
        "0False2True"
    ),
    "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}": (
        "10"
    ),
    "{{ ['a', 'b'] | join('-') }}{{ 'b' in ['a', 'b'] }}": "a-bTrue",
    "{{ ' x ' | trim | upper }}{{ 'a,b'.split(',')[-1] }}{{ 'aXa'.replace('a', 'b') }}": "XbbXb",
    "{{ {'a': 1} | tojson }}{{ 'é\"' | tojson }}": '{"a": 1}"é\\""',
    "{% set x %}a{{ 1 + 1 }}{% endset %}{{ x }}{{ 7 // 2 }}{{ 7 % 2 }}{{ -1 }}": "a231-1",
    "{{ 'yes' if messages is iterable and nothing is not defined else 'no' }}": "yes",
    "{# comment #}{% raw %}{{ raw }}{% endraw %}\n  {% if true %}\nx{% endif %}\n": "{{ raw }}x",
}


@pytest.mark.parametrize("template", ALLOWED)
def test_the_dialect(template: str) -> None:
    assert render(template, MESSAGES, True) == ALLOWED[template]


def test_long_conversations_are_within_the_budget(real_template: str) -> None:
    messages = [{"role": role, "content": "word " * 200} for role in ("user", "assistant")] * 1000
    assert len(render(real_template, messages, True)) > 2_000_000


PIECES = [
    "{{", "}}", "{%", "%}", "messages", "for m in", "endfor", "if", "endif", "set x =", "x", "~", "+", "*",
    "|", "trim", "tojson", "join", "(", ")", "[", "]", "'a'", "0", "99", ".", "content", "loop",
    "namespace(", "{#",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join))
def test_any_template_renders_or_is_refused(template: str) -> None:
    with suppress(MythosError):
        assert isinstance(render(template, MESSAGES, True), str)
