#include <stdbool.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of CPUID leaf 7: tiles, and their products of BF16. Linux gives a process the tiles when it asks for them. */
enum { TILES = 1 << 24, TILE_BF16 = 1 << 22, ASK = 0x1023, TILE_DATA = 18 };

bool qp_cpu_offers_amx(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILES) && (d & TILE_BF16) &&
           syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}
#else
bool qp_cpu_offers_amx(void)
{
    return false;
}
#endif
