using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>What cannot be made, read or written is refused in one line that names it.</summary>
public sealed class VectorBadInputTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory().FullName;
    private readonly CpuWorkers _workers = new(1);
    private readonly Device _device = Device.Cpu(2);

    public void Dispose()
    {
        _device.Dispose();
        _workers.Dispose();
        Directory.Delete(_folder, true);
    }

    [Theory]
    [InlineData("fisher_steer_reg0", 6, 8)]
    [InlineData("fisher_steer_emp_reg0", 6, 8)]
    [InlineData("fisher_steer_cov_reg0", 8, 8)]
    // So few rows that the guard would act.
    [InlineData("fisher_steer_cov_reg0", 4, 64)]
    // More rows than columns, and one of the columns empty.
    [InlineData("fisher_steer_emp_reg0", 20, 8)]
    public void A_rank_deficient_fisher_without_regularisation_is_refused_with_its_condition(string method, int rows, int width)
    {
        LayerRows layer = Rows(rows, width, emptyColumn: true);
        string message = Refused("condition number", () => VectorMethod.Parse(method).Directions(_workers, layer, 1));
        Assert.Contains($"{rows} rows and width {width}", message, StringComparison.Ordinal);
        Assert.Matches(@"condition number (\S*e\+\d+|∞|Infinity) ", message);
        Assert.Contains("_reg1", message, StringComparison.Ordinal);
        Assert.All(VectorMethod.Parse(method.Replace("reg0", "reg1", StringComparison.Ordinal)).Directions(_workers, layer, 1), v => Assert.True(double.IsFinite(v)));
    }

    [Fact]
    public void A_fisher_of_full_rank_needs_no_regularisation() =>
        Assert.Contains(VectorMethod.Parse("fisher_steer_emp_reg0").Directions(_workers, Rows(40, 8, emptyColumn: false), 1), v => v != 0);

    [Fact]
    public void Rows_that_are_no_pairs_and_empty_sets_are_refused()
    {
        Refused("as many positive as negative", () => Discard(new LayerRows(2, new double[6])));
        Refused("as many positive as negative", () => Discard(new LayerRows(2, [])));
        using DecoderModel model = TinyDecoder.Load(_device);
        Refused("no pair of texts", () => ControlVectorTrainer.Train(model, [model.Blocks[1].Path], [], 0, VectorMethod.Parse("pca_diff"), new RepresentationSettings()));
        Refused("no training pair", () => new PairData([], 0));
        string message = Refused("match no module", () => LayerSelection.Modules(model, "k_project$", null));
        Assert.Contains("model.layers.{N}.self_attn.k_proj", message, StringComparison.Ordinal);
        Refused("layer range 3:3", () => LayerSelection.Modules(model, null, (new(3, false), new(3, false))));
        Refused("no regular expression", () => LayerSelection.Modules(model, "(", null));
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void Directions_that_are_no_numbers_are_refused_wherever_they_come_from(float bad)
    {
        string message = Refused("layer 3", () => Vector("3", [1, bad, 2]));
        Assert.Contains("value 1 of the direction", message, StringComparison.Ordinal);
        string file = Path.Combine(_folder, "bad.gguf");
        Write(file, "controlvector", "direction.3", [1, bad, 2]);
        Assert.Contains("value 1 of the direction", Refused(file, () => ControlVectorFile.Read(file)), StringComparison.Ordinal);
        // Algebra that overflows makes no vector either.
        Refused("needs finite numbers", () => Discard(Vector("3", [1e38f]) * 1e10f));
    }

    [Fact]
    public void Files_that_are_no_vector_or_not_for_llama_cpp_are_refused()
    {
        string file = Path.Combine(_folder, "v.gguf");
        Refused("direction.0", () => ControlVectorFile.Write(file, Vector("0", [1, 2]), forLlamaCpp: true));
        Refused("is a module", () => ControlVectorFile.Write(file, Vector("lm_head", [1, 2]), forLlamaCpp: true));
        Refused("one width", () => ControlVectorFile.Write(file, Vector("1", [1, 2]) + Vector("2", [1, 2, 3]), forLlamaCpp: true));
        Assert.False(File.Exists(file));
        // Legal for repeng: read as it is, and refused again on its way out.
        ControlVectorFile.Write(file, Vector("0", [1, 2]));
        ControlVector zero = ControlVectorFile.Read(file);
        Assert.Equal(["0"], zero.Layers);
        Refused("direction.0", () => ControlVectorFile.Write(file, zero, forLlamaCpp: true));

        string model = Path.Combine(_folder, "model.gguf");
        new GgufWriter("llama").Add("general.name", "x").AddTensor("output.weight", [2], new float[] { 1, 2 }).Write(model);
        Assert.Contains("a llama file", Refused("no control vector", () => ControlVectorFile.Read(model)), StringComparison.Ordinal);
        // A model's file with a tensor of that name is no vector either.
        Write(model, "qwen3", "direction.1", [1, 2]);
        Refused("general.architecture is qwen3", () => ControlVectorFile.Read(model));
        using (DecoderModel qwen = TinyDecoder.Load(_device))
        {
            ControlVectorFile.Write(model, new ControlVector("llama", [KeyValuePair.Create("1", new Direction(new float[16]))]));
            Assert.Contains("vector import", Refused("made for a model of type llama", () => ControlVectorFile.ReadFor(qwen, model)), StringComparison.Ordinal);
        }
        Write(model, "controlvector", "other", [1, 2]);
        Refused("is empty", () => ControlVectorFile.Read(model));
        string two = Path.Combine(_folder, "two.gguf");
        new GgufWriter("controlvector").Add("controlvector.model_hint", "qwen3").AddTensor("direction.7", [2], new float[] { 1, 2 }).AddTensor("direction.07", [2], new float[] { 1, 2 }).Write(two);
        Refused("two directions for layer 7", () => ControlVectorFile.Read(two));
        Refused("is a folder", () => ControlVectorFile.Read(_folder));
        Refused("of different widths at layer 1", () => Discard(Vector("1", [1]) + Vector("1", [1, 2])));
        Refused("divided by 0", () => Discard(Vector("1", [1]) / 0));
        Refused("at least one layer", () => Discard(new ControlVector("qwen3", [])));
    }

    private static void Write(string file, string architecture, string tensor, float[] values)
    {
        new GgufWriter(architecture).Add("controlvector.model_hint", "qwen3").AddTensor(tensor, [values.Length], values).Write(file);
    }

    private static ControlVector Vector(string layer, float[] values) => new("qwen3", [KeyValuePair.Create(layer, new Direction(values))]);

    private static void Discard(object made) => Assert.NotNull(made);

    private static LayerRows Rows(int rows, int width, bool emptyColumn)
    {
        var values = new float[rows * width];
        Philox.FillNormal(values, 5, 0);
        double[] g = [.. values.Select((v, i) => emptyColumn && i % width == 1 ? 0.0 : v)];
        return new LayerRows(width, g, g, new double[rows], [.. Enumerable.Repeat(1.0, rows)]);
    }

    private static string Refused(string part, Action run)
    {
        string message = Assert.Throws<UserErrorException>(run).Message;
        Assert.Contains(part, message, StringComparison.Ordinal);
        return message;
    }
}
