using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>Brings weights of any type to the host as fp32.</summary>
public static class WeightReader
{
    /// <summary>All elements as fp32.</summary>
    public static float[] ToHost(Tensor weight)
    {
        if (weight.Type == DType.F32)
            return weight.ToArray();
        var raw = new ushort[weight.Length];
        weight.Device.Backend.Download(MemoryMarshal.AsBytes(raw.AsSpan()), weight.Data);
        var wide = new float[raw.Length];
        for (int i = 0; i < raw.Length; i++)
            wide[i] = weight.Type == DType.F16 ? (float)BitConverter.UInt16BitsToHalf(raw[i]) : BitConverter.UInt32BitsToSingle((uint)raw[i] << 16);
        return wide;
    }
}
