using System.Collections.Frozen;
using System.Reflection;
using System.Reflection.Emit;
using System.Runtime.InteropServices;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;
using Repeng.PtxEmulator.Syntax;
using Label = System.Reflection.Emit.Label;

namespace Repeng.PtxEmulator.Compilation;

internal unsafe delegate void ChunkCode(Warp warp, byte* frame, uint mask);

/// <summary>
/// Compiles chunks to IL when they first run: one dynamic method for all 32 lanes, and one for a mask where lanes have parted. Control flow stays with the warp,
/// so a method is straight code: for each instruction a call of its method in <see cref="VectorOps"/>, <see cref="MemoryVector"/> or <see cref="WarpVector"/>,
/// which the JIT inlines where it can, or of the interpreter.
/// </summary>
internal sealed class Compiler : IExecutor
{
    public static readonly Compiler Instance = new();

    private static readonly FrozenDictionary<string, MethodInfo> s_methods = typeof(VectorOps).GetMethods(BindingFlags.Public | BindingFlags.Static).ToFrozenDictionary(m => m.Name);
    private static readonly MethodInfo s_blend = typeof(VectorOps).GetMethod(nameof(VectorOps.Blend))!;
    private static readonly MethodInfo s_interpret = typeof(Interpreter).GetMethod(nameof(Interpreter.Step))!;

    public unsafe void Run(Warp warp, Chunk chunk, uint mask)
    {
        if (chunk.Body.Length == 0)
            return;
        Kernel kernel = warp.Block.Grid.Kernel;
        CompiledKernel compiled = kernel.Compiled as CompiledKernel ?? Create(kernel);
        ref ChunkCode? code = ref (mask == uint.MaxValue ? ref compiled.Whole[chunk.Index] : ref compiled.Masked[chunk.Index]);
        (code ??= Compile(kernel, compiled, chunk, mask == uint.MaxValue))(warp, warp.Frame, mask);
    }

    private static CompiledKernel Create(Kernel kernel)
    {
        lock (kernel.CompileLock)
        {
            var made = kernel.Compiled as CompiledKernel ?? new CompiledKernel(kernel.Chunks.Length);
            kernel.Compiled = made;
            return made;
        }
    }

    private static ChunkCode Compile(Kernel kernel, CompiledKernel compiled, Chunk chunk, bool whole)
    {
        lock (kernel.CompileLock)
        {
            var method = new DynamicMethod($"{kernel.Name}_{chunk.Index}{(whole ? "" : "_masked")}", typeof(void), [typeof(Instruction[]), typeof(Warp), typeof(byte*), typeof(uint)], typeof(Compiler).Module, skipVisibility: true);
            ILGenerator il = method.GetILGenerator();
            il.DeclareLocal(typeof(uint));
            foreach (Instruction i in chunk.Body)
                new Emitter(il, kernel, compiled, i, whole).Emit();
            il.Emit(OpCodes.Ret);
            return method.CreateDelegate<ChunkCode>(kernel.Instructions);
        }
    }

    /// <summary>Emits one instruction.</summary>
    private sealed class Emitter(ILGenerator il, Kernel kernel, CompiledKernel compiled, Instruction i, bool whole)
    {
        public void Emit()
        {
            if (i.MaybeUnset.Length > 0 || i.Destinations.Any(d => d.Register is not null && kernel.Watched.ContainsKey(d.Register)))
            {
                Interpret();
                return;
            }

            if (Special(i) is { } special)
            {
                Label? skip = Guard();
                il.Emit(OpCodes.Ldarg_1);
                Instruction();
                il.Emit(OpCodes.Ldarg_2);
                Mask();
                il.Emit(OpCodes.Call, special);
                if (skip is { } label)
                    il.MarkLabel(label);
                return;
            }

            if (VectorNames.Of(i) is not { } name || !s_methods.TryGetValue(name, out MethodInfo? method) || !Fits(method, out Value[] operands))
            {
                Interpret();
                return;
            }

            Label? over = Guard();
            if (method.ReturnType == typeof(uint))
                Predicate(method, operands);
            else
                Vector(method, operands);
            if (over is { } end)
                il.MarkLabel(end);
        }

        private static MethodInfo? Special(Instruction i) => i.Op switch
        {
            Op.Ld => Method(typeof(MemoryVector), nameof(MemoryVector.Load)),
            Op.St => Method(typeof(MemoryVector), nameof(MemoryVector.Store)),
            Op.LdMatrix => Method(typeof(MemoryVector), nameof(MemoryVector.LoadMatrix)),
            Op.CpAsync => Method(typeof(MemoryVector), nameof(MemoryVector.CopyAsync)),
            Op.Mma => Method(typeof(WarpVector), nameof(WarpVector.Multiply)),
            Op.Shfl => Method(typeof(WarpVector), nameof(WarpVector.Shuffle)),
            _ => null,
        };

        private static MethodInfo Method(Type type, string name) => type.GetMethod(name, BindingFlags.Public | BindingFlags.Static)!;

        private void Instruction()
        {
            il.Emit(OpCodes.Ldarg_0);
            il.Emit(OpCodes.Ldc_I4, i.Index);
            il.Emit(OpCodes.Ldelem_Ref);
        }

        private void Interpret()
        {
            il.Emit(OpCodes.Ldarg_1);
            Instruction();
            il.Emit(OpCodes.Ldarg_3);
            il.Emit(OpCodes.Call, s_interpret);
        }

        /// <summary>The mask of a guarded instruction goes to local 0; the label is behind the instruction, for when no lane is left.</summary>
        private Label? Guard()
        {
            if (i.Guard is null)
                return null;
            LoadBits(Value.Of(i.Guard, i.GuardNegated));
            il.Emit(OpCodes.Ldarg_3);
            il.Emit(OpCodes.And);
            il.Emit(OpCodes.Stloc_0);
            il.Emit(OpCodes.Ldloc_0);
            Label label = il.DefineLabel();
            il.Emit(OpCodes.Brfalse, label);
            return label;
        }

        private void Mask() => il.Emit(i.Guard is null ? OpCodes.Ldarg_3 : OpCodes.Ldloc_0);

        private bool Direct => whole && i.Guard is null;

        /// <summary>Whether the operands are what the method's parameters say.</summary>
        private bool Fits(MethodInfo method, out Value[] operands)
        {
            ParameterInfo[] parameters = method.GetParameters();
            bool predicate = method.ReturnType == typeof(uint);
            Value[] sources = i.Sources;
            if (i.Op == Op.Cvta && i.Space is Space.Shared or Space.Local)
                sources = [sources[0], Value.Of(i.Space == Space.Shared ? DeviceMemory.SharedWindow : DeviceMemory.LocalWindow)];
            else if (i.Op == Op.Setp && i.Combine != Mode.None)
                sources = sources[..2];
            operands = predicate ? sources : [.. i.Destinations, .. sources];
            if (operands.Length != parameters.Length || (predicate && i.Destinations is not [{ Register: not null }]))
                return false;
            int destinations = predicate ? 0 : i.Destinations.Length;
            for (int k = 0; k < operands.Length; k++)
            {
                Type type = parameters[k].ParameterType;
                Value value = operands[k];
                bool fits = type == typeof(int)
                    ? value.Kind == ValueKind.Immediate
                    : value.Register is { } register ? register.Width == WidthOf(type) : k >= destinations || value.IsSink;
                if (!fits)
                    return false;
            }

            return true;
        }

        private static int WidthOf(Type type) => type == typeof(uint) ? 1 : Marshal.SizeOf(type.GetElementType()!) * 8;

        private void LoadBits(in Value value)
        {
            if (value.Register is not { } register)
            {
                il.Emit(OpCodes.Ldc_I4, (value.Bits & 1) != 0 ? -1 : 0);
                return;
            }

            Address(register.Offset);
            il.Emit(OpCodes.Ldind_U4);
            if (value.Negated)
                il.Emit(OpCodes.Not);
        }

        private void Address(int offset)
        {
            il.Emit(OpCodes.Ldarg_2);
            il.Emit(OpCodes.Ldc_I4, offset);
            il.Emit(OpCodes.Add);
        }

        private unsafe void Pointer(void* at)
        {
            il.Emit(OpCodes.Ldc_I8, (long)at);
            il.Emit(OpCodes.Conv_I);
        }

        private unsafe void Source(in Value value, Type type)
        {
            if (type == typeof(int))
                il.Emit(OpCodes.Ldc_I4, Constant(value));
            else if (type == typeof(uint))
                LoadBits(value);
            else if (value.Register is { } register)
                Address(register.Offset);
            else
                Pointer(compiled.Splat(value.Bits, WidthOf(type)));
        }

        private int Constant(in Value value) => i.Op == Op.Shf && value.Bits == i.Sources[2].Bits
            ? (int)(i.Mode == Mode.Clamp ? Math.Min((uint)value.Bits, 32) : value.Bits & 31)
            : (int)value.Bits;

        private void Predicate(MethodInfo method, Value[] operands)
        {
            Register to = i.Destinations[0].Register!;
            ParameterInfo[] parameters = method.GetParameters();
            Address(to.Offset);
            if (!Direct)
            {
                // (old & ~mask) | (new & mask)
                LoadBits(Value.Of(to));
                Mask();
                il.Emit(OpCodes.Not);
                il.Emit(OpCodes.And);
            }

            for (int k = 0; k < operands.Length; k++)
                Source(operands[k], parameters[k].ParameterType);
            il.Emit(OpCodes.Call, method);
            if (VectorNames.Inverted(i))
                il.Emit(OpCodes.Not);
            if (i.Op == Op.Setp && i.Combine != Mode.None)
            {
                LoadBits(i.Sources[2]);
                il.Emit(i.Combine switch { Mode.And => OpCodes.And, Mode.Or => OpCodes.Or, _ => OpCodes.Xor });
            }

            if (!Direct)
            {
                Mask();
                il.Emit(OpCodes.And);
                il.Emit(OpCodes.Or);
            }

            il.Emit(OpCodes.Stind_I4);
        }

        private unsafe void Vector(MethodInfo method, Value[] operands)
        {
            ParameterInfo[] parameters = method.GetParameters();
            int destinations = i.Destinations.Length;
            for (int k = 0; k < operands.Length; k++)
            {
                if (k >= destinations)
                    Source(operands[k], parameters[k].ParameterType);
                else if (Direct && operands[k].Register is { } register)
                    Address(register.Offset);
                else
                    Address(Warp.ScratchOffset(kernel) + (256 * k));
            }

            il.Emit(OpCodes.Call, method);
            if (Direct)
                return;
            for (int k = 0; k < destinations; k++)
            {
                if (operands[k].Register is not { } register)
                    continue;
                Address(register.Offset);
                Address(Warp.ScratchOffset(kernel) + (256 * k));
                il.Emit(OpCodes.Ldc_I4, register.Width);
                Mask();
                il.Emit(OpCodes.Call, s_blend);
            }
        }
    }
}

/// <summary>The code of a kernel's chunks, and constants of all 32 lanes.</summary>
internal sealed unsafe class CompiledKernel(int chunks)
{
    private readonly Dictionary<(ulong Bits, int Width), nint> _splats = [];
    private readonly List<nint> _owned = [];

    public ChunkCode?[] Whole { get; } = new ChunkCode?[chunks];

    public ChunkCode?[] Masked { get; } = new ChunkCode?[chunks];

    /// <summary>A constant in all lanes.</summary>
    public byte* Splat(ulong bits, int width)
    {
        if (_splats.TryGetValue((bits, width), out nint known))
            return (byte*)known;
        byte* made = (byte*)NativeMemory.AlignedAlloc((nuint)(32 * width / 8), 64);
        for (int lane = 0; lane < 32; lane++)
            MemoryInstructions.WriteBytes(made + (lane * width / 8), width / 8, bits);
        _splats[(bits, width)] = (nint)made;
        _owned.Add((nint)made);
        return made;
    }

    ~CompiledKernel()
    {
        foreach (nint memory in _owned)
            NativeMemory.AlignedFree((void*)memory);
    }
}
