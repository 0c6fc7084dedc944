namespace Repeng.Kernels.Quantised;

/// <summary>The table of types: number, name, values and bytes of a block, where its fp16 scales lie, how it is read and written.</summary>
public sealed unsafe partial class BlockType
{
    static BlockType()
    {
        Add(0, "F32", 1, 4, [], &Plain.DecodeF32, &Plain.EncodeF32);
        Add(1, "F16", 1, 2, [], &Plain.DecodeF16, &Plain.EncodeF16);
        Add(2, "Q4_0", 32, 18, [0], &Q32.DecodeQ4_0, &Q32.EncodeQ4_0);
        Add(3, "Q4_1", 32, 20, [0, 2], &Q32.DecodeQ4_1, &Q32.EncodeQ4_1);
        Add(6, "Q5_0", 32, 22, [0], &Q32.DecodeQ5_0, &Q32.EncodeQ5_0);
        Add(7, "Q5_1", 32, 24, [0, 2], &Q32.DecodeQ5_1, &Q32.EncodeQ5_1);
        Add(8, "Q8_0", 32, 34, [0], &Q32.DecodeQ8_0, &Q32.EncodeQ8_0);
        Add(9, "Q8_1", 32, 36, [], null);
        Add(10, "Q2_K", 256, 84, [80, 82], &KQuants.DecodeQ2_K);
        Add(11, "Q3_K", 256, 110, [108], &KQuants.DecodeQ3_K);
        Add(12, "Q4_K", 256, 144, [0, 2], &KQuants.DecodeQ4_K);
        Add(13, "Q5_K", 256, 176, [0, 2], &KQuants.DecodeQ5_K);
        Add(14, "Q6_K", 256, 210, [208], &KQuants.DecodeQ6_K);
        Add(15, "Q8_K", 256, 292, [], null);
        Add(16, "IQ2_XXS", 256, 66, [0], &IqQuants.DecodeIQ2_XXS);
        Add(17, "IQ2_XS", 256, 74, [0], &IqQuants.DecodeIQ2_XS);
        Add(18, "IQ3_XXS", 256, 98, [0], &IqQuants.DecodeIQ3_XXS);
        Add(19, "IQ1_S", 256, 50, [0], &IqQuants.DecodeIQ1_S);
        Add(20, "IQ4_NL", 32, 18, [0], &FourBitTables.DecodeIQ4_NL);
        Add(21, "IQ3_S", 256, 110, [0], &IqQuants.DecodeIQ3_S);
        Add(22, "IQ2_S", 256, 82, [0], &IqQuants.DecodeIQ2_S);
        Add(23, "IQ4_XS", 256, 136, [0], &FourBitTables.DecodeIQ4_XS);
        Add(29, "IQ1_M", 256, 56, [], &IqQuants.DecodeIQ1_M);
        Add(30, "BF16", 1, 2, [], &Plain.DecodeBF16, &Plain.EncodeBF16);
        Add(34, "TQ1_0", 256, 54, [52], &FewBits.DecodeTQ1_0, &FewBits.EncodeTQ1_0);
        Add(35, "TQ2_0", 256, 66, [64], &FewBits.DecodeTQ2_0, &FewBits.EncodeTQ2_0);
        Add(39, "MXFP4", 32, 17, [], &FourBitTables.DecodeMXFP4, &FourBitTables.EncodeMXFP4);
        Add(40, "NVFP4", 64, 36, [], &FourBitTables.DecodeNVFP4);
        Add(41, "Q1_0", 128, 18, [0], &FewBits.DecodeQ1_0);
        Add(42, "Q2_0", 64, 18, [0], &FewBits.DecodeQ2_0);
    }
}
