namespace Repeng.Kernels.Cuda.Interop;

/// <summary>Results of driver functions (CUresult of cuda.h) that this engine tells apart; any other number is passed on as it is.</summary>
public enum CuResult
{
    /// <summary>CUDA_SUCCESS.</summary>
    Success = 0,

    /// <summary>CUDA_ERROR_INVALID_VALUE.</summary>
    InvalidValue = 1,

    /// <summary>CUDA_ERROR_OUT_OF_MEMORY.</summary>
    OutOfMemory = 2,

    /// <summary>CUDA_ERROR_NOT_INITIALIZED.</summary>
    NotInitialized = 3,

    /// <summary>CUDA_ERROR_DEINITIALIZED.</summary>
    Deinitialized = 4,

    /// <summary>CUDA_ERROR_STUB_LIBRARY: the library that was found is the SDK's stub, not a driver.</summary>
    StubLibrary = 34,

    /// <summary>CUDA_ERROR_DEVICE_UNAVAILABLE: another process has the device for itself.</summary>
    DeviceUnavailable = 46,

    /// <summary>CUDA_ERROR_NO_DEVICE.</summary>
    NoDevice = 100,

    /// <summary>CUDA_ERROR_INVALID_DEVICE.</summary>
    InvalidDevice = 101,

    /// <summary>CUDA_ERROR_INVALID_IMAGE.</summary>
    InvalidImage = 200,

    /// <summary>CUDA_ERROR_INVALID_CONTEXT.</summary>
    InvalidContext = 201,

    /// <summary>CUDA_ERROR_NO_BINARY_FOR_GPU.</summary>
    NoBinaryForGpu = 209,

    /// <summary>CUDA_ERROR_INVALID_PTX.</summary>
    InvalidPtx = 218,

    /// <summary>CUDA_ERROR_UNSUPPORTED_PTX_VERSION.</summary>
    UnsupportedPtxVersion = 222,

    /// <summary>CUDA_ERROR_INVALID_HANDLE.</summary>
    InvalidHandle = 400,

    /// <summary>CUDA_ERROR_NOT_FOUND.</summary>
    NotFound = 500,

    /// <summary>CUDA_ERROR_NOT_READY.</summary>
    NotReady = 600,

    /// <summary>CUDA_ERROR_ILLEGAL_ADDRESS.</summary>
    IllegalAddress = 700,

    /// <summary>CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES.</summary>
    LaunchOutOfResources = 701,

    /// <summary>CUDA_ERROR_LAUNCH_TIMEOUT.</summary>
    LaunchTimeout = 702,

    /// <summary>CUDA_ERROR_MISALIGNED_ADDRESS.</summary>
    MisalignedAddress = 716,

    /// <summary>CUDA_ERROR_LAUNCH_FAILED.</summary>
    LaunchFailed = 719,

    /// <summary>CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE.</summary>
    CooperativeLaunchTooLarge = 720,

    /// <summary>CUDA_ERROR_NOT_SUPPORTED.</summary>
    NotSupported = 801,

    /// <summary>CUDA_ERROR_SYSTEM_NOT_READY.</summary>
    SystemNotReady = 802,

    /// <summary>CUDA_ERROR_SYSTEM_DRIVER_MISMATCH.</summary>
    SystemDriverMismatch = 803,

    /// <summary>CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.</summary>
    StreamCaptureUnsupported = 900,

    /// <summary>CUDA_ERROR_UNKNOWN.</summary>
    Unknown = 999,
}

/// <summary>Numbers of device attributes (CUdevice_attribute of cuda.h).</summary>
public enum CuDeviceAttribute
{
    /// <summary>Threads of a block.</summary>
    MaxThreadsPerBlock = 1,

    /// <summary>Shared memory of a block without opting in, bytes.</summary>
    MaxSharedMemoryPerBlock = 8,

    /// <summary>Core clock, kHz.</summary>
    ClockRate = 13,

    /// <summary>Multiprocessors.</summary>
    MultiprocessorCount = 16,

    /// <summary>0 for any process, 2 for none, 3 for one at a time.</summary>
    ComputeMode = 20,

    /// <summary>Memory clock, kHz.</summary>
    MemoryClockRate = 36,

    /// <summary>Width of the memory bus, bits.</summary>
    GlobalMemoryBusWidth = 37,

    /// <summary>Level-2 cache, bytes.</summary>
    L2CacheSize = 38,

    /// <summary>Major number of the compute capability.</summary>
    ComputeCapabilityMajor = 75,

    /// <summary>Minor number of the compute capability.</summary>
    ComputeCapabilityMinor = 76,

    /// <summary>How many times faster fp32 arithmetic is than fp64.</summary>
    SingleToDoublePrecisionPerfRatio = 87,

    /// <summary>Whether cooperative launches are possible.</summary>
    CooperativeLaunch = 95,

    /// <summary>Shared memory of a block with opting in, bytes.</summary>
    MaxSharedMemoryPerBlockOptin = 97,

    /// <summary>Whether stream-ordered memory pools are possible.</summary>
    MemoryPoolsSupported = 115,
}

/// <summary>Numbers of function attributes (CUfunction_attribute of cuda.h).</summary>
public enum CuFunctionAttribute
{
    /// <summary>Static shared memory, bytes.</summary>
    SharedSizeBytes = 1,

    /// <summary>Local memory of a thread, bytes: what was spilled, and arrays.</summary>
    LocalSizeBytes = 3,

    /// <summary>Registers of a thread.</summary>
    NumRegs = 4,

    /// <summary>Dynamic shared memory that a launch may ask for, bytes.</summary>
    MaxDynamicSharedSizeBytes = 8,
}

/// <summary>Options of the driver's compiler (CUjit_option of cuda.h).</summary>
public enum CuJitOption
{
    /// <summary>Buffer for messages.</summary>
    InfoLogBuffer = 3,

    /// <summary>Its size in bytes.</summary>
    InfoLogBufferSizeBytes = 4,

    /// <summary>Buffer for errors.</summary>
    ErrorLogBuffer = 5,

    /// <summary>Its size in bytes.</summary>
    ErrorLogBufferSizeBytes = 6,
}

/// <summary>A grid or block of a launch.</summary>
public readonly record struct Dim3(uint X, uint Y = 1, uint Z = 1)
{
    /// <summary>X · Y · Z.</summary>
    public long Count => (long)X * Y * Z;

    /// <inheritdoc/>
    public override string ToString() => $"({X}, {Y}, {Z})";
}
