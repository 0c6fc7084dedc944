using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters.Peft;

/// <summary>Adapters that PEFT saved give PEFT's logits, at every coefficient, alone and merged.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "peft")]
public sealed class PeftGoldenTests
{
    private const double Tolerance = 1e-4;

    public static IEnumerable<TheoryDataRow<string>> Cases => GoldenFiles.Folders("peft", AdapterFile.ConfigName);

    [Theory]
    [MemberData(nameof(Cases))]
    public void Logits_are_those_of_PEFT_at_every_coefficient(string name)
    {
        using var golden = new PeftGoldenCase(name);
        Assert.Contains(golden.Steered, s => s.Name == "logits");
        foreach ((string key, float c) in golden.Steered)
        {
            double error = GoldenFiles.ErrorOverReal(golden.Tokens, golden.Logits(golden.Model, golden.Adapter, c), golden.Expected.ReadF32(key));
            Assert.True(error <= Tolerance, $"{name}, {key}: error {error:g4}");
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Every_row_has_its_own_coefficient(string name)
    {
        using var golden = new PeftGoldenCase(name);
        float[] steered = [.. golden.Steered.Select(s => s.C).Distinct(), 0, 0.25f];
        int size = golden.Tokens.Length * golden.Model.Config.VocabSize;
        for (int i = 0; i < steered.Length; i++)
        {
            float[] each = [.. Enumerable.Range(0, golden.Tokens.Batch).Select(b => steered[(i + b) % steered.Length])];
            float[] mixed = golden.Logits(golden.Model, golden.Adapter, each);
            for (int b = 0; b < golden.Tokens.Batch; b++)
            {
                int from = b * size + golden.Tokens.Starts[b] * golden.Model.Config.VocabSize, to = (b + 1) * size;
                float[] alone = golden.Logits(golden.Model, golden.Adapter, each[b]);
                Close.To(1e-5, mixed.AsSpan()[from..to], alone.AsSpan()[from..to], $"{name}, row {b} at {each[b]}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Token_by_token_with_a_cache_gives_the_same_logits(string name)
    {
        using var golden = new PeftGoldenCase(name);
        TokenBatch all = golden.Tokens;
        (string key, float c)[] steered = [.. golden.Steered];
        using var kept = new Tape(golden.Device, record: false);
        // Each row at another coefficient; the pass of one token is made once, as generation does.
        for (int i = 0; i < steered.Length; i++)
        {
            (string key, float c)[] each = [.. Enumerable.Range(0, all.Batch).Select(b => steered[(i + b) % steered.Length])];
            float[] cs = [.. each.Select(e => e.c)];
            IAdapterPass pass = golden.Adapter.Pass(kept, cs, 1);
            using var cache = new KvCache(golden.Device, golden.Model.Config, all.Batch, all.Length, all.Starts);
            int width = golden.Model.Config.VocabSize;
            float[] logits = new float[all.Ids.Length * width], expected = new float[logits.Length];
            // The prompt goes up to where every row has begun.
            int prompt = all.Starts.Max() + 1;
            for (int t = 0; t < all.Length; t += t == 0 ? prompt : 1)
            {
                int n = t == 0 ? prompt : 1;
                using var tape = new Tape(golden.Device, record: false);
                var next = new TokenBatch(all.Batch, n, [.. Enumerable.Range(0, all.Batch).SelectMany(b => all.Ids.AsSpan(b * all.Length + t, n).ToArray())], all.Starts);
                float[] y = golden.Model.Logits(tape, golden.Model.Forward(new ForwardContext(tape, next, cache) { Adapter = n == 1 ? pass : golden.Adapter.Pass(tape, cs, n) })).ToArray();
                for (int b = 0; b < all.Batch; b++)
                    y.AsSpan(b * n * width, n * width).CopyTo(logits.AsSpan((b * all.Length + t) * width));
            }
            for (int b = 0; b < all.Batch; b++)
                golden.Expected.ReadF32(each[b].key).AsSpan(b * all.Length * width, all.Length * width).CopyTo(expected.AsSpan(b * all.Length * width));
            double error = GoldenFiles.ErrorOverReal(all, logits, expected);
            Assert.True(error <= Tolerance, $"{name} at {string.Join(", ", cs)}: error {error:g4}");
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_merged_model_computes_the_same_without_the_adapter(string name)
    {
        using var golden = new PeftGoldenCase(name);
        bool mergeable = !golden.Adapter.Config.LoraBias || golden.Adapter.Modules.All(m => golden.Model.Linears[m].Bias is not null);
        Assert.True(mergeable || !golden.Expected.Contains("logits_merged"), $"{name}: PEFT merged it");
        if (!mergeable)
        {
            Assert.Contains("lora_bias", Assert.Throws<Kernels.UserErrorException>(() => MergedWeights.Load(golden.Adapter, 1)).Message);
            return;
        }
        foreach ((string key, float c) in golden.Steered.Append((golden.Expected.Contains("logits_merged") ? "logits_merged" : "logits", 1)))
        {
            using DecoderModel merged = MergedWeights.Load(golden.Adapter, c);
            double error = GoldenFiles.ErrorOverReal(golden.Tokens, golden.Logits(merged, null, 0), golden.Expected.ReadF32(key));
            Assert.True(error <= Tolerance, $"{name}, {key} merged at {c}: error {error:g4}");
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Zero_is_the_base_model_bit_by_bit_but_where_the_method_says_otherwise(string name)
    {
        using var golden = new PeftGoldenCase(name);
        PeftConfig config = golden.Adapter.Config;
        bool same = golden.Logits(golden.Model, golden.Adapter, 0).SequenceEqual(golden.Logits(golden.Model, null, 0));
        Assert.Equal(!(config.Dora || config.LoraBias || config.Type == PeftType.Road), same);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void What_is_written_reads_back_bit_by_bit(string name)
    {
        using var golden = new PeftGoldenCase(name);
        string folder = Directory.CreateTempSubdirectory("repeng-peft-").FullName;
        try
        {
            golden.Adapter.Save(folder, golden.Adapter.Config.BaseModel!);
            Assert.True(JsonNode.DeepEquals(GoldenFiles.Json(Path.Combine(golden.Folder, AdapterFile.ConfigName)), GoldenFiles.Json(Path.Combine(folder, AdapterFile.ConfigName))));
            using ITensorSource before = SafetensorsFile.Open(Path.Combine(golden.Folder, AdapterFile.ModelName)), after = SafetensorsFile.Open(Path.Combine(folder, AdapterFile.ModelName));
            Assert.Equal(before.Names.Order(StringComparer.Ordinal), after.Names.Order(StringComparer.Ordinal));
            foreach (string key in before.Names)
            {
                Assert.Equal(before.Info(key).Shape, after.Info(key).Shape);
                Assert.Equal(before.ReadF32(key).Select(BitConverter.SingleToInt32Bits), after.ReadF32(key).Select(BitConverter.SingleToInt32Bits));
            }
            using PeftAdapter again = PeftFile.Load(golden.Model, folder);
            Assert.Equal(golden.Logits(golden.Model, golden.Adapter, 1), golden.Logits(golden.Model, again, 1));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Turning_an_adapter_round_mirrors_its_coefficient(string name)
    {
        using var golden = new PeftGoldenCase(name);
        if (golden.Adapter.Config.Type == PeftType.Psoft)
        {
            Assert.Throws<Kernels.UserErrorException>(golden.Adapter.Negate);
            return;
        }
        float[][] before = [.. new[] { 0.75f, -0.5f }.Select(c => golden.Logits(golden.Model, golden.Adapter, c))];
        golden.Adapter.Negate();
        Close.To(Tolerance, golden.Logits(golden.Model, golden.Adapter, -0.75f), before[0], name);
        Close.To(Tolerance, golden.Logits(golden.Model, golden.Adapter, 0.5f), before[1], name);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Projections_drawn_from_the_key_are_those_that_PEFT_stored(string name)
    {
        using var golden = new PeftGoldenCase(name);
        if (golden.Adapter.Projections is not { } stored)
        {
            Assert.NotEqual(PeftType.Vera, golden.Adapter.Config.Type);
            return;
        }
        LinearModule[] targets = PeftTargets.Select(golden.Model, golden.Adapter.Config);
        using VeraProjections drawn = VeraProjections.Draw(golden.Device, stored.Rank, targets, golden.Adapter.Config.ProjectionKey);
        Assert.Equal(stored.A, drawn.A);
        Assert.Equal(stored.B, drawn.B);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void The_bases_of_PSOFT_are_singular_vectors_whose_signs_are_not_determined(string name)
    {
        using var golden = new PeftGoldenCase(name);
        if (golden.Adapter.Config.Type != PeftType.Psoft)
        {
            Assert.DoesNotContain(golden.Expected.Names, n => n.StartsWith("A.", StringComparison.Ordinal));
            return;
        }
        int r = golden.Adapter.Config.Rank;
        foreach (PsoftLayer layer in golden.Adapter.Layers.Values.Cast<PsoftLayer>())
        {
            LinearModule m = layer.Module;
            TruncatedSvd svd = TopSvd.Compute(golden.Device.HostWorkers, WeightReader.ToHost(m.Weight), m.Outputs, m.Inputs, r);
            double s = golden.Adapter.Config.Alpha / r;
            bool split = golden.Adapter.Config.Text("ab_svd_init", "psoft_init") == "pissa_init";
            for (int q = 0; q < r; q++)
            {
                double root = Math.Sqrt(svd.S[q] / s), atA = split ? root : 1, atB = split ? root : svd.S[q] / s;
                float[] a = [.. Enumerable.Range(0, m.Inputs).Select(i => (float)(svd.V[i * r + q] * atA))], b = [.. Enumerable.Range(0, m.Outputs).Select(o => (float)(svd.U[o * r + q] * atB))];
                float[] wantedA = layer.A[(q * m.Inputs)..((q + 1) * m.Inputs)], wantedB = [.. Enumerable.Range(0, m.Outputs).Select(o => layer.B[o * r + q])];
                float sign = a.Zip(wantedA, (x, y) => x * y).Sum() < 0 ? -1 : 1;
                Close.To(1e-3, [.. a.Select(x => x * sign)], wantedA, $"{layer.Path}, A row {q}");
                Close.To(1e-3, [.. b.Select(x => x * sign)], wantedB, $"{layer.Path}, B column {q}");
            }
        }
    }
}
