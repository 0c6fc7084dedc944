using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>A driver function that failed: which one, with the driver's own words and what to do next.</summary>
public sealed class CudaException : UserErrorException
{
    private CudaException(CuResult result, string function, string message)
        : base(message) => (Result, Function) = (result, function);

    /// <summary>What the driver returned.</summary>
    public CuResult Result { get; }

    /// <summary>The driver function, such as cuMemAlloc.</summary>
    public string Function { get; }

    /// <summary>True where the context cannot be used again: a kernel fault or a lost device.</summary>
    public bool DeviceLost => IsDeviceLost(Result);

    /// <summary>Throws unless the result is success. The text is composed only then.</summary>
    /// <param name="driver">The table that was called.</param>
    /// <param name="result">What it returned.</param>
    /// <param name="function">Name of the function in cuda.h, without its version suffix.</param>
    /// <param name="detail">What was asked for, in words; null for nothing to add.</param>
    internal static void Check(CudaDriver driver, CuResult result, string function, string? detail = null)
    {
        if (result != CuResult.Success)
            throw Create(driver, result, function, detail);
    }

    internal static CudaException Create(CudaDriver driver, CuResult result, string function, string? detail)
    {
        string name = driver.GetErrorName(result) ?? result.ToString();
        string text = driver.GetErrorString(result) ?? "the driver has no text for it";
        string what = detail is null ? "" : $" ({detail})";
        string advice = Advice(result);
        return new CudaException(result, function, $"CUDA: {function}{what} failed with {name} ({(int)result}): {text}{(advice.Length > 0 ? "; " + advice : "")}");
    }

    internal static bool IsDeviceLost(CuResult result) => result is CuResult.IllegalAddress or CuResult.LaunchTimeout or CuResult.MisalignedAddress or CuResult.LaunchFailed
        or CuResult.Deinitialized || (int)result is 709 or 710 or 714 or 715 or 717 or 718;

    private static string Advice(CuResult result) => result switch
    {
        CuResult.OutOfMemory => "use a smaller batch or --micro_batch_size, fewer tokens, --checkpoint_activations or a smaller model, or free memory that other programs hold (nvidia-smi lists them)",
        CuResult.NoDevice => "no NVIDIA GPU is visible to this process; see nvidia-smi and CUDA_VISIBLE_DEVICES, or take --device cpu",
        CuResult.StubLibrary => "the library that was found is the SDK's stub; install the driver or mend LD_LIBRARY_PATH",
        CuResult.DeviceUnavailable => "another process has the device for itself (compute mode exclusive); end it, or take another device",
        CuResult.SystemDriverMismatch => "the driver's library and its kernel module are of different versions; restart the machine after an update of the driver",
        CuResult.SystemNotReady => "the system's services for its GPUs (such as the fabric manager) are not running",
        CuResult.NotInitialized => "the driver did not start; see doctor",
        CuResult.NoBinaryForGpu or CuResult.UnsupportedPtxVersion or CuResult.InvalidPtx => "the driver cannot compile the kernels for this device: the kernels need compute capability 8.0 and a driver of CUDA 11.8 or newer",
        CuResult.CooperativeLaunchTooLarge or CuResult.LaunchOutOfResources => "the device is too small for this launch",
        _ when IsDeviceLost(result) => "a kernel failed and the device's context is lost; start again from the last checkpoint (train --resume), and report the line above",
        _ => "",
    };
}
