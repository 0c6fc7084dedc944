using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>
/// Experts that a file holds in one tensor, quantised when they are loaded: to the bits of the same experts stored one by one, whichever of the two layouts the golden
/// model has (the other is made here), and of those of a GGUF file; one expert at a time.
/// </summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class StackedQuantisationGoldenTests : IDisposable
{
    // The models folder's README.
    private const double Tolerance = 2e-5;

    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-stacks-").FullName;

    public static IEnumerable<TheoryDataRow<string, string>> Cases => QuantisedExpertGoldenTests.Cases;

    public static IEnumerable<TheoryDataRow<string>> Models => Cases.Select(c => c.Data.Item1).Distinct().Select(n => new TheoryDataRow<string>(n));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_stack_is_quantised_to_the_bits_of_its_experts(string name, string form)
    {
        ModelConfig config = Open(name, out JsonObject json, out string folder);
        var how = new WeightStorage(Quantise: QuantisedExpertGoldenTests.Form(form));
        using SafetensorsFile given = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")), relaid = Relaid(given, config.Experts!), expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        Assert.NotEqual(Stacks(given, config.Experts!).Length > 0, Stacks(relaid, config.Experts!).Length > 0);
        TokenBatch tokens = GoldenFiles.Batch(expected);
        using Device device = Device.Cpu(2);
        using DecoderModel one = ModelLoader.Load(device, config, given, how), other = ModelLoader.Load(device, config, relaid, how), plain = ModelLoader.Load(device, config, relaid);

        // What was laid out anew here is what transformers computed with.
        double error = GoldenFiles.ErrorOverReal(tokens, Logits(plain, tokens), expected.ReadF32("logits"));
        Assert.True(error <= Tolerance, $"{name}: error {error:g4}, allowed {Tolerance:g4}");
        Same(one, other, $"{name} {form}");
        Assert.Equal(Logits(one, tokens), Logits(other, tokens));
        Assert.Equal(plain.Fingerprint, other.Fingerprint);
        Assert.Equal(one.Linears.Keys, other.Linears.Keys);

        // As GGUF, which stacks them too.
        string path = Path.Combine(_folder, "model.gguf");
        try
        {
            GgufModelWriter.Write(path, json, folder, given, new GgufModelWriter.Options { Type = "F32" });
        }
        catch (UserErrorException e)
        {
            // llama.cpp has another number built in where this model has one of its own.
            TestContext.Current.TestOutputHelper?.WriteLine($"not written as GGUF: {e.Message}");
            return;
        }
        using GgufModel gguf = GgufModel.Open(path);
        using DecoderModel third = ModelLoader.Load(device, ModelBundle.ConfigOf(gguf, path), gguf.Tensors, how);
        Same(one, third, $"{name} {form} in GGUF");
    }

    /// <summary>Models whose module of experts transformers 5 has renamed.</summary>
    public static IEnumerable<TheoryDataRow<string>> Renamed => Golden.OrAbsent(Models.Select(m => m.Data).Where(n => n != Golden.Absent && Open(n, out _, out _).Names.Mlp != "mlp")).Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Renamed))]
    public void The_names_of_transformers_5_are_read(string name)
    {
        ModelConfig config = Open(name, out _, out string folder);
        using SafetensorsFile given = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")), relaid = Relaid(given, config.Experts!), renamed = WithNewNames(relaid, config), expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        using Device device = Device.Cpu(2);
        using DecoderModel model = ModelLoader.Load(device, config, renamed);
        TokenBatch tokens = GoldenFiles.Batch(expected);
        double error = GoldenFiles.ErrorOverReal(tokens, Logits(model, tokens), expected.ReadF32("logits"));
        Assert.True(error <= Tolerance, $"{name}: error {error:g4}, allowed {Tolerance:g4}");
        Assert.Contains(model.Linears.Keys, p => p.Contains($".mlp.{config.Experts!.List}.0.", StringComparison.Ordinal));
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void A_stack_goes_into_gguf_as_its_experts_do(string name)
    {
        ModelConfig config = Open(name, out JsonObject json, out string folder);
        using SafetensorsFile given = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")), relaid = Relaid(given, config.Experts!), renamed = WithNewNames(relaid, config);
        string[] paths = [.. Enumerable.Range(0, 3).Select(i => Path.Combine(_folder, $"{i}.gguf"))];
        GgufGoldenTests.WriteOrSkip(paths[0], folder, new GgufModelWriter.Options { Type = "F32" });
        foreach ((SafetensorsFile source, string path) in new[] { relaid, renamed }.Zip(paths[1..]))
            GgufModelWriter.Write(path, json, folder, source, new GgufModelWriter.Options { Type = "F32" });
        using GgufFile one = GgufFile.Open(paths[0]);
        foreach (string path in paths[1..])
        {
            using GgufFile other = GgufFile.Open(path);
            Assert.Equal(one.Names, other.Names);
            Assert.All(one.Names, n => Assert.Equal(one.ReadBytes(n), other.ReadBytes(n)));
        }

        // A LoRA over experts in stacks, under their new names, finds the stacks of the file.
        using Device device = Device.Cpu(2);
        using DecoderModel model = ModelLoader.Load(device, config, renamed);
        using PeftAdapter lora = PeftFactory.Create(model, new PeftSettings { Kind = "lora", Rank = 2, TargetModules = $@".*\.{config.Experts!.List}\.\d+\..*", InitNoise = 0.2 });
        string file = Path.Combine(_folder, "lora.gguf");
        using (ModelFiles files = ModelFiles.Open(folder))
            LoraExport.WriteGguf(file, files, lora, 1);
        using GgufModel gguf = GgufModel.Open(paths[2]);
        using DecoderModel read = ModelLoader.Load(device, ModelBundle.ConfigOf(gguf, paths[2]), gguf.Tensors);
        using IAdapter loaded = AdapterFile.LoadAny(read, file);
        using SafetensorsFile expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        float[] wanted = Logits(model, tokens, lora, 1);
        Assert.True(GoldenFiles.ErrorOverReal(tokens, Logits(model, tokens), wanted) > 1e-3, $"{name}: the LoRA does nothing");
        double error = GoldenFiles.ErrorOverReal(tokens, Logits(read, tokens, loaded, 1), wanted);
        Assert.True(error <= Tolerance, $"{name}: error {error:g4}, allowed {Tolerance:g4}");
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void One_expert_at_a_time_is_read_and_packed(string name)
    {
        ModelConfig config = Open(name, out _, out string folder);
        ExpertConfig x = config.Experts!;
        using SafetensorsFile given = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")), relaid = Relaid(given, x);
        SafetensorsFile stacked = Stacks(given, x).Length > 0 ? given : relaid, single = stacked == given ? relaid : given;
        var how = new WeightStorage(Quantise: new Quantisation(QuantisedForm.Nf4));
        using Device device = Device.Cpu(2);
        using var watched = new Watched(stacked, device.Pool);
        using (DecoderModel model = ModelLoader.Load(device, config, watched, how))
        {
            foreach (string stack in Stacks(stacked, x).SelectMany(l => new[] { $"{l}.gate_up_proj", $"{l}.down_proj" }))
            {
                long size = stacked.Info(stack).Elements / x.Count;
                (long First, long Elements, long InUse)[] reads = [.. watched.Reads.Where(r => r.Name == stack).Select(r => (r.First, r.Elements, r.InUse))];
                Assert.Equal(stacked.Info(stack).Elements, reads.Sum(r => r.Elements));
                // The packed experts before it are all there when an expert is read, and none after it.
                long packed = model.Parameters.Where(p => p.Value.Type == DType.Packed && model.Linears[p.Key[..^".weight".Length]].WeightPart?.Name == stack).Sum(p => p.Value.Data.Bytes) / x.Count, before = reads[0].InUse;
                foreach ((long first, long elements, long inUse) in reads)
                {
                    Assert.InRange(elements, 1, size);
                    Assert.Equal(first / size, (first + elements - 1) / size);
                    Assert.True(inUse - before >= first / size * packed, $"{name}: {stack} at element {first}: {inUse - before} bytes in use since the first, {first / size} packed experts of {packed} bytes belong there");
                }
                Assert.DoesNotContain(stack, model.Parameters.Keys);
            }
            // Nothing but what the model holds was ever taken, and a dry run says how much that is.
            Assert.Equal(device.Pool.InUse, device.Pool.PeakReserved);
            Assert.Equal(device.Pool.InUse, Planned(stacked));
            Assert.Equal(device.Pool.InUse, Planned(single));
        }
        Assert.Equal(0, device.Pool.InUse);

        long Planned(ITensorSource source)
        {
            using var dry = new Device(new DryBackend());
            using DecoderModel model = ModelLoader.Load(dry, config, source, how);
            return dry.Pool.InUse;
        }
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Adapters_over_quantised_stacks_merge_into_stacks(string name)
    {
        ModelConfig config = Open(name, out _, out string folder);
        ExpertConfig x = config.Experts!;
        using SafetensorsFile given = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")), relaid = Relaid(given, x), expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        SafetensorsFile stacked = Stacks(given, x).Length > 0 ? given : relaid;
        TokenBatch tokens = GoldenFiles.Batch(expected);
        using Device device = Device.Cpu(2);
        using DecoderModel model = ModelLoader.Load(device, config, stacked, new WeightStorage(Quantise: new Quantisation(QuantisedForm.Int8)));
        string targets = $@".*\.{x.List}\.(0|{x.Count - 1})\.({x.Gate}|{x.Up}|{x.Down})";
        using PeftAdapter lora = PeftFactory.Create(model, new PeftSettings { Kind = "lora", Rank = 2, TargetModules = targets, InitNoise = 0.2 });
        using SvdAdapter rotation = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, TargetModules = targets, InitRotation = 0.4 });
        foreach (IAdapter adapter in new IAdapter[] { lora, rotation })
        {
            Assert.NotEmpty(adapter.Modules);
            string path = Path.Combine(_folder, $"{adapter.Kind}.safetensors");
            MergedWeights.Write(adapter, 0.7f, path);
            using SafetensorsFile written = SafetensorsFile.Open(path);
            // The names and shapes of the file that the model came from.
            Assert.Equal(stacked.Names.Order(StringComparer.Ordinal), written.Names.Order(StringComparer.Ordinal));
            Assert.All(stacked.Names, n => Assert.Equal(stacked.Info(n).ShapeText, written.Info(n).ShapeText));
            using DecoderModel merged = ModelLoader.Load(device, config, written);
            float[] with = Logits(merged, tokens);
            double error = GoldenFiles.ErrorOverReal(tokens, Logits(model, tokens, adapter, 0.7f), with);
            Assert.True(error <= 10 * Tolerance, $"{name} {adapter.Kind}: error {error:g4}");
            Assert.True(GoldenFiles.ErrorOverReal(tokens, Logits(model, tokens), with) > 1e-3, $"{name} {adapter.Kind}: the adapter does nothing");
        }
    }

    // The module of the experts as transformers 5 calls it.
    private SafetensorsFile WithNewNames(SafetensorsFile source, ModelConfig config)
    {
        string path = Path.Combine(_folder, "renamed.safetensors");
        var writer = new SafetensorsWriter();
        foreach (string n in source.Names)
            writer.Add(n.Replace($".{config.Names.Mlp}.", ".mlp.", StringComparison.Ordinal), source.Info(n).Shape, source.ReadF32(n));
        writer.Write(path);
        return SafetensorsFile.Open(path);
    }

    private static ModelConfig Open(string name, out JsonObject json, out string folder)
    {
        folder = Golden.Require("models", name);
        string path = Path.Combine(folder, "config.json");
        json = GoldenFiles.Json(path);
        return Families.Read(new ConfigReader(json, path));
    }

    private static void Same(DecoderModel one, DecoderModel other, string what)
    {
        LinearModule[] a = Linears(one), b = Linears(other);
        Assert.Equal(a.Length, b.Length);
        Assert.Contains(a, l => l.Weight.Type == DType.Packed);
        foreach ((LinearModule x, LinearModule y) in a.Zip(b))
        {
            Assert.True(x.Weight.TypeName == y.Weight.TypeName, $"{what}: {x.Path} is {x.Weight.TypeName} and {y.Weight.TypeName}");
            Assert.True(WeightReader.ToHost(x.Weight).AsSpan().SequenceEqual(WeightReader.ToHost(y.Weight)), $"{what}: {x.Path} has other bits");
        }

        static LinearModule[] Linears(DecoderModel m) => [.. m.Blocks.Where(b => b.Experts is not null).SelectMany(b => b.Experts!.All).SelectMany(e => new[] { e.Gate, e.Up, e.Down })];
    }

    private static float[] Logits(DecoderModel model, TokenBatch tokens, IAdapter? adapter = null, float c = 0)
    {
        using var tape = new Tape(model.Device, record: false);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, tokens) { Adapter = adapter?.Pass(tape, [.. Enumerable.Repeat(c, tokens.Batch)], tokens.Length) })).ToArray();
    }

    // Paths of the lists of experts that a file holds in stacks.
    private static string[] Stacks(ITensorSource source, ExpertConfig x)
    {
        string end = $".{x.List}.gate_up_proj";
        return [.. source.Names.Where(n => n.EndsWith(end, StringComparison.Ordinal)).Select(n => n[..^".gate_up_proj".Length])];
    }

    // The same model with its experts in the other layout.
    private SafetensorsFile Relaid(SafetensorsFile source, ExpertConfig x)
    {
        Dictionary<string, (long[] Shape, float[] Values)> all = source.Names.ToDictionary(n => n, n => (source.Info(n).Shape, source.ReadF32(n)));
        bool turned = x.Stack == StackLayout.InOutInterleaved;
        string[] lists = Stacks(source, x);
        bool unstack = lists.Length > 0;
        if (!unstack)
            lists = [.. all.Keys.Where(n => n.EndsWith($".{x.List}.0.{x.Gate}.weight", StringComparison.Ordinal)).Select(n => n[..^$".0.{x.Gate}.weight".Length])];
        foreach (string list in lists)
            foreach ((string stack, string[] projections) in new[] { ("gate_up_proj", new[] { x.Gate, x.Up }), ("down_proj", [x.Down]) })
            {
                long[] shape = unstack ? all[$"{list}.{stack}"].Shape : all[$"{list}.0.{projections[0]}.weight"].Shape;
                int halves = projections.Length, inputs = (int)(unstack && turned ? shape[1] : shape[^1]), rows = (int)(unstack ? shape[turned ? 2 : 1] / halves : shape[0]);
                if (!unstack)
                {
                    all[$"{list}.{stack}"] = (turned ? [x.Count, inputs, halves * rows] : [x.Count, halves * rows, inputs], new float[x.Count * halves * rows * inputs]);
                    if (x.Bias)
                        all[$"{list}.{stack}_bias"] = ([x.Count, halves * rows], new float[x.Count * halves * rows]);
                }
                for (int e = 0; e < x.Count; e++)
                    for (int half = 0; half < halves; half++)
                    {
                        string part = $"{list}.{e}.{projections[half]}";
                        if (unstack)
                            all[$"{part}.weight"] = ([rows, inputs], new float[rows * inputs]);
                        if (unstack && x.Bias)
                            all[$"{part}.bias"] = ([rows], new float[rows]);
                        for (int o = 0; o < rows; o++)
                        {
                            int row = halves == 1 ? o : turned ? 2 * o + half : half * rows + o, outputs = halves * rows;
                            for (int i = 0; i < inputs; i++)
                                Move(all[$"{list}.{stack}"].Values, turned ? (e * inputs + i) * outputs + row : (e * outputs + row) * inputs + i, all[$"{part}.weight"].Values, o * inputs + i);
                            if (x.Bias)
                                Move(all[$"{list}.{stack}_bias"].Values, e * outputs + row, all[$"{part}.bias"].Values, o);
                        }
                        if (!unstack)
                        {
                            all.Remove($"{part}.weight");
                            all.Remove($"{part}.bias");
                        }
                    }
                if (unstack)
                {
                    all.Remove($"{list}.{stack}");
                    all.Remove($"{list}.{stack}_bias");
                }
            }
        var writer = new SafetensorsWriter();
        foreach ((string n, (long[] shape, float[] values)) in all)
            writer.Add(n, shape, values);
        string path = Path.Combine(_folder, "relaid.safetensors");
        writer.Write(path);
        return SafetensorsFile.Open(path);

        void Move(float[] stack, int at, float[] one, int index)
        {
            if (unstack)
                one[index] = stack[at];
            else
                stack[at] = one[index];
        }
    }

    /// <summary>A source that notes what is read of it and how much memory the pool had lent by then.</summary>
    private sealed unsafe class Watched(ITensorSource inner, MemoryPool pool) : ITensorSource
    {
        public List<(string Name, long First, long Elements, long InUse)> Reads { get; } = [];

        public string Description => inner.Description;

        public IReadOnlyList<string> Names => inner.Names;

        public bool TryGetInfo(string name, out TensorInfo info) => inner.TryGetInfo(name, out info);

        public void ReadF32(string name, long firstRow, long rows, float* destination)
        {
            long width = inner.Info(name).RowLength;
            Reads.Add((name, firstRow * width, rows * width, pool.InUse));
            inner.ReadF32(name, firstRow, rows, destination);
        }

        public void ReadRaw(string name, long firstRow, long rows, byte* destination)
        {
            long width = inner.Info(name).RowLength;
            Reads.Add((name, firstRow * width, rows * width, pool.InUse));
            inner.ReadRaw(name, firstRow, rows, destination);
        }

        public bool TryMap(string name, out MappedBytes bytes)
        {
            bytes = default;
            return false;
        }

        public void Dispose()
        {
        }
    }
}
