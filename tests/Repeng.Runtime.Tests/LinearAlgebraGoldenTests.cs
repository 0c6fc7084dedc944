using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests;

/// <summary>Rotations, bases and the last singular vector against what PyTorch computed for the adapter cases.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "adapter")]
public sealed partial class LinearAlgebraGoldenTests
{
    private const string Absent = "absent";

    /// <summary>Adapter case and backend; the case names are those of the files that hold rotations.</summary>
    public static TheoryData<string, string> RotationCases()
    {
        var rows = new TheoryData<string, string>();
        foreach (string name in CaseNames("adapter", "rotation."))
            foreach (string backend in Backends.Names)
                rows.Add(name, backend);
        if (rows.Count == 0)
            rows.Add(Absent, "cpu");
        return rows;
    }

    public static TheoryData<string> BasisCases() => Rows("adapter", "basis.");

    /// <summary>Cases whose loss projects on all left singular vectors but the last; the others take the adapter's own U, of rank columns.</summary>
    public static TheoryData<string> LossBasisCases() => Rows("adapter", "loss_basis.", (file, tensor) =>
        file.Info(tensor).Shape[1] != file.Info($"basis.{tensor["loss_basis.".Length..]}.s").Elements);

    public static TheoryData<string> RealModelCases() => Rows("smollm2", "basis.");

    [Theory]
    [MemberData(nameof(RotationCases))]
    public void RotationsEqualPyTorch(string name, string backendName)
    {
        string folder = Golden.Require("adapter");
        Assert.SkipWhen(name == Absent, "golden data absent: the folder has no such file");
        string method = JsonFile.Read(Path.Combine(folder, name + ".json"))!["adapter"]!["rotation_method"]!.GetValue<string>();
        Assert.True(method is "cayley" or "matrix_exp", $"{name}: rotation_method {method} is not known");
        using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(folder, name + ".safetensors"));
        using IBackend backend = Backends.Create(backendName);
        using TestMemory memory = new(backend);
        foreach (string tensor in file.Names.Where(t => t.StartsWith("rotation.", StringComparison.Ordinal)))
        {
            Match match = RotationName().Match(tensor);
            Assert.True(match.Success, $"{name}: {tensor} is not rotation.<module>.<u|v>.<c>");
            string module = match.Groups[1].Value, side = match.Groups[2].Value;
            float c = float.Parse(match.Groups[3].Value, System.Globalization.CultureInfo.InvariantCulture);
            string parameter = $"init.{module}.svft_rotation_params_{side}";
            long[] shape = file.Info(tensor).Shape;
            Assert.Equal(shape, file.Info(parameter).Shape);
            int n = (int)shape[^1], batch = (int)(file.Info(tensor).Elements / (n * n));
            View p = memory.Of(file.ReadF32(parameter)), x = memory.Empty(p.Length), r = memory.Empty(p.Length);
            backend.Skew(x, p, n, batch, accumulate: false);
            float factor = method == "cayley" ? c / 2 : c;
            View scaled = memory.Of(Array.ConvertAll(memory.Read(x), value => factor * value));
            if (method == "cayley")
                backend.CayleyForward(r, scaled, n, batch);
            else
                backend.MatrixExpForward(r, scaled, n, batch);
            Close.To(1e-5, memory.Read(r), file.ReadF32(tensor), $"{name}: {tensor}");
        }
    }

    [Theory]
    [MemberData(nameof(BasisCases))]
    public void BasesEqualPyTorch(string name)
    {
        string folder = Golden.Require("adapter");
        Assert.SkipWhen(name == Absent, "golden data absent: the folder has no such file");
        using ITensorSource weights = ShardedSafetensors.OpenModel(Path.Combine(folder, "model"));
        using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(folder, name + ".safetensors"));
        CompareBases(file, weights, name, tolerance: 1e-5);
    }

    [Theory]
    [MemberData(nameof(RealModelCases))]
    [Trait("Golden", "smollm2")]
    public void BasesOfARealModelEqualPyTorch(string name)
    {
        string folder = Golden.Require("smollm2");
        Assert.SkipWhen(name == Absent, "golden data absent: the folder has no such file");
        string models = Golden.RequireBeside("models");
        JsonFields config = JsonFile.ReadObject(Path.Combine(folder, "config.json"));
        int judged = 0;
        foreach (string path in Directory.EnumerateFiles(models, "*.gguf", SearchOption.AllDirectories))
        {
            using GgufModel model = GgufModel.Open(path);
            if (model.Config["hidden_size"]!.GetValue<long>() != config.Integer("hidden_size"))
                continue;
            judged++;
            using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(folder, name + ".safetensors"));
            CompareBases(file, model.Tensors, name, tolerance: 1e-5);
        }
        Assert.True(judged > 0, $"no GGUF model below {models} has the reference's hidden size of {config.Integer("hidden_size")}");
    }

    [Theory]
    [MemberData(nameof(LossBasisCases))]
    public void TheLastSingularVectorCompletesTheLossBasis(string name)
    {
        string folder = Golden.Require("adapter");
        Assert.SkipWhen(name == Absent, "golden data absent: the folder has no such file");
        using ITensorSource weights = ShardedSafetensors.OpenModel(Path.Combine(folder, "model"));
        using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(folder, name + ".safetensors"));
        using CpuWorkers workers = new();
        int judged = 0;
        foreach (string tensor in file.Names.Where(t => t.StartsWith("loss_basis.", StringComparison.Ordinal)))
        {
            (float[] w, int rows, int cols) = Weight(weights, tensor["loss_basis.".Length..]);
            int kept = (int)file.Info(tensor).Shape[1], k = Math.Min(rows, cols);
            Assert.Equal(rows, file.Info(tensor).Shape[0]);
            Assert.Equal(k - 1, kept);
            judged++;
            float[] basis = file.ReadF32(tensor);
            LastSingularVector last = LastSingularVector.Compute(workers, w, rows, cols);
            Assert.False(last.IllDefined, $"{name}: {tensor}: gap {last.Gap:g3}");

            // Δ − u(uᵀΔ) = U₋U₋ᵀΔ for every column Δ of W. fp32 in the reference turns its vectors by rounding over the gap.
            double[] along = new double[kept + 1];
            double scale = 0, worst = 0, squares = w.Sum(v => (double)v * v);
            for (int j = 0; j < cols; j++)
            {
                Array.Clear(along);
                for (int i = 0; i < rows; i++)
                {
                    for (int t = 0; t < kept; t++)
                        along[t] += (double)basis[i * kept + t] * w[i * cols + j];
                    along[kept] += (double)last.U[i] * w[i * cols + j];
                }
                for (int i = 0; i < rows; i++)
                {
                    double projected = 0;
                    for (int t = 0; t < kept; t++)
                        projected += along[t] * basis[i * kept + t];
                    worst = Math.Max(worst, Math.Abs(projected - (w[i * cols + j] - along[kept] * last.U[i])));
                    scale = Math.Max(scale, Math.Abs(w[i * cols + j]));
                }
            }
            // The two smallest singular values bound what a turn of one vector into the other moves; ‖W‖ bounds the largest.
            double turned = 2e-6 / last.Gap * (2 * last.Sigma + last.Gap * Math.Sqrt(squares));
            Assert.True(worst < Math.Max(1e-5 * scale, turned), $"{name}: {tensor}: differs by {worst / scale:g3} of the largest element, gap {last.Gap:g3}");
        }
        Assert.True(judged > 0, $"{name} holds no loss basis");
    }

    private static void CompareBases(SafetensorsFile file, ITensorSource weights, string name, double tolerance)
    {
        using CpuWorkers workers = new();
        foreach (string tensor in file.Names.Where(t => t.StartsWith("basis.", StringComparison.Ordinal) && t.EndsWith(".s", StringComparison.Ordinal)))
        {
            string module = tensor["basis.".Length..^2];
            (float[] w, int rows, int cols) = Weight(weights, module);
            float[] s = file.ReadF32(tensor), u = file.ReadF32($"basis.{module}.u"), v = file.ReadF32($"basis.{module}.v");
            int r = s.Length, more = Math.Min(r + 1, Math.Min(rows, cols));
            TruncatedSvd svd = TopSvd.Compute(workers, w, rows, cols, more);
            Close.To(tolerance, svd.S.AsSpan(0, r), s, $"{name}: {tensor}");
            for (int t = 0; t < r; t++)
            {
                // The reference is an fp32 decomposition: its vectors are turned by its rounding over the distance to the neighbours.
                double gap = Math.Min(t > 0 ? svd.S[t - 1] - svd.S[t] : double.PositiveInfinity, t + 1 < more ? svd.S[t] - svd.S[t + 1] : double.PositiveInfinity);
                double angle = 2e-6 * svd.S[0] / gap, allowed = Math.Max(tolerance, angle * angle);
                Assert.True(allowed < 0.01, $"{name}: {module}: singular values {t} and its neighbour are {gap:g3} apart, too close to compare vectors");
                double cosU = Cosine(svd.U, more, u, r, t, rows), cosV = Cosine(svd.V, more, v, r, t, cols);
                Assert.True(Math.Abs(cosU) > 1 - allowed && Math.Abs(cosV) > 1 - allowed, $"{name}: {module}, vector {t}: cos {cosU:R} and {cosV:R}, allowed 1 - {allowed:g3}");
                Assert.True(cosU * cosV > 0, $"{name}: {module}, vector {t}: u and v differ in sign");
            }
        }
    }

    private static double Cosine(float[] a, int aColumns, float[] b, int bColumns, int column, int length)
    {
        double dot = 0, aa = 0, bb = 0;
        for (int i = 0; i < length; i++)
        {
            double x = a[i * aColumns + column], y = b[i * bColumns + column];
            (dot, aa, bb) = (dot + x * y, aa + x * x, bb + y * y);
        }
        return dot / Math.Sqrt(aa * bb);
    }

    private static (float[] Values, int Rows, int Cols) Weight(ITensorSource weights, string module)
    {
        TensorInfo info = weights.Info(module + ".weight", -1, -1);
        return (weights.ReadF32(info.Name), (int)info.Shape[0], (int)info.Shape[1]);
    }

    private static TheoryData<string> Rows(string folder, string prefix, Func<SafetensorsFile, string, bool>? counts = null)
    {
        var rows = new TheoryData<string>();
        foreach (string name in CaseNames(folder, prefix, counts))
            rows.Add(name);
        if (rows.Count == 0)
            rows.Add(Absent);
        return rows;
    }

    private static List<string> CaseNames(string folder, string prefix, Func<SafetensorsFile, string, bool>? counts = null)
    {
        List<string> names = [];
        if (!Directory.Exists(Golden.Path(folder)))
            return names;
        foreach (string path in Directory.EnumerateFiles(Golden.Path(folder), "*.safetensors").Order(StringComparer.Ordinal))
        {
            using SafetensorsFile file = SafetensorsFile.Open(path);
            if (file.Names.Any(t => t.StartsWith(prefix, StringComparison.Ordinal) && (counts is null || counts(file, t))))
                names.Add(Path.GetFileNameWithoutExtension(path));
        }
        return names;
    }

    [GeneratedRegex(@"^rotation\.(.+)\.([uv])\.(-?[0-9]+(?:\.[0-9]+)?)$")]
    private static partial Regex RotationName();
}
