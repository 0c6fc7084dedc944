using Microsoft.Win32.SafeHandles;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// A thing of the driver that must be given back. Every handle but the context's keeps the context alive, so that what
/// is disposed late, or by the finaliser, is still destroyed in the right order.
/// </summary>
public abstract class CudaHandle : SafeHandleZeroOrMinusOneIsInvalid
{
    private readonly CudaContextHandle? _context;

    private protected CudaHandle(CudaDriver driver, CudaContextHandle? context, nint value)
        : base(ownsHandle: true)
    {
        Driver = driver;
        if (context is not null)
        {
            bool added = false;
            context.DangerousAddRef(ref added);
            _context = context;
        }
        SetHandle(value);
    }

    /// <summary>The driver's own handle. Throws once it is closed.</summary>
    public nint Value => IsClosed ? throw new ObjectDisposedException(GetType().Name) : handle;

    private protected CudaDriver Driver { get; }

    /// <summary>What the driver said when the handle was destroyed; success until then.</summary>
    internal CuResult Closing { get; private set; }

    private protected abstract CuResult Destroy(nint value);

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        // The finaliser's thread has no current context of its own.
        if (_context is not null)
            Driver.CtxSetCurrent(_context.Context);
        Closing = Destroy(handle);
        _context?.DangerousRelease();
        return Closing == CuResult.Success;
    }
}

/// <summary>A device's primary context, retained.</summary>
public sealed class CudaContextHandle : CudaHandle
{
    internal CudaContextHandle(CudaDriver driver, int device, nint context)
        : base(driver, null, context) => (Device, Context) = (device, context);

    /// <summary>The device (CUdevice).</summary>
    internal int Device { get; }

    /// <summary>The context, also while the last handles in it are destroyed.</summary>
    internal nint Context { get; }

    private protected override CuResult Destroy(nint value) => Driver.DevicePrimaryCtxRelease(Device);
}

/// <summary>A loaded module.</summary>
public sealed class CudaModuleHandle : CudaHandle
{
    internal CudaModuleHandle(CudaDriver driver, CudaContextHandle context, nint module)
        : base(driver, context, module)
    {
    }

    private protected override CuResult Destroy(nint value) => Driver.ModuleUnload(value);
}

/// <summary>A stream.</summary>
public sealed class CudaStreamHandle : CudaHandle
{
    internal CudaStreamHandle(CudaDriver driver, CudaContextHandle context, nint stream)
        : base(driver, context, stream)
    {
    }

    private protected override CuResult Destroy(nint value) => Driver.StreamDestroy(value);
}

/// <summary>An event.</summary>
public sealed class CudaEventHandle : CudaHandle
{
    internal CudaEventHandle(CudaDriver driver, CudaContextHandle context, nint evt)
        : base(driver, context, evt)
    {
    }

    private protected override CuResult Destroy(nint value) => Driver.EventDestroy(value);
}

/// <summary>A graph of launches that is ready to run.</summary>
public sealed class CudaGraphHandle : CudaHandle
{
    internal CudaGraphHandle(CudaDriver driver, CudaContextHandle context, nint executable)
        : base(driver, context, executable)
    {
    }

    private protected override CuResult Destroy(nint value) => Driver.GraphExecDestroy(value);
}

/// <summary>Pinned host memory.</summary>
public sealed class CudaHostMemoryHandle : CudaHandle
{
    internal CudaHostMemoryHandle(CudaDriver driver, CudaContextHandle context, nint address, long bytes)
        : base(driver, context, address) => Bytes = bytes;

    /// <summary>Size.</summary>
    public long Bytes { get; }

    private protected override CuResult Destroy(nint value) => Driver.MemFreeHost(value);
}
