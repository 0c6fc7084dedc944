using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime.Formats;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>Directions of every method from the stored rows, against the original's formulas in double.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "vectors")]
public sealed class VectorMethodGoldenTests : IDisposable
{
    private const double Solved = 1e-4, ZeroAt = 1e-5, Cosine = 1e-5;

    private readonly CpuWorkers _workers = new(2);

    public void Dispose() => _workers.Dispose();

    [Fact]
    public void Every_methods_directions_are_the_originals()
    {
        string folder = Golden.Require("vectors");
        using var rows = SafetensorsFile.Open(Path.Combine(folder, "gradients.safetensors"));
        using var file = SafetensorsFile.Open(Path.Combine(folder, "directions.safetensors"));
        JsonObject notes = GoldenFiles.Json(Path.Combine(folder, "directions.json"))["f32_vs_f64"]!.AsObject();
        var failures = new List<string>();
        int compared = 0;
        foreach (string name in file.Names.Where(n => n.StartsWith("f64/", StringComparison.Ordinal)))
        {
            string[] parts = name.Split('/');
            double[] expected = file.ReadF64(name);
            (double[] actual, bool signed, bool unit) = parts switch
            {
                ["f64", "novel", var set, var method, var layer] => Novel(Rows(rows, set, layer), method),
                ["f64", var guard, var matrix, var lambda, var layer] => (Guarded(Rows(rows, guard, layer), matrix, lambda), true, false),
                ["f64", var set, var method, var layer] => Named(Rows(rows, set, layer), method),
                _ => throw new InvalidDataException($"{name} is not understood"),
            };
            JsonObject? note = notes[name["f64/".Length..]] as JsonObject;
            if (note?["sign_tied"] is not null)
                signed = false;
            compared++;
            // Without regularisation and with as many rows as columns every row has the same product with the solution: the sum of the sign rule is zero but for rounding.
            if (parts[^2].EndsWith("_reg0", StringComparison.Ordinal) && SignIsFree(Rows(rows, parts[^3], parts[^1]), actual))
                signed = false;
            double length = Math.Sqrt(expected.Sum(v => v * v)), sign = signed || Dot(expected, actual) >= 0 ? 1 : -1;
            if (unit)
            {
                double cosine = sign * Dot(expected, actual) / (length * Math.Sqrt(Dot(actual, actual)));
                if (!(cosine > 1 - Cosine))
                    failures.Add($"{name}: cosine {cosine}");
                continue;
            }
            double error = Math.Sqrt(expected.Zip(actual, (e, a) => (e - sign * a) * (e - sign * a)).Sum());
            // Vectors that cancel to nothing are compared absolutely.
            if (!(error <= Solved * length || length < ZeroAt && error < ZeroAt))
                failures.Add($"{name}: error {error / length} of {length}, condition {note?["cond"]}");
        }
        Assert.True(compared > 0);
        Assert.True(failures.Count == 0, $"{failures.Count} of {compared}:\n{string.Join('\n', failures.Take(40))}");
    }

    [Fact]
    public void Components_of_several_are_the_originals()
    {
        string folder = Golden.Require("vectors");
        using var rows = SafetensorsFile.Open(Path.Combine(folder, "gradients.safetensors"));
        using var file = SafetensorsFile.Open(Path.Combine(folder, "directions.safetensors"));
        int compared = 0;
        foreach (string name in file.Names.Where(n => n.StartsWith("b21e7ee/", StringComparison.Ordinal)))
        {
            string[] parts = name.Split('/');
            int k = int.Parse(parts[2][(parts[2].LastIndexOf("_k", StringComparison.Ordinal) + 2)..], CultureInfo.InvariantCulture);
            LayerRows layer = Rows(rows, parts[1], parts[3]);
            double[] actual = VectorMethod.Parse(parts[2][..parts[2].LastIndexOf("_k", StringComparison.Ordinal)]).Directions(_workers, layer, k), expected = file.ReadF64(name);
            double[] hidden = layer.Hidden!.ToArray();
            for (int q = 0; q < k; q++)
            {
                double[] direction = expected[(q * layer.Width)..((q + 1) * layer.Width)];
                double dot = Dot(direction, actual[(q * layer.Width)..((q + 1) * layer.Width)]);
                // With as many pairs above as below the sign is the library's own.
                if (Enumerable.Range(0, layer.Rows / 2).Sum(i => Math.Sign(Along(hidden, 2 * i, direction) - Along(hidden, 2 * i + 1, direction))) == 0)
                    dot = Math.Abs(dot);
                Assert.True(dot > 1 - Cosine, $"{name}, component {q}: cosine {dot}");
            }
            compared++;
        }
        Assert.True(compared > 0);
    }

    [Fact]
    public void Directions_of_the_first_branch_are_the_originals()
    {
        string folder = Golden.Require("vectors");
        using var file = SafetensorsFile.Open(Path.Combine(folder, "vgel.safetensors"));
        JsonObject signs = GoldenFiles.Json(Path.Combine(folder, "vgel.json"))["sign_counts"]!.AsObject();
        int compared = 0;
        foreach (string name in file.Names)
        {
            string[] parts = name.Split('/');
            if (parts is ["f64" or "pca_diff" or "pca_center", ..] && (parts is not ["f64", ..] || parts.Length == 3))
            {
                (string method, string layer) = (parts[^2], parts[^1]);
                var rows = new LayerRows((int)file.Info($"hidden/{layer}").Shape[1], file.ReadF64($"hidden/{layer}"));
                double cosine = Dot(file.ReadF64(name), VectorMethod.Parse(method).Directions(_workers, rows, 1));
                if (SignIsTied(signs, $"{method}/{layer}"))
                    cosine = Math.Abs(cosine);
                Assert.True(cosine > 1 - Cosine, $"{name}: cosine {cosine}");
                compared++;
            }
            else if (parts is ["umap", var layer])
            {
                var rows = new LayerRows((int)file.Info($"hidden/{layer}").Shape[1], file.ReadF64($"hidden/{layer}"));
                double[] actual = UmapDirection.FromEmbedding(rows, file.ReadF64($"umap_embedding/{layer}")), expected = file.ReadF64(name);
                Assert.True(Math.Sqrt(expected.Zip(actual, (e, a) => (e - a) * (e - a)).Sum()) <= 1e-4 * Math.Sqrt(Dot(expected, expected)), name);
                compared++;
            }
        }
        Assert.True(compared > 0);
        float[] zeros = file.ReadF32("zeros/pca_diff");
        Assert.Equal(zeros.Select(v => (double)v), PcaDirections.Differences(_workers, new LayerRows(zeros.Length, new double[4 * zeros.Length])));
    }

    /// <summary>Whether as many pairs lie above as below, so that the sign is the library's own.</summary>
    internal static bool SignIsTied(JsonObject signs, string name) => signs[name] is JsonObject votes && (int)votes["pairs_pos_below_neg"]! == (int)votes["pairs_pos_above_neg"]!;

    // {set}: t1 or t2, how rows were batched, and perhaps how many of the first rows.
    private static LayerRows Rows(SafetensorsFile file, string set, string layer)
    {
        string[] parts = set.Split('_');
        int take = parts[^1].StartsWith("first", StringComparison.Ordinal) ? int.Parse(parts[^1][5..], CultureInfo.InvariantCulture) : 0;
        string gradients = take > 0 ? string.Join('_', parts.Skip(1).SkipLast(1)) : set, token = gradients.Split('_')[0];
        int width = (int)file.Info($"{gradients}/G/{layer}").Shape[1];
        LayerRows all = new(width, file.ReadF64($"{token}/H/{layer}"), file.ReadF64($"{gradients}/G/{layer}"), file.ReadF64($"{gradients}/logp"), file.ReadF64($"{gradients}/w_in"));
        return take == 0 ? all : new LayerRows(width, all.Hidden!.ToArray()[..(take * width)], all.Gradients!.ToArray()[..(take * width)], all.LogProb![..take], all.TapGradient![..take]);
    }

    private (double[] Direction, bool Signed, bool Unit) Named(LayerRows rows, string method) => method switch
    {
        "svd_gradient" => (VectorMethod.Parse(method).Directions(_workers, rows, 1), false, true),
        "svd_gradient_signed" => (VectorMethod.Parse("svd_gradient").Directions(_workers, rows, 1), true, true),
        "pca_diff" or "pca_diff_weighted" => (VectorMethod.Parse(method).Directions(_workers, rows, 1), true, true),
        _ => (VectorMethod.Parse(method).Directions(_workers, rows, 1), true, false),
    };

    // novel_steering: other constants, _emp unknown (improved empirical), directions as long as the mean gradient.
    private (double[] Direction, bool Signed, bool Unit) Novel(LayerRows rows, string method)
    {
        if (method.StartsWith("kfac", StringComparison.Ordinal))
            return (VectorMethod.Parse(method.Replace("_gradient_pca", "_pca", StringComparison.Ordinal)).Directions(_workers, rows, 1), true, false);
        double[] lambdas = [0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5];
        var settings = new FisherSettings { Epsilon = 1e-8, GuardFewRows = false, Rescale = true, SideLambda = 1e-2 };
        foreach (string part in method.Split('_').Skip(2))
            settings = part switch
            {
                "emp" => settings,
                "cov" => settings with { Matrix = FisherMatrix.Covariance },
                "dual" => settings with { Sides = FisherSides.Mean },
                "pos" => settings with { Sides = FisherSides.Positive },
                "neg" => settings with { Sides = FisherSides.Negative },
                "diff" => settings with { Sides = FisherSides.Difference },
                ['r', 'e', 'g', var digit] => settings with { Lambda = lambdas[digit - '0'] },
                _ => throw new InvalidDataException($"novel method {method} is not understood"),
            };
        return (FisherSteering.Direction(_workers, rows, settings), true, false);
    }

    private double[] Guarded(LayerRows rows, string matrix, string lambda) => FisherSteering.Solve(_workers, rows.Gradients!, rows.TapGradient, new FisherSettings
    {
        Matrix = matrix switch
        {
            "covariance" => FisherMatrix.Covariance,
            "empirical" => FisherMatrix.Empirical,
            "improved_empirical" => FisherMatrix.ImprovedEmpirical,
            _ => throw new InvalidDataException($"matrix {matrix} is not understood"),
        },
        Lambda = lambda == "adaptive" ? null : double.Parse(lambda, CultureInfo.InvariantCulture),
    });

    private static double Along(double[] rows, int row, double[] v) => Dot(rows[(row * v.Length)..((row + 1) * v.Length)], v);

    private static bool SignIsFree(LayerRows rows, double[] v)
    {
        double[] gradients = rows.Gradients!.ToArray(), products = [.. Enumerable.Range(0, rows.Rows).Select(i => Along(gradients, i, v))];
        return Math.Abs(products.Select((p, i) => i % 2 == 0 ? -p : p).Sum()) < 1e-6 * products.Sum(Math.Abs);
    }

    private static double Dot(double[] a, double[] b) => a.Zip(b, (x, y) => x * y).Sum();
}
