using System.Text.RegularExpressions;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;

namespace Repeng.Steering.Models;

/// <summary>What <see cref="ForwardDump"/> writes beside logits, label log-probabilities and loss.</summary>
public sealed record ForwardDumpSettings
{
    /// <summary>hidden_states.0 (embeddings), … .N (after the final norm), [batch, length, d].</summary>
    public bool HiddenStates { get; init; }

    /// <summary>Modules whose output is written, by their whole dotted path; null for none.</summary>
    public Regex? Modules { get; init; }

    /// <summary>grad.NAME of every parameter, in the layout of the model's own files. Weights must be fp32.</summary>
    public bool Gradients { get; init; }

    /// <summary>Steers the pass.</summary>
    public IAdapter? Adapter { get; init; }

    /// <summary>Coefficient of every row.</summary>
    public float Coefficient { get; init; }
}

/// <summary>One forward pass as named tensors, for comparison with other software.</summary>
public static class ForwardDump
{
    /// <summary>Reads input_ids and, if there, attention_mask [batch, length] (left-padded) of a safetensors file.</summary>
    public static TokenBatch ReadRows(string path)
    {
        using ITensorSource source = SafetensorsFile.Open(path);
        if (!source.Contains("input_ids"))
            throw new UserErrorException($"{path}: no tensor input_ids; it holds {string.Join(", ", source.Names.Take(8))}");
        TensorInfo info = source.Info("input_ids");
        if (info.Shape.Length != 2 || info.Elements == 0)
            throw new UserErrorException($"{path}: input_ids has shape {info.ShapeText}; [batch, length] is needed");
        int[] ids = Ints(source, "input_ids", path), mask;
        if (!source.Contains("attention_mask"))
        {
            mask = [.. Enumerable.Repeat(1, ids.Length)];
        }
        else
        {
            source.Info("attention_mask", info.Shape);
            mask = Ints(source, "attention_mask", path);
        }
        return TokenBatch.FromMask(ids, mask, (int)info.Shape[0], (int)info.Shape[1]);
    }

    /// <summary>
    /// Runs the batch. Tensors: input_ids, attention_mask, position_ids [batch, length]; logits [batch, length,
    /// vocabulary]; label_logprob [batch, length − 1] (log-softmax of logits[t] at token t + 1); loss [1] (minus its mean
    /// over positions where t and t + 1 are real); and what the settings ask for, modules by their paths. Padding
    /// positions hold whatever the masks let through.
    /// </summary>
    public static SafetensorsWriter Run(DecoderModel model, TokenBatch tokens, ForwardDumpSettings settings)
    {
        if (tokens.Length < 2 || Enumerable.Range(0, tokens.Batch).All(b => tokens.Starts[b] >= tokens.Length - 1))
            throw new UserErrorException($"the longest row has {tokens.Length - tokens.Starts.Min()} token; a label needs at least two, give a longer text");
        var writer = new SafetensorsWriter();
        long batch = tokens.Batch, length = tokens.Length;
        writer.Add("input_ids", [batch, length], Longs(tokens.Ids));
        writer.Add("attention_mask", [batch, length], Longs([.. Enumerable.Range(0, tokens.Ids.Length).Select(i => tokens.IsReal(i / tokens.Length, i % tokens.Length) ? 1 : 0)]));
        writer.Add("position_ids", [batch, length], Longs(tokens.Positions()));

        if (settings.Gradients)
            model.RequireGradients(true);
        try
        {
            Regex? wanted = settings.Modules is { } given ? new Regex($@"\A(?:{given})\z", given.Options) : null;
            using var tape = new Tape(model.Device, record: settings.Gradients);
            var context = new ForwardContext(tape, tokens)
            {
                KeepHiddenStates = settings.HiddenStates,
                Capture = wanted is null ? null : wanted.IsMatch,
                Adapter = settings.Adapter?.Pass(tape, [.. Enumerable.Repeat(settings.Coefficient, tokens.Batch)], tokens.Length),
            };
            Tensor hidden = model.Forward(context), logits = model.Logits(context, hidden);
            for (int i = 0; i < context.HiddenStates.Count; i++)
                writer.Add($"hidden_states.{i}", [batch, length, context.HiddenStates[i].Cols], context.HiddenStates[i].ToArray());
            if (settings.Modules is not null && context.Outputs.Count == 0)
                throw new UserErrorException($"--modules {settings.Modules}: no module of {model.Source} has such a path; paths look like {model.Linears.Keys.First()}");
            foreach ((string module, Tensor output) in context.Outputs.OrderBy(o => o.Key, StringComparer.Ordinal))
                writer.Add(module, [batch, length, output.Cols], output.ToArray());
            writer.Add("logits", [batch, length, model.Config.VocabSize], logits.ToArray());

            int[] index = [.. Enumerable.Range(0, tokens.Ids.Length).Where(i => i % tokens.Length < tokens.Length - 1)];
            Tensor logProb = model.LabelLogProb(context, hidden, index, [.. index.Select(i => tokens.Ids[i + 1])]);
            writer.Add("label_logprob", [batch, length - 1], logProb.ToArray());
            float[] real = [.. index.Select(i => tokens.IsReal(i / tokens.Length, i % tokens.Length) ? 1f : 0f)];
            Tensor loss = tape.Scale(tape.Sum(tape.Multiply(logProb, tape.Constant(real, real.Length))), -1 / real.Sum());
            writer.Add("loss", [1], new[] { loss.Item() });
            if (settings.Gradients)
            {
                tape.Backward(loss);
                foreach ((string name, Tensor p) in model.Parameters.OrderBy(p => p.Key, StringComparer.Ordinal))
                    AddGradient(writer, model, name, p);
            }
        }
        finally
        {
            if (settings.Gradients)
                model.RequireGradients(false);
        }
        return writer;
    }

    private static void AddGradient(SafetensorsWriter writer, DecoderModel model, string name, Tensor p)
    {
        float[] g = p.GradToArray();
        writer.Add($"grad.{name}", model.FileShape(name), model.FileLayouts.TryGetValue(name, out FileLayout? layout) ? layout.ToFile<float>(g) : g);
    }

    private static long[] Longs(int[] values) => [.. values.Select(v => (long)v)];

    private static int[] Ints(ITensorSource source, string name, string path) => [.. source.ReadI64(name).Select(x =>
        x is >= int.MinValue and <= int.MaxValue ? (int)x : throw new UserErrorException($"{path}: {name} holds {x}, which is no token id"))];
}
