using System.Text;
using Repeng.Runtime.Formats;

namespace Repeng.Cli.Reports;

/// <summary>A point with its standard error.</summary>
public readonly record struct CurvePoint(double X, double Y, double Error);

/// <summary>Points that belong together, by rising x.</summary>
public sealed record Curve(string Name, IReadOnlyList<CurvePoint> Points);

/// <summary>Dose-response curves as text and as a picture.</summary>
public static class Plots
{
    private const string Marks = "●▲■◆○△□◇";

    private const int Width = 900, Height = 560, LabelSize = 13, LineHeight = 18;

    // More ticks than this would write over each other.
    private const int MostTicks = 12;

    // A curve with more points than this is computed, not measured, and has a line alone.
    private const int MostMarks = 40;

    /// <summary>Lines of text; markers at the points, dots between them.</summary>
    public static string Text(IReadOnlyList<Curve> curves, string yTitle, string xTitle, int width = 61, int height = 13)
    {
        CurvePoint[] all = [.. curves.SelectMany(c => c.Points)];
        if (all.Length == 0)
            return "";
        double x0 = all.Min(p => p.X), x1 = all.Max(p => p.X), y0 = Math.Min(0, all.Min(p => p.Y)), y1 = Math.Max(0, all.Max(p => p.Y));
        (x1, y1) = (x1 > x0 ? x1 : x0 + 1, y1 > y0 ? y1 : y0 + 1);
        var canvas = new char[height, width];
        for (int r = 0; r < height; r++)
            for (int c = 0; c < width; c++)
                canvas[r, c] = r == Row(0) ? '─' : ' ';
        for (int k = 0; k < curves.Count; k++)
        {
            IReadOnlyList<CurvePoint> points = curves[k].Points;
            for (int i = 0; i + 1 < points.Count; i++)
                for (int c = Column(points[i].X); c <= Column(points[i + 1].X); c += 2)
                {
                    double t = Math.Clamp((c - Column(points[i].X)) / (double)Math.Max(1, Column(points[i + 1].X) - Column(points[i].X)), 0, 1);
                    Put(points[i].Y + t * (points[i + 1].Y - points[i].Y), c, '·');
                }
        }
        for (int k = 0; k < curves.Count; k++)
            foreach (CurvePoint p in curves[k].Points)
                canvas[Row(p.Y), Column(p.X)] = Marks[k % Marks.Length];

        var text = new StringBuilder($"{yTitle}\n");
        for (int r = 0; r < height; r++)
        {
            double y = y1 - (y1 - y0) * r / (height - 1);
            string label = r % 3 == 0 || r == height - 1 ? Format.Signed(y, 1) : "";
            var line = new StringBuilder($"{label,7} │");
            for (int c = 0; c < width; c++)
                line.Append(canvas[r, c]);
            text.Append(line.ToString().TrimEnd()).Append('\n');
        }
        text.Append("        └").Append('─', width).Append('\n');
        var axis = new char[width + 12];
        Array.Fill(axis, ' ');
        // The ends and zero first; what does not fit beside them is left out.
        foreach (double x in all.Select(p => p.X).Distinct().OrderByDescending(x => x == x0 || x == x1 || x == 0).ThenBy(x => x))
        {
            string label = Format.Coefficient(Math.Round(x, 2));
            int at = Math.Max(0, 9 + Column(x) - label.Length / 2);
            if (axis.AsSpan(Math.Max(0, at - 1), Math.Min(axis.Length - Math.Max(0, at - 1), label.Length + 2)).ContainsAnyExcept(' '))
                continue;
            label.CopyTo(0, axis, at, label.Length);
        }
        text.Append(new string(axis).TrimEnd()).Append($"   {xTitle}\n");
        text.AppendJoin("   ", curves.Select((c, k) => $"{Marks[k % Marks.Length]} {c.Name}"));
        return text.ToString();

        int Row(double y) => (int)Math.Round((y1 - y) / (y1 - y0) * (height - 1));
        int Column(double x) => (int)Math.Round((x - x0) / (x1 - x0) * (width - 1));
        void Put(double y, int c, char mark)
        {
            if (c < width)
                canvas[Row(y), c] = mark;
        }
    }

    /// <summary>The same picture as PNG and as SVG, with error bars of one standard error: the stem gets both endings.</summary>
    public static void Pictures(string stem, IReadOnlyList<Curve> curves, string title, string yTitle, string xTitle)
    {
        ScottPlot.Plot plot = Draw(curves, title, yTitle, xTitle);
        WritePng(stem + ".png", plot);
        AtomicFile.WriteText(stem + ".svg", plot.GetSvgXml(Width, Height));
    }

    /// <summary>A PNG with error bars of one standard error.</summary>
    public static void Png(string path, IReadOnlyList<Curve> curves, string title, string yTitle, string xTitle) => WritePng(path, Draw(curves, title, yTitle, xTitle));

    /// <summary>A PNG with a line a name, the first on top: a point and its standard error to both sides.</summary>
    public static void Ranking(string path, IReadOnlyList<(string Name, Estimate Value)> rows, string title, string xTitle)
    {
        var plot = new ScottPlot.Plot();
        plot.Title(title, size: 16);
        plot.XLabel(xTitle);
        plot.Axes.Bottom.Label.FontSize = LabelSize;
        double[] xs = [.. rows.Select(r => r.Value.Mean)], ys = [.. rows.Select((_, i) => (double)(rows.Count - i))], errors = [.. rows.Select(r => double.IsFinite(r.Value.StandardError) ? r.Value.StandardError : 0)];
        ScottPlot.Plottables.Scatter points = plot.Add.ScatterPoints(xs, ys);
        points.MarkerSize = 7;
        plot.Add.Plottable(new ScottPlot.Plottables.ErrorBar(xs, ys, errors, errors, null, null) { Color = points.Color });
        plot.Add.VerticalLine(0, width: 1, color: ScottPlot.Colors.Gray);
        plot.Axes.Left.SetTicks(ys, [.. rows.Select(r => r.Name)]);
        plot.Axes.SetLimitsY(0, rows.Count + 1);
        byte[] png = plot.GetImageBytes(Width, Math.Max(240, 120 + LineHeight * rows.Count), ScottPlot.ImageFormat.Png);
        AtomicFile.Write(path, s => s.Write(png), expectedBytes: png.Length);
    }

    private static void WritePng(string path, ScottPlot.Plot plot)
    {
        byte[] png = plot.GetImageBytes(Width, Height, ScottPlot.ImageFormat.Png);
        AtomicFile.Write(path, s => s.Write(png), expectedBytes: png.Length);
    }

    private static ScottPlot.Plot Draw(IReadOnlyList<Curve> curves, string title, string yTitle, string xTitle)
    {
        var plot = new ScottPlot.Plot();
        plot.Title(title, size: 16);
        plot.XLabel(xTitle);
        plot.YLabel(yTitle);
        plot.Axes.Left.Label.FontSize = plot.Axes.Bottom.Label.FontSize = LabelSize;
        var colours = new ScottPlot.Palettes.Category10();
        foreach ((int k, Curve curve) in curves.Index())
        {
            double[] xs = [.. curve.Points.Select(p => p.X)], ys = [.. curve.Points.Select(p => p.Y)];
            ScottPlot.Plottables.Scatter line = plot.Add.Scatter(xs, ys);
            // Error bars would take every other colour of the plot's own palette.
            (line.LegendText, line.LineWidth, line.MarkerSize, line.Color) = (curve.Name, 2, xs.Length > MostMarks ? 0 : 8, colours.GetColor(k));
            if (xs.Length > MostMarks)
                continue;
            plot.Add.ErrorBar(xs, ys, [.. curve.Points.Select(p => double.IsFinite(p.Error) ? p.Error : 0)]).Color = line.Color;
        }
        plot.Add.HorizontalLine(0, width: 1, color: ScottPlot.Colors.Gray);
        double[] doses = [.. curves.SelectMany(c => c.Points).Select(p => p.X).Distinct().Order()];
        if (doses.Length <= MostTicks)
            plot.Axes.Bottom.SetTicks(doses, [.. doses.Select(Format.Coefficient)]);
        plot.ShowLegend(ScottPlot.Edge.Bottom);
        return plot;
    }
}
