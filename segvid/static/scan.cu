// The selective scan for the lanes of an NVIDIA card, forwards and backwards; compiled while the program runs, by segvid/lanes.py,
// which puts the constants in front: N states, G lanes of a channel, K channels of a lane, T tokens of a trip, WARPS of a block, MINB blocks of a
// multiprocessor, TYPE of u, delta and z (0 float, 1 bfloat16, 2 half), ROWS (1: a token's channels lie side by side, 0: a channel's tokens do),
// SOFTPLUS, GATED, STATE (is there an initial state?), KEEP (tokens between kept states, 0: none are kept); backwards also DLAST, WRITE_Y.
// EMULATED: the same source for the processor, after warp.h.

// == names
#define NS (N/G)                 // states of a lane
#define CPW (32/G*K)             // channels of a warp
#define Q (T/G)                  // tokens of a trip that are a lane's own
#define LOG2E 1.4426950408889634f
#if TYPE == 0
#define EPW 1                    // elements of a 32-bit word
typedef float elem;
#else
#define EPW 2
typedef unsigned short elem;
#endif
#define WORDS (Q*K/EPW)

// == card
#ifndef EMULATED
__device__ __forceinline__ float ex2(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float rcp(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float from_bits(unsigned w, int half) {
#if TYPE == 0
    return __uint_as_float(w);
#elif TYPE == 1
    return __uint_as_float(half ? w & 0xffff0000u : w << 16);
#else
    float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"((unsigned short)(half ? w >> 16 : w))); return y;
#endif
}
__device__ __forceinline__ unsigned to_bits(float lo, float hi) {
    unsigned w;
#if TYPE == 0
    w = __float_as_uint(lo);
#elif TYPE == 1
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
#endif
    return w;
}
__device__ __forceinline__ void copy16(void* to, const void* from, bool real) {
    unsigned s = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" :: "r"(s), "l"(from), "r"(real ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory"); }
__device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }
#define SHARED __shared__ __align__(16)
#endif

// == numbers
__device__ __forceinline__ float softplus(float x) {
    float e = ex2(-fabsf(x)*LOG2E), p = 0.005253457797148085f*e - 0.02958850739317554f;
    p = p*e + 0.07836166801885099f;  p = p*e - 0.13674769705510198f; p = p*e + 0.19111431080553018f; p = p*e - 0.24844369892454324f;
    p = p*e + 0.33319271342497936f;  p = p*e - 0.49999501516786776f; p = p*e + 0.999999970540657f;
    return fmaxf(x, 0.f) + p*e;
}
__device__ __forceinline__ float step_size(float x, float bias) {
    x += bias;
#if SOFTPLUS
    x = softplus(x);
#endif
    return x;
}
__device__ __forceinline__ float sigmoid(float x) { return rcp(1.f + ex2(-x*LOG2E)); }

// == rows
// where a lane's q-th token is within a trip
__device__ __forceinline__ int token_of(int q, int r) { return r*Q + q; }
// element (k-th channel, q-th token) of the words that load_rows read
#define AT(w, k, q) from_bits(w[(ROWS ? (q)*K + (k) : (k)*Q + (q))/EPW], (ROWS ? (k) : (q)) % EPW)

template <int W> __device__ __forceinline__ void load_words(unsigned* w, const void* p, bool real) {
    if (W == 1) w[0] = real ? *(const unsigned*)p : 0;
    else if (W == 2) { uint2 v = real ? *(const uint2*)p : make_uint2(0, 0); w[0] = v.x; w[1] = v.y; }
    else for (int i = 0; i < W; i += 4) { uint4 v = real ? ((const uint4*)p)[i/4] : make_uint4(0, 0, 0, 0); w[i] = v.x; w[i+1] = v.y; w[i+2] = v.z; w[i+3] = v.w; }
}
template <int W> __device__ __forceinline__ void store_words(void* p, const unsigned* w, bool real) {
    if (!real) return;
    if (W == 1) *(unsigned*)p = w[0];
    else if (W == 2) *(uint2*)p = make_uint2(w[0], w[1]);
    else for (int i = 0; i < W; i += 4) ((uint4*)p)[i/4] = make_uint4(w[i], w[i+1], w[i+2], w[i+3]);
}
// the lane's elements of a trip; p stands at the trip's first token and the lane's first channel, `left` tokens exist
__device__ __forceinline__ void load_rows(unsigned* w, const elem* p, int left, int r, int stride) {
    if (ROWS) {
#pragma unroll
        for (int q = 0; q < Q; q++) load_words<(K + EPW - 1)/EPW>(w + q*K/EPW, p + (long long)token_of(q, r)*stride, token_of(q, r) < left);
    } else {
#pragma unroll
        for (int k = 0; k < K; k++) load_words<Q/EPW>(w + k*Q/EPW, p + (long long)k*stride + r*Q, r*Q < left);
    }
}
__device__ __forceinline__ void store_rows(elem* p, const float (*y)[K], int left, int r, int stride) {
    unsigned w[WORDS];
    if (ROWS) {
#pragma unroll
        for (int q = 0; q < Q; q++) {
#pragma unroll
            for (int k = 0; k < K; k += EPW) w[(q*K + k)/EPW] = to_bits(y[q][k], EPW == 2 ? y[q][(k + 1) % K] : 0.f);
            store_words<(K + EPW - 1)/EPW>(p + (long long)token_of(q, r)*stride, w + q*K/EPW, token_of(q, r) < left);
        }
    } else {
#pragma unroll
        for (int k = 0; k < K; k++) {
#pragma unroll
            for (int q = 0; q < Q; q += EPW) w[(k*Q + q)/EPW] = to_bits(y[q][k], EPW == 2 ? y[(q + 1) % Q][k] : 0.f);
            store_words<Q/EPW>(p + (long long)k*stride + r*Q, w + k*Q/EPW, r*Q < left);
        }
    }
}
// the lane's K channels of one token
__device__ __forceinline__ void load_token(float* v, const elem* p, int stride, bool real) {
    unsigned w[K];
    if (ROWS) { load_words<(K + EPW - 1)/EPW>(w, p, real);
#pragma unroll
        for (int k = 0; k < K; k++) v[k] = from_bits(w[k/EPW], k % EPW);
    } else {
#pragma unroll
        for (int k = 0; k < K; k++) {
            if (EPW == 2) v[k] = from_bits(real ? (unsigned)p[(long long)k*stride] : 0u, 0);
            else { load_words<1>(w, p + (long long)k*stride, real); v[k] = from_bits(w[0], 0); }
        }
    }
}
__device__ __forceinline__ void store_token(elem* p, const float* v, int stride, bool real) {
    unsigned w[K];
    if (ROWS) {
#pragma unroll
        for (int k = 0; k < K; k += EPW) w[k/EPW] = to_bits(v[k], EPW == 2 ? v[(k + 1) % K] : 0.f);
        store_words<(K + EPW - 1)/EPW>(p, w, real);
    } else {
#pragma unroll
        for (int k = 0; k < K; k++) {
            unsigned b = to_bits(v[k], 0.f);
            if (EPW == 2) { if (real) p[(long long)k*stride] = (elem)b; }
            else store_words<1>(p + (long long)k*stride, &b, real);
        }
    }
}

// == shared
// COUNT numbers side by side, as wide as they go
template <int COUNT> __device__ __forceinline__ void put(float* to, const float* from) {
    if (COUNT % 4 == 0) for (int i = 0; i < COUNT; i += 4) *(float4*)(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    else if (COUNT % 2 == 0) for (int i = 0; i < COUNT; i += 2) *(float2*)(to + i) = make_float2(from[i], from[i + 1]);
    else for (int i = 0; i < COUNT; i++) to[i] = from[i];
}
// B (or C) of COUNT tokens to shared memory, zeros behind the last
template <int COUNT> __device__ __forceinline__ void copy_matrix(float* to, const float* from, int left, int stride) {
#pragma unroll
    for (int i = 0; i < COUNT*N/(128*WARPS); i++) {
        int piece = i*32*WARPS + threadIdx.x, t = piece/(N/4), part = piece % (N/4);
        copy16(to + piece*4, from + (t < left ? (long long)t*stride + part*4 : 0), t < left);
    }
}
// COUNT values in each of COUNT lanes, STEP apart: lane i ends with the sum of everybody's i-th
template <int COUNT, int STEP> __device__ __forceinline__ float sum_scatter(float* v, int lane) {
#pragma unroll
    for (int o = COUNT/2; o > 0; o /= 2) {
        bool up = lane & o;
#pragma unroll
        for (int j = 0; j < o; j++) {
            float send = up ? v[j] : v[j + o], keep = up ? v[j + o] : v[j];
            v[j] = keep + __shfl_xor_sync(0xffffffffu, send, o*STEP);
        }
    }
    return v[0];
}

// == place
struct Place { long long first; int seq, length, lane, warp, r, cp, c; };
__device__ __forceinline__ Place place(const int* cu) {
    Place w;
    w.seq = blockIdx.y; w.first = cu[w.seq]; w.length = cu[w.seq + 1] - (int)w.first;
    w.lane = threadIdx.x % 32; w.warp = threadIdx.x/32;
    w.r = w.lane/(32/G); w.cp = w.lane % (32/G); w.c = (blockIdx.x*WARPS + w.warp)*CPW + w.cp*K;
    return w;
}
// an element pointer at a sequence's first token and a lane's first channel: strides of tokens, channels, sequences
__device__ __forceinline__ long long begin(const Place& w, int token, int channel, int sequence) {
    return w.first*token + (long long)w.c*channel + (long long)w.seq*sequence;
}

// strides may be compile-time constants: define SU .. SC as numbers, CHANNELS too; else they are the kernel's arguments
#ifndef SU
#define SU su
#endif
#ifndef SX
#define SX sx
#endif
#ifndef SZ
#define SZ sz
#endif
#ifndef SO
#define SO so
#endif
#ifndef SB
#define SB sb
#endif
#ifndef SC
#define SC sc
#endif
#ifndef SG
#define SG sg
#endif
#ifndef SDU
#define SDU sdu
#endif
#ifndef SDZ
#define SDZ sdz
#endif
#ifndef CHANNELS
#define CHANNELS channels
#endif

// == forward
#ifndef DLAST
extern "C" __global__ void __launch_bounds__(32*WARPS, MINB) scan_forward(
        const elem* u, const elem* x, const elem* z, const float* A, const float* B, const float* C, const float* skip, const float* bias,
        const float* h0, elem* out, float* last, float* states, const int* cu, int channels,
        int su, int sx, int sz, int so, int qu, int qx, int qz, int qo, int sb, int sc) {
    // s*: from token to token (ROWS) or from channel to channel; q*: what is added for each sequence where they are not one behind the other
    SHARED float bs[2][T][N], cs[2][T][N];
    SHARED float steps[T][CPW][2];
    Place w = place(cu);
    float a[K][NS], h[K][NS], d[K], bi[K];
#pragma unroll
    for (int k = 0; k < K; k++) {
        d[k] = skip[w.c + k]; bi[k] = bias[w.c + k];
#pragma unroll
        for (int n = 0; n < NS; n++) {
            a[k][n] = A[(w.r*NS + n)*CHANNELS + w.c + k]*LOG2E;
            h[k][n] = STATE ? h0[((long long)w.seq*N + w.r*NS + n)*CHANNELS + w.c + k] : 0.f;
        }
    }
    u += begin(w, ROWS ? SU : 1, ROWS ? 1 : SU, qu); x += begin(w, ROWS ? SX : 1, ROWS ? 1 : SX, qx);
    z += begin(w, ROWS ? SZ : 1, ROWS ? 1 : SZ, qz); out += begin(w, ROWS ? SO : 1, ROWS ? 1 : SO, qo);
    B += w.first*SB; C += w.first*SC;
    const int iu = ROWS ? SU*T : T, ix = ROWS ? SX*T : T, iz = ROWS ? SZ*T : T, io = ROWS ? SO*T : T;
#if KEEP
    states += ((long long)((int)w.first/KEEP + w.seq)*N + w.r*NS)*CHANNELS + w.c;
#endif
    unsigned nu[WORDS], nx[WORDS], nz[WORDS];
    load_rows(nu, u, w.length, w.r, SU); load_rows(nx, x, w.length, w.r, SX);
#if GATED
    load_rows(nz, z, w.length, w.r, SZ);
#endif
    copy_matrix<T>(&bs[0][0][0], B, w.length, SB); copy_matrix<T>(&cs[0][0][0], C, w.length, SC); copies_end();
    for (int t0 = 0, buffer = 0; t0 < w.length; t0 += T, buffer ^= 1) {
        unsigned ru[WORDS], rx[WORDS], rz[WORDS];
#pragma unroll
        for (int i = 0; i < WORDS; i++) { ru[i] = nu[i]; rx[i] = nx[i]; if (GATED) rz[i] = nz[i]; }
        const int left = w.length - t0;
        u += iu; x += ix; z += iz; B += (long long)T*SB; C += (long long)T*SC;
        __syncwarp();                                                       // the other buffer and steps are read
        copy_matrix<T>(&bs[buffer ^ 1][0][0], B, left - T, SB); copy_matrix<T>(&cs[buffer ^ 1][0][0], C, left - T, SC); copies_end();
        load_rows(nu, u, left - T, w.r, SU); load_rows(nx, x, left - T, w.r, SX);
#if GATED
        load_rows(nz, z, left - T, w.r, SZ);
#endif
#if KEEP
        if (t0 % KEEP == 0) {
#pragma unroll
            for (int n = 0; n < NS; n++)
#pragma unroll
                for (int k = 0; k < K; k++) states[n*CHANNELS + k] = h[k][n];
            states += (long long)N*CHANNELS;
        }
#endif
#pragma unroll
        for (int q = 0; q < Q; q++) {
            const int t = token_of(q, w.r);
            float pair[K][2];
#pragma unroll
            for (int k = 0; k < K; k++) {
                float step = step_size(AT(rx, k, q), bi[k]);
                if (t >= left) step = 0.f;
                pair[k][0] = step; pair[k][1] = step*AT(ru, k, q);
            }
            put<2*K>(steps[t][w.cp*K], pair[0]);
        }
        copies_wait<1>();
        __syncwarp();
        float yr[Q][K];
        float y[K][T];
#pragma unroll
        for (int t = 0; t < T; t++) {
            float b[NS], c[NS], s[K], v[K];
#pragma unroll
            for (int n = 0; n < NS; n += 4) {
                *(float4*)(b + n) = *(const float4*)&bs[buffer][t][w.r*NS + n];
                *(float4*)(c + n) = *(const float4*)&cs[buffer][t][w.r*NS + n];
            }
#pragma unroll
            for (int k = 0; k < K; k++) { float2 p = *(const float2*)steps[t][w.cp*K + k]; s[k] = p.x; v[k] = p.y; }
#pragma unroll
            for (int k = 0; k < K; k++) {
                float sum = 0.f;
#pragma unroll
                for (int n = 0; n < NS; n++) {
                    h[k][n] = ex2(s[k]*a[k][n])*h[k][n] + v[k]*b[n];
                    sum = n ? sum + h[k][n]*c[n] : h[k][n]*c[n];
                }
                y[k][t] = sum;
            }
        }
#pragma unroll
        for (int q = 0; q < Q; q++)
#pragma unroll
            for (int k = 0; k < K; k++) {
                float some[G];
#pragma unroll
                for (int i = 0; i < G; i++) some[i] = y[k][i*Q + q];
                yr[q][k] = sum_scatter<G, 32/G>(some, w.r);
            }
#pragma unroll
        for (int q = 0; q < Q; q++)
#pragma unroll
            for (int k = 0; k < K; k++) {
                yr[q][k] += d[k]*AT(ru, k, q);
#if GATED
                float g = AT(rz, k, q);
                yr[q][k] *= g*sigmoid(g);
#endif
            }
        store_rows(out, yr, left, w.r, SO);
        out += io;
    }
#pragma unroll
    for (int n = 0; n < NS; n++)
#pragma unroll
        for (int k = 0; k < K; k++) last[((long long)w.seq*N + w.r*NS + n)*CHANNELS + w.c + k] = h[k][n];
}
#endif

// == backward
#ifdef DLAST
// KEEP is T: a block of T tokens starts from a kept state. Sub-blocks of G tokens, one for each of a channel's lanes
extern "C" __global__ void __launch_bounds__(32*WARPS, MINB) scan_backward(
        const elem* u, const elem* x, const elem* z, const elem* dout, const float* A, const float* B, const float* C, const float* skip,
        const float* bias, const float* states, const float* dlast, elem* du, elem* dx, elem* dz, elem* out, float* dBC, float* dA, float* dD,
        float* dbias, float* dh0, const int* cu, int channels, int tokens, int su, int sx, int sz, int sg, int sdu, int sdz,
        int qu, int qx, int qz, int qg, int qd, int sb, int sc) {
    // SDU and qd: of du, dx and out; dz has a stride of its own, SDZ
    SHARED float bs[T][N], cs[T][N];
    SHARED float steps_[WARPS][T][CPW][2];
    SHARED float dys_[WARPS][T][CPW];
    SHARED float shares_[WARPS][32][36];                                    // what lanes leave for each other to add; 36: no two of a quarter warp meet in a bank
    SHARED float hs_[WARPS][T/G][NS*K][32];                                 // a state before every sub-block; later the sub-block's sums for dB and dC
    Place w = place(cu);
    float (*shares)[36] = shares_[w.warp];
    float (*steps)[CPW][2] = steps_[w.warp], (*dys)[CPW] = dys_[w.warp], (*hs)[NS*K][32] = hs_[w.warp];
    float a[K][NS], g[K][NS], sum_a[K][NS], d[K], bi[K], sum_d[K], sum_bias[K];
#pragma unroll
    for (int k = 0; k < K; k++) {
        d[k] = skip[w.c + k]; bi[k] = bias[w.c + k]; sum_d[k] = sum_bias[k] = 0.f;
#pragma unroll
        for (int n = 0; n < NS; n++) {
            a[k][n] = A[(w.r*NS + n)*CHANNELS + w.c + k]*LOG2E;
            g[k][n] = DLAST ? dlast[((long long)w.seq*N + w.r*NS + n)*CHANNELS + w.c + k] : 0.f;
            sum_a[k][n] = 0.f;
        }
    }
    const int tu = ROWS ? SU : 1, tx = ROWS ? SX : 1, tz = ROWS ? SZ : 1, tg = ROWS ? SG : 1, td = ROWS ? SDU : 1, te = ROWS ? SDZ : 1;
    u += begin(w, tu, ROWS ? 1 : SU, qu); x += begin(w, tx, ROWS ? 1 : SX, qx); z += begin(w, tz, ROWS ? 1 : SZ, qz);
    dout += begin(w, tg, ROWS ? 1 : SG, qg);
    du += begin(w, td, ROWS ? 1 : SDU, qd); dx += begin(w, td, ROWS ? 1 : SDU, qd); dz += begin(w, te, ROWS ? 1 : SDZ, qd);
    out += begin(w, td, ROWS ? 1 : SDU, qd);
    B += w.first*SB; C += w.first*SC;
    dBC += ((long long)blockIdx.x*tokens + w.first)*(2*N);
    const int blocks = (w.length + T - 1)/T;
    states += (((long long)((int)w.first/KEEP + w.seq) + blocks)*N + w.r*NS)*CHANNELS + w.c;
    for (int block = blocks - 1; block >= 0; block--) {
        const int t0 = block*T, left = w.length - t0;
        states -= (long long)N*CHANNELS;
        float h[K][NS];
        {   // step, v = step u and the gradient of y behind the gate, for all tokens of the block
            unsigned ru[WORDS], rx[WORDS], rz[WORDS], rg[WORDS];
            __syncthreads();
            copy_matrix<T>(&bs[0][0], B + (long long)t0*SB, left, SB); copy_matrix<T>(&cs[0][0], C + (long long)t0*SC, left, SC); copies_end();
            load_rows(rx, x + (long long)t0*tx, left, w.r, SX); load_rows(ru, u + (long long)t0*tu, left, w.r, SU);
            load_rows(rg, dout + (long long)t0*tg, left, w.r, SG);
#if GATED
            load_rows(rz, z + (long long)t0*tz, left, w.r, SZ);
#endif
#pragma unroll
            for (int n = 0; n < NS; n++)
#pragma unroll
                for (int k = 0; k < K; k++) h[k][n] = states[n*CHANNELS + k];
            if (ROWS && block) {
                const long long t = t0 - T + w.lane % T, back = t0 - T, c = (long long)-w.cp*K;
                prefetch(x + t*tx + c); prefetch(u + t*tu + c); prefetch(dout + t*tg + c);
                if (GATED) prefetch(z + t*tz + c);
                if (w.lane < N) prefetch(states + ((long long)w.lane - w.r*NS - N)*CHANNELS + c);
                if (threadIdx.x < T*N/32) { prefetch(B + back*SB + threadIdx.x*32); prefetch(C + back*SC + threadIdx.x*32); }
            }
#pragma unroll
            for (int q = 0; q < Q; q++) {
                int t = token_of(q, w.r);
                float pair[K][2], grad[K];
#pragma unroll
                for (int k = 0; k < K; k++) {
                    float step = step_size(AT(rx, k, q), bi[k]), dy = AT(rg, k, q);
#if GATED
                    float zz = AT(rz, k, q);
                    dy *= zz*sigmoid(zz);
#endif
                    if (t >= left) step = 0.f;
                    pair[k][0] = step; pair[k][1] = step*AT(ru, k, q); grad[k] = dy;
                }
                put<2*K>(steps[t][w.cp*K], pair[0]); put<K>(&dys[t][w.cp*K], grad);
            }
            copies_wait<0>();
            __syncthreads();
        }
#pragma unroll 1
        for (int i = 0; i < T/G; i++) {                                     // the state before each sub-block
#pragma unroll
            for (int k = 0; k < K; k++)
#pragma unroll
                for (int n = 0; n < NS; n++) hs[i][k*NS + n][w.lane] = h[k][n];
            if (i == T/G - 1) break;
#pragma unroll
            for (int j = 0; j < G; j++) {
                const int t = i*G + j;
                float b[NS], s[K], v[K];
#pragma unroll
                for (int n = 0; n < NS; n += 4) *(float4*)(b + n) = *(const float4*)&bs[t][w.r*NS + n];
#pragma unroll
                for (int k = 0; k < K; k++) { float2 p = *(const float2*)steps[t][w.cp*K + k]; s[k] = p.x; v[k] = p.y; }
#pragma unroll
                for (int k = 0; k < K; k++)
#pragma unroll
                    for (int n = 0; n < NS; n++) h[k][n] = ex2(s[k]*a[k][n])*h[k][n] + v[k]*b[n];
            }
        }
        const long long tt = t0 + T - G + w.r;                              // the lane's own token of the last sub-block
        const elem *pu = u + tt*tu, *px = x + tt*tx, *pz = z + tt*tz, *pg = dout + tt*tg;
        elem *to_u = du + tt*td, *to_x = dx + tt*td, *to_z = dz + tt*te, *to_y = out + tt*td;
#pragma unroll 1
        for (int i = T/G - 1; i >= 0; i--) {
            const int mine = i*G + w.r;
            const bool real = mine < left;
            float eu[K], ex[K], ez[K], eg[K];
            load_token(eu, pu, SU, real); load_token(ex, px, SX, real); load_token(eg, pg, SG, real);
            if (GATED) load_token(ez, pz, SZ, real);
            float H[G + 1][K][NS], decay[G][K][NS];
#pragma unroll
            for (int k = 0; k < K; k++)
#pragma unroll
                for (int n = 0; n < NS; n++) H[0][k][n] = hs[i][k*NS + n][w.lane];
#pragma unroll
            for (int j = 0; j < G; j++) {
                const int t = i*G + j;
                float b[NS], s[K], v[K];
#pragma unroll
                for (int n = 0; n < NS; n += 4) *(float4*)(b + n) = *(const float4*)&bs[t][w.r*NS + n];
#pragma unroll
                for (int k = 0; k < K; k++) { float2 p = *(const float2*)steps[t][w.cp*K + k]; s[k] = p.x; v[k] = p.y; }
#pragma unroll
                for (int k = 0; k < K; k++)
#pragma unroll
                    for (int n = 0; n < NS; n++) {
                        decay[j][k][n] = ex2(s[k]*a[k][n]);
                        H[j + 1][k][n] = decay[j][k][n]*H[j][k][n] + v[k]*b[n];
                    }
            }
            float y[K][G], dv[K][G], ds[K][G];
#pragma unroll
            for (int j = G - 1; j >= 0; j--) {
                const int t = i*G + j;
                float b[NS], c[NS], s[K], v[K], dy[K], terms[2*NS];
#pragma unroll
                for (int n = 0; n < NS; n += 4) {
                    *(float4*)(b + n) = *(const float4*)&bs[t][w.r*NS + n];
                    *(float4*)(c + n) = *(const float4*)&cs[t][w.r*NS + n];
                }
#pragma unroll
                for (int k = 0; k < K; k++) { float2 p = *(const float2*)steps[t][w.cp*K + k]; s[k] = p.x; v[k] = p.y; dy[k] = dys[t][w.cp*K + k]; }
#pragma unroll
                for (int k = 0; k < K; k++)
#pragma unroll
                    for (int n = 0; n < NS; n++) {
                        float gn = g[k][n] + c[n]*dy[k];
                        terms[n] = k ? terms[n] + gn*v[k] : gn*v[k];
                        terms[NS + n] = k ? terms[NS + n] + H[j + 1][k][n]*dy[k] : H[j + 1][k][n]*dy[k];
                        y[k][j] = n ? y[k][j] + H[j + 1][k][n]*c[n] : H[j + 1][k][n]*c[n];
                        dv[k][j] = n ? dv[k][j] + gn*b[n] : gn*b[n];
                        gn *= decay[j][k][n];
                        float f = gn*H[j][k][n];
                        sum_a[k][n] += f*s[k];
                        ds[k][j] = n ? ds[k][j] + f*a[k][n] : f*a[k][n];
                        g[k][n] = gn;
                    }
                put<2*NS>(&shares[w.lane][j*2*NS], terms);
            }
            __syncwarp();
            {   // lane p of a group adds eight lanes' numbers 4p to 4p + 3: token p/2, of B or C
                float4 sum = *(const float4*)&shares[w.r*8][w.cp*4];
#pragma unroll
                for (int o = 1; o < 8; o++) { const float4 more = *(const float4*)&shares[w.r*8 + o][w.cp*4]; sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w; }
                const int at = (w.cp/2)*2*N + (w.cp % 2)*N + w.r*NS;
                if (WARPS == 1) { if (i*G + w.cp/2 < left) *(float4*)&dBC[(long long)(t0 + i*G)*(2*N) + at] = sum; }
                else *(float4*)(&hs[i][0][0] + at) = sum;
            }
            __syncwarp();
            float gu[K], gx[K], gz[K], yo[K];
            float sums[K][3];
            {   // each lane of a channel adds the four lanes' numbers of one token
#pragma unroll
                for (int j = 0; j < G; j++)
#pragma unroll
                    for (int k = 0; k < K; k++) { shares[w.lane][(j*K + k)*3] = y[k][j]; shares[w.lane][(j*K + k)*3 + 1] = dv[k][j]; shares[w.lane][(j*K + k)*3 + 2] = ds[k][j]; }
                __syncwarp();
#pragma unroll
                for (int e = 0; e < 3*K; e += 2) {
                    float2 sum = *(const float2*)&shares[w.cp][w.r*3*K + e];
#pragma unroll
                    for (int o = 1; o < G; o++) { const float2 more = *(const float2*)&shares[o*(32/G) + w.cp][w.r*3*K + e]; sum.x += more.x; sum.y += more.y; }
                    (&sums[0][0])[e] = sum.x; (&sums[0][0])[e + 1] = sum.y;
                }
                __syncwarp();
            }
#pragma unroll
            for (int k = 0; k < K; k++) {
                float yy = sums[k][0], v = sums[k][1], s = sums[k][2];
                float step = steps[mine][w.cp*K + k][0], dy = dys[mine][w.cp*K + k];
                yy += d[k]*eu[k];
                gu[k] = v*step + d[k]*dy;
                gx[k] = v*eu[k] + s*0.6931471805599453f;
#if SOFTPLUS
                gx[k] *= sigmoid(ex[k] + bi[k]);
#endif
                sum_d[k] += dy*eu[k];
                if (!real) gx[k] = 0.f;
                sum_bias[k] += gx[k];
                yo[k] = yy;
#if GATED
                float gate = sigmoid(ez[k]), silu = ez[k]*gate;
                gz[k] = eg[k]*yy*(gate + silu - silu*gate);
                yo[k] = yy*silu;
#endif
            }
            store_token(to_u, gu, SDU, real); store_token(to_x, gx, SDU, real);
            if (GATED) store_token(to_z, gz, SDZ, real);
            if (WRITE_Y) store_token(to_y, yo, SDU, real);
            pu -= G*tu; px -= G*tx; pz -= G*tz; pg -= G*tg; to_u -= G*td; to_x -= G*td; to_z -= G*te; to_y -= G*td;
        }
        if (WARPS > 1) {                                                    // the sums of all warps, in their order
            __syncthreads();
#pragma unroll
            for (int p = 0; p < T*2*N/(128*WARPS); p++) {
                const int piece = p*32*WARPS + threadIdx.x, i = piece/(G*N/2), e = piece % (G*N/2);
                float4 sum = ((const float4*)hs_[0][i])[e];
#pragma unroll
                for (int o = 1; o < WARPS; o++) { const float4 more = ((const float4*)hs_[o][i])[e]; sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w; }
                if (piece/(N/2) < left) ((float4*)(dBC + (long long)t0*(2*N)))[piece] = sum;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int o = 32/G; o < 32; o *= 2) { sum_d[k] += __shfl_xor_sync(0xffffffffu, sum_d[k], o); sum_bias[k] += __shfl_xor_sync(0xffffffffu, sum_bias[k], o); }
        if (w.r == 0) { dD[(long long)w.seq*CHANNELS + w.c + k] = sum_d[k]; dbias[(long long)w.seq*CHANNELS + w.c + k] = sum_bias[k]; }
#pragma unroll
        for (int n = 0; n < NS; n++) {
            const long long at = ((long long)w.seq*N + w.r*NS + n)*CHANNELS + w.c + k;
            dA[at] = sum_a[k][n];
            if (STATE) dh0[at] = g[k][n];
        }
    }
}
#endif
