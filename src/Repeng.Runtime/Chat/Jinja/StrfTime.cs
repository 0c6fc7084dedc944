using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Dates by the directives of C's <c>strftime</c>, with English names.</summary>
internal static class StrfTime
{
    private static readonly CultureInfo s_names = CultureInfo.InvariantCulture;

    public static string Format(Renderer r, DateTime now, string format)
    {
        var result = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            r.Step();
            r.CheckTextLength(result.Length);
            if (format[i] != '%' || i + 1 == format.Length)
            {
                result.Append(format[i]);
                continue;
            }
            char directive = format[++i];
            // "%-d" is glibc's way to leave the zero in front away.
            bool bare = directive == '-' && i + 1 < format.Length;
            if (bare)
                directive = format[++i];
            string text = Directive(now, directive) ?? throw Fault.Type($"strftime_now: the directive '%{directive}' is not supported");
            result.Append(bare && text.Length > 1 ? Bare(text) : text);
        }
        return result.ToString();
    }

    private static string Bare(string text)
    {
        string stripped = text.TrimStart('0', ' ');
        return stripped.Length == 0 ? "0" : stripped;
    }

    private static string? Directive(DateTime t, char directive) => directive switch
    {
        'Y' => t.ToString("yyyy", s_names),
        'y' => t.ToString("yy", s_names),
        'm' => t.ToString("MM", s_names),
        'd' => t.ToString("dd", s_names),
        'e' => t.Day.ToString(s_names).PadLeft(2),
        'B' => t.ToString("MMMM", s_names),
        'b' or 'h' => t.ToString("MMM", s_names),
        'A' => t.ToString("dddd", s_names),
        'a' => t.ToString("ddd", s_names),
        'H' => t.ToString("HH", s_names),
        'I' => t.ToString("hh", s_names),
        'M' => t.ToString("mm", s_names),
        'S' => t.ToString("ss", s_names),
        'f' => t.ToString("ffffff", s_names),
        'p' => t.Hour < 12 ? "AM" : "PM",
        'j' => t.DayOfYear.ToString("000", s_names),
        'u' => ((((int)t.DayOfWeek + 6) % 7) + 1).ToString(s_names),
        'w' => ((int)t.DayOfWeek).ToString(s_names),
        'U' => ((t.DayOfYear + 6 - (int)t.DayOfWeek) / 7).ToString("00", s_names),
        'W' => ((t.DayOfYear + 6 - (((int)t.DayOfWeek + 6) % 7)) / 7).ToString("00", s_names),
        'G' => ISOWeek.GetYear(t).ToString("0000", s_names),
        'V' => ISOWeek.GetWeekOfYear(t).ToString("00", s_names),
        'D' or 'x' => t.ToString("MM'/'dd'/'yy", s_names),
        'F' => t.ToString("yyyy-MM-dd", s_names),
        'T' or 'X' => t.ToString("HH:mm:ss", s_names),
        'R' => t.ToString("HH:mm", s_names),
        'c' => t.ToString("ddd MMM ", s_names) + t.Day.ToString(s_names).PadLeft(2) + t.ToString(" HH:mm:ss yyyy", s_names),
        // The moment is a plain local time, for which Python prints no zone.
        'Z' or 'z' => "",
        'n' => "\n",
        't' => "\t",
        '%' => "%",
        _ => null,
    };
}
