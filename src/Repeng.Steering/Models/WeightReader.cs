using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>Brings weights of any type to the host as fp32.</summary>
public static class WeightReader
{
    // Elements of packed weights that are decoded at a time, a multiple of every block.
    private const int DecodedTogether = 1 << 18, DecodedOnDevice = 1 << 24;

    /// <summary>All elements as fp32; packed ones are decoded by blocks of rows, on all cores.</summary>
    public static float[] ToHost(Tensor weight)
    {
        RequireArray(weight.Name ?? "a weight", weight.Length);
        if (weight.Type == DType.F32)
            return weight.ToArray();
        if (weight.Data.Packing is { } packing)
            return Decoded(packing, weight);
        var raw = new ushort[weight.Length];
        weight.Device.Backend.Download(MemoryMarshal.AsBytes(raw.AsSpan()), weight.Data);
        var wide = new float[raw.Length];
        for (int i = 0; i < raw.Length; i++)
            wide[i] = weight.Type == DType.F16 ? (float)BitConverter.UInt16BitsToHalf(raw[i]) : BitConverter.UInt32BitsToSingle((uint)raw[i] << 16);
        return wide;
    }

    /// <summary>Refuses a weight that no array holds: the experts of a block in one tensor may be more than 2³¹ values.</summary>
    internal static void RequireArray(string name, long values)
    {
        if (values > Array.MaxLength)
            throw new UserErrorException($"weight {name} has {values} values; at most {Array.MaxLength} can be decoded or merged at a time. Use the adapter beside the model, export it as a LoRA (--to lora, gguf-lora), or take a checkpoint that stores experts one by one");
    }

    private static float[] Decoded(Packing packing, Tensor weight)
    {
        long start = weight.Data.Start;
        var values = GC.AllocateUninitializedArray<float>(checked((int)weight.Length));
        if (weight.Device.Backend.ReadsHostMemory)
        {
            Parallel.For(0, (values.Length + DecodedTogether - 1L) / DecodedTogether, part =>
            {
                int at = (int)(part * DecodedTogether);
                packing.Decode(start + at, values.AsSpan(at, Math.Min(DecodedTogether, values.Length - at)));
            });
            return values;
        }
        // Elsewhere the device decodes.
        int most = Math.Min(values.Length, DecodedOnDevice);
        using var room = new Tensor(weight.Device, DType.F32, most);
        for (long done = 0; done < values.Length; done += most)
        {
            int at = (int)done, count = Math.Min(most, values.Length - at);
            View part = room.Data.Slice(0, count);
            weight.Device.Backend.Unpack(part, weight.Data.Slice(at, count));
            weight.Device.Backend.Download(MemoryMarshal.AsBytes(values.AsSpan(at, count)), part);
        }
        return values;
    }
}
