// A block of lanes on the processor, for scan.cu: as many fibers as lanes, which take turns at every barrier and every exchange.
#include <cmath>
#include <cstring>
#include <cstdint>
#include <cstdlib>
#include <ucontext.h>
#include <functional>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(a, b)
#define SHARED static __attribute__((aligned(16)))
struct float2 { float x, y; }; struct float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; }; struct uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
struct Dim { unsigned x, y; };
static Dim threadIdx, blockIdx;
static ucontext_t main_ctx, ctx[64];
static char stacks[64][1 << 18];
static std::function<void()> body;
static float slot[2][64];
static int parity[64];
static unsigned now;
static void yield_() { unsigned me = now; swapcontext(&ctx[me], &main_ctx); threadIdx.x = me; now = me; }
inline void __syncwarp() { yield_(); }
inline void __syncthreads() { yield_(); }
inline float __shfl_xor_sync(unsigned, float v, int o) { int l = threadIdx.x, p = parity[l]; parity[l] ^= 1; slot[p][l] = v; yield_(); return slot[p][l ^ o]; }
static bool done[64];
static void entry() { body(); done[now] = true; swapcontext(&ctx[now], &main_ctx); }
#define THREADS (32*WARPS)
static void run_warp() {
    for (int l = 0; l < THREADS; l++) { getcontext(&ctx[l]); ctx[l].uc_stack.ss_sp = stacks[l]; ctx[l].uc_stack.ss_size = sizeof stacks[l]; ctx[l].uc_link = 0; done[l] = false; parity[l] = 0; makecontext(&ctx[l], entry, 0); }
    bool any = true;
    while (any) { any = false; int finished = 0; for (int l = 0; l < THREADS; l++) if (!done[l]) { now = threadIdx.x = l; swapcontext(&main_ctx, &ctx[l]); any = true; } for (int l = 0; l < THREADS; l++) finished += done[l]; if (finished && finished < THREADS) abort(); }
}
static void grid(int gx, int gy, std::function<void()> f) { body = f; for (int y = 0; y < gy; y++) for (int x = 0; x < gx; x++) { blockIdx = {(unsigned)x, (unsigned)y}; run_warp(); } }
inline float ex2(float x) { return x < -126.f ? 0.f : exp2f(x); }
inline float rcp(float x) { return 1.f/x; }
inline float bits(unsigned w) { float f; memcpy(&f, &w, 4); return f; }
inline unsigned word(float f) { unsigned w; memcpy(&w, &f, 4); return w; }
inline int __float_as_int(float f) { return (int)word(f); }
inline float __int_as_float(int i) { return bits((unsigned)i); }
inline float from_bits(unsigned w, int half) {
#if TYPE == 0
    return bits(w);
#elif TYPE == 1
    return bits(half ? w & 0xffff0000u : w << 16);
#else
    _Float16 h; unsigned short s = half ? w >> 16 : w; memcpy(&h, &s, 2); return (float)h;
#endif
}
inline unsigned half_bits(float f) {
#if TYPE == 2
    _Float16 h = (_Float16)f; unsigned short s; memcpy(&s, &h, 2); return s;
#else
    unsigned w = word(f); return (w + 0x7fff + ((w >> 16) & 1)) >> 16;
#endif
}
inline unsigned to_bits(float lo, float hi) {
#if TYPE == 0
    return word(lo);
#else
    return half_bits(lo) | half_bits(hi) << 16;
#endif
}
inline void copy16(void* to, const void* from, bool real) { if (real) memcpy(to, from, 16); else memset(to, 0, 16); }
inline void copies_end() {}
template <int n> inline void copies_wait() {}
inline void prefetch(const void*) {}
using std::fabs;
