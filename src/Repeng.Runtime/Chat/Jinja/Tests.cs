using System.Collections.Frozen;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>What can stand behind <c>is</c>.</summary>
internal static class Tests
{
    private delegate bool Test(Renderer r, object? value, CallArguments arguments);

    private static readonly FrozenDictionary<string, Test> s_tests = new Dictionary<string, Test>
    {
        ["defined"] = (_, v, _) => v is not Undefined,
        ["undefined"] = (_, v, _) => v is Undefined,
        ["none"] = (_, v, _) => v is null,
        ["string"] = (_, v, _) => v is string or Markup,
        ["mapping"] = (_, v, _) => v is PyDict,
        ["iterable"] = (_, v, _) => Iteration.IsIterable(v) || v is LoopState,
        // What has a length and can be indexed; an undefined value has both in Jinja's eyes.
        ["sequence"] = (_, v, _) => v is string or Markup or PySequence or PyDict or Undefined,
        ["number"] = (_, v, _) => PyNumber.Is(v),
        ["integer"] = (_, v, _) => PyNumber.IsInteger(v) && v is not bool,
        ["float"] = (_, v, _) => v is double,
        ["boolean"] = (_, v, _) => v is bool,
        ["true"] = (_, v, _) => v is true,
        ["false"] = (_, v, _) => v is false,
        ["callable"] = (_, v, _) => v is ICallable or Undefined,
        ["odd"] = (_, v, _) => Remainder(v, 2L) is 1L or 1.0,
        ["even"] = (_, v, _) => Remainder(v, 2L) is 0L or 0.0,
        ["divisibleby"] = (_, v, a) => !Operators.Truth(Remainder(v, a.Bind("divisibleby", 1, "num")[0])),
        ["lower"] = (r, v, _) => StringMethods.IsCase(r, PyText.Str(r, v), upper: false),
        ["upper"] = (r, v, _) => StringMethods.IsCase(r, PyText.Str(r, v), upper: true),
        ["escaped"] = (_, v, _) => v is Markup,
        ["sameas"] = (_, v, a) => Same(v, a.Bind("sameas", 1, "other")[0]),
        ["in"] = (r, v, a) => Operators.Contains(r, a.Bind("in", 1, "seq")[0], v),
        ["filter"] = (_, v, _) => Name(v) is { } name && Filters.Exists(name),
        ["test"] = (_, v, _) => Name(v) is { } name && Exists(name),
        ["=="] = (r, v, a) => Compare.Holds(r, Comparison.Equal, v, Other(a)),
        ["eq"] = (r, v, a) => Compare.Holds(r, Comparison.Equal, v, Other(a)),
        ["equalto"] = (r, v, a) => Compare.Holds(r, Comparison.Equal, v, Other(a)),
        ["!="] = (r, v, a) => Compare.Holds(r, Comparison.NotEqual, v, Other(a)),
        ["ne"] = (r, v, a) => Compare.Holds(r, Comparison.NotEqual, v, Other(a)),
        ["<"] = (r, v, a) => Compare.Holds(r, Comparison.Less, v, Other(a)),
        ["lt"] = (r, v, a) => Compare.Holds(r, Comparison.Less, v, Other(a)),
        ["lessthan"] = (r, v, a) => Compare.Holds(r, Comparison.Less, v, Other(a)),
        ["<="] = (r, v, a) => Compare.Holds(r, Comparison.LessEqual, v, Other(a)),
        ["le"] = (r, v, a) => Compare.Holds(r, Comparison.LessEqual, v, Other(a)),
        [">"] = (r, v, a) => Compare.Holds(r, Comparison.Greater, v, Other(a)),
        ["gt"] = (r, v, a) => Compare.Holds(r, Comparison.Greater, v, Other(a)),
        ["greaterthan"] = (r, v, a) => Compare.Holds(r, Comparison.Greater, v, Other(a)),
        [">="] = (r, v, a) => Compare.Holds(r, Comparison.GreaterEqual, v, Other(a)),
        ["ge"] = (r, v, a) => Compare.Holds(r, Comparison.GreaterEqual, v, Other(a)),
    }.ToFrozenDictionary();

    public static bool Exists(string name) => s_tests.ContainsKey(name);

    public static bool Holds(Renderer r, string name, object? value, CallArguments arguments)
        => s_tests.TryGetValue(name, out Test? test)
            ? test(r, value, arguments)
            : throw new Fault(ChatTemplateErrorKind.Syntax, $"there is no test named '{name}'");

    // Jinja looks the value up in a dict, which lists and dicts cannot be in.
    private static string? Name(object? value) => value switch
    {
        string name => name,
        Markup markup => markup.Text,
        PyList or PyDict => throw Fault.Type($"unhashable type: '{TypeNames.Of(value)}'"),
        _ => null,
    };

    private static object? Other(CallArguments a) => a.Bind("the test", 1, "/other")[0];

    private static object? Remainder(object? value, object? by)
    {
        // "text is odd" would format the text in Python and compare the result with 1; either way the answer is an error or no.
        if (value is string or Markup)
            throw Fault.Type("not all arguments converted during string formatting");
        if (value is Undefined undefined)
            throw undefined.Error();
        if (!PyNumber.Is(value) || !PyNumber.Is(by))
            throw Fault.Type($"unsupported operand type(s) for %: '{TypeNames.Of(value)}' and '{TypeNames.Of(by)}'");
        return PyNumber.Modulo(value!, by!);
    }

    // Identity: None, booleans and equal small values are one object in Python, too.
    private static bool Same(object? a, object? b) => (a, b) switch
    {
        (null, null) => true,
        (bool x, bool y) => x == y,
        (long x, long y) => x == y,
        (string x, string y) => x == y,
        _ => ReferenceEquals(a, b),
    };
}
