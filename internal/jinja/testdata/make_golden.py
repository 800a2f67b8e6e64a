"""Writes semantics.json and models.json: what Jinja2 renders under the settings of
Hugging Face transformers. Needs jinja2 3.1.6; run it in this folder.

    python3 make_golden.py [path of the shared test data]

Other templates are compared with `make_golden.py templates OUT.json FILE.jinja...` and then
`go test ./internal/jinja -run Templates -args -templates OUT.json`.

A case whose expected text is null must fail.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

CLOCK = datetime.datetime(2025, 7, 10, 12, 0, 0, 42)


class Generation(jinja2.ext.Extension):
    """The generation tag, which marks assistant text and renders its body in a scope."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("pass_through"), [], [], body).set_lineno(line)

    def pass_through(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    """A namespace that rejects names with a leading underscore."""

    def __init__(*args, **kwargs):
        for name in dict(*args[1:], **kwargs):
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name, value):
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)
        super().__setitem__(name, value)


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = CLOCK.strftime
    env.globals["namespace"] = Namespace
    env.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
    return env


def render(template, context):
    try:
        return environment().from_string(template).render(**context)
    except Exception as error:  # any failure of the template is the expectation
        print(f"  fails: {template[:70]!r}: {type(error).__name__}: {error}")
        return None


DATA = {
    "s": "Hello, World", "empty": "", "uni": "naïve ßtraße ΑΣ ǆ 🤗", "n": 7, "neg": -7, "f": 2.5, "big": 12345678901234567890,
    "t": True, "x": False, "nil": None, "list": [3, 1, 2], "words": ["b", "A", "c"], "nested": [[1, 2], [3, [4]]],
    "d": {"z": 1, "a": {"k": [1, 2]}, "items": "shadow", "m": None},
    "users": [
        {"name": "bob", "age": 30, "tags": ["x"]}, {"name": "Al", "age": 25, "tags": []},
        {"name": "cy", "age": 30, "admin": True},
    ],
    "text": "one two  three\nfour\n\nfive\n", "quotes": "it's \"q\"", "ctl": "a\tb\nc\\d\x00\x7f\u200b",
}

# One expression a line.
EXPRESSIONS = r"""
nil
t ~ x ~ nil ~ n ~ f
list
d
nested
(1,)
(1, 'a', none)
()
[true, none, 1.0, 'q"', "it's", quotes, ctl, uni]
{'a': 1, 2: 'b', none: 3, 2.5: 4, true: 5, 1: 6}
1.0
1e16
123456789012345680.0
1e-5
0.0001
1e300 * 1e10
-1e300 * 1e10
3.14159
1_000
0x1f + 0o17 + 0b11
big
big is integer
big == big
7 / 2
8 / 2
7 // 2
-7 // 2
7 // -2
7.5 // 2
-7 % 3
7 % -3
-7.5 % 2
2 ** 10
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
1 + 2 * 3 - 4 / 2
true + true
1 / 0
1 // 0
1 % 0
1 + 'a'
'a' + 1
'a' * 3
3 * 'ab'
[1] * 2
(1, 2) * 2
'a' * -1
[1] + [2]
(1,) + (2,)
[1] + (2,)
'a' 'b' "c"
'%s is %d and %.2f' % ('x', 3, 2.555)
'%(a)s-%(b)05d' % {'a': 1, 'b': 42}
'%5s|%-5s|%05.1f|%x|%X|%o|%e|%g|%%' % ('a', 'b', 3.14159, 255, 255, 8, 12345.678, 0.0001)
'%+d % d %s' % (1, 2, [1, 'a'])
'%r' % ('a',)
'%s' % ()
'%s' % (1, 2)
'%d' % 'x'
'{} {}'.format(1, 'b')
'{0} {1} {0} {x}'.format('a', 'b', x='c')
'{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:.3f}|{:,}|{:x}|{:+d}|{:.1%}'.format('a', 'b', 'c', 'd', 42, 3.14159, 1234567, 255, 3, 0.256)
'{!r} {{}}'.format('a')
'{}'.format()
'%s items' | format(3)
'%(x)s' | format(x=2)
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'a' < 'b'
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1, 'b': 2} == {'b': 2, 'a': 1}
1 < 'a'
nil < 1
none == undefined
missing == alsomissing
missing != 1
missing < 1
not missing
missing or 'fallback'
missing
missing.foo
missing['foo']
missing + 1
missing ~ 'a'
missing | length
missing | list
missing | upper
missing is defined
missing is undefined
missing is none
missing is sequence
missing is iterable
missing in [1]
1 in missing
missing in d
missing in s
missing()
missing | tojson
missing | default('x')
d.nope
d.nope.deep
d.nope is defined
d['nope'] is undefined
nil.foo
nil['foo']
nil.foo.bar
n.foo
s.foo is defined
list.foo is defined
1 in [1.0]
true in [1]
'ell' in s
'' in s
1 in s
'z' in d
'y' not in d
n in nil
[1] in nested
[1, 2] in nested
s[0]
s[-1]
s[100]
s['a']
s[1:4]
s[::-1]
s[-3:]
s[:-3]
s[10:2]
s[::3]
s[5:0:-2]
uni[0:6]
uni[-1]
uni | length
list[0] ~ list[-1]
list[5]
list[true]
list['a']
list[1:]
list[::-1]
list[::0]
list[1.0]
(1, 2, 3)[1:]
range(10)[2]
range(10)[2:5]
nil[1:]
n[1:]
d[1:]
missing[1:]
d.z
d['z']
d.items is callable
d['items']
d.items()
d.keys()
d.values()
d.keys() | list
d.get('z')
d.get('q')
d.get('q', 5)
d.a.k[1]
d.a['k'][0]
d.copy()
d.pop('z')
d.update({'a': 1})
list.append(1)
list.append
list.index(2)
list.index(9)
list.count(1)
(1, 2, 1).count(1)
users[0].name
users[0]['age'] + 1
users.0.name
nested.1.1.0
1.5.is_integer()
'a' if t
'a' if x
'a' if x else 'b'
'a' if x else 'b' if x else 'c'
('a' if x) is defined
1 if 0 or 1 and 0 else 2
not 1 == 2
not t and x
t and not x
1 and 'a'
0 or none
t is true
t is sameas true
1 is sameas true
t is boolean
1 is number
t is number
t is integer
1.0 is float
1 is float
'a' is string
d is mapping
list is sequence
s is sequence
n is sequence
d is iterable
n is iterable
range(3) is iterable
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
n is eq 7
n is ne(8)
n is gt 3
n is lessthan 3
n is in [7]
3 is in list
'A' is upper
'a' is lower
nil is none
nil is not none
s is not string
range is callable
'upper' is filter
'nope' is filter
'odd' is test
n is nope
n | nope
n is defined and n > 3
s | upper
s | lower
s | title
'foo-bar (baz) it\'s' | title
'it\'s foo-bar'.title()
s | capitalize
uni | upper
uni | lower
uni | capitalize
uni | title
uni.title()
'ΑΒΣ ὈΔΟΣ' | title
'naïve ßtraße ǆ x1y'.title()
'naïve ßT ǆ'.swapcase()
uni.casefold()
n | upper
'  a b '| trim
'xxaxx' | trim('x')
s | replace('l', 'L')
s | replace('l', 'L', 1)
s | replace('', '-')
n | replace(7, 8)
s | length
n | length
list | length
d | length
d | count
list | first
list | last
[] | first
'' | first
s | first
s | last
d | first
list | sum
users | sum(attribute='age')
[[1], [2]] | sum(start=[])
list | sort
list | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
users | sort(attribute='age') | map(attribute='name') | list
users | sort(attribute='age,name') | map(attribute='name') | list
users | sort(attribute='age', reverse=true) | map(attribute='name') | join(',')
[1, 'a'] | sort
d | dictsort
{'b': 1, 'A': 2} | dictsort
{'b': 1, 'A': 2} | dictsort(true)
{'b': 1, 'A': 2} | dictsort(by='value', reverse=true)
d | items | list
nil | items | list
missing | items | list
list | join
list | join(', ')
users | join('|', attribute='name')
[1, none, true] | join('-')
s | join('.')
list | map('string') | list
nil | map('upper') | list
x | select | list
missing | selectattr('a') | list
0 | map('upper') | list
n | map('upper') | list
4.5 is divisibleby(1.5)
4.5 is odd
'' % list
n | indent
list | map('string') | join('+')
users | map(attribute='name') | map('upper') | list
users | map(attribute='admin', default='no') | list
users | map(attribute='tags.0') | list
list | map | list
list | select('odd') | list
list | select | list
[0, 1, '', 'a', none] | select | list
list | reject('gt', 2) | list
users | selectattr('admin') | map(attribute='name') | list
users | selectattr('admin', 'defined') | list | length
users | selectattr('age', '>', 26) | map(attribute='name') | list
users | selectattr('name', 'in', ['bob']) | map(attribute='name') | list
users | rejectattr('age', 'equalto', 30) | map(attribute='name') | list
list | select('odd') | length
(list | select('gt', 100)) | string | length > 5
'yes' if (list | select('gt', 100)) else 'no'
'yes' if (list | select('gt', 100) | list) else 'no'
list | select('odd') | first
list | reverse | list
s | reverse
[1, 1, 2, 'a', 'A'] | unique | list
[1, 1, 2, 'a', 'A'] | unique(case_sensitive=true) | list
list | min
list | max
words | min
words | max(case_sensitive=true)
users | max(attribute='age')
[] | max
[d] | max
[d, d] | max
range(7) | batch(3) | list
range(7) | batch(3, 'x') | list
range(7) | slice(3) | list
range(7) | slice(3, 'x') | list
users | groupby('age')
(users | groupby('age'))[0].grouper
(users | groupby('age'))[1].list | length
-5 | abs
-5.5 | abs
'a' | abs
2.5 | round
3.5 | round
2.567 | round(2)
2.561 | round(2, 'ceil')
2.569 | round(2, 'floor')
7 | round
1234 | round(-2)
0.125 | round(2)
'42' | int
' 42 ' | int
'4.7' | int
'x' | int
'x' | int(-1)
'ff' | int(0, 16)
'0xff' | int(0, 16)
-4.7 | int
nil | int
list | int(9)
'1.5' | float
'x' | float
'1e3' | float
'inf' | float
true | float
n | string
list | string
nil | string
'abc' | list
d | list
n | list
1 | default(2)
missing | default
missing | d('x')
'' | default('x', true)
nil | default('x')
'<a href="x">&\'' | escape
'<b>' | e
'<b>' | safe
'<b>' | safe + '<i>'
'<i>' + ('<b>' | safe) + "'q'" + s
('<' | escape) + ('<' | safe) + '<'
('<' | escape) + n
1 + 2 ~ ('<' | safe) ~ '<'
s | wordcount
'a-b c_d' | wordcount
'a' | center(5)
'ab' | center(5)
'ab'.center(5, '*')
'abc'.center(6)
text | indent
text | indent(2, true)
text | indent(2, first=true, blank=true)
text | indent('> ', true)
'foo bar baz qux' | truncate(9)
'foo bar baz qux' | truncate(9, true)
'foo bar baz qux' | truncate(11)
'foo bar baz qux' | truncate(11, false, '...', 0)
d | attr('z')
s | attr('upper') is callable
(s | attr('upper'))()
d | tojson
d | tojson(indent=2)
d | tojson(2)
d | tojson(indent='\t')
d | tojson(indent=0)
d | tojson(sort_keys=true)
d | tojson(separators=(',', ':'))
[1.0, 1e20, 0.1, true, none, big, ctl, uni, quotes, (1, 2)] | tojson
[ctl, uni] | tojson(ensure_ascii=true)
{1: 2, 1.5: 3, none: 4, true: 5} | tojson
{} | tojson(indent=2)
[[], {}] | tojson(indent=2)
range | tojson
users | map(attribute='name') | tojson
range(3) | tojson
s.upper()
s.lower()
s.split()
s.split(',')
s.split('l', 1)
s.rsplit('l', 1)
'a  b c '.split(none, 1)
'a  b c '.rsplit(none, 1)
' a b '.split(' ')
'a,b,c'.split(',', maxsplit=1)
s.split('')
text.splitlines()
text.splitlines(true)
'a\r\nb\vc'.splitlines()
s.strip('Hd')
'  x '.strip() ~ '|'
'  x '.lstrip() ~ '|'
'  x '.rstrip() ~ '|'
'xyx'.strip('x')
s.startswith('Hell')
s.startswith(('a', 'H'))
s.endswith('d')
s.startswith('W', 7)
s.startswith(1)
s.find('o')
s.find('o', 5)
s.rfind('o')
s.find('z')
s.index('z')
s.count('l')
s.replace('l', 'L', 1)
s.partition(', ')
s.rpartition('o')
s.partition('z')
s.rpartition('z')
s.removeprefix('Hello')
s.removesuffix('World')
', '.join(['a', 'b'])
', '.join([1])
'a'.ljust(3, '-') ~ 'b'.rjust(3)
'-42'.zfill(5)
'a1'.isalnum()
'12'.isdigit()
'ab'.isalpha()
'Ab'.isupper()
'AB1'.isupper()
' '.isspace()
''.isspace()
'aß'.isascii()
s.nope()
s.__class__
s.__class__.__mro__
d.__class__ is defined
range(5) | list
range(1, 10, 3) | list
range(5, 0, -2) | list
range(3)
range(0, 10, 2)
range(200000) | length
range('a')
dict(a=1, b=2)
dict([('a', 1)], b=2)
dict({'x': 1})
namespace(a=1).a
namespace(_a=1)
namespace(a=1).b is defined
raise_exception('no')
strftime_now('%Y-%m-%d %H:%M:%S %d %B %b %A %a %j %y %p %I %%')
strftime_now('%-d/%-m %e %F %T %D %R %f %U %W %V %G %u %w')
[1, 2, 3,] | length
{'a': 1,} | length
(1, 2, 3,) | length
'\x41\u00e9\U0001F917\101\q\''
-n | abs
-(n) ~ +n
- -n
1 ~ 2 + 3
1 + 2 ~ 3
2 * 3 ~ 4 * 5
1 if 1 in [1] else 0
list | length > 2 and s
[x, y] = 1
'a' 1
1 +
foo(
(1
[1, 2
{'a' 1}
s | 
s is
d.1a
s..a
@
'abc
1 if
n n
"""

# Whole templates.
TEMPLATES = {
    "trim_blocks": "a\n{% if t %}\nb\n{% endif %}\nc\n",
    "lstrip_blocks": "a\n   {% if t %}\n   b\n   {% endif %}\n  c {% if t %} d {% endif %}  e\n",
    "lstrip_off": "  {%+ if t %}x{% endif +%}\n y",
    "strip_both": "a \n {%- if t -%} \n b \n {%- endif -%} \n c",
    "variable_keeps_lines": "  {{ n }}\n  {{- n -}}  \n {{ n }}\n",
    "variable_then_block": "{{ n }}  {% if t %}x{% endif %}\n  {% if t %}y{% endif %}",
    "comment": "a{# x #}\n  {# y #}\nb {#- z -#} c\n{# multi\nline #}\nd",
    "comment_tag_inside": "{# {% if %} {{ #}x",
    "raw": "{% raw %}\n {{ n }} {% if %}\n{% endraw %}\nx",
    "raw_strip": "a {%- raw -%}  {{ n }}  {%- endraw -%}  b",
    "raw_indented": "  {% raw %} {{ x }}\n  {% endraw %}\n y",
    "crlf": "a\r\n{% if t %}\r\nb{% endif %}\r\n",
    "trailing_newline": "a\n\n",
    "only_newline": "\n",
    "unclosed_braces": "a { b } {x} } }} %} #}",
    "minus_ambiguity": "{{-n-}} {{ -n }} {{ 5 -n }}",
    "nested_braces": "{{ {'a': {'b': {'c': 1}}} }}",
    "for_loop_vars": "{% for u in users %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }} {{ loop.previtem.name }}-{{ loop.nextitem.name }};{% endfor %}",
    "for_filter": "{% for i in range(10) if i is odd %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}",
    "for_else": "{% for i in [] %}x{% else %}empty{% endfor %}{% for i in [1] %}{{ i }}{% else %}no{% endfor %}",
    "for_else_filter": "{% for i in [1] if i > 1 %}x{% else %}none{% endfor %}",
    "for_break_else": "{% for i in [1, 2] %}{% break %}{% else %}E{% endfor %}done",
    "for_break_else_late": "{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}done",
    "for_continue_else": "{% for i in [1, 2] %}{% continue %}{% else %}E{% endfor %}done",
    "for_continue": "{% for i in range(5) %}{% if i % 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "for_dict": "{% for k in d %}{{ k }} {% endfor %}{% for k, v in d.items() %}{{ k }}={{ v }} {% endfor %}",
    "for_dict_filter": "{% for k, v in d | items %}{{ k }}={{ v }} {% endfor %}",
    "for_string": "{% for c in 'añb' %}[{{ c }}]{% endfor %}",
    "for_none": "{% for c in nil %}{% endfor %}",
    "for_int": "{% for c in n %}{% endfor %}",
    "for_missing": "{% for c in missing %}x{% else %}y{% endfor %}",
    "for_unpack_nested": "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "for_unpack_short": "{% for a, b in [[1]] %}{% endfor %}",
    "for_cycle": "{% for i in range(4) %}{{ loop.cycle('a', 'b', 'c') }}{% endfor %}",
    "for_changed": "{% for i in [1, 1, 2, 2, 1] %}{% if loop.changed(i) %}{{ i }}{% endif %}{% endfor %}",
    "for_scope": "{% set a = 1 %}{% for i in [1, 2] %}{{ a }}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}",
    "for_leak": "{% for i in [1, 2] %}{% endfor %}{{ i }}|{{ loop }}",
    "for_outer_loop": "{% for i in [1, 2] %}{% set outer = loop %}{% for j in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "for_tuple_literal": "{% for i in 1, 2, 3 %}{{ i }}{% endfor %}",
    "if_scope": "{% if t %}{% set a = 5 %}{% endif %}{{ a }}",
    "if_elif": "{% for i in range(4) %}{% if i == 0 %}a{% elif i == 1 %}b{% elif i == 2 %}c{% else %}d{% endif %}{% endfor %}",
    "set_tuple": "{% set a, b = 1, [2] %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}",
    "set_block": "{% set a %} x{{ n }}\n{% endset %}[{{ a }}]",
    "set_block_filter": "{% set a | upper | trim %} x {% endset %}[{{ a }}]",
    "set_unpack_error": "{% set a, b = [1] %}",
    "namespace": "{% set ns = namespace(c=0, items=[]) %}{% for i in list %}{% set ns.c = ns.c + i %}{% set ns.items = ns.items + [i] %}{% endfor %}{{ ns.c }}{{ ns.items }}",
    "namespace_dict": "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}",
    "namespace_private": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "set_attr_on_dict": "{% set d.z = 2 %}",
    "with": "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "with_outer": "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "filter_block": "{% filter upper | replace('B', 'x') %}abc{{ s }}{% endfilter %}",
    "macro": "{% macro f(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=5) }} {{ f(b=3, a=4) }} {{ f() }}",
    "macro_extra": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "macro_unknown": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}",
    "macro_twice": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}",
    "macro_varargs": "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}{{ f(*[1, 2], **{'y': 3}) }}",
    "macro_recursive": "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "macro_scope": "{% set a = 1 %}{% macro f() %}{{ a }}{% set a = 2 %}{{ a }}{% endmacro %}{{ f() }}{{ a }}{% set a = 7 %}{{ f() }}",
    "macro_no_loop": "{% macro f() %}{{ loop is defined }}{{ i is defined }}{% endmacro %}{% for i in [1] %}{{ f() }}{% endfor %}",
    "macro_name": "{% macro f() %}{% endmacro %}{{ f.name }}{{ f() is string }}",
    "macro_whitespace": "{%- macro f(x) %}\n  {{- x }}\n{% endmacro %}\n[{{ f(1) }}]",
    "macro_before_definition": "{{ f is defined }}{% macro f() %}{% endmacro %}{{ f is defined }}",
    "call": "{% macro f(a) %}<{{ a }}{{ caller() }}>{% endmacro %}{% call f(1) %}x{{ n }}{% endcall %}",
    "call_args": "{% macro f() %}{% for i in list %}{{ caller(i, b=2) }}{% endfor %}{% endmacro %}{% call(a, b=1) f() %}{{ a }}{{ b }};{% endcall %}",
    "call_unused": "{% macro f() %}x{% endmacro %}{% call f() %}y{% endcall %}",
    "caller_missing": "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
    "caller_optional": "{% macro f() %}{{ caller() if caller else 'none' }}{% endmacro %}{{ f() }}{% call f() %}c{% endcall %}",
    "generation": "{% for i in list %}{% generation %}{{ i }}{% set q = 1 %}{% endgeneration %}\n{% endfor %}{{ q is defined }}",
    "print_tag": "{% print n, s %}",
    "one_shot": "{% set g = list | select('odd') %}{{ g | list }}{{ g | list }}",
    "generator_loop": "{% set g = list | map('string') %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}{{ x }}{% else %}gone{% endfor %}",
    "groupby_loop": "{% for age, group in users | groupby('age') %}{{ age }}:{{ group | map(attribute='name') | join(',') }} {% endfor %}",
    "dict_of_lists": "{% for x in [{'k': [1, 2]}, {'k': []}] %}{{ x.k and x.k[0] }}{% endfor %}",
    "include": "{% include 'x' %}",
    "extends": "{% extends 'x' %}",
    "import": "{% import 'x' as y %}",
    "unknown_tag": "{% foo %}",
    "unclosed_if": "{% if t %}x",
    "unclosed_for": "{% for i in list %}x",
    "unexpected_end": "x{% endif %}",
    "unclosed_tag": "{% if t ",
    "unclosed_variable": "{{ n ",
    "unclosed_comment": "{# x",
    "unclosed_raw": "{% raw %}x",
    "break_outside": "{% break %}",
    "assign_constant": "{% set true = 1 %}",
    "mismatched": "{% if t %}{% endfor %}",
    "bracket_mismatch": "{{ (1] }}",
    "lazy_unknown_filter": "{% if x %}{{ n | nope }}{% endif %}ok",
    "raise": "{% if not t %}ok{% else %}{{ raise_exception('roles must alternate') }}{% endif %}",
    "keyword_names": "{% set if = 1 %}{{ if }}{% set for = [1] %}{% for in in for %}{{ in }}{% endfor %}",
    "unicode_names": "{% set größe = 3 %}{{ größe }}",
    "multiline_expression": "{{ {\n 'a':\n 1,\n}['a']\n + 2 }}",
    "chat_tools": "{%- macro prop(p) -%}{{ p.type }}{% if p.enum %} ({{ p.enum | join(' | ') }}){% endif %}{%- endmacro -%}\n{% for u in users %}\n- {{ u.name }}{% for k, v in u.items() if k != 'name' %}; {{ k }}: {{ v if v is string else v | tojson }}{% endfor %}\n\n{% endfor %}\n",
}

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a <city> & \"region\"",
     "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Stadt, z. B. Köln"},
                    "days": {"type": "integer", "minimum": 1, "maximum": 1e2, "default": 3}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "noop", "parameters": {}}},
]

CHATS = {
    "single": [{"role": "user", "content": "Hi"}],
    "system": [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "  Hi  "}],
    "turns": [
        {"role": "system", "content": "You are \"kind\"."}, {"role": "user", "content": "Was ist 2+2? 🤔"},
        {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"}, {"role": "user", "content": "And\n\n3+3?"},
        {"role": "assistant", "content": "6"}, {"role": "user", "content": "Thanks <|im_end|>"},
    ],
    "tool_calls": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}},
            {"id": "2", "type": "function", "function": {"name": "noop", "arguments": "{}"}}]},
        {"role": "tool", "content": "{\"t\": 21.5}"}, {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "It is 21.5 °C."}, {"role": "user", "content": "Thx"},
    ],
    "reasoning": [
        {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1", "reasoning_content": "\nR1\n"},
        {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2", "reasoning_content": "R2"},
    ],
    "empty": [],
}


def semantics():
    cases = [(line, "{{ " + line + " }}", DATA) for line in EXPRESSIONS.split("\n") if line]
    cases += [(name, template, DATA) for name, template in TEMPLATES.items()]
    return {
        "context": DATA,
        "cases": [{"name": name, "template": template, "expected": render(template, DATA)} for name, template, _ in cases],
    }


def models(shared):
    cases = []
    for path in sorted(shared.glob("tokenizers/*/tokenizer_config.json")):
        config = json.loads(path.read_text())
        template = config.get("chat_template")
        if not template:
            continue
        for chat, messages in CHATS.items():
            for tools in (None, TOOLS):
                for prompt in (False, True):
                    context = {"messages": messages, "add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>"}
                    if tools:
                        context["tools"] = tools
                    if chat == "turns" and prompt:
                        context["enable_thinking"] = False
                    cases.append({"file": str(path.relative_to(shared)), "name": f"{path.parent.name}/{chat}/{'tools' if tools else 'plain'}/{prompt}",
                                  "context": context, "expected": render(template, context)})
    return cases


def call(name, arguments, identity):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


FULL_TOOLS = [
    TOOLS[0],
    {"type": "function", "function": {"name": "noop", "description": "Does nothing.", "parameters": {"type": "object", "properties": {
        "how": {"type": ["string", "null"], "description": "how", "enum": ["a", "b"]}, "list": {"type": "array", "description": "l", "items": {"type": "number"}}},
        "required": []}}},
]


def agents(arguments):
    """A conversation with several rounds of calls, whose arguments are objects, or strings as clients send them."""
    return [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": [{"type": "text", "text": "Weather in Köln "}, {"type": "text", "text": "& Paris?"}]},
        {"role": "assistant", "content": None, "reasoning_content": "Two calls.", "tool_calls": [
            call("get_weather", arguments({"city": "Köln", "days": 2}), "callabc01"), call("get_weather", arguments({"city": "Paris"}), "callabc02")]},
        {"role": "tool", "tool_call_id": "callabc01", "name": "get_weather", "content": '{"t": 21.5}'},
        {"role": "tool", "tool_call_id": "callabc02", "name": "get_weather", "content": '{"t": 19}'},
        {"role": "assistant", "content": "Checking more.", "tool_calls": [call("noop", arguments({}), "callabc03")]},
        {"role": "tool", "tool_call_id": "callabc03", "name": "noop", "content": "ok"},
        {"role": "assistant", "content": "21.5 and 19."},
        {"role": "user", "content": "Thanks"},
    ]


def templates(paths):
    chats = {**CHATS, "agents": agents(lambda a: a), "agents_strings": agents(json.dumps),
             "developer": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
             "strange": [{"role": "user", "content": ""}, {"role": "robot", "content": "beep"}],
             "last_assistant": CHATS["turns"][:3], "parts": [{"role": "user", "content": [{"type": "text", "text": "a\n"}]}]}
    cases = []
    for path in map(pathlib.Path, paths):
        template = path.read_text()
        compiled = environment().from_string(template)
        for chat, messages in chats.items():
            for tools in (None, FULL_TOOLS, TOOLS):
                for more in ({}, {"enable_thinking": False}, {"enable_thinking": True, "thinking": True, "reasoning_effort": "low", "documents": [{"title": "T", "text": "x"}]}):
                    context = {"messages": messages, "add_generation_prompt": chat != "last_assistant", "bos_token": "<s>", "eos_token": "</s>", **more}
                    if tools:
                        context["tools"] = tools
                    try:
                        expected = compiled.render(**context)
                    except Exception:  # the template refuses this conversation
                        expected = None
                    cases.append({"name": f"{path.name}/{chat}/{len(tools or [])}{tools is TOOLS}/{len(more)}", "template": template,
                                  "context": context, "expected": expected})
    return cases


def write(name, value):
    pathlib.Path(name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["templates"]:
        write(sys.argv[2], templates(sys.argv[3:]))
        sys.exit()
    write("semantics.json", semantics())
    if len(sys.argv) > 1:
        write("models.json", models(pathlib.Path(sys.argv[1])))
