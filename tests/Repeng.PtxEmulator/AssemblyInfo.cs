using System.Runtime.CompilerServices;

[assembly: InternalsVisibleTo("Repeng.PtxEmulator.Tests")]
