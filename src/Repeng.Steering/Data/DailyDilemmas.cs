using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Data;

/// <summary>
/// Reads the public Daily Dilemmas data set (Chiu et al. 2025) as CSV or JSON lines: two rows a dilemma with the same
/// dilemma_idx, one with action_type to_do and one with not_to_do, each with dilemma_situation, action and
/// values_aggregated (a list, also as Python writes it: "['trust', 'care']"). Each row becomes a dilemma whose labels are
/// +1 for its own values and −1 for those of the other row; values of both rows cancel and are left out. That is the
/// data set's own label (+1 per to_do value, −1 per not_to_do value), told from the side of the row's action.
/// </summary>
public static class DailyDilemmas
{
    private static readonly string[] s_fields = ["dilemma_idx", "action_type", "dilemma_situation", "action", "values_aggregated"];


    private sealed record Row(int Line, string Dilemma, string Type, string Situation, string Action, string[] Values);

    /// <summary>Reads a .csv, .jsonl or .json (lines) file; the order of the rows stays.</summary>
    /// <exception cref="UserErrorException">The file is missing, a field of a row is missing or wrong (with the line's number), or a dilemma has not one row of each type.</exception>
    public static IReadOnlyList<Dilemma> Load(string path)
    {
        if (!File.Exists(path))
            throw new UserErrorException($"{path}: no such file; give the Daily Dilemmas test split as CSV or JSON lines");
        List<Row> rows = [.. (Path.GetExtension(path).Equals(".csv", StringComparison.OrdinalIgnoreCase) ? FromCsv(path) : FromJsonLines(path)).Select(r => Read(path, r.Line, r.Field))];
        if (rows.Count == 0)
            throw new UserErrorException($"{path}: no dilemma in the file");
        var pairs = new Dictionary<string, (Row? Do, Row? Leave)>(StringComparer.Ordinal);
        foreach (Row row in rows)
        {
            (Row? act, Row? leave) = pairs.GetValueOrDefault(row.Dilemma);
            if ((row.Type == "to_do" ? act : leave) is { } first)
                throw new UserErrorException($"{path}, line {row.Line}: dilemma {row.Dilemma} has a second row of type {row.Type}, the first is in line {first.Line}");
            pairs[row.Dilemma] = row.Type == "to_do" ? (row, leave) : (act, row);
        }
        return [.. rows.Select(row =>
        {
            (Row? act, Row? leave) = pairs[row.Dilemma];
            Row other = (row.Type == "to_do" ? leave : act) ?? throw new UserErrorException($"{path}, line {row.Line}: dilemma {row.Dilemma} has a row of type {row.Type} and none of the other type");
            var labels = new Dictionary<string, double>(StringComparer.Ordinal);
            foreach (string v in row.Values.Except(other.Values))
                labels[v] = 1;
            foreach (string v in other.Values.Except(row.Values))
                labels[v] = -1;
            return new Dilemma($"{row.Dilemma}/{row.Type}", row.Situation, row.Action, labels);
        })];
    }

    private static Row Read(string path, int line, Func<string, string?> field)
    {
        string[] texts = [.. s_fields.Select(f => field(f)?.Trim() is { Length: > 0 } text
            ? text
            : throw new UserErrorException($"{path}, line {line}: the field '{f}' is missing or empty; needed are {string.Join(", ", s_fields)}"))];
        if (texts[1] is not ("to_do" or "not_to_do"))
            throw new UserErrorException($"{path}, line {line}: action_type is '{texts[1]}', needed is to_do or not_to_do");
        return new Row(line, texts[0], texts[1], texts[2], texts[3], [.. List(texts[4], $"{path}, line {line}").Select(v => v.Trim().ToLowerInvariant()).Where(v => v.Length > 0).Distinct()]);
    }

    // ["a", "b"] of JSON or ['a', "b's"] as Python writes it, whose backslashes keep the next character.
    private static List<string> List(string text, string where)
    {
        if (JsonList(text) is { } json)
            return json;
        UserErrorException wrong = new($"{where}: values_aggregated is no list of texts: {(text.Length > 80 ? text[..80] + "…" : text)}");
        var items = new List<string>();
        if (text.Length < 2 || text[0] != '[' || text[^1] != ']')
            throw wrong;
        bool comma = true;
        for (int i = 1; i < text.Length - 1; i++)
        {
            if (char.IsWhiteSpace(text[i]))
                continue;
            if (text[i] == ',' && !comma)
            {
                comma = true;
                continue;
            }
            if (!comma || text[i] is not ('\'' or '"'))
                throw wrong;
            char quote = text[i++];
            var item = new StringBuilder();
            for (; i < text.Length - 1 && text[i] != quote; i++)
                item.Append(text[i] == '\\' && i + 1 < text.Length - 1 ? text[++i] : text[i]);
            if (i >= text.Length - 1)
                throw wrong;
            items.Add(item.ToString());
            comma = false;
        }
        return items;
    }

    private static List<string>? JsonList(string text)
    {
        try
        {
            return JsonSerializer.Deserialize(text, SteeringJson.Default.ListString) is { } list && list.TrueForAll(v => v is not null) ? [.. list.OfType<string>()] : null;
        }
        catch (JsonException)
        {
            // Python's form, or none at all: the caller tells.
            return null;
        }
    }

    private static IEnumerable<(int Line, Func<string, string?> Field)> FromJsonLines(string path)
    {
        int number = 0;
        foreach (string line in File.ReadLines(path))
        {
            int at = ++number;
            if (line.Trim().Length == 0)
                continue;
            JsonObject json = Parsed(line, $"{path}, line {at}");
            yield return (at, f => json[f] switch { null => null, JsonValue v when v.TryGetValue(out string? s) => s, { } node => node.ToJsonString() });
        }
    }

    private static JsonObject Parsed(string line, string where)
    {
        const string Advice = "give JSON lines, or CSV in a file that ends in .csv";
        try
        {
            return JsonFile.Parse(Encoding.UTF8.GetBytes(line), where) as JsonObject ?? throw new UserErrorException($"{where}: a JSON object is needed; {Advice}");
        }
        catch (UserErrorException e) when (e.InnerException is JsonException)
        {
            throw new UserErrorException($"{where}: no JSON ({JsonFile.WithoutPosition((JsonException)e.InnerException)}); {Advice}", e);
        }
    }

    private static IEnumerable<(int Line, Func<string, string?> Field)> FromCsv(string path)
    {
        string[]? header = null;
        foreach ((int line, string[] cells) in Cells(path, File.ReadAllText(path)))
        {
            if (header is null)
            {
                header = cells;
                if (s_fields.FirstOrDefault(f => !cells.Contains(f)) is { } missing)
                    throw new UserErrorException($"{path}, line {line}: the column '{missing}' is missing; needed are {string.Join(", ", s_fields)}, found {string.Join(", ", cells)}");
                continue;
            }
            if (cells.Length != header.Length)
                throw new UserErrorException($"{path}, line {line}: {cells.Length} cells, the header has {header.Length}");
            string[] names = header;
            yield return (line, f => cells[Array.IndexOf(names, f)]);
        }
    }

    // RFC 4180: cells in quotes may hold commas, line ends and doubled quotes. A row is named by the line that it begins in.
    private static IEnumerable<(int Line, string[] Cells)> Cells(string path, string text)
    {
        var cells = new List<string>();
        var cell = new StringBuilder();
        bool quoted = false;
        int line = 1, begin = 1;
        for (int i = 0; i < text.Length; i++)
        {
            char ch = text[i];
            if (ch == '\n')
                line++;
            if (quoted)
            {
                if (ch != '"')
                    cell.Append(ch);
                else if (i + 1 < text.Length && text[i + 1] == '"')
                    cell.Append(text[i++]);
                else
                    quoted = false;
            }
            else if (ch == '"' && cell.Length == 0)
                quoted = true;
            else if (ch == ',')
                Next();
            else if (ch == '\n')
            {
                Next();
                if (cells.Count > 1 || cells[0].Length > 0)
                    yield return (begin, [.. cells]);
                cells.Clear();
                begin = line;
            }
            else if (ch != '\r')
                cell.Append(ch);
        }
        if (quoted)
            throw new UserErrorException($"{path}, line {begin}: a quote is opened and never closed");
        if (cell.Length > 0 || cells.Count > 0)
        {
            Next();
            yield return (begin, [.. cells]);
        }

        void Next()
        {
            cells.Add(cell.ToString());
            cell.Clear();
        }
    }
}
