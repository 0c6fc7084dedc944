using System.CommandLine;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Losses;

namespace Repeng.Cli.Verbs;

/// <summary>plot-losses: draws the shapes of the training losses with the code that trains.</summary>
public sealed class PlotLossesVerb
{
    private readonly Option<string?> _output = Opt.Text("--output_dir", "FOLDER", "where loss-separation, loss-coherence and loss-projection go, as PNG and SVG");
    private readonly Session _session;

    private PlotLossesVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new PlotLossesVerb(session);
        var command = new Command("plot-losses", "Draw the training losses as functions of the projection and of the log-probability");
        command.Options.Add(verb._output);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string output = p.GetValue(_output) ?? throw new UserErrorException("--output_dir FOLDER is missing: where the pictures go");
        using Device device = Device.Cpu();
        AtomicFile.WriteInto(output, folder => DrawAll(device, folder));
        _session.Print($"Written: {output}");
        return ExitCodes.Ok;
    }

    private static void DrawAll(Device device, string folder)
    {
        Draw("loss-separation", LossCurves.Separation(device), "Separation terms at c = +1, reference at s = 1", "loss of a pair", "projected separation s, in units of the reference's");
        Draw("loss-coherence", LossCurves.Coherence(device), "Coherence terms", "loss of a token", "log-probability lost, nats");
        Draw("loss-projection", LossCurves.Projection(device), "AntiPaSTO's projection term", "loss of a pair", "angle between the change at c = +1 and the reference direction, degrees");

        void Draw(string name, IReadOnlyList<LossCurve> curves, string title, string y, string x) =>
            Plots.Pictures(Path.Combine(folder, name), [.. curves.Select(c => new Curve(c.Name, [.. c.Points.Select(q => new CurvePoint(q.X, q.Y, 0))]))], title, y, x);
    }
}
