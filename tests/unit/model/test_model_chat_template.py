import time
import tracemalloc

import pytest

from groat.model.chat_template import CHATML_TEMPLATE, ChatTemplate
from groat.types import UserError

CHAT = [{"role": "user", "content": "hi"}]


def render(source: str) -> str:
    return ChatTemplate(source, "somewhere").render(CHAT, {"bos_token": "<s>"})


def test_chatml_ends_where_the_assistant_answers():
    assert render(CHATML_TEMPLATE) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{% for m in messages %}{{ loop.index0 }}{{ m.content | trim }}{% endfor %}", "<s>0hi"),
        ("{% for m in messages %}{{ loop.last }}{{ loop.length }}{{ loop.first }}{% endfor %}", "True1True"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ {'a': '<é>'} | tojson(indent=1) }}", '{\n "a": "<é>"\n}'),
        ("{% generation %}a{{ 1 + 1 }}{% endgeneration %}", "a2"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% set ns = namespace(x=0) %}{% for i in range(4) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "6"),
        ("{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f('x') ~ f(2) }}", "[x][2]"),
        ("{{ tools is none }}{{ 'a-b'.split('-') | join('+') }}{{ 'aa' | replace('a', 'b') }}", "Truea+bbb"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{% filter upper %}a{% endfilter %}{% set x %}b{% endset %}{{ x }}", "Ab"),
        ("{{ messages[::-1][0].content[0] }}{{ strftime_now('%Y') | length }}", "h4"),
    ],
)
def test_what_chat_templates_use_works(source, expected):
    assert render(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('system role not supported') }}",
        "{{ undefined_thing.attribute }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{% set x = cycler.__init__.__globals__.os.popen('id').read() %}{{ x }}",
        "{{ '%s' % 'x' }}",
        "{{ '{0.__class__}'.format('x') }}",
        "{% include '/etc/passwd' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_clear_error(source):
    with pytest.raises(UserError, match="somewhere"):
        render(source)


@pytest.mark.parametrize("name", ["raise_exception", "''.upper", "messages", "joiner"])
def test_the_inside_of_python_reads_as_nothing(name):
    assert render("{{ " + name + ".__globals__ }}{{ " + name + "['__class__'] }}") == ""


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{", "{% unknown %}", "{{ 1 | nofilter }}", "{% if x %}", "{{ ((( }}"]
)
def test_invalid_jinja_is_refused_when_it_is_read(source):
    with pytest.raises(UserError, match="somewhere: the chat template is not valid jinja"):
        ChatTemplate(source, "somewhere")


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ 'a' * 10 ** 9 }}",
    "{{ 'a' * 2000000000 }}",
    "{{ [1] * 2000000000 }}",
    "{{ 9 ** 99999999 }}",
    "{% set ns = namespace(s=9) %}{% for i in range(60) %}{% set ns.s = ns.s * ns.s %}{% endfor %}",
    "{{ '%2000000000d' % 1 }}",
    "{{ 'a'.ljust(2000000000) }}",
    "{{ '{:2000000000}'.format(1) }}",
    "{{ 'a' | center(2000000000) }}",
    "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}",
    "{% for i in range(99999) %}{{ messages | tojson }}{{ 'x' * 999 }}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "{% set n = namespace(s=1) %}{% for i in range(60) %}{% set n.s = {1: n.s, 2: n.s} %}{% endfor %}{{ n.s|tojson }}",
    "{% set big = 'a' * 8000000 %}{{ [big] * 8000000 }}",
    "{% set big = 'a' * 8000000 %}{{ '' ~ [big] * 8000000 }}",
    "{% set big = 'a' * 8000000 %}{{ big | replace('a', big) }}{{ big.join(big) }}",
    "{% set big = 'a' * 8000000 %}{{ big.join(range(99999) | map('string')) }}",
    "{% set l = namespace(a=[]) %}{% for i in range(99999) %}{% set l.a = [l.a] %}{% endfor %}{{ l.a }}",
    "{% set big = 'a' * 8000000 %}" + "{% set x = big + 'b' %}" * 99,
    "{% set big = [1] * 8000000 %}" + "{% set x = big[:] %}" * 99,
    "{{ 'a\n' * 4000000 | indent(1000) }}",
    "{{ messages | tojson(indent=100000000) }}",
    "{{ range(99999) | map('string') | map('replace', '1', 'x' * 9999) | join | length }}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_that_would_not_end_or_fills_the_memory_is_stopped(source):
    begin = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="somewhere"):
            render(source)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < 10
