using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Adapters.Peft;
using Repeng.Steering.Tests.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>Several adapters at once, and adapters of PEFT on every family.</summary>
public sealed class CombinedAdapterTests
{
    public static IEnumerable<TheoryDataRow<string>> Families => GoldenFiles.Folders("models", "config.json");

    public static IEnumerable<TheoryDataRow<string>> PeftFolders => GoldenFiles.Folders("peft", "adapter_config.json");

    [Theory]
    [InlineData("svd", "lora")]
    [InlineData("lora", "lora")]
    [InlineData("rslora", "vera")]
    [InlineData("delora", "svd")]
    public void Changes_of_the_weights_add_up_each_at_its_own_coefficient(string first, string second)
    {
        using var tiny = new TinyBase();
        (float Of, float And)[] weights = [(1, 1), (0.5f, -1.5f), (0, 2)];
        foreach ((float a, float b) in weights)
        {
            using var combined = new CombinedAdapter([(Make(tiny.Model, first, ".*(q|v|down)_proj", 1), a), (Make(tiny.Model, second, ".*(v|o|down)_proj", 2), b)], ["A", "B"]);
            float[] coefficients = [1, -0.6f];
            float[] actual = Run(tiny.Model, combined, coefficients, tiny.Tokens);
            for (int row = 0; row < 2; row++)
            {
                // W + ΔA(c·a) + ΔB(c·b), made here from each adapter's own merged weights.
                using IAdapter one = Make(tiny.Model, first, ".*(q|v|down)_proj", 1), two = Make(tiny.Model, second, ".*(v|o|down)_proj", 2);
                using DecoderModel merged = Added(tiny.Model, (one, coefficients[row] * a), (two, coefficients[row] * b));
                Compare(tiny, row, actual, Run(merged, null, [0, 0], tiny.Tokens), $"{first} {a}, {second} {b}");
                using DecoderModel own = MergedWeights.Load(combined, coefficients[row]);
                Compare(tiny, row, actual, Run(own, null, [0, 0], tiny.Tokens), $"{first} {a}, {second} {b}, merged");
            }
            Assert.Equal(Run(tiny.Model, null, [0, 0], tiny.Tokens), Run(tiny.Model, combined, [0, 0], tiny.Tokens));
        }
    }

    [Theory]
    [InlineData("svd", "lora")]
    [InlineData("lora", "ia3")]
    public void Decoding_token_by_token_gives_what_the_whole_text_does(string first, string second)
    {
        using var tiny = new TinyBase();
        using var combined = new CombinedAdapter([(Make(tiny.Model, first, ".*(q|down)_proj", 1), 0.7f), (Make(tiny.Model, second, second == "ia3" ? ".*(v|o)_proj" : ".*(down|o)_proj", 2), -1)], ["A", "B"]);
        float[] coefficients = [1, -0.6f], whole = Run(tiny.Model, combined, coefficients, tiny.Tokens);
        TokenBatch t = tiny.Tokens;
        using var cache = new KvCache(tiny.Device, tiny.Model.Config, 2, t.Length, t.Starts);
        int prompt = t.Starts.Max() + 1, vocabulary = tiny.Model.Config.VocabSize;
        for (int at = 0; at < t.Length; at += at == 0 ? prompt : 1)
        {
            int length = at == 0 ? prompt : 1;
            using var tape = new Tape(tiny.Device, record: false);
            var part = new TokenBatch(2, length, [.. Enumerable.Range(0, 2).SelectMany(b => t.Ids[(b * t.Length + at)..(b * t.Length + at + length)])], t.Starts);
            float[] logits = tiny.Model.Logits(tape, tiny.Model.Forward(new ForwardContext(tape, part, cache) { Adapter = combined.Pass(tape, coefficients, length) })).ToArray();
            for (int b = 0; b < 2; b++)
                Close.To(2e-5, logits.AsSpan(((b + 1) * length - 1) * vocabulary, vocabulary), whole.AsSpan((b * t.Length + at + length - 1) * vocabulary, vocabulary), $"row {b}, token {at}");
        }
    }

    [Theory]
    [InlineData("lora", "ia3")]
    [InlineData("road_2", "svd")]
    [InlineData("dora", "lora")]
    public void Adapters_that_do_more_than_add_share_no_layer(string first, string second)
    {
        using var tiny = new TinyBase();
        long before = tiny.Device.Pool.InUse;
        var error = Assert.Throws<UserErrorException>(() => new CombinedAdapter([(Make(tiny.Model, first, ".*(q|v)_proj", 1), 1), (Make(tiny.Model, second, ".*(v|o)_proj", 2), 1)], ["A", "B"]));
        Assert.Contains("both adapt model.layers.0.self_attn.v_proj", error.Message);
        Assert.Contains("more there than add to the weight", error.Message);
        Assert.Equal(before, tiny.Device.Pool.InUse);
        using var apart = new CombinedAdapter([(Make(tiny.Model, first, ".*q_proj", 1), 1), (Make(tiny.Model, second, ".*o_proj", 2), 0.5f)], ["A", "B"]);
        float[] actual = Run(tiny.Model, apart, [1, -1], tiny.Tokens);
        for (int row = 0; row < 2; row++)
        {
            using DecoderModel own = MergedWeights.Load(apart, row == 0 ? 1 : -1);
            Compare(tiny, row, actual, Run(own, null, [0, 0], tiny.Tokens), $"{first} + {second}");
        }
    }

    [Theory]
    [MemberData(nameof(PeftFolders))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "peft")]
    public void Two_thirds_and_one_third_of_an_adapter_of_peft_are_the_whole(string name)
    {
        string folder = Golden.Require("peft", name);
        using var golden = new PeftGoldenCase(name);
        if (golden.Adapter.Modules.Any(m => !golden.Adapter.AddsToWeight(m)) || golden.Adapter.Config.Type is PeftType.Psoft)
        {
            if (golden.Adapter.Config.Type is PeftType.Psoft)
                return; // its bases are given by the test, not by the folder
            var error = Assert.Throws<UserErrorException>(() => CombinedAdapter.Load(golden.Model, [folder, folder + "/."], [0.5f, 0.5f]));
            Assert.Contains("both adapt", error.Message);
            return;
        }
        using IAdapter halves = CombinedAdapter.Load(golden.Model, [folder, folder + "/."], [2 / 3f, 1 / 3f]);
        float[] one = Run(golden.Model, golden.Adapter, [1, 1], golden.Tokens), two = Run(golden.Model, halves, [1, 1], golden.Tokens);
        // DeLoRA, too, is linear in its coefficient.
        Assert.True(GoldenFiles.ErrorOverReal(golden.Tokens, two, one) < 1e-4, name);
    }

    [Theory]
    [MemberData(nameof(Families))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "models")]
    public void Adapters_of_peft_work_on_every_family_and_together(string name)
    {
        string folder = Golden.Require("models", name);
        using Device device = Device.Cpu(2);
        using DecoderModel model = GoldenFiles.Load(device, folder);
        using Repeng.Runtime.Formats.ITensorSource expected = Repeng.Runtime.Formats.SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        string output = System.Text.RegularExpressions.Regex.Escape(model.Blocks[0].Writers.First().Path.Split('.')[^2] + "." + model.Blocks[0].Writers.First().Path.Split('.')[^1]);
        string temporary = Directory.CreateTempSubdirectory("repeng-combined").FullName;
        try
        {
            foreach ((string kind, string targets) in new[] { ("lora", AllBut(model)), ("ia3", $".*{output}") })
            {
                using IAdapter adapter = Make(model, kind, targets, 3);
                string saved = Directory.CreateDirectory(Path.Combine(temporary, kind)).FullName;
                adapter.Save(saved, "x");
                using IAdapter loaded = AdapterFile.LoadAny(model, saved);
                float[] steered = Run(model, loaded, [.. Enumerable.Repeat(0.6f, tokens.Batch)], tokens);
                using DecoderModel merged = MergedWeights.Load(loaded, 0.6f);
                Assert.True(GoldenFiles.ErrorOverReal(tokens, steered, Run(merged, null, new float[tokens.Batch], tokens)) < 1e-4, $"{name} {kind}");
                Assert.True(GoldenFiles.ErrorOverReal(tokens, steered, Run(model, null, new float[tokens.Batch], tokens)) > 1e-3, $"{name} {kind} changes nothing");
            }
        }
        finally
        {
            Directory.Delete(temporary, recursive: true);
        }
    }

    [Fact]
    public void Weights_must_be_finite_and_adapters_of_one_model()
    {
        using TinyBase tiny = new(), other = new(seed: 9);
        Assert.Contains("not a finite number", Assert.Throws<UserErrorException>(() => new CombinedAdapter([(Make(tiny.Model, "lora", ".*q_proj", 1), float.NaN)], ["A"])).Message);
        Assert.Contains("combined on one model", Assert.Throws<UserErrorException>(() => new CombinedAdapter([(Make(tiny.Model, "lora", ".*q_proj", 1), 1), (Make(other.Model, "lora", ".*q_proj", 1), 1)], ["A", "B"])).Message);
    }

    // Every linear layer but routers, whose choice a rounding may turn.
    private static string AllBut(DecoderModel model) => string.Join('|', model.Linears.Keys.Where(p => model.Config.Experts is not { } x || !p.EndsWith($".{x.Router}", StringComparison.Ordinal)).Select(System.Text.RegularExpressions.Regex.Escape));

    private static IAdapter Make(DecoderModel model, string kind, string targets, ulong seed) => kind == "svd"
        ? SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, RotateU = true, TargetModules = targets, InitRotation = 0.3, Seed = seed })
        : PeftFactory.Create(model, new PeftSettings { Kind = kind, Rank = 3, GroupSize = 4, TargetModules = targets, InitNoise = 0.2, Lambda = 3, Seed = seed });

    private static DecoderModel Added(DecoderModel model, params (IAdapter Adapter, float C)[] parts)
    {
        using MergedWeights plain = MergedWeights.Of(parts[0].Adapter, 0);
        DecoderModel copy = ModelLoader.Load(model.Device, model.Config, plain, WeightType.F32);
        foreach (LinearModule l in copy.Linears.Values)
        {
            float[] w = WeightReader.ToHost(model.Linears[l.Path].Weight), sum = [.. w];
            foreach ((IAdapter adapter, float c) in parts)
                if (adapter.Merge(model.Linears[l.Path], c) is { } merged)
                    for (int i = 0; i < w.Length; i++)
                        sum[i] += merged.Weight[i] - w[i];
            l.Weight.Upload(sum);
        }
        return copy;
    }

    private static void Compare(TinyBase tiny, int row, float[] actual, float[] expected, string what)
    {
        int width = tiny.Model.Config.VocabSize, from = (row * tiny.Tokens.Length + tiny.Tokens.Starts[row]) * width, to = (row + 1) * tiny.Tokens.Length * width;
        Close.To(2e-5, actual.AsSpan(from, to - from), expected.AsSpan(from, to - from), $"{what}, row {row}");
    }

    private static float[] Run(DecoderModel model, IAdapter? adapter, float[] coefficients, TokenBatch tokens)
    {
        using var tape = new Tape(model.Device, record: false);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, tokens) { Adapter = adapter?.Pass(tape, coefficients, tokens.Length) })).ToArray();
    }
}
