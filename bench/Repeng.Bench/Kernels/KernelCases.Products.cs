using Repeng.Bench.Packed;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;
using TorchSharp;

namespace Repeng.Bench.Kernels;

/// <summary>Every row.</summary>
internal static partial class KernelCases
{
    private static readonly (string Model, int Hidden, int Queries, int Wide)[] s_models =
    [
        ("SmolLM2", 576, 576, 1536), ("Qwen3-0.6B", 1024, 2048, 3072), ("Qwen3-1.7B", 2048, 2048, 6144), ("Qwen3-4B", 2560, 4096, 9728),
    ];

    public static IEnumerable<KernelCase> All() => [.. Products(), .. PackedProducts(), .. Attention(), .. Norms(), .. Vocabulary(), .. Rotations(), .. Optimisers(), .. Decompositions()];

    private static IEnumerable<KernelCase> Products()
    {
        foreach ((string model, int hidden, int queries, int wide) in s_models)
            foreach ((string layer, int outputs, int inputs) in new[] { ("q", queries, hidden), ("gate", wide, hidden), ("down", hidden, wide) })
            {
                foreach (int rows in new[] { 1, 8, 448 })
                {
                    yield return Product($"{model} {layer}", outputs, inputs, rows, DType.F32, backward: false);
                    // libtorch takes seconds for many rows of a large bf16 weight where the processor has no instructions for them.
                    if (layer == "gate" && (rows <= 8 || wide <= 3072))
                        yield return Product($"{model} {layer}", outputs, inputs, rows, DType.BF16, backward: false);
                }
                if (layer != "q")
                    yield return Product($"{model} {layer}", outputs, inputs, 448, DType.F32, backward: true);
            }
    }

    // Few rows read each weight once a token, so every call gets another copy of it; many rows use it again and again.
    private static KernelCase Product(string layer, int outputs, int inputs, int rows, DType type, bool backward)
    {
        MatMulArgs args = backward ? new(rows, inputs, outputs) : new(rows, outputs, inputs, TransB: true);
        long size = (long)outputs * inputs;
        double bytes = size * type.Size() + sizeof(float) * (double)rows * (outputs + inputs);
        return new($"product {type}, {layer} {outputs}×{inputs}, {Rows(rows)}, {(backward ? "dy·W" : "x·Wᵀ")}", args.Flops, bytes, o =>
        {
            int copies = rows > 8 ? 1 : Operands.Copies(size * type.Size());
            View w = o.Normal(size * copies, 0.05f, type), x = o.Normal((long)rows * args.K), y = o.Zeros((long)rows * args.N);
            View[] weights = [.. Enumerable.Range(0, copies).Select(i => w.Slice(i * size, size))];
            int turn = 0, peerTurn = 0;
            Action ours = () => o.Backend.MatMul(y, x, weights[turn++ % copies], args);
            if (!o.Peer)
                return new(ours);
            torch.Tensor left = o.Tensor(x, rows, args.K), result = o.Own(torch.empty(rows, args.N, dtype: left.dtype)), all = o.Tensor(w, copies, outputs, inputs);
            if (type == DType.BF16)
                (left, result) = (o.Own(left.to(torch.ScalarType.BFloat16)), o.Own(result.to(torch.ScalarType.BFloat16)));
            torch.Tensor[] rights = [.. Enumerable.Range(0, copies).Select(i => o.Own(backward ? all[i] : all[i].t()))];
            return new(ours, () => [result.addmm_(left, rights[peerTurn++ % copies], 0, 1)]) { Results = [y] };
        })
        { Tolerance = type == DType.BF16 ? 2e-2 : 1e-5 };
    }

    private static IEnumerable<KernelCase> PackedProducts()
    {
        string[] forms = [.. PackedWeight.Codes, .. BlockType.All.Where(t => t.IsPacked && t.CanDecode).Select(t => t.Name)];
        (_, int fewInputs, _, int fewOutputs) = s_models[3];
        (_, int manyInputs, _, int manyOutputs) = s_models[1];
        foreach (string form in forms)
            foreach ((string layer, int outputs, int inputs, int rows) in new[] { ("Qwen3-4B gate", fewOutputs, fewInputs, 1), ("Qwen3-0.6B gate", manyOutputs, manyInputs, 448) })
            {
                MatMulArgs args = new(rows, outputs, inputs, TransB: true);
                double weightBytes = PackedWeight.Bits(form) / 8 * outputs * inputs;
                yield return new($"product {form}, {layer} {outputs}×{inputs}, {Rows(rows)}, x·Wᵀ", args.Flops, weightBytes + sizeof(float) * (double)rows * (outputs + inputs), o =>
                {
                    int copies = rows > 8 ? 1 : Operands.Copies(weightBytes), turn = 0;
                    View w = o.Own(new PackedWeight(form, copies * outputs, inputs)).View, x = o.Normal((long)rows * inputs), y = o.Zeros((long)rows * outputs);
                    View[] weights = [.. Enumerable.Range(0, copies).Select(i => w.Slice((long)i * outputs * inputs, (long)outputs * inputs))];
                    return new(() => o.Backend.MatMul(y, x, weights[turn++ % copies], args));
                })
                { HasPeer = false };
            }
    }

    private static string Rows(int rows) => rows == 1 ? "1 row" : $"{rows} rows";
}
