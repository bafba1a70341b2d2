"""Mamba-1 selective scan and causal depthwise convolution in Triton, forward and backward.

Layout.  The kernels see *packed tokens*: u, delta, z are (tokens, D), B and C are (tokens, N), and
``cu_seqlens`` (S+1,) int32 says where each of the S sequences starts; no padding, no maximum length, no
host synchronisation.  States travel as (S, N, D) float32 inside and are shown as (S, D, N) outside (a view).

Mathematics.  With d_t = softplus(delta_t + bias), per channel d and state n:

    h_t = exp(d_t A) h_{t-1} + d_t u_t B_t          y_t = sum_n C_t h_t + D u_t          out_t = y_t silu(z_t)

One program owns 32 channels of one sequence: one lane per channel, its N states in registers, time in a loop.
So y needs no communication at all, and every load of u, delta, z is one coalesced row.

Backward.  Only the inputs are saved.  The forward loop is run again and leaves one state every ``keep`` tokens in a
scratch buffer; a second kernel walks the blocks from last to first, rebuilds the ``keep`` states of a block in
registers, and comes back through them with g_t = C_t dy_t + exp(d_{t+1} A) g_{t+1}.  dB and dC are sums over channels:
each program writes its 32-channel part to a float32 buffer, summed afterwards in a fixed order (reproducible).
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


class ScanConfig(NamedTuple):
    """How a scan is cut into programs; no field changes the result beyond rounding."""
    block_d: int = 32       # channels of a forward program, 32 per warp
    unroll: int = 8         # tokens per trip of the forward loop; the next trip's rows are loaded ahead
    warps: int = 1          # warps of a forward program
    registers: int = 255    # register limit: few warps, much to hold, so the maximum
    tile: int = 16          # states per tile of the forward pass (a power of two)
    float_bc: bool = True   # convert B and C to float32 once instead of in every program
    keep: int = 4           # tokens between the states that the backward pass starts from
    bwd_block_d: int = 32   # channels of a backward program (one warp)
    bwd_tile: int = 8       # states per tile of the backward pass
    ahead_states: bool = True  # load the next block's state ahead as well as its rows
    separate: bool = True   # reduce dB and dC one after the other (fewer registers) instead of together
    transpose: bool = True  # sum over channels by a transposition through shared memory, not by shuffles
    save_states: bool = False  # keep the states of the forward pass for the backward pass: more memory, less work


# ---------------------------------------------------------------------------------------------- small functions
@triton.jit
def _softplus(x):
    """log(1 + exp x) = max(x, 0) + log1p(e), e = exp(-|x|): a polynomial for log1p(e)/e on 0..1, relative error 2e-7."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    p = 0.005253457797148085 * e - 0.02958850739317554
    p = p * e + 0.07836166801885099
    p = p * e - 0.13674769705510198
    p = p * e + 0.19111431080553018
    p = p * e - 0.24844369892454324
    p = p * e + 0.33319271342497936
    p = p * e - 0.49999501516786776
    p = p * e + 0.999999970540657
    return tl.maximum(x, 0.0) + p * e


@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)); also the derivative of softplus.  exp(-|x|) never overflows."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    return tl.where(x > 0, 1.0, e) / (1 + e)


@triton.jit
def _step_size(x, bias, SOFTPLUS: tl.constexpr):
    """delta as the recurrence uses it."""
    x = x.to(tl.float32)
    if bias is not None:
        x += bias
    if SOFTPLUS:
        x = _softplus(x)
    return x


@triton.jit
def _load(ptr, mask, EVEN: tl.constexpr):
    """Load, with a mask only where one is needed."""
    if EVEN:
        return tl.load(ptr)
    else:
        return tl.load(ptr, mask=mask, other=0.0)


@triton.jit
def _store(ptr, x, mask, EVEN: tl.constexpr):
    """Store in the pointer's own type, with a mask only where one is needed."""
    if EVEN:
        tl.store(ptr, x.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr, x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _lanes_if(d, behind, CHANNELS: tl.constexpr):
    """The mask d < CHANNELS, or nothing at all where behind > 0 (in integers: a mask and a scalar do not mix well)."""
    return d + tl.maximum(behind, 0) * CHANNELS < CHANNELS


@triton.jit
def _load_rows(ptr, last, mask, STRIDE: tl.constexpr, COUNT: tl.constexpr, EVEN: tl.constexpr):
    """COUNT rows, one per token, as a tuple; rows behind `last` repeat it.  last=None: all rows exist."""
    rows = ()
    for k in tl.static_range(COUNT):
        if last is None:
            rows = rows + (_load(ptr + k * STRIDE, mask, EVEN),)
        else:
            rows = rows + (_load(ptr + tl.minimum(k, last) * STRIDE, mask, EVEN),)
    return rows


@triton.jit
def _load_tiles(ptr, n, mask, STRIDE: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, EVEN: tl.constexpr):
    """The states of one token or one sequence, as a tuple of float32 tiles of TILE states each.
    n: the state of each element of a tile; STRIDE: elements from one state to the next."""
    tiles = ()
    for j in tl.static_range((N + TILE - 1) // TILE):
        x = _load(ptr + n * STRIDE + j * TILE * STRIDE, mask & (n + j * TILE < N), EVEN and N % TILE == 0)
        tiles = tiles + (x.to(tl.float32),)
    return tiles


@triton.jit
def _store_tiles(ptr, tiles, n, mask, STRIDE: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, EVEN: tl.constexpr):
    """The other way round."""
    for j in tl.static_range((N + TILE - 1) // TILE):
        _store(ptr + n * STRIDE + j * TILE * STRIDE, tiles[j], mask & (n + j * TILE < N), EVEN and N % TILE == 0)


@triton.jit
def _zero_tiles(TILES: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr):
    tiles = ()
    for j in tl.static_range(TILES):
        tiles = tiles + (tl.zeros((TILE, BLOCK_D), tl.float32),)
    return tiles


@triton.jit
def _scale_tiles(tiles, factor, TILES: tl.constexpr):
    out = ()
    for j in tl.static_range(TILES):
        out = out + (tiles[j] * factor,)
    return out


# ---------------------------------------------------------------------------------------------- forward
@triton.jit
def _read_out(h, c, u, D, z, TILES: tl.constexpr):
    """The output of one token: C h + D u, gated by silu(z)."""
    y = tl.sum(h[0] * c[0][:, None], 0)
    for j in tl.static_range(1, TILES):
        y += tl.sum(h[j] * c[j][:, None], 0)
    if D is not None:
        y += D * u
    if z is not None:
        z = z.to(tl.float32)
        y *= z / (1 + tl.exp2(-z * LOG2E))
    return y


@triton.jit
def _scan_token(h, a2, D, bias, u, x, z, b, c, po, dm, TILES: tl.constexpr, SOFTPLUS: tl.constexpr,
                OUTPUT: tl.constexpr):
    """One step of the recurrence, h <- exp2(step a2) h + step u B with a2 = A log2(e), and its output at po."""
    u = u.to(tl.float32)
    step = _step_size(x, bias, SOFTPLUS)
    new = ()
    for j in tl.static_range(TILES):
        new = new + (tl.exp2(step[None, :] * a2[j]) * h[j] + (step * u)[None, :] * b[j][:, None],)
    if OUTPUT:
        y = _read_out(new, c, u, D, z, TILES)
        tl.store(po, y.to(po.dtype.element_ty), mask=dm)
    return new


@triton.jit
def _load_streams(pu, px, pz, last, dm, SU: tl.constexpr, SX: tl.constexpr, SZ: tl.constexpr, GATED: tl.constexpr,
                  COUNT: tl.constexpr, EVEN: tl.constexpr):
    """COUNT rows of u, delta and z (of u again where there is no z: the value is not used)."""
    us = _load_rows(pu, last, dm, SU, COUNT, EVEN)
    xs = _load_rows(px, last, dm, SX, COUNT, EVEN)
    if GATED:
        return us, xs, _load_rows(pz, last, dm, SZ, COUNT, EVEN)
    else:
        return us, xs, us


@triton.jit
def _load_token_tiles(ptr, n, STRIDE: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, COUNT: tl.constexpr):
    """The B (or C) of COUNT tokens: a tuple over tokens of tuples over tiles."""
    rows = ()
    for k in tl.static_range(COUNT):
        rows = rows + (_load_tiles(ptr + k * STRIDE, n, n < N, 1, N, TILE, True),)
    return rows


@triton.jit
def _forward_block(rows, h, a2, D, bias, B, C, out, states, n, d, SB: tl.constexpr, SC: tl.constexpr,
                   CHANNELS: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, COUNT: tl.constexpr,
                   KEEP: tl.constexpr, SOFTPLUS: tl.constexpr, OUTPUT: tl.constexpr, GATED: tl.constexpr,
                   EVEN: tl.constexpr):
    """COUNT tokens onwards; rows are theirs, the pointers stand at the first.  KEEP > 0: every KEEP-th state is kept."""
    us, xs, zs = rows
    bs = _load_token_tiles(B, n, SB, N, TILE, COUNT)      # all loads before the first store: none is moved across one
    cs = _load_token_tiles(C, n, SC, N, TILE, COUNT) if OUTPUT else bs
    dm = d < CHANNELS
    for k in tl.static_range(COUNT):
        if KEEP > 0 and k % max(KEEP, 1) == 0:
            _store_tiles(states + k // KEEP * (N * CHANNELS), h, n[:, None], dm[None, :], CHANNELS, N, TILE, EVEN)
        h = _scan_token(h, a2, D, bias, us[k], xs[k], zs[k] if GATED else None, bs[k], cs[k], out + k * CHANNELS, dm,
                        (N + TILE - 1) // TILE, SOFTPLUS, OUTPUT)
    return h


@triton.jit
def _program_place(cu_seqlens, tokens, CHANNELS: tl.constexpr, N: tl.constexpr, BLOCK_D: tl.constexpr):
    """What this program owns: its sequence's start (as a row that exists, also for an empty sequence at the end) and
    length, its channels, and its corner of an (S, N, D) tensor."""
    seq = tl.program_id(1)
    start = tl.load(cu_seqlens + seq)
    length = tl.load(cu_seqlens + seq + 1) - start
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    return tl.minimum(start, tokens - 1).to(tl.int64), length, d, seq.to(tl.int64) * (N * CHANNELS) + d[None, :]


@triton.jit
def _state_slot(cu_seqlens, KEEP: tl.constexpr):
    """Where this sequence's kept states begin: sequences do not overlap there, whatever their lengths."""
    return (tl.load(cu_seqlens + tl.program_id(1)) // KEEP + tl.program_id(1)).to(tl.int64)


@triton.jit(do_not_specialize_on_alignment=['A', 'h0', 'last', 'states'])
def _scan_forward_kernel(u, delta, A, B, C, D, z, bias, h0, out, last, states, cu_seqlens, tokens,
                         SU: tl.constexpr, SX: tl.constexpr, SB: tl.constexpr, SC: tl.constexpr, SZ: tl.constexpr,
                         CHANNELS: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr,
                         UNROLL: tl.constexpr, KEEP: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN: tl.constexpr,
                         OUTPUT: tl.constexpr, GATED: tl.constexpr, SAVE: tl.constexpr):
    """One program: BLOCK_D channels of one sequence.  A, h0, last, states are (.., N, CHANNELS); S*: token strides.
    SAVE: keep the state at every KEEP-th token; OUTPUT: write out; GATED: with z."""
    TILES: tl.constexpr = (N + TILE - 1) // TILE
    STATE: tl.constexpr = N * CHANNELS
    t, length, d, own = _program_place(cu_seqlens, tokens, CHANNELS, N, BLOCK_D)
    n = tl.arange(0, TILE)
    n2, dm, dm2 = n[:, None], d < CHANNELS, (d < CHANNELS)[None, :]
    a2 = _scale_tiles(_load_tiles(A + d[None, :], n2, dm2, CHANNELS, N, TILE, EVEN), LOG2E, TILES)
    D = None if D is None else _load(D + d, dm, EVEN).to(tl.float32)
    bias = None if bias is None else _load(bias + d, dm, EVEN).to(tl.float32)
    h = _zero_tiles(TILES, TILE, BLOCK_D)
    if h0 is not None:
        h = _load_tiles(h0 + own, n2, dm2, CHANNELS, N, TILE, EVEN)
    if SAVE:
        states += _state_slot(cu_seqlens, KEEP) * STATE + d[None, :]
    u, delta, z, out = u + t * SU + d, delta + t * SX + d, z + t * SZ + d, out + t * CHANNELS + d
    B, C = B + t * SB, C + t * SC
    ahead = _load_streams(u, delta, z, tokens - 1 - t.to(tl.int32), dm, SU, SX, SZ, GATED, UNROLL, EVEN)
    blocks = length // UNROLL
    for i in range(blocks):
        rows = ahead
        t = tl.cast(tl.minimum(i + 1, blocks - 1), tl.int64) * UNROLL   # the last trip loads its own rows again
        ahead = _load_streams(u + t * SU, delta + t * SX, z + t * SZ, None, dm, SU, SX, SZ, GATED, UNROLL, EVEN)
        t = tl.cast(i, tl.int64) * UNROLL
        h = _forward_block(rows, h, a2, D, bias, B + t * SB, C + t * SC, out + t * CHANNELS,
                           states + t // KEEP * STATE if SAVE else None, n, d, SB, SC, CHANNELS, N, TILE, UNROLL,
                           KEEP if SAVE else 0, SOFTPLUS, OUTPUT, GATED, EVEN)
    for t in range(blocks * UNROLL, length):              # the rest, token by token
        t = tl.cast(t, tl.int64)
        if SAVE:
            _store_tiles(states + t // KEEP * STATE, h, n2, _lanes_if(d[None, :], t % KEEP, CHANNELS), CHANNELS, N,
                         TILE, False)
        rows = _load_streams(u + t * SU, delta + t * SX, z + t * SZ, None, dm, SU, SX, SZ, GATED, 1, EVEN)
        h = _forward_block(rows, h, a2, D, bias, B + t * SB, C + t * SC, out + t * CHANNELS, None, n, d, SB, SC,
                           CHANNELS, N, TILE, 1, 0, SOFTPLUS, OUTPUT, GATED, EVEN)
    if last is not None:
        _store_tiles(last + own, h, n2, dm2, CHANNELS, N, TILE, EVEN)


# ---------------------------------------------------------------------------------------------- backward
@triton.jit
def _interleave(rows, first: tl.constexpr, step: tl.constexpr, count: tl.constexpr, TILE: tl.constexpr,
                BLOCK_D: tl.constexpr):
    """rows[first::step], `count` (a power of two) tiles (TILE, BLOCK_D) -> (BLOCK_D, TILE * count), column n * count + k."""
    if count == 1:
        return tl.trans(rows[first])
    else:
        even = _interleave(rows, first, 2 * step, count // 2, TILE, BLOCK_D)
        odd = _interleave(rows, first + step, 2 * step, count // 2, TILE, BLOCK_D)
        return tl.reshape(tl.join(even, odd), (BLOCK_D, TILE * count))


@triton.jit
def _sum_channels(x, BLOCK_D: tl.constexpr, R: tl.constexpr, TRANSPOSE: tl.constexpr):
    """(BLOCK_D, R) -> (R,).  The channels lie across the lanes of a warp.  `split` wants its pairs inside a thread, so
    here it makes the compiler transpose the tile once; the rest of the sum is then inside threads, without shuffles."""
    if TRANSPOSE:
        low, high = tl.split(tl.permute(tl.reshape(x, (2, BLOCK_D // 2, R)), (1, 2, 0)))
        return tl.sum(low + high, 0)
    else:
        return tl.sum(x, 0)


@triton.jit
def _store_parts(ptr, rows, left, j: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, KEEP: tl.constexpr,
                 BLOCK_D: tl.constexpr, TRANSPOSE: tl.constexpr, FULL: tl.constexpr):
    """Sum KEEP tiles (TILE, BLOCK_D) over their channels, and store token k's TILE sums at ptr + k * 2N + j * TILE."""
    r = tl.arange(0, TILE * KEEP)
    k = r % KEEP
    n = r // KEEP + j * TILE
    total = _sum_channels(_interleave(rows, 0, 1, KEEP, TILE, BLOCK_D), BLOCK_D, TILE * KEEP, TRANSPOSE)
    _store(ptr + k * (2 * N) + n, total, (k <= left) & (n < N), FULL and N % TILE == 0)


@triton.jit
def _sweep_forward(h, a2, steps, vs, dys, bs, cs, ys, KEEP: tl.constexpr):
    """Rebuild the states of a block in one tile.  Returns the state before each token, its decay, ys with the tile's
    C h added, and the terms of dC."""
    hs, decays, sums, dcs = (), (), (), ()
    for k in tl.static_range(KEEP):
        decay = tl.exp2(steps[k][None, :] * a2)
        hs = hs + (h,)
        decays = decays + (decay,)
        h = decay * h + vs[k][None, :] * bs[k][:, None]
        sums = sums + (ys[k] + tl.sum(h * cs[k][:, None], 0),)
        dcs = dcs + (h * dys[k][None, :],)
    return hs, decays, sums, dcs


@triton.jit
def _sweep_back(g, dA, a2, steps, vs, dys, bs, cs, hs, decays, dvs, dss, KEEP: tl.constexpr):
    """Come back through the block: g is dL/dh.  Returns g and dA at the block's start, dvs and dss (the gradients of
    v = step u and, times log2(e), of step) with the tile's part added, and the terms of dB."""
    new_dvs, new_dss, dbs = (), (), ()
    for k in tl.static_range(KEEP - 1, -1, -1):
        g += cs[k][:, None] * dys[k][None, :]
        dbs = (g * vs[k][None, :],) + dbs
        new_dvs = (dvs[k] + tl.sum(g * bs[k][:, None], 0),) + new_dvs
        g *= decays[k]
        q = g * hs[k]
        dA += q * steps[k][None, :]
        new_dss = (dss[k] + tl.sum(q * a2, 0),) + new_dss
    return g, dA, new_dvs, new_dss, dbs


@triton.jit
def _block_factors(rows, bias, left, d, CHANNELS: tl.constexpr, KEEP: tl.constexpr, SOFTPLUS: tl.constexpr,
                   GATED: tl.constexpr, EVEN: tl.constexpr, FULL: tl.constexpr):
    """Per token: step, v = step u and dy.  Tokens behind the sequence get step 0 and dy 0, and so change nothing."""
    us, xs, zs, gs = rows
    steps, vs, dys = (), (), ()
    for k in tl.static_range(KEEP):
        step = _step_size(xs[k], bias, SOFTPLUS)
        dy = gs[k].to(tl.float32)
        if not (EVEN and FULL):
            inside = _lanes_if(d, k - left, CHANNELS)
            step = tl.where(inside, step, 0.0)
            dy = tl.where(inside, dy, 0.0)
        if GATED:
            z = zs[k].to(tl.float32)
            dy *= z / (1 + tl.exp2(-z * LOG2E))
        steps = steps + (step,)
        vs = vs + (step * us[k].to(tl.float32),)
        dys = dys + (dy,)
    return steps, vs, dys


@triton.jit
def _token_grads(u, x, z, g, step, y, dy, dv, ds, D, bias, SOFTPLUS: tl.constexpr, GATED: tl.constexpr):
    """du, ddelta and dz of one token, from the gradients of v = step u (dv) and of step through the decay (ds)."""
    u = u.to(tl.float32)
    du = dv * step
    dx = dv * u + ds * LN2
    if D is not None:
        du += D * dy
        y += D * u
    if SOFTPLUS:
        x = x.to(tl.float32)
        if bias is not None:
            x += bias
        dx *= _sigmoid(x)
    if GATED:
        z = z.to(tl.float32)
        s = 1 / (1 + tl.exp2(-z * LOG2E))
        return du, dx, g.to(tl.float32) * y * s * (1 + z * (1 - s))
    else:
        return du, dx, dx


@triton.jit
def _load_block(u, delta, z, dout, t, dm, left, SU: tl.constexpr, SX: tl.constexpr, SZ: tl.constexpr,
                SG: tl.constexpr, GATED: tl.constexpr, KEEP: tl.constexpr, EVEN: tl.constexpr):
    """The rows of u, delta, z and dout for the tokens of one block; left=None: all of them exist."""
    us, xs, zs = _load_streams(u + t * SU, delta + t * SX, z + t * SZ, left, dm, SU, SX, SZ, GATED, KEEP, EVEN)
    return us, xs, zs, _load_rows(dout + t * SG, left, dm, SG, KEEP, EVEN)


@triton.jit
def _load_block_tile(ptr, n, left, STRIDE: tl.constexpr, N: tl.constexpr, j: tl.constexpr, TILE: tl.constexpr,
                     KEEP: tl.constexpr):
    """Tile j of B (or C) for the tokens of one block, in float32."""
    rows = _load_rows(ptr + n + j * TILE, left, n + j * TILE < N, STRIDE, KEEP, N % TILE == 0)
    out = ()
    for k in tl.static_range(KEEP):
        out = out + (rows[k].to(tl.float32),)
    return out


@triton.jit
def _backward_block(rows, hs, carry, a2, D, bias, B, C, part, du, ddelta, dz, t, left, n, d,
                    SB: tl.constexpr, SC: tl.constexpr, CHANNELS: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
                    BLOCK_D: tl.constexpr, KEEP: tl.constexpr, SOFTPLUS: tl.constexpr, GATED: tl.constexpr,
                    EVEN: tl.constexpr, SEPARATE: tl.constexpr, TRANSPOSE: tl.constexpr, FULL: tl.constexpr):
    """Through one block and back: hs is the state before it, carry = (dL/dh after it, sums for dA, dD, dbias).
    The block starts at token t of the sequence.  FULL: all KEEP tokens exist; else tokens 0 .. left do."""
    B, C, part = B + t * SB, C + t * SC, part + t * (2 * N)
    du, ddelta, dz = du + t * CHANNELS, ddelta + t * CHANNELS, dz + t * CHANNELS
    g, sum_a, sum_d, sum_bias = carry
    us, xs, zs, gs = rows
    steps, vs, dys = _block_factors(rows, bias, left, d, CHANNELS, KEEP, SOFTPLUS, GATED, EVEN, FULL)
    zero = tl.zeros((BLOCK_D,), tl.float32)
    ys, new_g, new_a = (), (), ()
    for k in tl.static_range(KEEP):
        ys = ys + (zero,)
    dvs, dss = ys, ys
    for j in tl.static_range((N + TILE - 1) // TILE):
        bs = _load_block_tile(B, n, None if FULL else left, SB, N, j, TILE, KEEP)
        cs = _load_block_tile(C, n, None if FULL else left, SC, N, j, TILE, KEEP)
        hk, decays, ys, dcs = _sweep_forward(hs[j], a2[j], steps, vs, dys, bs, cs, ys, KEEP)
        if SEPARATE:
            _store_parts(part + N, dcs, left, j, N, TILE, KEEP, BLOCK_D, TRANSPOSE, FULL)
        gj, aj, dvs, dss, dbs = _sweep_back(g[j], sum_a[j], a2[j], steps, vs, dys, bs, cs, hk, decays, dvs, dss, KEEP)
        if not SEPARATE:
            _store_parts(part + N, dcs, left, j, N, TILE, KEEP, BLOCK_D, TRANSPOSE, FULL)
        _store_parts(part, dbs, left, j, N, TILE, KEEP, BLOCK_D, TRANSPOSE, FULL)
        new_g, new_a = new_g + (gj,), new_a + (aj,)
    for k in tl.static_range(KEEP):
        gu, gx, gz = _token_grads(us[k], xs[k], zs[k], gs[k], steps[k], ys[k], dys[k], dvs[k], dss[k], D, bias,
                                  SOFTPLUS, GATED)
        mask = _lanes_if(d, k - left, CHANNELS)
        _store(du + k * CHANNELS, gu, mask, EVEN and FULL)
        _store(ddelta + k * CHANNELS, gx, mask, EVEN and FULL)
        if GATED:
            _store(dz + k * CHANNELS, gz, mask, EVEN and FULL)
        sum_d += dys[k] * us[k].to(tl.float32)
        sum_bias += gx if EVEN and FULL else tl.where(mask, gx, 0.0)
    return new_g, new_a, sum_d, sum_bias


@triton.jit
def _store_carry(carry, dA, dD, dbias, dh0, own, n2, d, CHANNELS: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
                 EVEN: tl.constexpr):
    """What is left at the start of a sequence: the gradient of its initial state, and its parts of dA, dD, dbias."""
    g, sum_a, sum_d, sum_bias = carry
    row = tl.program_id(1) * CHANNELS + d
    _store_tiles(dA + own, sum_a, n2, (d < CHANNELS)[None, :], CHANNELS, N, TILE, EVEN)
    if dh0 is not None:
        _store_tiles(dh0 + own, g, n2, (d < CHANNELS)[None, :], CHANNELS, N, TILE, EVEN)
    if dD is not None:
        tl.store(dD + row, sum_d, mask=d < CHANNELS)
    if dbias is not None:
        tl.store(dbias + row, sum_bias, mask=d < CHANNELS)


@triton.jit(do_not_specialize_on_alignment=['A', 'states', 'dlast', 'dh0', 'dA'])
def _scan_backward_kernel(u, delta, A, B, C, D, z, bias, dout, states, dlast, du, ddelta, dz, dBC, dA, dD, dbias, dh0,
                          cu_seqlens, tokens,
                          SU: tl.constexpr, SX: tl.constexpr, SB: tl.constexpr, SC: tl.constexpr, SZ: tl.constexpr,
                          SG: tl.constexpr, CHANNELS: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
                          BLOCK_D: tl.constexpr, KEEP: tl.constexpr, SOFTPLUS: tl.constexpr, GATED: tl.constexpr,
                          EVEN: tl.constexpr, SEPARATE: tl.constexpr, TRANSPOSE: tl.constexpr, AHEAD: tl.constexpr):
    """One program: BLOCK_D channels of one sequence, from its last block of KEEP tokens to its first.
    dBC (programs over D, tokens, 2 N), dA, dh0 (S, N, D), dD, dbias (S, D): parts in float32."""
    TILES: tl.constexpr = (N + TILE - 1) // TILE
    STATE: tl.constexpr = N * CHANNELS
    t, length, d, own = _program_place(cu_seqlens, tokens, CHANNELS, N, BLOCK_D)
    room = tokens - 1 - t.to(tl.int32)
    n = tl.arange(0, TILE)
    n2, dm, dm2 = n[:, None], d < CHANNELS, (d < CHANNELS)[None, :]
    a2 = _scale_tiles(_load_tiles(A + d[None, :], n2, dm2, CHANNELS, N, TILE, EVEN), LOG2E, TILES)
    D = None if D is None else _load(D + d, dm, EVEN).to(tl.float32)
    bias = None if bias is None else _load(bias + d, dm, EVEN).to(tl.float32)
    g, none = _zero_tiles(TILES, TILE, BLOCK_D), tl.zeros((BLOCK_D,), tl.float32)
    if dlast is not None:
        g = _load_tiles(dlast + own, n2, dm2, CHANNELS, N, TILE, EVEN)
    carry = g, _zero_tiles(TILES, TILE, BLOCK_D), none, none
    u, delta, z, dout = u + t * SU + d, delta + t * SX + d, z + t * SZ + d, dout + t * SG + d
    B, C = B + t * SB, C + t * SC
    du, ddelta, dz = du + t * CHANNELS + d, ddelta + t * CHANNELS + d, dz + t * CHANNELS + d
    dBC += (tl.program_id(0).to(tl.int64) * tokens + t) * (2 * N)
    states += _state_slot(cu_seqlens, KEEP) * STATE + d[None, :]
    full = length // KEEP
    for i in range(full, tl.cdiv(length, KEEP)):          # the rest, tokens 0 .. left of a block, comes first
        t, left = tl.cast(i, tl.int64) * KEEP, length - full * KEEP - 1
        rows = _load_block(u, delta, z, dout, t, dm, left, SU, SX, SZ, SG, GATED, KEEP, EVEN)
        h = _load_tiles(states + tl.cast(i, tl.int64) * STATE, n2, dm2, CHANNELS, N, TILE, EVEN)
        carry = _backward_block(rows, h, carry, a2, D, bias, B, C, dBC, du, ddelta, dz, t, left, n, d, SB, SC, CHANNELS,
                                N, TILE, BLOCK_D, KEEP, SOFTPLUS, GATED, EVEN, SEPARATE, TRANSPOSE, False)
    i = tl.cast(tl.maximum(full - 1, 0), tl.int64)
    next_rows = _load_block(u, delta, z, dout, i * KEEP, dm, room - i.to(tl.int32) * KEEP, SU, SX, SZ, SG, GATED, KEEP,
                            EVEN)
    next_h = _load_tiles(states + i * STATE, n2, dm2, CHANNELS, N, TILE, EVEN)
    for block in range(full):
        i = tl.cast(full - 1 - block, tl.int64)
        before = tl.maximum(i - 1, 0)                     # the next block: its rows are on the way meanwhile
        rows, h = next_rows, next_h
        next_rows = _load_block(u, delta, z, dout, before * KEEP, dm, None, SU, SX, SZ, SG, GATED, KEEP, EVEN)
        if AHEAD:
            next_h = _load_tiles(states + before * STATE, n2, dm2, CHANNELS, N, TILE, EVEN)
        else:
            h = _load_tiles(states + i * STATE, n2, dm2, CHANNELS, N, TILE, EVEN)
        carry = _backward_block(rows, h, carry, a2, D, bias, B, C, dBC, du, ddelta, dz, i * KEEP, KEEP, n, d, SB, SC,
                                CHANNELS, N, TILE, BLOCK_D, KEEP, SOFTPLUS, GATED, EVEN, SEPARATE, TRANSPOSE, True)
    _store_carry(carry, dA, dD, dbias, dh0, own, n2, d, CHANNELS, N, TILE, EVEN)


# ---------------------------------------------------------------------------------------------- launching
def scan_config(channels: int, states: int) -> ScanConfig:
    """The usual way to cut a scan; with many states, fewer channels a program and fewer tokens a trip."""
    pad = triton.next_power_of_2(states)
    if pad <= 16:
        return ScanConfig(tile=pad, bwd_tile=min(pad, 8))
    return ScanConfig(unroll=4 if pad == 32 else 2, keep=2 if pad == 64 else 4, tile=16,
                      bwd_block_d=16 if pad == 32 else 8, bwd_tile=8, ahead_states=False)


def _launch_options(config: ScanConfig, warps: int) -> dict:
    return dict(num_warps=warps, maxnreg=config.registers) if config.registers else dict(num_warps=warps)


def _scan_shape_args(u, delta, B, C, z, config, tile, block_d, softplus):
    """The compile-time arguments that both kernels share."""
    channels, states = u.shape[1], B.shape[1]
    return dict(SU=u.stride(0), SX=delta.stride(0), SB=B.stride(0), SC=C.stride(0), SZ=u.stride(0) if z is None else
                z.stride(0), CHANNELS=channels, N=states, TILE=tile, BLOCK_D=block_d, KEEP=config.keep,
                SOFTPLUS=softplus, EVEN=channels % block_d == 0)


def _run_forward(u, delta, At, B, C, D, z, bias, h0, cu_seqlens, softplus, config, output=True, last=False,
                 states=False):
    """Launch the forward kernel -> (out, last (S, N, D), states (slots, N, D)); what is not asked for is None."""
    if states and config.unroll % config.keep:
        raise ValueError(f'unroll is {config.unroll}; it must be a multiple of keep, {config.keep}')
    (tokens, channels), sequences, count = u.shape, cu_seqlens.numel() - 1, B.shape[1]
    out = torch.empty(tokens, channels, dtype=u.dtype, device=u.device) if output else None
    end = At.new_empty(sequences, count, channels) if last else None
    kept = At.new_empty(tokens // config.keep + sequences, count, channels) if states else None
    block_d = config.block_d * config.warps
    _scan_forward_kernel[(triton.cdiv(channels, block_d), sequences)](
        u, delta, At, B, C, D, u if z is None else z, bias, h0, u if out is None else out, end, kept, cu_seqlens,
        tokens, UNROLL=config.unroll, OUTPUT=output, GATED=output and z is not None, SAVE=states,
        **_scan_shape_args(u, delta, B, C, z, config, config.tile, block_d, softplus),
        **_launch_options(config, config.warps))
    return out, end, kept


def _run_backward(u, delta, At, B, C, D, z, bias, states, cu_seqlens, dout, dlast, want_dh0, softplus, config):
    """Launch the backward kernel and sum its parts -> float32 dA (N, D), dB, dC (tokens, N), dD, dbias, dh0 and, in
    the dtype of their inputs, du, ddelta, dz."""
    (tokens, channels), sequences, count = u.shape, cu_seqlens.numel() - 1, B.shape[1]
    programs = triton.cdiv(channels, config.bwd_block_d)
    du, ddelta = (torch.empty(tokens, channels, dtype=x.dtype, device=u.device) for x in (u, delta))
    dz = None if z is None else torch.empty(tokens, channels, dtype=z.dtype, device=u.device)
    dBC = At.new_empty(programs, tokens, 2 * count)
    dA = At.new_empty(sequences, count, channels)
    dD = None if D is None else At.new_empty(sequences, channels)
    dbias = None if bias is None else At.new_empty(sequences, channels)
    dh0 = torch.empty_like(dA) if want_dh0 else None
    _scan_backward_kernel[(programs, sequences)](
        u, delta, At, B, C, D, u if z is None else z, bias, dout, states, dlast, du, ddelta, du if dz is None else dz,
        dBC, dA, dD, dbias, dh0, cu_seqlens, tokens, SG=dout.stride(0), GATED=z is not None, SEPARATE=config.separate,
        TRANSPOSE=config.transpose, AHEAD=config.ahead_states,
        **_scan_shape_args(u, delta, B, C, z, config, config.bwd_tile, config.bwd_block_d, softplus),
        **_launch_options(config, 1))
    dBC = dBC.sum(0)
    return (du, ddelta, dA.sum(0), dBC[:, :count], dBC[:, count:], None if D is None else dD.sum(0), dz,
            None if bias is None else dbias.sum(0), dh0)


class _SelectiveScan(torch.autograd.Function):
    """(out (tokens, D), last state (S, N, D)) of packed tokens; saves its inputs only."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, bias, h0, cu_seqlens, softplus, last, config):
        ctx.set_materialize_grads(False)
        At = A.detach().float().t().contiguous()
        Bf, Cf = (B.float(), C.float()) if config.float_bc else (B, C)
        keep = config.save_states and any(ctx.needs_input_grad)
        out, end, states = _run_forward(u, delta, At, Bf, Cf, D, z, bias, h0, cu_seqlens, softplus, config, True, last,
                                        keep)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, h0, cu_seqlens, states)
        ctx.options = softplus, config
        return out, end

    @staticmethod
    def backward(ctx, dout, dlast):
        u, delta, A, B, C, D, z, bias, h0, cu_seqlens, states = ctx.saved_tensors
        softplus, config = ctx.options
        At = A.float().t().contiguous()
        Bf, Cf = (B.float(), C.float()) if config.float_bc else (B, C)
        dout = torch.zeros_like(u) if dout is None else _rows(dout)
        dlast = None if dlast is None else dlast.contiguous()
        if states is None:
            _, _, states = _run_forward(u, delta, At, Bf, Cf, None, None, bias, h0, cu_seqlens, softplus, config,
                                        output=False, states=True)
        du, ddelta, dA, dB, dC, dD, dz, dbias, dh0 = _run_backward(
            u, delta, At, Bf, Cf, D, z, bias, states, cu_seqlens, dout, dlast, ctx.needs_input_grad[8], softplus,
            config)
        like = lambda g, x: None if g is None else g.to(x.dtype)
        return (du, ddelta, like(dA.t(), A), like(dB, B), like(dC, C), like(dD, D), dz, like(dbias, bias), dh0, None,
                None, None, None)


def _rows(x):
    """x with elements of a row side by side, as the kernels read it."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _check_scan(u, delta, A, B, C, D, z, bias, h0, cu_seqlens):
    """Packed shapes, or a ValueError that names the argument."""
    tokens, channels = u.shape
    states, sequences = A.shape[1], cu_seqlens.numel() - 1
    want = dict(delta=(delta, (tokens, channels)), A=(A, (channels, states)), B=(B, (tokens, states)),
                C=(C, (tokens, states)), D=(D, (channels,)), z=(z, (tokens, channels)),
                delta_bias=(bias, (channels,)), initial_state=(h0, (sequences, channels, states)))
    for name, (x, shape) in want.items():
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f'{name} has shape {tuple(x.shape)}; with u {tuple(u.shape)} and {sequences} sequences it '
                             f'must be {shape}')
    if not 1 <= states <= 64:
        raise ValueError(f'A has {states} states; the Triton scan takes 1 to 64')
    if cu_seqlens.dtype != torch.int32:
        raise ValueError(f'cu_seqlens has dtype {cu_seqlens.dtype}; make it torch.int32')


def _scan_packed(u, delta, A, B, C, D, z, bias, softplus, h0, last, cu_seqlens, config):
    """Packed tokens -> (out (tokens, D), last state (S, D, N) or None)."""
    _check_scan(u, delta, A, B, C, D, z, bias, h0, cu_seqlens)
    h0 = None if h0 is None else h0.float().transpose(1, 2).contiguous()
    D, bias = (None if x is None else x.contiguous() for x in (D, bias))
    out, end = _SelectiveScan.apply(*map(_rows, (u, delta)), A, *map(_rows, (B, C)), D, _rows(z), bias, h0,
                                    cu_seqlens.contiguous(), softplus, last,
                                    config or scan_config(u.shape[1], A.shape[1]))
    return out, None if end is None else end.transpose(1, 2)


def _scan_batched(u, delta, A, B, C, D, z, bias, softplus, h0, last, config):
    """(B, D, L) layout: packed as B sequences of L tokens, one call for each group of B and C."""
    batch, channels, length = u.shape
    B, C = (x[:, None] if x.dim() == 3 else x for x in (B, C))   # (B, G, N, L)
    groups = max(B.shape[1], C.shape[1])
    pack = lambda x: None if x is None else x.transpose(1, 2).reshape(batch * length, x.shape[1])
    offsets = torch.arange(0, (batch + 1) * length, max(length, 1), dtype=torch.int32, device=u.device)[:batch + 1]
    size = channels // groups
    parts = []
    for i in range(groups):
        own = slice(i * size, (i + 1) * size)
        cut = lambda x, dim: None if x is None else x.narrow(dim, i * size, size)
        parts.append(_scan_packed(pack(cut(u, 1)), pack(cut(delta, 1)), A[own], pack(B[:, min(i, B.shape[1] - 1)]),
                                  pack(C[:, min(i, C.shape[1] - 1)]), cut(D, 0), pack(cut(z, 1)), cut(bias, 0),
                                  softplus, cut(h0, 1), last, offsets, config))
    out, end = (torch.cat(x, 1) if groups > 1 and x[0] is not None else x[0] for x in zip(*parts))
    return out.reshape(batch, length, channels).transpose(1, 2), end


def selective_scan_triton(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                          initial_state=None, return_last_state=False, cu_seqlens=None, config=None):
    """Selective scan with the argument order and meaning of mamba_ssm's selective_scan_fn, plus the state.

    Plain layout: u, delta, z (B, D, L); B, C (B, N, L) or (B, G, N, L); states (B, D, N).
    Packed layout, where cu_seqlens (S + 1,) int32 is given: u, delta, z (tokens, D); B, C (tokens, N); states
    (S, D, N); sequence s is tokens cu_seqlens[s] .. cu_seqlens[s + 1] - 1.  This is the fast one: the plain layout is
    transposed into it.  A (D, N), D and delta_bias (D,), states float32 (the last state is a transposed view).
    Returns out, or (out, last_state).
    """
    scan = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, return_last_state)
    out, last = _scan_batched(*scan, config) if cu_seqlens is None else _scan_packed(*scan, cu_seqlens, config)
    return (out, last) if return_last_state else out
