using System.Runtime.CompilerServices;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>Reading whole tensors into managed memory. All throw <see cref="UserErrorException"/> for a missing name.</summary>
public static unsafe class TensorSourceExtensions
{
    /// <summary>Information about a tensor that must be there; the error names the nearest tensors.</summary>
    public static TensorInfo Info(this ITensorSource source, string name) =>
        source.TryGetInfo(name, out TensorInfo info) ? info : throw MappedTensorSource.Missing(source, name);

    /// <summary>Whether a tensor of this name is there.</summary>
    public static bool Contains(this ITensorSource source, string name) => source.TryGetInfo(name, out _);

    /// <summary>Information about a tensor that must be there with this shape; −1 stands for any size.</summary>
    public static TensorInfo Info(this ITensorSource source, string name, params ReadOnlySpan<long> shape)
    {
        TensorInfo info = source.Info(name);
        bool fits = info.Shape.Length == shape.Length;
        for (int i = 0; fits && i < shape.Length; i++)
            fits = shape[i] < 0 || shape[i] == info.Shape[i];
        if (!fits)
            throw FileErrors.Bad(source.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, needed is [{string.Join(", ", shape.ToArray().Select(s => s < 0 ? "any" : s.ToString()))}]");
        return info;
    }

    /// <summary>Converts a whole tensor to fp32; the destination holds exactly its elements.</summary>
    public static void ReadF32(this ITensorSource source, string name, Span<float> destination)
    {
        TensorInfo info = source.Info(name);
        if (destination.Length != info.Elements)
            throw new ArgumentException($"tensor {name} {info.ShapeText} has {info.Elements} elements, the destination {destination.Length}", nameof(destination));
        fixed (float* p = destination)
            source.ReadF32(name, 0, info.Rows, p);
    }

    /// <summary>Converts a whole tensor to a new fp32 array.</summary>
    public static float[] ReadF32(this ITensorSource source, string name)
    {
        float[] values = GC.AllocateUninitializedArray<float>(Length(source, source.Info(name)));
        source.ReadF32(name, values);
        return values;
    }

    /// <summary>Converts a whole tensor to a new fp64 array, without rounding for every type but 64-bit integers.</summary>
    public static double[] ReadF64(this ITensorSource source, string name)
    {
        TensorInfo info = source.Info(name);
        var values = new double[Length(source, info)];
        switch (info.Type)
        {
            case "F64":
                fixed (double* p = values)
                    source.ReadRaw(name, 0, info.Rows, (byte*)p);
                break;
            case "I64" or "I32" or "U32" or "I16" or "U16" or "I8" or "U8" or "BOOL":
                long[] integers = source.ReadI64(name);
                for (int i = 0; i < values.Length; i++)
                    values[i] = integers[i];
                break;
            default:
                float[] narrow = source.ReadF32(name);
                for (int i = 0; i < values.Length; i++)
                    values[i] = narrow[i];
                break;
        }
        return values;
    }

    /// <summary>A whole tensor of integers or booleans as a new int64 array; <see cref="UserErrorException"/> for other types.</summary>
    public static long[] ReadI64(this ITensorSource source, string name)
    {
        TensorInfo info = source.Info(name);
        byte[] raw = source.ReadBytes(name);
        var values = new long[Length(source, info)];
        fixed (byte* p = raw)
            for (int i = 0; i < values.Length; i++)
                values[i] = info.Type switch
                {
                    "I64" => Unsafe.ReadUnaligned<long>(p + 8L * i),
                    "I32" => Unsafe.ReadUnaligned<int>(p + 4L * i),
                    "U32" => Unsafe.ReadUnaligned<uint>(p + 4L * i),
                    "I16" => Unsafe.ReadUnaligned<short>(p + 2L * i),
                    "U16" => Unsafe.ReadUnaligned<ushort>(p + 2L * i),
                    "I8" => (sbyte)p[i],
                    "U8" => p[i],
                    "BOOL" => p[i] != 0 ? 1 : 0,
                    _ => throw FileErrors.Bad(source.Description, $"tensor {FileErrors.Quote(name)} is stored as {info.Type}, integers are needed"),
                };
        return values;
    }

    /// <summary>A whole tensor of integers as a new int32 array; <see cref="UserErrorException"/> for a value outside int32.</summary>
    public static int[] ReadI32(this ITensorSource source, string name)
    {
        long[] wide = source.ReadI64(name);
        var values = new int[wide.Length];
        for (int i = 0; i < wide.Length; i++)
        {
            if (wide[i] is < int.MinValue or > int.MaxValue)
                throw FileErrors.Bad(source.Description, $"tensor {FileErrors.Quote(name)}, element {i}: {wide[i]} is no 32-bit integer");
            values[i] = (int)wide[i];
        }
        return values;
    }

    /// <summary>The stored bytes of a whole tensor as a new array.</summary>
    public static byte[] ReadBytes(this ITensorSource source, string name)
    {
        TensorInfo info = source.Info(name);
        if (info.Bytes > Array.MaxLength)
            throw FileErrors.Bad(source.Description, $"tensor {FileErrors.Quote(name)} has {info.Bytes} bytes, an array holds at most {Array.MaxLength}");
        byte[] bytes = GC.AllocateUninitializedArray<byte>((int)info.Bytes);
        fixed (byte* p = bytes)
            source.ReadRaw(name, 0, info.Rows, p);
        return bytes;
    }

    private static int Length(ITensorSource source, TensorInfo info) => info.Elements <= Array.MaxLength
        ? (int)info.Elements
        : throw FileErrors.Bad(source.Description, $"tensor {FileErrors.Quote(info.Name)} has {info.Elements} elements, an array holds at most {Array.MaxLength}");
}
