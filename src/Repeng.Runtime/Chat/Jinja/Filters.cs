using System.Collections.Frozen;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>What can stand behind <c>|</c>: the table of filters.</summary>
internal static class Filters
{
    private delegate object? Filter(Renderer r, object? value, CallArguments arguments);

    private static readonly FrozenDictionary<string, Filter> s_filters = new Dictionary<string, Filter>
    {
        ["tojson"] = JsonText.Filter,
        ["trim"] = TextFilters.Trim,
        ["upper"] = (r, v, a) => TextFilters.Mapped(r, v, a, "upper", PyCase.Upper),
        ["lower"] = (r, v, a) => TextFilters.Mapped(r, v, a, "lower", PyCase.Lower),
        ["capitalize"] = (r, v, a) => TextFilters.Mapped(r, v, a, "capitalize", PyCase.Capitalize),
        ["title"] = TextFilters.Title,
        ["replace"] = TextFilters.Replace,
        ["indent"] = TextFilters.Indent,
        ["center"] = TextFilters.Center,
        ["truncate"] = TextFilters.Truncate,
        ["wordcount"] = TextFilters.WordCount,
        ["wordwrap"] = WordWrap.Filter,
        ["urlencode"] = UrlText.Filter,
        ["string"] = (r, v, a) => NoArguments(a, "string", v is Markup ? v : PyText.Str(r, v)),
        ["safe"] = (r, v, a) => NoArguments(a, "safe", v is Markup ? v : new Markup(PyText.Str(r, v))),
        ["escape"] = TextFilters.Escape,
        ["e"] = TextFilters.Escape,
        ["forceescape"] = (r, v, a) => NoArguments(a, "forceescape", new Markup(MarkupText.Escape(r, v is Markup m ? m.Text : v))),
        ["format"] = TextFilters.Format,
        ["int"] = NumberFilters.Int,
        ["float"] = NumberFilters.Float,
        ["abs"] = NumberFilters.Abs,
        ["round"] = NumberFilters.Round,
        ["default"] = Default,
        ["d"] = Default,
        ["attr"] = Attribute,
        ["length"] = Length,
        ["count"] = Length,
        ["list"] = (r, v, a) => NoArguments(a, "list", new PyList(Iteration.ToList(r, v))),
        ["first"] = SequenceFilters.First,
        ["last"] = SequenceFilters.Last,
        ["reverse"] = SequenceFilters.Reverse,
        ["join"] = SequenceFilters.Join,
        ["map"] = SequenceFilters.Map,
        ["select"] = (r, v, a) => SequenceFilters.Select(r, v, a, byAttribute: false, keep: true),
        ["reject"] = (r, v, a) => SequenceFilters.Select(r, v, a, byAttribute: false, keep: false),
        ["selectattr"] = (r, v, a) => SequenceFilters.Select(r, v, a, byAttribute: true, keep: true),
        ["rejectattr"] = (r, v, a) => SequenceFilters.Select(r, v, a, byAttribute: true, keep: false),
        ["sort"] = SequenceFilters.Sort,
        ["dictsort"] = SequenceFilters.DictSort,
        ["unique"] = SequenceFilters.Unique,
        ["groupby"] = SequenceFilters.GroupBy,
        ["items"] = SequenceFilters.Items,
        ["min"] = (r, v, a) => SequenceFilters.Extreme(r, v, a, "min", wantLarger: false),
        ["max"] = (r, v, a) => SequenceFilters.Extreme(r, v, a, "max", wantLarger: true),
        ["sum"] = SequenceFilters.Sum,
        ["batch"] = SequenceFilters.Batch,
        ["slice"] = SequenceFilters.Slice,
    }.ToFrozenDictionary();

    // Filters of Jinja that no chat template needs: most make HTML, one draws lots, one prints for the eye.
    private static readonly FrozenSet<string> s_unsupported = new[]
    {
        "filesizeformat", "pprint", "random", "striptags", "urlize", "xmlattr",
    }.ToFrozenSet();

    public static bool Exists(string name) => s_filters.ContainsKey(name);

    public static object? Apply(Renderer r, string name, object? value, CallArguments arguments)
    {
        if (s_filters.TryGetValue(name, out Filter? filter))
            return filter(r, value, arguments);
        throw new Fault(ChatTemplateErrorKind.Syntax,
            s_unsupported.Contains(name) ? $"the filter '{name}' of Jinja is not supported" : $"there is no filter named '{name}'");
    }

    private static object? NoArguments(CallArguments a, string name, object? result)
    {
        a.Bind(name, 0);
        return result;
    }

    private static object? Default(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("default", 0, "default_value", "boolean");
        bool replace = value is Undefined || (Operators.Truth(CallArguments.Or(b[1], false)) && !Operators.Truth(value));
        return replace ? CallArguments.Or(b[0], "") : value;
    }

    private static object? Attribute(Renderer r, object? value, CallArguments a)
    {
        string name = a.Bind("attr", 1, "name")[0] as string ?? throw Fault.Type("attr: the name must be a text");
        // Unlike value.name this does not fall back to the items of a dict.
        return value is PyDict dict
            ? CollectionMethods.OfDict(dict, name) is var member && ReferenceEquals(member, Access.NotFound) ? Undefined.Member(value, name) : member
            : Access.Attribute(r, value, name);
    }

    private static object? Length(Renderer r, object? value, CallArguments a)
    {
        a.Bind("length", 0);
        if (value is LoopState loop && loop.TryGet("length", out object? length))
            return length;
        return (long)(Iteration.KnownLength(r, value) ?? throw Fault.Type($"object of type '{TypeNames.Of(value)}' has no len()"));
    }
}
