using System.Globalization;
using System.Text;

namespace Repeng.Kernels;

/// <summary>
/// A mistake that the person who runs the program can mend: a bad file, option, shape or text.
/// The message says what is wrong, where, with the numbers, and what to do next; it is shown without a stack trace. It is one
/// line whatever was quoted in it: control characters, which a damaged file may have anywhere and a terminal would obey, are
/// written out (\n, \u001B).
/// </summary>
public class UserErrorException(string message, Exception? inner = null) : Exception(OneLine(message), inner)
{
    private static string OneLine(string message)
    {
        if (!message.Any(Breaks))
            return message;
        var text = new StringBuilder(message.Length + 16);
        foreach (char c in message)
            _ = !Breaks(c) ? text.Append(c) : c switch
            {
                '\n' => text.Append("\\n"),
                '\r' => text.Append("\\r"),
                '\t' => text.Append("\\t"),
                _ => text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:X4}"),
            };
        return text.ToString();
    }

    private static bool Breaks(char c) => char.IsControl(c) || c is '\u2028' or '\u2029';
}
