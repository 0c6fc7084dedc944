using System.Numerics;
using Repeng.Runtime.Chat;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>The language by feature, with what the documentation of Jinja and Python says comes out.</summary>
public sealed class JinjaLanguageTests
{
    [Theory]
    // trim_blocks: one newline after a statement goes; lstrip_blocks: blanks before it on its line go.
    [InlineData("a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  b\nc")]
    [InlineData("a\n  {# note #}\nb", "a\nb")]
    [InlineData("  {{ 1 }}\nb", "  1\nb")]
    [InlineData("a \n\t{%- if true -%} \n b {%- endif %}", "ab")]
    [InlineData("a \n {{- 1 -}} \n b", "a1b")]
    [InlineData("a\n  {%+ if true +%}\nb{% endif %}", "a\n  \nb")]
    [InlineData("x {% if true %}\ny{% endif %}", "x y")]
    [InlineData("a\n", "a")]
    [InlineData("a\n\n", "a\n")]
    [InlineData("a\r\nb\rc", "a\nb\nc")]
    [InlineData("{% raw %}{{ x }}{# #}{% endraw %}", "{{ x }}{# #}")]
    public void WhitespaceIsControlled(string template, string expected) => Assert.Equal(expected, Chats.Render(template));

    [Theory]
    [InlineData("{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 7 / 2 }}", "3 -4 -2 3.5")]
    [InlineData("{{ 2 ** 10 }} {{ 2 ** 64 }} {{ 2 ** -1 }}", "1024 18446744073709551616 0.5")]
    [InlineData("{{ 1.0 }} {{ 1e22 }} {{ 1e-7 }} {{ 0.1 + 0.2 }} {{ 123456789012345680.0 }}", "1.0 1e+22 1e-07 0.30000000000000004 1.2345678901234568e+17")]
    [InlineData("{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true + 1 }}", "True False True 2")]
    [InlineData("{{ 'a' ~ 1 ~ none ~ 2.0 }}", "a1None2.0")]
    [InlineData("{{ 'ab' * 2 + 'c' }} {{ [1] + [2] }}", "ababc [1, 2]")]
    [InlineData("{{ 'x' if false }}|{{ 'x' if false else 'y' }}", "|y")]
    [InlineData("{{ 0 or 'b' }} {{ 1 and 'c' }} {{ not 0 }}", "b c True")]
    [InlineData("{{ 'b' in 'abc' }} {{ 2 not in [1] }} {{ 'k' in {'k': 1} }}", "True True True")]
    [InlineData("{{ ' a ' | trim + 'b' }}", "ab")]
    public void OperatorsFollowPython(string template, string expected) => Assert.Equal(expected, Chats.Render(template));

    [Theory]
    [InlineData("{{ s[::-1] }}", "😀ba")]
    [InlineData("{{ s|length }} {{ s[-1] }} {{ s[1:] }}", "3 😀 b😀")]
    [InlineData("{{ l[1:] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[3:0:-2] }}", "[2, 3, 4] [4, 3, 2, 1] [3, 4] [4, 2]")]
    [InlineData("{{ l[9] }}|{{ l['x'] }}|{{ d.nope }}", "||")]
    [InlineData("{{ d.items()|list }}", "[('items', 5), ('b', None)]")]
    [InlineData("{{ d['items'] }} {{ d.b }} {{ d.get('z', 7) }}", "5 None 7")]
    public void ValuesAreReachedAsInPython(string template, string expected)
        => Assert.Equal(expected, Chats.Render(template, ("s", "ab😀"), ("l", new[] { 1, 2, 3, 4 }),
            ("d", new Dictionary<string, object?> { ["items"] = 5, ["b"] = null })));

    [Theory]
    [InlineData("{{ ' xay '.strip().lstrip('x').rstrip('y') }}", "a")]
    [InlineData("{{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }}", "['a', 'b,c'] ['a', 'b']")]
    [InlineData("{{ 'x</think>y'.split('</think>')[-1] }}", "y")]
    [InlineData("{{ 'straße'.upper() }} {{ 'ΟΔΟΣ'.lower() }} {{ 'they\\'re'.title() }} {{ \"they're\"|title }}", "STRASSE οδος They'Re They're")]
    [InlineData("{{ 'abcabc'.replace('b', 'X', 1) }} {{ 'abc'.find('c') }} {{ 'aaa'.count('a') }}", "aXcabc 2 3")]
    [InlineData("{{ '-'.join(['a', 'b']) }} {{ 'abc'.startswith(('x', 'a')) }}", "a-b True")]
    [InlineData("{{ '%s=%05.1f' % ('a', 2.25) }} {{ '{:>4}|{x}'.format(1, x='y') }}", "a=002.2    1|y")]
    [InlineData("{{ '\\u00a0\\u001c a \\u3000\\u200b'|trim }}", "a \u3000\u200b")]
    public void TextMethodsFollowPython(string template, string expected) => Assert.Equal(expected, Chats.Render(template));

    [Theory]
    [InlineData("{{ l|selectattr('r', 'eq', 'user')|map(attribute='n')|list }}", "[1, 3]")]
    [InlineData("{{ l|rejectattr('r', 'equalto', 'user')|list|length }}", "1")]
    [InlineData("{{ [3, 1, 2]|sort|join(',') }} {{ [1, 2]|reverse|list }} {{ ['b', 'B', 'a']|unique|list }}", "1,2,3 [2, 1] ['b', 'a']")]
    [InlineData("{{ {'b': 1, 'a': 2}|dictsort }} {{ {'b': 1}|items|list }}", "[('a', 2), ('b', 1)] [('b', 1)]")]
    [InlineData("{{ zz|default('d') }} {{ ''|default('d') }}|{{ ''|default('d', true) }}", "d |d")]
    [InlineData("{{ 'a\\nb'|indent(2) }} {{ '3.9'|int }} {{ 'x'|int(5) }} {{ 2.5|round }} {{ -3|abs }}", "a\n  b 3 5 2.0 3")]
    [InlineData("{{ [1, 2, 3, 4]|select('odd')|list }} {{ [1, none]|reject('none')|list }}", "[1, 3] [1]")]
    [InlineData("{{ '<b>'|e }} {{ '<b>'|safe }} {{ ('<'|safe) + '<' }}", "&lt;b&gt; <b> <&lt;")]
    public void FiltersFollowJinja(string template, string expected)
        => Assert.Equal(expected, Chats.Render(template, ("l", Chats.Json("""[{"r":"user","n":1},{"r":"tool","n":2},{"r":"user","n":3}]"""))));

    [Theory]
    [InlineData("{{ v|tojson }}", """{"b": [1, 1.0, null, true], "a": "é\"\u0001\n/<'", "n": 12345678901234567890123}""")]
    [InlineData("{{ v.b|tojson(indent=2) }}", "[\n  1,\n  1.0,\n  null,\n  true\n]")]
    [InlineData("{{ v.b|tojson(separators=(',', ':')) }}", "[1,1.0,null,true]")]
    [InlineData("{{ v.a|tojson(ensure_ascii=true) }}", """
        "\u00e9\"\u0001\n/<'"
        """)]
    [InlineData("{{ {'b': 1, 'a': {}}|tojson(sort_keys=true) }} {{ []|tojson(indent=4) }}", """{"a": {}, "b": 1} []""")]
    public void JsonIsWrittenAsPythonDoes(string template, string expected)
        => Assert.Equal(expected, Chats.Render(template, ("v", Chats.Json("""{"b": [1, 1.0, null, true], "a": "é\"\u0001\n/<'", "n": 12345678901234567890123}"""))));

    [Theory]
    [InlineData("{% for i in l if i != 2 %}{{ loop.index }}{{ loop.last }}{{ i }};{% else %}none{% endfor %}", "1False1;2True3;")]
    [InlineData("{% for i in [] %}x{% else %}none{% endfor %}", "none")]
    [InlineData("{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "<1>2 1<2>3 2<3> ")]
    [InlineData("{% for i in l %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% if i == 3 %}{% break %}{% endif %}{% endfor %}", "13")]
    [InlineData("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1")]
    [InlineData("{% for i in l %}{{ loop.revindex }}{{ loop.cycle('x', 'y') }}{% endfor %}", "3x2y1x")]
    [InlineData("{% for i in [1, [2, [3]]] recursive %}{{ loop(i) if i is iterable else i }}{% endfor %}", "123")]
    public void LoopsFollowJinja(string template, string expected) => Assert.Equal(expected, Chats.Render(template, ("l", new[] { 1, 2, 3 })));

    [Theory]
    // What a loop sets is gone after each turn; only a namespace carries it out. "if" has no scope.
    [InlineData("{% set a = 1 %}{% for i in [1, 2] %}{% set a = a + i %}{{ a }}{% endfor %}{{ a }}", "231")]
    [InlineData("{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "4")]
    [InlineData("{% if true %}{% set a = 1 %}{% endif %}{{ a }}", "1")]
    [InlineData("{% set a %}<{{ 1 }}>{% endset %}{{ a }}{% set b | upper %}x{% endset %}{{ b }}", "<1>X")]
    [InlineData("{% set a, b = 1, [2] %}{{ a }}{{ b }}", "1[2]")]
    [InlineData("{% with a = 1 %}{{ a }}{% endwith %}{{ a }}", "1")]
    [InlineData("{% generation %}{% set a = 1 %}{{ a }}{% endgeneration %}{{ a }}", "1")]
    [InlineData("{% filter upper %}a{{ 'b' }}{% endfilter %}", "AB")]
    public void VariablesHaveScopes(string template, string expected) => Assert.Equal(expected, Chats.Render(template));

    [Theory]
    [InlineData("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=3) }}{{ m() }}", "12132")]
    [InlineData("{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, x=2) }}", "(1,){'x': 2}")]
    [InlineData("{% macro m() %}[{{ caller(5) }}]{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}", "[5]")]
    [InlineData("{% macro f(n) %}{{ n }}{{ f(n - 1) if n else '' }}{% endmacro %}{{ f(3) }}", "3210")]
    [InlineData("{% set j = joiner('-') %}{{ j() }}a{{ j() }}b{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.next() }}", "a-b121")]
    [InlineData("{{ range(4)|list }}{{ range(5, 0, -2)|list }}{{ dict(a=1) }}", "[0, 1, 2, 3][5, 3, 1]{'a': 1}")]
    [InlineData("{{ strftime_now('%d %b %Y, %H:%M, %-d %A') }}", "06 Jul 2024, 15:04, 6 Saturday")]
    public void MacrosAndFunctionsWork(string template, string expected) => Assert.Equal(expected, Chats.Render(template));

    [Theory]
    [InlineData("{{ zz }}|{{ zz|length }}|{{ zz|list }}|{{ zz|upper }}|{{ zz == yy }}|{{ not zz }}|{{ 'a' ~ zz }}", "|0|[]||True|True|a")]
    [InlineData("{% for i in zz %}x{% endfor %}{{ zz is defined }}{{ zz is undefined }}", "FalseTrue")]
    public void UndefinedPrintsNothing(string template, string expected) => Assert.Equal(expected, Chats.Render(template));

    [Theory]
    [InlineData("\n\n{{ zz.a }}", ChatTemplateErrorKind.Undefined, 3, "'zz' is undefined")]
    [InlineData("{{ messages[0].nope.x }}", ChatTemplateErrorKind.Undefined, 1, "'dict object' has no attribute 'nope'")]
    [InlineData("a\n{{ 'a' + zz }}", ChatTemplateErrorKind.Undefined, 2, "'zz' is undefined")]
    [InlineData("{{ 'a' + none }}", ChatTemplateErrorKind.Type, 1, "can only concatenate str (not \"NoneType\") to str")]
    [InlineData("{{ 1 / 0 }}", ChatTemplateErrorKind.Type, 1, "division by zero")]
    [InlineData("{{ [].append(1) }}", ChatTemplateErrorKind.Undefined, 1, "access to attribute 'append' of 'list' object is unsafe")]
    [InlineData("{% for i in 5 %}{% endfor %}", ChatTemplateErrorKind.Type, 1, "'int' object is not iterable")]
    [InlineData("x\n{{ raise_exception('no\nway') }}", ChatTemplateErrorKind.RaisedByTemplate, 2, "no\nway")]
    [InlineData("{% if x %}\n{% for i in y %}\n{% endfor %}\n", ChatTemplateErrorKind.Syntax, 3, "the template ends before '{% endif %}' closes the 'if' of line 1")]
    [InlineData("a\n{% unless x %}", ChatTemplateErrorKind.Syntax, 2, "unknown statement 'unless'")]
    [InlineData("{{ 1 +", ChatTemplateErrorKind.Syntax, 1, "expected an expression, got end of template")]
    [InlineData("{{ x|nope }}", ChatTemplateErrorKind.Syntax, 1, "there is no filter named 'nope'")]
    [InlineData("{{ x|urlize }}", ChatTemplateErrorKind.Syntax, 1, "the filter 'urlize' of Jinja is not supported")]
    [InlineData("{% include 'x' %}", ChatTemplateErrorKind.Syntax, 1, "the statement 'include' is not supported in chat templates")]
    [InlineData("{{ 'a }}", ChatTemplateErrorKind.Syntax, 1, "the string that starts with 'a }} is never closed")]
    [InlineData("{% break %}", ChatTemplateErrorKind.Syntax, 1, "'break' stands outside of a loop")]
    public void ErrorsTellKindLineAndReason(string template, ChatTemplateErrorKind kind, int line, string detail)
    {
        ChatTemplateException error = Chats.Fails(template);
        Assert.Equal((kind, line, detail), (error.Kind, error.Line, error.Detail));
        Assert.StartsWith($"chat template test, line {line}: ", error.Message);
        Assert.DoesNotContain('\n', error.Message);
    }

    [Fact]
    public void IntegersStayExactAndFloatsStayFloats()
    {
        Assert.Equal("9007199254740993 9007199254740992.0 170141183460469231731687303715884105728", Chats.Render(
            "{{ a }} {{ b }} {{ c * 2 }}",
            ("a", Chats.Json("9007199254740993")), ("b", Chats.Json("9007199254740993.0")), ("c", BigInteger.Pow(2, 126))));
        Assert.Equal("True False", Chats.Render("{{ a is integer }} {{ b is integer }}", ("a", Chats.Json("1")), ("b", Chats.Json("1.0"))));
    }
}
