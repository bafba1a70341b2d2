"""Causal depthwise convolution (+ bias, SiLU) of packed ragged sequences in Triton, forward and backward.

x is (tokens, D), weight (D, W) with W from 2 to 8; token t of a sequence sees x[t - W + 1 .. t], and before the start of
its sequence the initial state: the last W - 1 inputs of what came before, newest last, (S, D, W - 1).  Inside, states
are (S, W - 1, D), so that channels lie side by side; outside they are shown as a transposed view.
One program owns BLOCK_T x BLOCK_D elements, whatever sequences they belong to: each token finds its own sequence.
"""
import torch
import triton
import triton.language as tl

from scan_triton import LOG2E, _rows


@triton.jit
def _find_sequence(t, cu_seqlens, sequences, STEPS: tl.constexpr):
    """The sequence that holds token t: the last one that starts at or before it, by halving."""
    low = t * 0
    high = low + sequences - 1
    for _ in tl.static_range(STEPS):
        mid = (low + high + 1) // 2
        right = tl.load(cu_seqlens + mid) <= t
        low = tl.where(right, mid, low)
        high = tl.where(right, high, mid - 1)
    return low


@triton.jit
def _conv_input(x, state, p, start, end, seq, d, dm, SX: tl.constexpr, D: tl.constexpr, W: tl.constexpr):
    """The inputs at positions p (BLOCK_T,) and channels d: tokens of the sequence, before it the state, else 0."""
    inside = ((p >= start) & (p < end))[:, None] & dm[None, :]
    value = tl.load(x + p.to(tl.int64)[:, None] * SX + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if state is not None:
        before = (p < start)[:, None] & dm[None, :]
        slot = (seq * (W - 1) + p - start + W - 1).to(tl.int64)
        value += tl.load(state + slot[:, None] * D + d[None, :], mask=before, other=0.0)
    return value


@triton.jit
def _load_taps(weight, d, dm, W: tl.constexpr):
    """The W taps of each channel as a tuple of rows."""
    taps = ()
    for w in tl.static_range(W):
        taps = taps + (tl.load(weight + w + d * W, mask=dm, other=0.0).to(tl.float32)[None, :],)
    return taps


@triton.jit
def _conv_window(x, state, t, first: tl.constexpr, count: tl.constexpr, start, end, seq, d, dm, SX: tl.constexpr,
                 D: tl.constexpr, W: tl.constexpr):
    """The inputs at t + first, t + first + 1, ... (count of them) as a tuple."""
    xs = ()
    for i in tl.static_range(count):
        xs = xs + (_conv_input(x, state, t + (first + i), start, end, seq, d, dm, SX, D, W),)
    return xs


@triton.jit
def _taps_times(xs, taps, bias, j: tl.constexpr, W: tl.constexpr):
    """The convolution j tokens on: bias + sum_w taps[w] xs[j + w]."""
    pre = taps[0] * xs[j]
    for w in tl.static_range(1, W):
        pre += taps[w] * xs[j + w]
    if bias is not None:
        pre += bias
    return pre


@triton.jit
def _conv_forward_kernel(x, weight, bias, state, out, cu_seqlens, tokens, sequences, SX: tl.constexpr,
                         D: tl.constexpr, W: tl.constexpr, STEPS: tl.constexpr, SILU: tl.constexpr,
                         BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    dm = d < D
    seq = _find_sequence(t, cu_seqlens, sequences, STEPS)
    start = tl.load(cu_seqlens + seq)
    bias = None if bias is None else tl.load(bias + d, mask=dm, other=0.0).to(tl.float32)[None, :]
    xs = _conv_window(x, state, t, 1 - W, W, start, tokens, seq, d, dm, SX, D, W)
    y = _taps_times(xs, _load_taps(weight, d, dm, W), bias, 0, W)
    if SILU:
        y = y / (1 + tl.exp2(-y * LOG2E))
    mask = (t < tokens)[:, None] & dm[None, :]
    tl.store(out + t.to(tl.int64)[:, None] * D + d[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _conv_last_kernel(x, state, last, cu_seqlens, SX: tl.constexpr, D: tl.constexpr, W: tl.constexpr,
                      BLOCK_D: tl.constexpr):
    """The last W - 1 inputs of every sequence, reaching back into its initial state where it is shorter."""
    seq = tl.program_id(0)
    start = tl.load(cu_seqlens + seq)
    end = tl.load(cu_seqlens + seq + 1)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    i = tl.arange(0, 8)
    value = _conv_input(x, state, end - (W - 1) + i, start, end, seq, d, d < D, SX, D, W)
    slot = (seq * (W - 1) + i).to(tl.int64)
    tl.store(last + slot[:, None] * D + d[None, :], value, mask=(i < W - 1)[:, None] & (d < D)[None, :])


@triton.jit
def _conv_dpre(dout, pre, t, end, d, dm, SG: tl.constexpr, SILU: tl.constexpr):
    """The gradient in front of the SiLU at tokens t; 0 from `end` on."""
    mask = (t < end)[:, None] & dm[None, :]
    g = tl.load(dout + t.to(tl.int64)[:, None] * SG + d[None, :], mask=mask, other=0.0).to(tl.float32)
    if SILU:
        s = 1 / (1 + tl.exp2(-pre * LOG2E))
        g *= s * (1 + pre * (1 - s))
    return g


@triton.jit
def _conv_backward_kernel(x, weight, bias, state, dout, dlast, dx, parts, cu_seqlens, tokens, sequences,
                          SX: tl.constexpr, SG: tl.constexpr, D: tl.constexpr, W: tl.constexpr, STEPS: tl.constexpr,
                          SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, TRIPS: tl.constexpr):
    """dx[t] = sum_j taps[W - 1 - j] dpre[t + j] inside the sequence; parts (programs, W + 1, D): sums for dweight and
    dbias over the TRIPS * BLOCK_T tokens of this program."""
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    dm = d < D
    taps = _load_taps(weight, d, dm, W)
    bias = None if bias is None else tl.load(bias + d, mask=dm, other=0.0).to(tl.float32)[None, :]
    sums = ()
    for w in tl.static_range(W + 1):
        sums = sums + (tl.zeros((BLOCK_T, BLOCK_D), tl.float32),)
    for trip in range(TRIPS):
        t = (tl.program_id(0) * TRIPS + trip) * BLOCK_T + tl.arange(0, BLOCK_T)
        seq = _find_sequence(t, cu_seqlens, sequences, STEPS)
        start = tl.load(cu_seqlens + seq)
        end = tl.load(cu_seqlens + seq + 1)
        xs = _conv_window(x, state, t, 1 - W, 2 * W - 1, start, end, seq, d, dm, SX, D, W)
        grad = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        for j in tl.static_range(W):
            g = _conv_dpre(dout, _taps_times(xs, taps, bias, j, W), t + j, end, d, dm, SG, SILU)
            grad += taps[W - 1 - j] * g
            if j == 0:
                own = g
        if dlast is not None:
            i = t - end + W - 1
            slot = (seq * (W - 1) + i).to(tl.int64)
            mask = ((i >= 0) & (t < end))[:, None] & dm[None, :]
            grad += tl.load(dlast + slot[:, None] * D + d[None, :], mask=mask, other=0.0)
        mask = (t < tokens)[:, None] & dm[None, :]
        tl.store(dx + t.to(tl.int64)[:, None] * D + d[None, :], grad.to(dx.dtype.element_ty), mask=mask)
        new = ()
        for w in tl.static_range(W):
            new = new + (sums[w] + own * xs[w],)
        sums = new + (sums[W] + own,)
    for w in tl.static_range(W + 1):
        row = (tl.program_id(0) * (W + 1) + w).to(tl.int64)
        tl.store(parts + row * D + d, tl.sum(sums[w], 0), mask=dm)


@triton.jit
def _conv_state_grad_kernel(x, weight, bias, state, dout, dlast, dstate, cu_seqlens, SX: tl.constexpr,
                            SG: tl.constexpr, D: tl.constexpr, W: tl.constexpr, SILU: tl.constexpr,
                            BLOCK_D: tl.constexpr):
    """Gradient of the initial state: row i of it is seen by the first i + 1 tokens, and, in a sequence shorter than
    the state, it is still a row of the last state."""
    seq = tl.program_id(0)
    start = tl.load(cu_seqlens + seq)
    end = tl.load(cu_seqlens + seq + 1)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    dm = d < D
    taps = _load_taps(weight, d, dm, W)
    bias = None if bias is None else tl.load(bias + d, mask=dm, other=0.0).to(tl.float32)[None, :]
    one = tl.arange(0, 1)
    grads = ()
    for s in tl.static_range(W - 1):                      # dpre of the first W - 1 tokens
        t = start + s + one
        xs = _conv_window(x, state, t, 1 - W, W, start, end, seq, d, dm, SX, D, W)
        grads = grads + (_conv_dpre(dout, _taps_times(xs, taps, bias, 0, W), t, end, d, dm, SG, SILU),)
    for i in tl.static_range(W - 1):
        g = taps[i] * grads[0]
        for s in tl.static_range(1, i + 1):
            g += taps[i - s] * grads[s]
        if dlast is not None:
            k = i - (end - start) + one
            slot = (seq * (W - 1) + k).to(tl.int64)
            g += tl.load(dlast + slot[:, None] * D + d[None, :], mask=(k >= 0)[:, None] & dm[None, :], other=0.0)
        row = (seq * (W - 1) + i + one).to(tl.int64)
        tl.store(dstate + row[:, None] * D + d[None, :], g, mask=dm[None, :])


def _conv_launch(D, W, backward=False):
    """Block sizes: at 128 channels, sixteen elements a thread forward; backward holds 2W - 1 tiles of inputs and W + 1
    of sums, so eight or four."""
    return dict(BLOCK_T=16 if not backward else 8 if W <= 4 else 4, BLOCK_D=min(128, triton.next_power_of_2(D)))


class _CausalConv(torch.autograd.Function):
    """(out (tokens, D), last state (S, W - 1, D) or None); saves its inputs only."""

    @staticmethod
    def forward(ctx, x, weight, bias, state, cu_seqlens, silu, want_last):
        ctx.set_materialize_grads(False)
        (tokens, D), W, sequences = x.shape, weight.shape[1], cu_seqlens.numel() - 1
        shape = dict(SX=x.stride(0), D=D, W=W)
        blocks = _conv_launch(D, W)
        grid_d = triton.cdiv(D, blocks['BLOCK_D'])
        out = torch.empty(tokens, D, dtype=x.dtype, device=x.device)
        if tokens:
            _conv_forward_kernel[(triton.cdiv(tokens, blocks['BLOCK_T']), grid_d)](
                x, weight, bias, state, out, cu_seqlens, tokens, sequences, **shape, STEPS=sequences.bit_length(),
                SILU=silu, **blocks, num_warps=4)
        last = None
        if want_last:
            last = torch.empty(sequences, W - 1, D, dtype=torch.float32, device=x.device)
            _conv_last_kernel[(sequences, grid_d)](x, state, last, cu_seqlens, **shape, BLOCK_D=blocks['BLOCK_D'],
                                                   num_warps=4)
        ctx.save_for_backward(x, weight, bias, state, cu_seqlens)
        ctx.silu = silu
        return out, last

    @staticmethod
    def backward(ctx, dout, dlast):
        x, weight, bias, state, cu_seqlens = ctx.saved_tensors
        (tokens, D), W, sequences = x.shape, weight.shape[1], cu_seqlens.numel() - 1
        dout = torch.zeros_like(x) if dout is None else _rows(dout)
        dlast = None if dlast is None else dlast.contiguous()
        shape = dict(SX=x.stride(0), SG=dout.stride(0), D=D, W=W)
        blocks, trips = _conv_launch(D, W, True), 16
        programs = triton.cdiv(tokens, blocks['BLOCK_T'] * trips)
        grid_d = triton.cdiv(D, blocks['BLOCK_D'])
        dx = torch.empty(tokens, D, dtype=x.dtype, device=x.device)
        parts = torch.empty(programs, W + 1, D, dtype=torch.float32, device=x.device)
        _conv_backward_kernel[(programs, grid_d)](
            x, weight, bias, state, dout, dlast, dx, parts, cu_seqlens, tokens, sequences, **shape,
            STEPS=sequences.bit_length(), SILU=ctx.silu, **blocks, TRIPS=trips, num_warps=4)
        sums = parts.sum(0)
        dstate = None
        if state is not None and ctx.needs_input_grad[3]:
            dstate = torch.empty_like(state)
            _conv_state_grad_kernel[(sequences, grid_d)](
                x, weight, bias, state, dout, dlast, dstate, cu_seqlens, **shape, SILU=ctx.silu,
                BLOCK_D=blocks['BLOCK_D'], num_warps=4)
        return (dx, sums[:W].t().to(weight.dtype), None if bias is None else sums[W].to(bias.dtype), dstate, None, None,
                None)


def _check_conv(x, weight, bias, cu_seqlens, initial_state, activation):
    (tokens, D), W, sequences = x.shape, weight.shape[1], cu_seqlens.numel() - 1
    want = dict(weight=(weight, (D, W)), bias=(bias, (D,)), initial_state=(initial_state, (sequences, D, W - 1)))
    for name, (v, shape) in want.items():
        if v is not None and tuple(v.shape) != shape:
            raise ValueError(f'{name} has shape {tuple(v.shape)}; with x {tuple(x.shape)} and {sequences} sequences it '
                             f'must be {shape}')
    if not 2 <= W <= 8:
        raise ValueError(f'weight has width {W}; the Triton convolution takes 2 to 8')
    if cu_seqlens.dtype != torch.int32:
        raise ValueError(f'cu_seqlens has dtype {cu_seqlens.dtype}; make it torch.int32')
    if activation not in (None, 'silu', 'swish'):
        raise ValueError(f"activation is {activation!r}; use None, 'silu' or 'swish'")


def causal_conv1d_triton(x, weight, bias=None, cu_seqlens=None, initial_state=None, return_last_state=False,
                         activation=None):
    """x (tokens, D), weight (D, W), bias (D,), states (S, D, W - 1) float32 -> out (tokens, D), or (out, last state).
    cu_seqlens None: the tokens are one sequence."""
    if cu_seqlens is None:
        cu_seqlens = torch.tensor([0, x.shape[0]], dtype=torch.int32, device=x.device)
    _check_conv(x, weight, bias, cu_seqlens, initial_state, activation)
    state = None if initial_state is None else initial_state.float().transpose(1, 2).contiguous()
    out, last = _CausalConv.apply(_rows(x), weight.contiguous(), None if bias is None else bias.contiguous(), state,
                                  cu_seqlens.contiguous(), activation is not None, return_last_state)
    return (out, last.transpose(1, 2)) if return_last_state else out
