using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

internal sealed partial class Decoder
{
    private static readonly string[] s_scopes = ["cta", "cluster", "gpu", "sys"];

    private bool Other()
    {
        switch (_m.Root)
        {
            case "mov":
                return Move();
            case "cvta":
                bool to = _m.Take("to");
                _i.Space = _m.Space();
                PtxType pointer = _m.Type();
                Only(pointer, PtxType.U64, PtxType.B64);
                _i.Flag = to;
                return Plain(Op.Cvta, pointer, 1);
            case "isspacep":
                _i.Space = _m.Space();
                return Mixed(Op.Isspacep, PtxType.Pred, PtxType.Pred, PtxType.U64);
            case "ld" or "ldu":
                return Load();
            case "st":
                return Store();
            case "prefetch" or "prefetchu":
                _i.Space = _m.Space();
                _m.Any("L1", "L2", "L2::evict_last", "L2::evict_normal");
                Count(1, 1);
                _i.Op = Op.Prefetch;
                TakeAddress(0);
                return true;
            case "applypriority":
                _i.Space = _m.Space();
                _m.Need("L2::evict_normal");
                Count(2, 2);
                _i.Op = Op.Prefetch;
                TakeAddress(0);
                return true;
            case "createpolicy":
                return CachePolicy();
            case "griddepcontrol":
                // Launches run one after the other here: nothing to start early, nothing to wait for.
                _m.Need("launch_dependents", "wait");
                Count(0, 0);
                _i.Op = Op.Prefetch;
                return true;
            case "atom" or "red":
                return Atomic(_m.Root == "red");
            case "cp":
                return AsyncCopy();
            case "ldmatrix":
                return LoadMatrix();
            case "stmatrix":
                return StoreMatrix();
            case "movmatrix":
                _m.Need("sync");
                _m.Need("aligned");
                _m.Need("m8n8");
                _m.Need("trans");
                PtxType moved = _m.Type();
                Only(moved, PtxType.B16);
                return Plain(Op.MovMatrix, PtxType.B32, 1);
            case "mma":
                return MatrixMultiply();
            default:
                return Warp();
        }
    }

    private bool Move()
    {
        PtxType type = _m.Type();
        Count(2, 2);
        Operand to = syntax.Operands[0], from = syntax.Operands[1];
        _i.Op = Op.Mov;
        _i.Type = type;
        if (to.Kind == OperandKind.Vector || from.Kind == OperandKind.Vector)
        {
            Only(type, PtxType.B16, PtxType.B32, PtxType.B64, PtxType.U32, PtxType.U64, PtxType.S32, PtxType.S64, PtxType.F32, PtxType.F64);
            bool pack = from.Kind == OperandKind.Vector;
            Operand[] items = (pack ? from : to).Items;
            PtxType part = (type.Size() * 8 / items.Length) switch { 8 => PtxType.B8, 16 => PtxType.B16, 32 => PtxType.B32, _ => throw _m.Error("the vector does not fit the type") };
            _i.Op = pack ? Op.Pack : Op.Unpack;
            _i.SourceType = part;
            if (part == PtxType.B8)
                throw _m.Error("vectors of bytes are not supported");
            if (pack)
            {
                _i.Destinations = [Destination(to, type)];
                _i.Sources = [.. items.Select((item, k) => Checked(Single(item, part), part, k))];
            }
            else
            {
                _i.Destinations = [.. items.Select(item => Destination(item, part))];
                _i.Sources = [Source(1, type)];
            }

            return true;
        }

        if (from.Kind == OperandKind.Name && from.Name is "%clock" or "%clock_hi" or "%clock64" or "%globaltimer" or "%globaltimer_lo" or "%globaltimer_hi")
        {
            _i.Op = Op.ReadSpecial;
            _i.Mode = from.Name.StartsWith("%clock", StringComparison.Ordinal) ? Mode.Inc : Mode.None;
            _i.Flag = from.Name.EndsWith("_hi", StringComparison.Ordinal);
            _i.Destinations = [Destination(to, type)];
            return true;
        }

        _i.Destinations = [Destination(to, type)];
        Value source = Single(from, type);
        if (source.Kind == ValueKind.Sink)
            throw _m.Error("nothing to move");
        // Special registers of 32 bits were 16 bits wide once: `mov.u16 %rs, %tid.x` is still legal.
        if (source.Register is { } register && register.Width != Register.WidthOf(type) && !register.Name.StartsWith("%ntid", StringComparison.Ordinal) && !register.Name.Contains('.', StringComparison.Ordinal))
            throw _m.Error($"{register.Name} has {register.Width} bits where {Register.WidthOf(type)} belong");
        _i.Sources = [source];
        return true;
    }

    private bool Load()
    {
        _i.Semantics = _m.Semantics();
        _m.Any(s_scopes);
        _i.Space = _m.Space();
        bool policy = _m.Hints();
        _i.Count = _m.Vector();
        PtxType type = _m.Type();
        if (type.Size() == 0 || type == PtxType.B128)
            throw _m.Error("this type cannot be loaded");
        Count(policy ? 3 : 2, policy ? 3 : 2);
        _i.Op = Op.Ld;
        _i.Type = type;
        _i.Destinations = Elements(0, type, destination: true, wider: true);
        if (_i.Destinations.Length != _i.Count)
            throw _m.Error($"{_i.Destinations.Length} destinations for a vector of {_i.Count}");
        TakeAddress(1);
        return true;
    }

    private bool Store()
    {
        _i.Semantics = _m.Semantics();
        _m.Any(s_scopes);
        _i.Space = _m.Space();
        bool policy = _m.Hints();
        _i.Count = _m.Vector();
        PtxType type = _m.Type();
        if (type.Size() == 0 || type == PtxType.B128)
            throw _m.Error("this type cannot be stored");
        Count(policy ? 3 : 2, policy ? 3 : 2);
        _i.Op = Op.St;
        _i.Type = type;
        TakeAddress(0);
        _i.Sources = Elements(1, type, destination: false, wider: true);
        if (_i.Sources.Length != _i.Count)
            throw _m.Error($"{_i.Sources.Length} values for a vector of {_i.Count}");
        if (_i.Space is Space.Constant)
            throw _m.Error("constant memory cannot be written");
        return true;
    }

    private bool Atomic(bool reduction)
    {
        _i.Semantics = _m.Semantics();
        if (_i.Semantics == Semantics.Weak)
            _i.Semantics = Semantics.Relaxed;
        _i.Flag = _m.Any(s_scopes) == "cta";
        _i.Space = _m.Space();
        bool policy = _m.Hints();
        _m.Take("noftz");
        string mode = _m.Need("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas");
        _i.Mode = Enum.Parse<Mode>(mode, ignoreCase: true);
        PtxType type = _m.Type();
        _i.Type = type;
        bool known = _i.Mode switch
        {
            Mode.Add => type is PtxType.U32 or PtxType.S32 or PtxType.U64 or PtxType.S64 or PtxType.F32 or PtxType.F64 or PtxType.F16 or PtxType.F16x2 or PtxType.BF16 or PtxType.BF16x2,
            Mode.Min or Mode.Max => type is PtxType.U32 or PtxType.S32 or PtxType.U64 or PtxType.S64,
            Mode.Inc or Mode.Dec => type is PtxType.U32,
            Mode.Cas => type is PtxType.B16 or PtxType.B32 or PtxType.B64 or PtxType.U32 or PtxType.S32 or PtxType.U64 or PtxType.S64,
            _ => type is PtxType.B32 or PtxType.B64 or PtxType.U32 or PtxType.S32 or PtxType.U64 or PtxType.S64 or PtxType.F32,
        };
        if (!known)
            throw _m.Error($".{mode} of .{type.ToString().ToLowerInvariant()} is not known");
        int sources = _i.Mode == Mode.Cas ? 2 : 1, first = reduction ? 0 : 1;
        if (reduction && _i.Mode is Mode.Cas or Mode.Exch)
            throw _m.Error($"red has no .{mode}");
        Count(first + 1 + sources + (policy ? 1 : 0), first + 1 + sources + (policy ? 1 : 0));
        _i.Op = reduction ? Op.Red : Op.Atom;
        if (!reduction)
            _i.Destinations = [Destination(syntax.Operands[0], type)];
        TakeAddress(first);
        _i.Sources = [.. Enumerable.Range(first + 1, sources).Select(s => Source(s, type))];
        return true;
    }

    private bool AsyncCopy()
    {
        _m.Need("async");
        if (_m.Take("commit_group"))
        {
            Count(0, 0);
            _i.Op = Op.CpAsyncCommit;
            return true;
        }

        if (_m.Take("wait_all"))
        {
            Count(0, 0);
            _i.Op = Op.CpAsyncWait;
            _i.Flag = true;
            return true;
        }

        if (_m.Take("wait_group"))
        {
            Count(1, 1);
            _i.Op = Op.CpAsyncWait;
            _i.Sources = [Source(0, PtxType.U32)];
            return _i.Sources[0].Kind == ValueKind.Immediate ? true : throw _m.Error("the number of groups must be a constant");
        }

        string cache = _m.Need("ca", "cg");
        _m.Need("shared", "shared::cta");
        _m.Need("global");
        bool policy = _m.Hints();
        Count(policy ? 4 : 3, policy ? 5 : 4);
        _i.Op = Op.CpAsync;
        Value size = Source(2, PtxType.U32);
        if (size.Kind != ValueKind.Immediate || !(size.Bits is 4 or 8 or 16) || (cache == "cg" && size.Bits != 16))
            throw _m.Error($"cp.async.{cache} copies {(cache == "cg" ? "16" : "4, 8 or 16")} bytes");
        _i.Count = (int)size.Bits;
        (_i.Address, _i.Offset, _) = AddressOf(0);
        (_i.Address2, _i.Offset2, _) = AddressOf(1);
        if (syntax.Operands.Length - (policy ? 1 : 0) == 4)
            _i.Sources = [Source(3, PtxType.U32)];
        return true;
    }

    private bool LoadMatrix()
    {
        _m.Need("sync");
        _m.Need("aligned");
        _m.Need("m8n8");
        _i.Count = _m.Need("x1", "x2", "x4")[1] - '0';
        _i.Transposed = _m.Take("trans");
        _i.Space = _m.Space();
        PtxType type = _m.Type();
        Only(type, PtxType.B16);
        Count(2, 2);
        _i.Op = Op.LdMatrix;
        _i.Type = PtxType.B32;
        _i.Destinations = Elements(0, PtxType.B32, destination: true, wider: false);
        if (_i.Destinations.Length != _i.Count)
            throw _m.Error($"{_i.Destinations.Length} destinations for {_i.Count} matrices");
        TakeAddress(1);
        return true;
    }

    private bool StoreMatrix()
    {
        _m.Need("sync");
        _m.Need("aligned");
        _m.Need("m8n8");
        _i.Count = _m.Need("x1", "x2", "x4")[1] - '0';
        _i.Transposed = _m.Take("trans");
        _i.Space = _m.Space();
        PtxType type = _m.Type();
        Only(type, PtxType.B16);
        Count(2, 2);
        _i.Op = Op.StMatrix;
        _i.Type = PtxType.B32;
        TakeAddress(0);
        _i.Sources = Elements(1, PtxType.B32, destination: false, wider: false);
        if (_i.Sources.Length != _i.Count)
            throw _m.Error($"{_i.Sources.Length} values for {_i.Count} matrices");
        return true;
    }

    /// <summary>createpolicy: what a policy says changes no result, so that any value stands for it.</summary>
    private bool CachePolicy()
    {
        bool range = _m.Need("fractional", "range") == "range";
        if (range)
            _m.Take("global");
        int priorities = 0;
        while (_m.Any("L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged") is not null)
            priorities++;
        if (priorities is < 1 or > 2)
            throw _m.Error("a priority is missing");
        PtxType type = _m.Type();
        Only(type, PtxType.B64);
        Count(range ? 4 : 1, range ? 4 : 2);
        _i.Op = Op.Mov;
        _i.Type = type;
        _i.Destinations = [Destination(syntax.Operands[0], type)];
        _i.Sources = [Value.Of(0)];
        return true;
    }

    private bool MatrixMultiply()
    {
        _m.Need("sync");
        _m.Need("aligned");
        if (!_m.TryWhere(w => w.StartsWith('m') && w.Contains('n', StringComparison.Ordinal) && w.Contains('k', StringComparison.Ordinal), out string shape))
            throw _m.Error("a shape is missing");
        int[] sizes = [.. shape.Split('m', 'n', 'k').Where(w => w.Length > 0).Select(w => int.TryParse(w, out int size) ? size : 0)];
        _i.Shape = sizes.Length == 3 ? (sizes[0], sizes[1], sizes[2]) : throw _m.Error($".{shape} is no shape");
        _m.Need("row");
        _m.Need("col");
        _i.Saturate = _m.Take("satfinite");
        _i.Type = _m.Type();
        _i.SourceType = _m.Type();
        _i.SecondType = _m.Type();
        _i.ThirdType = _m.Type();
        _i.Op = Op.Mma;
        Count(4, 4);
        (int a, int b, int c, int d) = MmaShape.Registers(_i) ?? throw _m.Error($"mma of {shape} with these types is not known");
        PtxType accumulator = _i.ThirdType == PtxType.F64 ? PtxType.F64 : PtxType.B32, element = _i.SourceType == PtxType.F64 ? PtxType.F64 : PtxType.B32;
        _i.Destinations = Fragment(0, d, accumulator, true);
        _i.Sources = [.. Fragment(1, a, element, false), .. Fragment(2, b, element, false), .. Fragment(3, c, accumulator, false)];
        return true;
    }

    private Value[] Fragment(int at, int count, PtxType type, bool destination)
    {
        Value[] values = Elements(at, type, destination, wider: false);
        return values.Length == count ? values : throw _m.Error($"operand {at + 1} has {values.Length} registers where {count} belong");
    }
}
