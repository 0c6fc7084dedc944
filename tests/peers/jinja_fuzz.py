"""Makes a file of random templates with what Jinja itself makes of them, in the form of jinja-cases.json, for
  REPENG_JINJA_CASES=OUT dotnet tests/Repeng.Runtime.Tests/.../Repeng.Runtime.Tests.dll -method '*EveryTemplateGivesWhatJinjaGives*'
Never needed by CI; needs jinja2 (Debian: python3-jinja2). Usage: python3 tests/peers/jinja_fuzz.py OUT COUNT SEED
Templates whose text depends on an address are left out, and those that docs/chat-templates.md names as different."""
import json, pathlib, random, re, signal, sys, warnings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "Repeng.Runtime.Tests" / "Chat"))
import make_jinja_cases as cases

OUT, COUNT, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
R = random.Random(SEED)
warnings.simplefilter("ignore")

NAMES = ["x", "s", "l", "d", "e", "z", "f", "big", "neg", "t", "people", "q", "ws", "html", "num", "strs", "messages", "u"]
TEXTS = ["", "a", "Ab", "hello world", "  x ", "a,b,c", "é", "ß", "İi", "1", "12.5", "-3", "0x1f", "%s", "{}", "{0}-{1}", "<b>&", "x\\ny", "\\t", "ǆ", "😀", "a b  c", "Titlé case-two", "_", "name", "0", "1e3", "http://a.b/c?d=é f"]
INTS = ["0", "1", "2", "3", "-1", "7", "10", "-5", "100", "1_000", "0x1F", "0b101", "0o17"]
FLOATS = ["0.5", "1.5", "2.5", "-0.25", "1e3", "1.0", "0.1", "2.675", "1e22", "123456.789", "1e-7", "0.0"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "callable", "odd", "even", "lower", "upper", "escaped", "filter", "test"]
TESTS_OF_ONE = ["divisibleby", "sameas", "in", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">="]
ATTRIBUTES = ["name", "age", "tags", "b", "a", "n", "k", "items", "keys", "values", "get", "role", "content", "missing", "0", "real", "imag"]
METHODS = {
    "capitalize": "", "casefold": "", "center": "it?", "count": "t", "endswith": "t", "find": "ti?", "format": "a*", "index": "t", "isalnum": "", "isalpha": "", "isascii": "", "isdecimal": "",
    "isdigit": "", "isidentifier": "", "islower": "", "isnumeric": "", "isspace": "", "isupper": "", "join": "L", "ljust": "it?", "lower": "", "lstrip": "t?", "partition": "t", "removeprefix": "t",
    "removesuffix": "t", "replace": "tti?", "rfind": "t", "rindex": "t", "rjust": "it?", "rpartition": "t", "rsplit": "t?i?", "rstrip": "t?", "split": "t?i?", "splitlines": "b?", "startswith": "t", "strip": "t?", "swapcase": "",
    "title": "", "upper": "", "zfill": "i", "get": "ta?", "items": "", "keys": "", "values": "", "copy": "", "bit_length": "", "is_integer": "",
}
FILTERS = {
    "abs": "", "attr": "A", "batch": "ia?", "capitalize": "", "center": "i?", "count": "", "d": "a?b?", "default": "a?b?", "dictsort": "b?", "e": "", "escape": "", "first": "", "float": "f?", "forceescape": "", "format": "a*",
    "groupby": "A", "indent": "i?b?b?", "int": "i?i?", "items": "", "join": "t?A?", "last": "", "length": "", "list": "", "lower": "", "map": "M", "max": "", "min": "", "reject": "T", "rejectattr": "S", "replace": "tti?",
    "reverse": "", "round": "i?", "safe": "", "select": "T", "selectattr": "S", "slice": "ia?", "sort": "b?b?", "string": "", "sum": "", "title": "", "tojson": "", "trim": "t?", "truncate": "i?b?t?", "unique": "b?", "upper": "",
    "urlencode": "", "wordcount": "", "wordwrap": "i?b?t?",
}
KEYWORDS = {
    "sort": [("reverse", "b"), ("case_sensitive", "b"), ("attribute", "A")], "dictsort": [("by", "K"), ("reverse", "b"), ("case_sensitive", "b")], "unique": [("case_sensitive", "b"), ("attribute", "A")], "max": [("attribute", "A"), ("case_sensitive", "b")],
    "min": [("attribute", "A")], "sum": [("attribute", "A"), ("start", "i")], "map": [("attribute", "A"), ("default", "a")], "groupby": [("default", "a"), ("case_sensitive", "b")], "indent": [("width", "i"), ("first", "b"), ("blank", "b")],
    "truncate": [("length", "i"), ("killwords", "b"), ("end", "t"), ("leeway", "i")], "wordwrap": [("width", "i"), ("break_long_words", "b"), ("wrapstring", "t"), ("break_on_hyphens", "b")], "round": [("precision", "i"), ("method", "m")],
    "tojson": [("indent", "i"), ("ensure_ascii", "b"), ("sort_keys", "b")], "int": [("default", "i"), ("base", "i")], "float": [("default", "f")], "default": [("boolean", "b")], "join": [("attribute", "A"), ("d", "t")], "replace": [("count", "i")], "batch": [("fill_with", "a")],
    "slice": [("fill_with", "a")],
}


def quoted(text):
    return ("'" + text.replace("'", "\\'") + "'") if R.random() < 0.7 else '"' + text.replace('"', '\\"') + '"'


def argument(kind, depth):
    if kind == "i":
        return R.choice(["0", "1", "2", "3", "5", "8", "12", "-1", "20"]) if R.random() < 0.9 else expression(depth - 1)
    if kind == "f":
        return R.choice(FLOATS + INTS)
    if kind == "b":
        return R.choice(["true", "false", "True", "none"])
    if kind == "t":
        return quoted(R.choice(TEXTS)) if R.random() < 0.9 else expression(depth - 1)
    if kind == "A":
        return quoted(R.choice(["name", "age", "tags", "0", "tags.0", "missing", "role", "k", "name,age", ""])) if R.random() < 0.9 else R.choice(["0", "1", "-1"])
    if kind == "K":
        return quoted(R.choice(["key", "value", "other"]))
    if kind == "m":
        return quoted(R.choice(["common", "ceil", "floor", "other"]))
    if kind == "L":
        return R.choice(["strs", "e", "['a','b']", "l", "s", "('p', 'q')", "d"])
    return expression(depth - 1)


def arguments(signature, depth, keywords=()):
    given = []
    for kind, mark in re.findall(r"(.)([?*]?)", signature):
        if mark == "?" and R.random() < 0.5:
            break
        for _ in range(R.randrange(3) if mark == "*" else 1):
            given.append(argument(kind, depth))
    if R.random() < 0.04:
        given.append(expression(depth - 1))
    if keywords and R.random() < 0.4:
        for name, kind in R.sample(list(keywords), R.randrange(1, min(3, len(keywords) + 1))):
            given.append(f"{name}={argument(kind, depth)}")
    return ", ".join(given)


def a_filter(depth):
    name = R.choice(list(FILTERS))
    signature = FILTERS[name]
    if signature == "M":
        if R.random() < 0.5:
            return f"map({arguments('', 0, [('attribute', 'A'), ('default', 'a')]) or 'attribute=' + argument('A', 0)})"
        inner = R.choice([f for f in FILTERS if FILTERS[f] not in ("M", "T", "S")])
        inside = arguments(FILTERS[inner], depth)
        return f"map({quoted(inner)}{', ' + inside if inside else ''})"
    if signature in ("T", "S"):
        given = [argument("A", depth)] if signature == "S" else []
        if R.random() < 0.8:
            if R.random() < 0.5:
                given.append(quoted(R.choice(TESTS)))
            else:
                given += [quoted(R.choice(TESTS_OF_ONE)), argument("a", depth)]
        return f"{name}({', '.join(given)})" if given else name
    inside = arguments(signature, depth, KEYWORDS.get(name, ()))
    return f"{name}({inside})" if inside or R.random() < 0.1 else name


def atom(depth):
    k = R.random()
    if k < 0.45:
        return R.choice(NAMES)
    if k < 0.6:
        return quoted(R.choice(TEXTS))
    if k < 0.7:
        return R.choice(INTS)
    if k < 0.77:
        return R.choice(FLOATS)
    if k < 0.82:
        return R.choice(["true", "false", "none", "True", "None"])
    if depth <= 0:
        return R.choice(NAMES)
    if k < 0.9:
        return "[" + ", ".join(expression(depth - 1) for _ in range(R.randrange(4))) + "]"
    if k < 0.93:
        return "(" + ", ".join(expression(depth - 1) for _ in range(R.randrange(2, 4))) + ")"
    if k < 0.97:
        return "{" + ", ".join(f"{quoted(R.choice(TEXTS)) if R.random() < 0.8 else R.choice(INTS)}: {expression(depth - 1)}" for _ in range(R.randrange(3))) + "}"
    return R.choice([f"range({R.randrange(6)})", f"range({R.randrange(3)}, {R.randrange(8)}, {R.choice(['1', '2', '-1'])})", "dict(a=1, b=x)", "namespace(a=l).a", "cycler(1, 'b').next()"])


def expression(depth):
    if depth <= 0:
        return atom(0)
    k = R.random()
    if k < 0.12:
        return atom(depth)
    if k < 0.5:
        return f"{postfix(depth)}|{a_filter(depth)}" if R.random() < 0.8 else f"({expression(depth - 1)})|{a_filter(depth)}|{a_filter(depth)}"
    if k < 0.68:
        return postfix(depth)
    if k < 0.8:
        return f"{expression(depth - 1)} {R.choice(['+', '-', '*', '/', '//', '%', '~', '~', '+', '==', '!=', '<', '<=', '>', '>=', 'in', 'not in', 'and', 'or'])} {expression(depth - 1)}"
    if k < 0.84:
        return f"{R.choice(['not ', '-', '+', ''])}{postfix(depth)}"
    if k < 0.95:
        negated = R.choice(["is", "is", "is not"])
        if R.random() < 0.6:
            return f"{postfix(depth)} {negated} {R.choice(TESTS)}"
        return f"{postfix(depth)} {negated} {R.choice([n for n in TESTS_OF_ONE if n.isalpha()])}({expression(depth - 1)})"
    if k < 0.98:
        return f"{expression(depth - 1)} if {expression(depth - 1)}" + (f" else {expression(depth - 1)}" if R.random() < 0.8 else "")
    return f"({expression(depth - 1)}) < {expression(depth - 1)} <= {expression(depth - 1)}"


def postfix(depth):
    base = atom(depth)
    # Slicing a number that is a constant is folded into "undefined" (docs/chat-templates.md).
    if re.match(r"[-\d(]|true|false|none|True|None|\[|\{", base):
        return base
    for _ in range(R.choice([0, 0, 1, 1, 2])):
        k = R.random()
        if k < 0.2:
            base += "." + R.choice(ATTRIBUTES)
        elif k < 0.35:
            base += f"[{R.choice(['0', '1', '-1', '5', quoted(R.choice(ATTRIBUTES))]) if R.random() < 0.8 else expression(depth - 1)}]"
        elif k < 0.5 and base[0] not in "tf":
            base += f"[{R.choice(['', '1', '-2', '0', '3'])}:{R.choice(['', '2', '-1', '9'])}{R.choice(['', '', ':', ':2', ':-1', ':0'])}]"
        else:
            name = R.choice(list(METHODS))
            base += f".{name}({arguments(METHODS[name], depth)})"
    return base


def text():
    return R.choice(["", " ", "a", "\n", "  \n", " b ", "\n\n", "x\n  ", "\t", "é", "{", "}", "#", "%"])


def tag(body):
    return "{%" + R.choice(["", "", "-", "+"]) + f" {body} " + R.choice(["", "", "-", "+"]) + "%}"


def output(depth):
    return "{{" + R.choice(["", "", "-"]) + f" {expression(depth)} " + R.choice(["", "", "-"]) + "}}"


def body(depth):
    return "".join(text() + statement(depth) for _ in range(R.randrange(1, 3))) + text()


def statement(depth):
    k = R.random()
    if depth <= 0 or k < 0.4:
        return output(2)
    if k < 0.5:
        return tag(f"if {expression(2)}") + body(depth - 1) + (tag(f"elif {expression(1)}") + body(depth - 1) if R.random() < 0.3 else "") + (tag("else") + body(depth - 1) if R.random() < 0.5 else "") + tag("endif")
    if k < 0.68:
        target, over = R.choice([("i", expression(2)), ("i", R.choice(["l", "s", "people", "strs", "messages", "range(3)", "d", "e"])), ("k, v", R.choice(["d.items()", "d|items", "d|dictsort", "people|groupby('age')", "[(1, 2), (3, 4)]"]))])
        condition = f" if {R.choice(['i', 'loop', 'k', expression(1)])}" if R.random() < 0.2 else ""
        inside = R.choice(["{{ loop.index }}", "{{ loop.index0 }}/{{ loop.length }}", "{{ loop.first }}{{ loop.last }}", "{{ loop.revindex }}", "{{ loop.previtem }}", "{{ loop.nextitem is defined }}", "{{ loop.cycle('a', 'b') }}",
                           "{{ loop.changed(i) }}", "{{ loop.depth0 }}", "{{ i }}", "{{ i|string|upper }}", "{{ k }}={{ v }}", "{% if loop.index > 1 %}{% break %}{% endif %}", "{% if loop.first %}{% continue %}{% endif %}x"])
        return tag(f"for {target} in {over}{condition}") + text() + inside + body(depth - 1) + (tag("else") + body(depth - 1) if R.random() < 0.3 else "") + tag("endfor")
    if k < 0.76:
        return tag(f"set {R.choice(['x', 'y', 's', 'a'])} = {expression(2)}") + text() + R.choice(["{{ y }}", "{{ a }}", "{{ x }}"])
    if k < 0.8:
        return tag("set ns = namespace(n=1, m=s)") + "{% for i in [1, 2] %}" + tag(f"set ns.n = {R.choice(['ns.n + i', expression(1)])}") + "{% endfor %}{{ ns.n }}{{ ns.m }}"
    if k < 0.85:
        return tag("set block" + ("" if R.random() < 0.5 else f" | {a_filter(1)}")) + body(depth - 1) + tag("endset") + "{{ block }}{{ block is string }}"
    if k < 0.91:
        return tag("macro m(a, b=" + expression(1) + ")") + R.choice(["{{ a }}", "{{ b }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller is defined }}", "{{ m.name }}{{ m.arguments }}"]) + body(depth - 1) + tag("endmacro") + "{{ m(" + R.choice(["", "1", "1, 2", "b=3", "a=s", "1, 2, 3", "c=1", "*l", "**d"]) + ") }}"
    if k < 0.95:
        return tag(f"filter {a_filter(1)}") + body(depth - 1) + tag("endfilter")
    if k < 0.98:
        return tag(f"with a={expression(2)}, x={expression(1)}") + "{{ a }}{{ x }}" + body(depth - 1) + tag("endwith")
    return tag("raw") + text() + "{{ x }}" + text() + tag("endraw")


class Slow(Exception):
    pass


def alarm(*_):
    raise Slow()


def main():
    environment = cases.jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[cases.Generation, cases.jinja2.ext.loopcontrols])
    environment.filters["tojson"] = cases.tojson
    environment.globals.update(raise_exception=cases.raise_exception, strftime_now=cases.NOW.strftime)
    data = json.loads(cases.PATH.read_text(encoding="utf-8"))
    signal.signal(signal.SIGALRM, alarm)
    rows, seen = [], set()
    while len(rows) < COUNT:
        template = "[" + (output(3) if R.random() < 0.6 else body(2)) + "]"
        if template in seen or len(template) > 600:
            continue
        seen.add(template)
        # Jinja's values are changed by nobody, but a template may hold on to them.
        variables = json.loads(json.dumps(dict(data["variables"], messages=data["messages"])))
        signal.setitimer(signal.ITIMER_REAL, 1)
        try:
            made, error = cases.render(environment, template, dict(variables, tools=None, documents=None, add_generation_prompt=False))
        except Slow:
            continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if made is not None and (re.search(r"( |%20)at( |%20)0x|object at|reversed object|<(function|class|built-in|method|bound|Macro|Undefined)", made, re.I) or len(made) > 20000):
            continue
        rows.append(json.dumps([template, made, error]))
    head = {"jinja": cases.jinja2.__version__, "now": cases.NOW.isoformat(), "messages": data["messages"], "variables": data["variables"]}
    pathlib.Path(OUT).write_text(json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")
    print(f"{len(rows)} templates, {sum('null]' not in r for r in rows)} of them errors")


main()
