using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

internal sealed partial class Decoder
{
    /// <summary>Warp-wide instructions, barriers and branches. (Calls are inlined before.)</summary>
    private bool Warp()
    {
        switch (_m.Root)
        {
            case "shfl":
                return Shuffle();
            case "vote":
                _m.Need("sync");
                _i.Mode = Enum.Parse<Mode>(_m.Need("all", "any", "uni", "ballot"), ignoreCase: true);
                PtxType voted = _m.Type();
                Only(voted, _i.Mode == Mode.Ballot ? PtxType.B32 : PtxType.Pred);
                return Mixed(Op.Vote, voted, voted, PtxType.Pred, PtxType.B32);
            case "match":
                _i.Mode = Enum.Parse<Mode>(_m.Need("all", "any"), ignoreCase: true);
                _m.Need("sync");
                _i.SourceType = _m.Type();
                Only(_i.SourceType, PtxType.B32, PtxType.B64);
                Count(3, 3);
                _i.Op = Op.Match;
                _i.Type = PtxType.B32;
                Operand matched = syntax.Operands[0];
                _i.Destinations = matched.Second is null ? [Destination(matched, PtxType.B32)] : [Destination(matched, PtxType.B32), Destination(matched.Second, PtxType.Pred)];
                _i.Sources = [Source(1, _i.SourceType), Source(2, PtxType.B32)];
                return true;
            case "redux":
                _m.Need("sync");
                _i.Mode = Enum.Parse<Mode>(_m.Need("add", "min", "max", "and", "or", "xor"), ignoreCase: true);
                PtxType reduced = _m.Type();
                Only(reduced, PtxType.U32, PtxType.S32, PtxType.B32);
                return Plain(Op.Redux, reduced, 2);
            case "elect":
                // elect.sync d|p, members: the lowest lane of the members leads.
                _m.Need("sync");
                Count(2, 2);
                _i.Op = Op.Elect;
                _i.Type = PtxType.B32;
                Operand elected = syntax.Operands[0];
                if (elected.Second is null)
                    throw _m.Error("a predicate beside the destination is missing");
                _i.Destinations = [Destination(elected with { Second = null }, PtxType.B32), Destination(elected.Second, PtxType.Pred)];
                _i.Sources = [Source(1, PtxType.B32)];
                return true;
            case "activemask":
                PtxType mask = _m.Type();
                Only(mask, PtxType.B32);
                return Plain(Op.ActiveMask, mask, 0);
            case "bar" or "barrier":
                return Barrier();
            case "membar":
                _m.Need("cta", "gl", "sys");
                _i.Semantics = Semantics.AcquireRelease;
                Count(0, 0);
                _i.Op = Op.Membar;
                return true;
            case "fence":
                _m.Any("sc", "acq_rel");
                _i.Flag = _m.Need(s_scopes) == "cta";
                _i.Semantics = Semantics.AcquireRelease;
                Count(0, 0);
                _i.Op = Op.Membar;
                return true;
            case "nanosleep":
                PtxType nano = _m.Type();
                Only(nano, PtxType.U32);
                Count(1, 1);
                _i.Op = Op.NanoSleep;
                _i.Sources = [Source(0, nano)];
                return true;
            case "exit" or "ret":
                _m.Take("uni");
                Count(0, 0);
                _i.Op = Op.Exit;
                return true;
            case "trap" or "brkpt":
                Count(0, 0);
                _i.Op = Op.Trap;
                return true;
            case "bra":
                _m.Take("uni");
                Count(1, 1);
                _i.Op = Op.Bra;
                _i.Labels = [names.Label(syntax.Operands[0].Name, syntax)];
                return true;
            case "brx":
                _m.Need("idx");
                _m.Take("uni");
                Count(2, 2);
                _i.Op = Op.Brx;
                _i.Sources = [Source(0, PtxType.U32)];
                _i.Labels = names.Targets(syntax.Operands[1].Name, syntax);
                return true;
            default:
                return false;
        }
    }

    private bool Shuffle()
    {
        _m.Need("sync");
        _i.Mode = _m.Need("up", "down", "bfly", "idx") switch { "up" => Mode.Up, "down" => Mode.Down, "bfly" => Mode.Bfly, _ => Mode.Idx };
        PtxType type = _m.Type();
        Only(type, PtxType.B32);
        Count(5, 5);
        _i.Op = Op.Shfl;
        _i.Type = type;
        Operand first = syntax.Operands[0];
        Operand? predicate = first.Second;
        _i.Destinations = predicate is null ? [Destination(first with { Second = null }, type)] : [Destination(first with { Second = null }, type), Destination(predicate, PtxType.Pred)];
        _i.Sources = [Source(1, type), Source(2, type), Source(3, type), Source(4, type)];
        return true;
    }

    private bool Barrier()
    {
        _m.Take("cta");
        if (_m.Take("warp"))
        {
            _m.Need("sync");
            Count(1, 1);
            _i.Op = Op.WarpSync;
            _i.Sources = [Source(0, PtxType.B32)];
            return true;
        }

        string kind = _m.Need("sync", "arrive", "red");
        _m.Take("aligned");
        _i.Op = Op.Bar;
        if (kind == "red")
        {
            string operation = _m.Need("popc", "and", "or");
            _i.Mode = operation switch { "popc" => Mode.RedPopc, "and" => Mode.RedAnd, _ => Mode.RedOr };
            PtxType type = _m.Type();
            Only(type, operation == "popc" ? PtxType.U32 : PtxType.Pred);
            Count(3, 4);
            _i.Type = type;
            _i.Destinations = [Destination(syntax.Operands[0], type)];
            bool counted = syntax.Operands.Length == 4;
            _i.Sources = [Source(1, PtxType.U32), counted ? Source(2, PtxType.U32) : default, Source(counted ? 3 : 2, PtxType.Pred)];
            return true;
        }

        _i.Mode = kind == "sync" ? Mode.Sync : Mode.Arrive;
        if (kind == "arrive")
            Count(2, 2);
        else
            Count(1, 2);
        _i.Sources = syntax.Operands.Length == 2 ? [Source(0, PtxType.U32), Source(1, PtxType.U32)] : [Source(0, PtxType.U32), default];
        return true;
    }
}
