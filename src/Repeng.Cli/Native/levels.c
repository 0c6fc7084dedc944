/* The program is compiled ahead of time twice, for AVX2 (x86-64-v3) and for AVX-512 (x86-64-v4), since the compiler
   fixes the instruction set of all code at once. Both stand in one file; the linker's --wrap puts this in the place
   of main, and it takes what the machine and its system can run, as the JIT does. */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int __real_main(int argc, char **argv);
int main_avx512(int argc, char **argv);

/* The runtime's own switch: DOTNET_EnableAVX512=0. */
static int switched_off(void)
{
    const char *value = getenv("DOTNET_EnableAVX512");
    return value != NULL && strcmp(value, "0") == 0;
}

/* Skylake-X, Cascade Lake, Cooper Lake and Cannon Lake clock down under 512-bit vectors; the JIT leaves them alone there too. */
static int throttles(void)
{
    unsigned a, b, c, d;
    if (!__builtin_cpu_is("intel") || !__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    unsigned family = (a >> 8) & 15, model = ((a >> 4) & 15) | ((a >> 12) & 0xF0);
    return family == 6 && (model == 0x55 || model == 0x66);
}

int __wrap_main(int argc, char **argv)
{
    static const char message[] = "error: this program needs a CPU with AVX2, FMA and BMI2 (x86-64-v3); on this one take the program that brings the .NET runtime along (dotnet publish --self-contained), which compiles for any CPU\n";
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("x86-64-v3"))
        return write(STDERR_FILENO, message, sizeof message - 1) > 0 ? 1 : 2;
    return __builtin_cpu_supports("x86-64-v4") && !switched_off() && !throttles() ? main_avx512(argc, argv) : __real_main(argc, argv);
}
