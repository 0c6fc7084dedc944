using System.Runtime.InteropServices;
using System.Text;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator;

namespace Repeng.CudaBench;

/// <summary>What a whole launch counts, from its first blocks.</summary>
/// <param name="Bytes">Bytes of the sectors asked for.</param>
/// <param name="Mma">FLOP of the tensor core.</param>
/// <param name="Instructions">Instructions that warps issue.</param>
internal sealed record LaunchCost(double Bytes, double Mma, double Instructions);

/// <summary>Runs the first blocks of recorded launches on the emulator, in memory of the recorded sizes that nobody fills.</summary>
internal sealed unsafe class Replay : IDisposable
{
    // Blocks of one row of the grid that run; the rest of the launch is like them.
    private const uint MostBlocks = 4, WholeRow = 16;

    private readonly PtxDevice _device = new(new EmulatorOptions { CheckGlobalRaces = false, CheckSharedRaces = false, CheckInitialization = false, CheckLeaks = false, DeviceMemory = 1L << 40 });
    private readonly Dictionary<string, PtxModule> _modules = [];

    public Replay()
    {
        foreach (string image in KernelImages.Names)
        {
            PtxModule module = _device.LoadModule(Encoding.UTF8.GetString(KernelImages.Read(image)));
            foreach (string kernel in module.Kernels)
                _modules[kernel] = module;
        }
    }

    public LaunchCost Run(RecordedLaunch launch)
    {
        PtxFunction function = _modules[launch.Kernel].GetFunction(launch.Kernel);
        function.MaxDynamicShared = Math.Max(launch.Shared, function.MaxDynamicShared);
        byte[][] parameters = [.. launch.Parameters.Select(p => (byte[])p.Clone())];
        List<ulong> taken = [];
        foreach ((int parameter, int at, long bytes, byte[]? content) in launch.Pointers)
        {
            // As far behind a boundary as it was.
            ulong block = _device.Allocate(bytes + 256), address = block + parameters[parameter][at];
            taken.Add(block);
            if (content is not null)
                _device.CopyToDevice(address, content.AsSpan(0, (int)Math.Min(content.Length, bytes)));
            BitConverter.TryWriteBytes(parameters[parameter].AsSpan(at), address);
        }
        // A row of the grid whole where it is short: blocks of attention differ by their place in it.
        uint x = launch.Grid.X <= WholeRow ? launch.Grid.X : MostBlocks;
        void** pointers = stackalloc void*[parameters.Length];
        GCHandle[] pinned = [.. parameters.Select(p => GCHandle.Alloc(p, GCHandleType.Pinned))];
        for (int i = 0; i < pinned.Length; i++)
            pointers[i] = (void*)pinned[i].AddrOfPinnedObject();
        try
        {
            _device.Launch(function, ((int)x, 1, 1), ((int)launch.Block.X, (int)launch.Block.Y, (int)launch.Block.Z), launch.Shared, pointers, _device.DefaultStream);
            _device.Synchronize();
        }
        finally
        {
            foreach (GCHandle handle in pinned)
                handle.Free();
        }
        foreach (ulong address in taken)
            _device.Free(address);
        LaunchCounters c = _device.LastLaunch!.Counters;
        double scale = (double)launch.Grid.Count / x;
        return new LaunchCost(32.0 * (c.GlobalSectorsRead + c.GlobalSectorsWritten) * scale, c.MmaFlop * scale, c.WarpInstructions * scale);
    }

    public void Dispose() => _device.Dispose();
}
