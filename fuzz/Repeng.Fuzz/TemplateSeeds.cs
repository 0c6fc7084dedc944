namespace Repeng.Fuzz;

/// <summary>Chat templates that use all of the language.</summary>
internal static class TemplateSeeds
{
    public static IReadOnlyList<string> All { get; } =
    [
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "{{- bos_token }}\n{%- set ns = namespace(i=0, found=false) %}\n{%- for m in messages[::-1] %}\n    {%- if m.role == 'user' and not ns.found %}{% set ns.found = true %}{%- set ns.i = loop.index0 %}{% endif %}\n{%- else %}none{%- endfor %}\n{%- macro show(x, y='z') -%}[{{ x | trim | upper }}:{{ y }}]{%- endmacro %}\n{{- show(messages[0].content, y=ns.i) }}",
        "{%- for message in messages %}{%- if message.content is string and '</think>' in message.content %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}{%- elif loop.last %}{{ message | tojson(indent=2) }}{% else %}{{ loop.index ~ '/' ~ loop.length }}{% endif %}{% endfor %}",
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}{{ strftime_now('%d %b %Y') }}{{ [1, 2.5, none, true, {'a': (1,)}] | tojson }}{{ range(3) | list | join(', ') }}{{ 7 // 2 * 3 % 4 ** 2 - -1 }}",
        "{% set items = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list %}{{ items | length }}{{ items | first | default('none', true) | replace('h', 'j') | indent(4) }}{% generation %}{{ items[-1][1:3] }}{% endgeneration %}{{ 'a' if items is defined and items is iterable else 'b' }}",
        "{%- set x = dict(a=1, **{'b': 2}) if false else {'b': 2} -%}{% for k, v in x | dictsort %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %}{% filter upper %}abc{% endfilter %}{# note #}{% raw %}{{ x }}{% endraw %}{{ '%s-%03d' | format('q', 7) }}{{ 'x{0}'.format(3) }}",
    ];

    public static IReadOnlyList<string> Words { get; } =
    [
        "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{#", "#}", "for x in ", "endfor", "if ", "elif ", "else", "endif", "set x = ", "endset", "macro f(a, b=1)", "endmacro", "call f()", "endcall", "filter upper", "endfilter",
        "namespace(x=0)", "messages", "messages[0]", ".content", "['role']", "loop.index", "loop.last", "loop.cycle('a','b')", "recursive", "is defined", "is string", "is not none", " | tojson", " | trim", " | join(', ')", " | sort", " | reverse",
        " | batch(2)", " | slice(3)", " | map('upper')", " | groupby('role')", " | sum", " | list", "[::-1]", "[1:]", " ~ ", " ** ", " // ", "not ", " and ", " or ", " in ", "raise_exception('x')", "strftime_now('%Y')", "range(10)", "range(1000000000)", "'a' * 1000000", "(1, 2)", "{'a': 1}", ".split()", ".strip()", ".items()", "break", "continue", "generation", "endgeneration", "do ", "lipsum", "cycler('a')", "joiner()",
    ];
}
