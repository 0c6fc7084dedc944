using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// New adapters, begun as PEFT begins them: LoRA A ~ U(±1/√in) (kaiming_uniform with a = √5) or normal with deviation 1/r, B = 0; DoRA also the row norms of
/// W; (IA)³ l = 1; VeRA λ_d = d_initial, λ_b = 0; DeLoRA A ~ U(±1/√in), B = 0, λ given, w the column norms of W; RoAd θ = 0, α = 1. So each
/// begins as the base model, but for the noise that the settings may ask for. Each layer has its own random stream.
/// </summary>
public static class PeftFactory
{
    /// <summary>Makes the adapter. Throws <see cref="UserErrorException"/> where nothing matches or a size does not fit.</summary>
    public static PeftAdapter Create(DecoderModel model, PeftSettings settings)
    {
        settings.Validate();
        LinearModule[] targets = SvdAdapter.Match(model, settings.TargetModules);
        var config = new PeftConfig(Json(model, settings), "new adapter");
        if (settings.HasRank && settings.Kind != "vera" && targets.FirstOrDefault(t => settings.Rank > Math.Min(t.Inputs, t.Outputs)) is { } narrow)
            throw new UserErrorException($"rank {settings.Rank} is above the smaller side of {narrow.Path} [{narrow.Outputs}, {narrow.Inputs}]; take at most {Math.Min(narrow.Inputs, narrow.Outputs)}");
        if (config.Type == PeftType.Road && targets.FirstOrDefault(t => t.Outputs % settings.GroupSize != 0) is { } uneven)
            throw new UserErrorException($"group_size {settings.GroupSize} does not divide the {uneven.Outputs} outputs of {uneven.Path}; take one that divides them");
        VeraProjections? projections = config.Type == PeftType.Vera ? VeraProjections.Draw(model.Device, settings.Rank, targets, config.ProjectionKey) : null;
        var layers = new List<PeftLayer>();
        try
        {
            for (int i = 0; i < targets.Length; i++)
                layers.Add(Layer(config, settings, targets[i], projections, (ulong)i));
            return new PeftAdapter(model, config, layers, projections);
        }
        catch
        {
            layers.ForEach(l => l.Dispose());
            projections?.Dispose();
            throw;
        }
    }

    private static PeftLayer Layer(PeftConfig config, PeftSettings s, LinearModule t, VeraProjections? projections, ulong stream)
    {
        Device device = t.Weight.Device;
        int r = s.Rank;
        Tensor Filled(float value, params int[] shape) => Tensor.From(device, Enumerable.Repeat(value, (int)Tensor.Count(shape)).ToArray(), shape);
        // Streams of the noise lie beyond those of the factors.
        Tensor Noisy(float value, params int[] shape)
        {
            var noise = new float[Tensor.Count(shape)];
            Philox.FillNormal(noise, s.Seed, stream | 1UL << 32);
            return Tensor.From(device, Array.ConvertAll(noise, n => value + (float)s.InitNoise * n), shape);
        }
        switch (config.Type)
        {
            case PeftType.Lora:
                return new LoraLayer(t, PeftTargets.LoraScale(config, t.Path), Tensor.From(device, Start(s, t, stream), r, t.Inputs), Noisy(0, t.Outputs, r), null,
                    config.Dora ? Tensor.From(device, Norms(t, ofRows: true), t.Outputs) : null);
            case PeftType.Ia3:
                bool feedForward = config.FeedForwardModules.Matches(t.Path);
                return new Ia3Layer(t, feedForward, feedForward ? Noisy(1, 1, t.Inputs) : Noisy(1, t.Outputs, 1));
            case PeftType.Vera:
                return new VeraLayer(t, Noisy(0, t.Outputs), Filled((float)s.DInitial, r), projections!.Down(t.Inputs), projections.Up(t.Outputs));
            case PeftType.Delora:
                return new DeloraLayer(t, Tensor.From(device, Start(s, t, stream), r, t.Inputs), Noisy(0, t.Outputs, r), Filled((float)s.Lambda, 1), Tensor.From(device, Norms(t, ofRows: false), t.Inputs));
            default:
                int values = RoadLayer.Values(config.Variant, t.Outputs);
                return new RoadLayer(t, config.Variant, config.GroupSize, Filled(0, values), Noisy(1, values));
        }
    }

    private static float[] Start(PeftSettings s, LinearModule t, ulong stream)
    {
        var a = new float[s.Rank * t.Inputs];
        bool normal = s.GaussianInit && s.Kind != "delora";
        if (normal)
            Philox.FillNormal(a, s.Seed, stream);
        else
            Philox.FillUniform(a, s.Seed, stream);
        for (int i = 0; i < a.Length; i++)
            a[i] = normal ? a[i] / s.Rank : (float)((2 * a[i] - 1) / Math.Sqrt(t.Inputs));
        return a;
    }

    private static float[] Norms(LinearModule t, bool ofRows)
    {
        var squares = new double[ofRows ? t.Outputs : t.Inputs];
        // A dry run has no weights to read.
        if (t.Weight.Device.Backend is not DryBackend)
        {
            float[] w = WeightReader.ToHost(t.Weight);
            for (int i = 0; i < w.Length; i++)
                squares[ofRows ? i / t.Inputs : i % t.Inputs] += (double)w[i] * w[i];
        }
        return Array.ConvertAll(squares, x => (float)Math.Sqrt(x));
    }

    // The layers that end an MLP, those of experts included.
    private static string FeedForward(ModelConfig c) =>
        $@".*\.{Regex.Escape(c.Names.Mlp)}\.(?:.*\.)?(?:{string.Join('|', new[] { c.Names.Down, c.Experts?.Down }.OfType<string>().Distinct().Select(Regex.Escape))})";

    private static JsonObject Json(DecoderModel model, PeftSettings s)
    {
        JsonNode targets = s.TargetModules;
        if (s.Kind is "lora" or "rslora" or "dora")
        {
            JsonObject lora = PeftConfigs.Lora(s.Rank, s.Alpha, targets, null);
            (lora["use_rslora"], lora["use_dora"], lora["init_lora_weights"]) = (s.Kind == "rslora", s.Kind == "dora", s.GaussianInit ? "gaussian" : true);
            return lora;
        }
        JsonObject json = PeftConfigs.Common(s.Kind.Split('_')[0].ToUpperInvariant(), targets, null);
        switch (s.Kind)
        {
            case "ia3":
                (json["feedforward_modules"], json["init_ia3_weights"]) = (s.FeedForwardModules ?? FeedForward(model.Config), true);
                break;
            case "vera":
                // PEFT's generator takes 32 bits.
                (json["r"], json["projection_prng_key"], json["save_projection"], json["d_initial"], json["bias"]) = (s.Rank, (long)(s.Seed & 0x7FFFFFFF), true, s.DInitial, "none");
                break;
            case "delora":
                (json["r"], json["delora_lambda"], json["bias"]) = (s.Rank, s.Lambda, "none");
                break;
            default:
                (json["variant"], json["group_size"]) = (s.Kind, s.GroupSize);
                break;
        }
        json["init_weights"] = s.Kind == "ia3" ? null : true;
        return json;
    }
}
