using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// LoRA (Hu et al. 2021): y = W·x + b + c·s·B·(A·x), A [r, in], B [out, r], s = α/r, or α/√r (rsLoRA, Kalajdzievski 2023);
/// a bias of B adds s·bias whatever c is. DoRA (Liu et al. 2024): y = (m/n)∘(W·x + c·s·B·(A·x)) + b with the norms
/// n of the rows of W + c·s·B·A, which count as constants in the backward pass (section 4.3 there).
/// </summary>
public sealed class LoraLayer : LowRankLayer
{
    private readonly float _scale;
    private readonly Tensor _a, _b;
    private readonly Tensor? _biasB, _magnitude, _weightSquares, _one;

    /// <summary>Takes ownership of the tensors.</summary>
    public LoraLayer(LinearModule module, float scale, Tensor a, Tensor b, Tensor? biasB, Tensor? magnitude) : base(module)
    {
        _scale = scale;
        _a = Store("lora_A.weight", a);
        _b = Store("lora_B.weight", b);
        _biasB = biasB is null ? null : Store("lora_B.bias", biasB);
        if (magnitude is null)
            return;
        _magnitude = Store("lora_magnitude_vector", magnitude);
        _weightSquares = Own(Tensor.From(a.Device, RowSquares(Weight(), module.Inputs), module.Outputs));
        var one = new float[a.Rows * a.Rows];
        for (int i = 0; i < a.Rows; i++)
            one[i * a.Rows + i] = 1;
        _one = Own(Tensor.From(a.Device, one, a.Rows, a.Rows));
    }

    internal override bool IsBaseAtZero => _biasB is null && _magnitude is null;

    internal override Tensor[] Prepare(Tape tape, float c)
    {
        if (_magnitude is null)
            return [];
        using Tape.Scope scope = tape.BeginScope();
        Tensor inverse;
        using (Tape.Recorder recorder = tape.SaveRecording())
        {
            recorder.Pause();
            // ‖W_i + k·(BA)_i‖² = ‖W_i‖² + 2k·⟨W_i, (BA)_i⟩ + k²·‖(BA)_i‖²: the sum of the matrices is never formed.
            float k = c * _scale;
            Tensor aw = tape.MatMul(tape.MatMul(_a, Module.Weight, transB: true), _one!, transA: true);
            Tensor aa = tape.MatMul(_a, _a, transB: true);
            Tensor cross = tape.Sum(tape.Multiply(_b, aw), 1);
            Tensor square = tape.Sum(tape.Multiply(tape.MatMul(_b, aa), _b), 1);
            Tensor n2 = tape.Add(tape.Add(_weightSquares!, tape.Scale(cross, 2 * k)), tape.Scale(square, k * k));
            inverse = tape.Unary(tape.Unary(n2, UnaryOp.Sqrt), UnaryOp.Reciprocal);
        }
        return [scope.Keep(tape.Multiply(_magnitude, inverse))];
    }

    internal override Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared)
    {
        Tensor y = tape.Linear(x, Module.Weight, _magnitude is null ? Module.Bias : null);
        if (!rows.AllZero)
            y = tape.Add(y, tape.MatMul(rows.Scale(tape, tape.MatMul(x, _a, transB: true, autocast: true), _scale), _b, transB: true, autocast: true));
        if (_biasB is not null)
            y = tape.Add(y, tape.Scale(_biasB, _scale), Broadcast.OverRows);
        if (_magnitude is null)
            return y;
        y = rows.Multiply(tape, y, c => prepared(c)[0]);
        return Module.Bias is null ? y : tape.Add(y, Module.Bias, Broadcast.OverRows);
    }

    /// <inheritdoc/>
    public override (double[] Left, double[] Right) Factors(float c)
    {
        double k = (double)_scale * c;
        return ([.. Wide(_b).Select(v => v * k)], Wide(_a));
    }

    /// <inheritdoc/>
    public override (float[] Weight, float[]? Bias) Merge(float c)
    {
        (float[] w, float[]? bias) = base.Merge(c);
        if (_biasB is not null)
        {
            if (bias is null)
                throw new UserErrorException($"{Path}: the adapter adds a bias (lora_bias), the base layer has none to merge it into; use the adapter unmerged");
            float[] added = _biasB.ToArray();
            for (int o = 0; o < bias.Length; o++)
                bias[o] += _scale * added[o];
        }
        if (_magnitude is not null)
        {
            float[] m = _magnitude.ToArray(), squares = RowSquares(w, Module.Inputs);
            for (int o = 0; o < m.Length; o++)
            {
                double f = m[o] / Math.Sqrt(squares[o]);
                for (int i = 0; i < Module.Inputs; i++)
                    w[(long)o * Module.Inputs + i] = (float)(w[(long)o * Module.Inputs + i] * f);
            }
        }
        return (w, bias);
    }

    internal override void Negate() => Scale(_a, -1);

    /// <summary>‖row‖² of each row of a matrix.</summary>
    internal static float[] RowSquares(float[] w, int columns)
    {
        var squares = new float[w.Length / columns];
        for (int o = 0; o < squares.Length; o++)
        {
            double sum = 0;
            foreach (float v in w.AsSpan(o * columns, columns))
                sum += (double)v * v;
            squares[o] = (float)sum;
        }
        return squares;
    }
}
