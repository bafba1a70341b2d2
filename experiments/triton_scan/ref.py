"""Plain references: one Python loop over tokens, any dtype (float64 for checks), differentiable by autograd."""
import torch
import torch.nn.functional as F


def scan_sequence_ref(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, initial_state=None):
    """One sequence: u, delta, z (L, D), B, C (L, N), state (D, N) -> (out (L, D), last state (D, N))."""
    length, channels = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = F.softplus(delta, threshold=40)
    h = u.new_zeros(channels, A.shape[1]) if initial_state is None else initial_state
    rows = []
    for t in range(length):
        h = torch.exp(delta[t, :, None] * A) * h + (delta[t] * u[t])[:, None] * B[t]
        rows.append(h @ C[t])
    out = torch.stack(rows) if rows else u.new_zeros(0, channels)
    if D is not None:
        out = out + D * u
    if z is not None:
        out = out * F.silu(z)
    return out, h


def selective_scan_loop(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, initial_state=None,
                        return_last_state=False, cu_seqlens=None):
    """Packed (cu_seqlens given) or plain (B, D, L) layout, as selective_scan_triton takes them."""
    common = dict(A=A, D=D, delta_bias=delta_bias, delta_softplus=delta_softplus)
    if cu_seqlens is None:
        return _loop_batched(u, delta, B, C, z, initial_state, return_last_state, **common)
    outs, states = [], []
    for s, (a, b) in enumerate(zip(cu_seqlens.tolist()[:-1], cu_seqlens.tolist()[1:])):
        h0 = None if initial_state is None else initial_state[s]
        out, h = scan_sequence_ref(u[a:b], delta[a:b], B=B[a:b], C=C[a:b], z=None if z is None else z[a:b],
                                   initial_state=h0, **common)
        outs.append(out)
        states.append(h)
    out = torch.cat(outs)
    return (out, torch.stack(states)) if return_last_state else out


def _loop_batched(u, delta, B, C, z, initial_state, return_last_state, A, D, delta_bias, delta_softplus):
    B, C = (x[:, None] if x.dim() == 3 else x for x in (B, C))
    groups, channels = max(B.shape[1], C.shape[1]), u.shape[1]
    size = channels // groups
    outs, states = [], []
    for b in range(u.shape[0]):
        for g in range(groups):
            cut = slice(g * size, (g + 1) * size)
            vec = lambda x: None if x is None else x[cut]
            out, h = scan_sequence_ref(u[b, cut].t(), delta[b, cut].t(), A[cut], B[b, min(g, B.shape[1] - 1)].t(),
                                       C[b, min(g, C.shape[1] - 1)].t(), vec(D), None if z is None else z[b, cut].t(),
                                       vec(delta_bias), delta_softplus,
                                       None if initial_state is None else initial_state[b, cut])
            outs.append(out.t())
            states.append(h)
    out = torch.cat(outs).view(u.shape)
    return (out, torch.cat(states).view(u.shape[0], channels, -1)) if return_last_state else out


def causal_conv1d_loop(x, weight, bias=None, cu_seqlens=None, initial_state=None, return_last_state=False,
                       activation=None):
    """Causal depthwise convolution of packed sequences: x (tokens, D), weight (D, W), states (S, D, W - 1) = the
    last W - 1 inputs, newest last."""
    width = weight.shape[1]
    outs, states = [], []
    for s, (a, b) in enumerate(zip(cu_seqlens.tolist()[:-1], cu_seqlens.tolist()[1:])):
        past = x.new_zeros(width - 1, x.shape[1]) if initial_state is None else initial_state[s].t()
        seq = torch.cat([past, x[a:b]])
        out = sum(weight[:, w] * seq[w:w + b - a] for w in range(width))
        outs.append(out if bias is None else out + bias)
        states.append(seq[len(seq) - (width - 1):].t())
    out = torch.cat(outs)
    out = F.silu(out) if activation in ('silu', 'swish') else out
    return (out, torch.stack(states)) if return_last_state else out
