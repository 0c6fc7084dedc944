namespace Repeng.Kernels.Tests.Reference;

/// <summary>Elementwise functions and their derivatives in plain double arithmetic, and ranges of arguments to try them on.</summary>
internal static class ElementwiseReference
{
    /// <summary>f(x).</summary>
    public static double Value(UnaryOp op, double x, double p) => op switch
    {
        UnaryOp.Scale => p * x,
        UnaryOp.Offset => x + p,
        UnaryOp.Exp => Math.Exp(x),
        UnaryOp.Log => Math.Log(x),
        UnaryOp.Log1p => LogOnePlus(x),
        UnaryOp.Sqrt => Math.Sqrt(x),
        UnaryOp.Square => x * x,
        UnaryOp.Power => Math.Pow(x, p),
        UnaryOp.Reciprocal => 1 / x,
        UnaryOp.Abs => Math.Abs(x),
        UnaryOp.Relu => Math.Max(x, 0),
        UnaryOp.Min => Math.Min(x, p),
        UnaryOp.Max => Math.Max(x, p),
        UnaryOp.Tanh => Math.Tanh(x),
        UnaryOp.SoftCap => p * Math.Tanh(x / p),
        UnaryOp.Sigmoid => Sigmoid(x),
        UnaryOp.LogSigmoid => x < 0 ? x - LogOnePlus(Math.Exp(x)) : -LogOnePlus(Math.Exp(-x)),
        UnaryOp.Silu => x * Sigmoid(x),
        UnaryOp.Gelu => x * NormalCdf(x),
        UnaryOp.GeluTanh => x * Sigmoid(2 * Math.Sqrt(2 / Math.PI) * (x + (0.044715 * x * x * x))),
        _ => throw new ArgumentOutOfRangeException(nameof(op), op, "no reference"),
    };

    /// <summary>f′(x).</summary>
    public static double Derivative(UnaryOp op, double x, double p)
    {
        double s = Sigmoid(x);
        switch (op)
        {
            case UnaryOp.Scale: return p;
            case UnaryOp.Offset: return 1;
            case UnaryOp.Exp: return Math.Exp(x);
            case UnaryOp.Log: return 1 / x;
            case UnaryOp.Log1p: return 1 / (1 + x);
            case UnaryOp.Sqrt: return 0.5 / Math.Sqrt(x);
            case UnaryOp.Square: return 2 * x;
            case UnaryOp.Power: return p == 0 ? 0 : p * Math.Pow(x, p - 1);
            case UnaryOp.Reciprocal: return -1 / (x * x);
            case UnaryOp.Abs: return Math.Sign(x);
            case UnaryOp.Relu: return x > 0 ? 1 : 0;
            case UnaryOp.Min: return x <= p ? 1 : 0;
            case UnaryOp.Max: return x >= p ? 1 : 0;
            case UnaryOp.Tanh: return 1 / Math.Pow(Math.Cosh(x), 2);
            case UnaryOp.SoftCap: return 1 / Math.Pow(Math.Cosh(x / p), 2);
            case UnaryOp.Sigmoid: return s * Sigmoid(-x);
            case UnaryOp.LogSigmoid: return Sigmoid(-x);
            case UnaryOp.Silu: return s * (1 + (x * Sigmoid(-x)));
            case UnaryOp.Gelu: return NormalCdf(x) + (x * Math.Exp(-x * x / 2) / Math.Sqrt(2 * Math.PI));
            case UnaryOp.GeluTanh:
                double k = 2 * Math.Sqrt(2 / Math.PI), u = k * (x + (0.044715 * x * x * x));
                return Sigmoid(u) + (x * Sigmoid(u) * Sigmoid(-u) * k * (1 + (3 * 0.044715 * x * x)));
            default: throw new ArgumentOutOfRangeException(nameof(op), op, "no reference");
        }
    }

    /// <summary>a ∘ b.</summary>
    public static double Value(BinaryOp op, double a, double b) => op switch
    {
        BinaryOp.Add => a + b,
        BinaryOp.Subtract => a - b,
        BinaryOp.Multiply => a * b,
        BinaryOp.Divide => a / b,
        _ => throw new ArgumentOutOfRangeException(nameof(op), op, "no reference"),
    };

    /// <summary>The derivatives of a ∘ b by a and by b.</summary>
    public static (double ByA, double ByB) Derivatives(BinaryOp op, double a, double b) => op switch
    {
        BinaryOp.Add => (1, 1),
        BinaryOp.Subtract => (1, -1),
        BinaryOp.Multiply => (b, a),
        BinaryOp.Divide => (1 / b, -a / (b * b)),
        _ => throw new ArgumentOutOfRangeException(nameof(op), op, "no reference"),
    };

    /// <summary>Which element of b meets element (row, col) of a.</summary>
    public static int IndexOfB(Broadcast broadcast, int row, int col, int cols) => broadcast switch
    {
        Broadcast.None => (row * cols) + col,
        Broadcast.OverRows => col,
        Broadcast.OverCols => row,
        Broadcast.Scalar => 0,
        _ => throw new ArgumentOutOfRangeException(nameof(broadcast), broadcast, "no reference"),
    };

    /// <summary>The parameter that the tests give an op.</summary>
    public static float Parameter(UnaryOp op) => op switch
    {
        UnaryOp.Scale => -1.7f,
        UnaryOp.Offset => 0.3f,
        UnaryOp.Power => 1.6f,
        UnaryOp.Min => 0.4f,
        UnaryOp.Max => -0.6f,
        UnaryOp.SoftCap => 3f,
        _ => 0,
    };

    /// <summary>Arguments inside the domain, from small to large, fixed by the seed.</summary>
    public static float[] Arguments(UnaryOp op, int n, int seed)
    {
        var random = new Random(seed);
        var x = new float[n];
        for (int i = 0; i < n; i++)
        {
            double spread = 8 * ((2 * random.NextDouble()) - 1);
            x[i] = (float)(op switch
            {
                UnaryOp.Log or UnaryOp.Sqrt or UnaryOp.Power => Math.Exp(spread),
                UnaryOp.Log1p => Math.Exp(spread) - 0.999,
                UnaryOp.Reciprocal => spread + (0.5 * Math.Sign(spread)),
                _ => spread,
            });
        }
        return x;
    }

    /// <summary>1/(1 + e⁻ˣ).</summary>
    public static double Sigmoid(double x) => x < 0 ? Math.Exp(x) / (1 + Math.Exp(x)) : 1 / (1 + Math.Exp(-x));

    /// <summary>ln(1 + x) with the rounding error of 1 + x divided out.</summary>
    public static double LogOnePlus(double x)
    {
        double u = 1 + x;
        return u == 1 || double.IsPositiveInfinity(u) ? x : u == 0 ? double.NegativeInfinity : Math.Log(u) * (x / (u - 1));
    }

    /// <summary>Φ(x): the power series of erf near 0, the continued fraction of erfc in the tails (Abramowitz and Stegun 7.1.6, 7.1.14).</summary>
    public static double NormalCdf(double x)
    {
        double t = Math.Abs(x) / Math.Sqrt(2), tail;
        if (t < 2.5)
        {
            double term = t, sum = t;
            for (int n = 1; n < 200; n++)
            {
                term *= 2 * t * t / ((2 * n) + 1);
                sum += term;
            }
            tail = 0.5 - (sum * Math.Exp(-t * t) / Math.Sqrt(Math.PI));
        }
        else
        {
            double fraction = t;
            for (int n = 400; n > 0; n--)
                fraction = t + (n / 2.0 / fraction);
            tail = 0.5 * Math.Exp(-t * t) / (fraction * Math.Sqrt(Math.PI));
        }
        return x < 0 ? tail : 1 - tail;
    }
}
