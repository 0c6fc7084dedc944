using System.Globalization;
using Spectre.Console;

namespace Repeng.Cli.Reports;

/// <summary>Numbers and tables in one style.</summary>
public static class Format
{
    /// <summary>With this many digits after the point.</summary>
    public static string Number(double x, int digits = 3) => x.ToString("F" + digits.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);

    /// <summary>With its sign.</summary>
    public static string Signed(double x, int digits = 2) => (x >= 0 ? "+" : "") + Number(x, digits);

    /// <summary>A coefficient: +1, −0.5, 0.</summary>
    public static string Coefficient(double c) => (c > 0 ? "+" : "") + c.ToString("0.######", CultureInfo.InvariantCulture);

    /// <summary>12 s, 3:05 min, 2:10:00 h.</summary>
    public static string Duration(double seconds)
    {
        if (!double.IsFinite(seconds))
            return "?";
        TimeSpan t = TimeSpan.FromSeconds(Math.Max(0, seconds));
        return t.TotalSeconds < 99.5 ? $"{t.TotalSeconds:F0} s" : t.TotalHours < 1 ? $"{(int)t.TotalMinutes}:{t.Seconds:00} min" : $"{(int)t.TotalHours}:{t.Minutes:00}:{t.Seconds:00} h";
    }

    /// <summary>512 B, 12.3 MiB, 4.56 GiB.</summary>
    public static string Bytes(double bytes) => bytes switch
    {
        < 1024 => $"{bytes:F0} B",
        < 1 << 20 => $"{Number(bytes / 1024, 1)} KiB",
        < 1 << 30 => $"{Number(bytes / (1 << 20), 1)} MiB",
        _ => $"{Number(bytes / (1 << 30), 2)} GiB",
    };

    /// <summary>A table; columns that begin with &gt; are set to the right.</summary>
    public static Table Table(params ReadOnlySpan<string> columns)
    {
        var table = new Table { Border = TableBorder.Rounded };
        foreach (string c in columns)
            table.AddColumn(c.StartsWith('>') ? new TableColumn(new Text(c[1..])).RightAligned() : new TableColumn(new Text(c)));
        return table;
    }

    /// <summary>A row of plain texts: nothing in them is taken for markup.</summary>
    public static void Row(this Table table, params string[] cells) => table.AddRow(cells.Select(c => new Text(c)));
}
