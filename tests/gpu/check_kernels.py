"""Checks and times segvid.kernels on one GPU: python tests/gpu/check_kernels.py  (about five minutes, most of them compiling; --dry: tiny, interpreted, on the CPU).

1. Outputs, last states and gradients against a float64 loop, on ragged shapes and all dtypes, next to mamba-ssm's errors where it is installed;
   gradients must be the same to the last bit in a second run.
2. Times in milliseconds, medians, eager and in a CUDA graph, of forward and of forward + backward, for several ways to cut the work.
Prints a table; all numbers go to kernels.json in the folder that the variable OUT names (default: here). Exit status 1 if a check failed."""
import json, os, sys, time
DRY = '--dry' in sys.argv
if DRY: os.environ.update(TRITON_INTERPRET='1', SEGVID_LANES='emulate')
import torch, triton
import torch.nn.functional as F
from segvid.kernels import conv_packed, mixer_packed, scan_config, scan_packed
from segvid.lanes import lanes_missing
from segvid.scan import selective_scan

DEVICE = 'cpu' if DRY else 'cuda'
S, D, L, N = (1, 16, 3, 16) if DRY else (28, 512, 1600, 16)
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
KINDS = ['bfloat16'] if DRY else ['bfloat16', 'float32', 'float16']
LIMIT = dict(float32=2e-5, bfloat16=2e-2, float16=4e-3)

# ------------------------------------------------------------------------------------------------ inputs and references
def offsets(lengths): return torch.tensor([0] + torch.tensor(lengths).cumsum(0).tolist(), dtype=torch.int32, device=DEVICE)

def scan_inputs(lengths, d, n, dtype, seed=0, state=True):
    "Packed inputs as a model makes them: steps of a trained size, A about -1 .. -N"
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(*s, generator=g)
    l, A = sum(lengths), -(torch.arange(1, n + 1).float()*(.5 + torch.rand(d, n, generator=g)))
    x = dict(u=rand(l, d), delta=rand(l, d)*.5, A=A, B=rand(l, n), C=rand(l, n), D=rand(d), z=rand(l, d), delta_bias=rand(d)*.7 - 4)
    if state: x['initial_state'] = rand(len(lengths), d, n)
    return {k: v.to(DEVICE, DTYPES[dtype] if k in ('u', 'delta', 'B', 'C', 'z') else torch.float32) for k, v in x.items()}

def scan_loop(u, delta, A, B, C, D, z, delta_bias, initial_state=None, lengths=None):
    "All sequences at once, padded, one token after the other, in the dtype of the arguments"
    place = offsets(lengths)[:-1, None].long() + torch.arange(max(lengths), device=u.device)
    inside = torch.arange(max(lengths), device=u.device) < torch.tensor(lengths, device=u.device)[:, None]
    place = place.clamp(max=len(u) - 1)
    step = F.softplus(delta + delta_bias, threshold=40)
    h = u.new_zeros(len(lengths), *A.shape) if initial_state is None else initial_state
    ys = []
    for t in range(max(lengths)):
        p = place[:, t]
        new = torch.exp(step[p][..., None]*A)*h + (step[p]*u[p])[..., None]*B[p][:, None]
        h = torch.where(inside[:, t, None, None], new, h)
        ys.append((h*C[p][:, None]).sum(-1))
    return (torch.stack(ys, 1)[inside] + D*u)*F.silu(z), h

def conv_loop(x, weight, bias, initial_state, lengths=None):
    "Each sequence behind its own past"
    seqs = [torch.cat([p, part]) for p, part in zip(initial_state, x.split(lengths))]
    width = weight.shape[1]
    y = torch.cat([sum(weight[:, w]*s[w:len(s) - width + 1 + w] for w in range(width)) for s in seqs]) + bias
    return F.silu(y), torch.stack([s[len(s) - width + 1:] for s in seqs])

def mamba_scan(u, delta, A, B, C, D, z, delta_bias, lengths=None):
    "mamba-ssm's kernel, for sequences of one length"
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    turn = lambda x: x.view(len(lengths), -1, x.shape[-1]).transpose(1, 2).contiguous()
    return selective_scan_fn(turn(u), turn(delta), A, turn(B), turn(C), D, turn(z), delta_bias, True).transpose(1, 2).reshape(u.shape), None

def results(fn, x, dtype=None, **kw):
    "Outputs and gradients of a random linear function of them"
    leaf = {k: v.detach().clone().to(dtype or v.dtype).requires_grad_() for k, v in x.items()}
    out, last = fn(**leaf, **kw)
    g = torch.Generator().manual_seed(5)
    loss = (out.double()*torch.randn(out.shape, generator=g).to(out.device, next(iter(x.values())).dtype).double()).sum()
    if last is not None and 'initial_state' in x: loss = loss + (last.double()*torch.randn(last.shape, generator=g).to(last.device).double()).sum()
    grads = torch.autograd.grad(loss, list(leaf.values()))
    named = dict(out=out.detach()) | ({'last': last.detach()} if last is not None and 'initial_state' in x else {})
    return named | {'d' + k: v for k, v in zip(leaf, grads)}

def errors(got, want): return {k: float((got[k].double() - want[k].double()).norm()/want[k].double().norm().clamp_min(1e-30)) for k in want if k in got}

# ------------------------------------------------------------------------------------------------ checks
def ragged(seed, total):
    g, lengths = torch.Generator().manual_seed(seed), [1, 2]
    while sum(lengths) < total: lengths.append(int(torch.randint(1, max(2, total//2), (1,), generator=g)))
    return lengths

def scan_cases():
    total = 4 if DRY else 300
    for i, (d, n) in enumerate([(5, 3), (16, 16)] if DRY else [(512, 16), (96, 16), (40, 1), (100, 7), (64, 32), (33, 20), (64, 64)]):
        for dtype in KINDS if i < 2 else KINDS[:1]: yield f'D={d} N={n} {dtype}', ragged(i, total), d, n, dtype, True, {}
    for change in cuts(True).values(): yield f'cut {change}', ragged(11, total), D, N, 'float32', True, change
    for dtype in KINDS: yield f'Triton D={D} N={N} {dtype}', ragged(0, total), D, N, dtype, True, dict(lanes=False)
    for dtype in KINDS: yield f'beside mamba-ssm {dtype}', [total]*(1 if DRY else 3), D, N, dtype, False, {}

def check_scan(name, lengths, d, n, dtype, state, change):
    x = scan_inputs(lengths, d, n, dtype, seed=d + n, state=state)
    ours = lambda **kw: scan_packed(**kw, delta_softplus=True, cu_seqlens=offsets(lengths), config=scan_config(n)._replace(**change))
    got, again, want = results(ours, x), results(ours, x), results(scan_loop, x, torch.float64, lengths=lengths)
    row = dict(errors=errors(got, want), repeated=all(torch.equal(got[k], again[k]) for k in got))
    if name.startswith('beside'):
        try: row['mamba_ssm'] = errors(results(mamba_scan, x, lengths=lengths), want)
        except Exception as e: row['mamba_ssm'] = repr(e)[-200:]
    row['worst'] = max(row['errors'].values())
    return row | dict(good=row['worst'] < LIMIT[dtype] and row['repeated'])

def turned(x, seqs):
    "Packed rows as a batch (B,D,L), a channel's tokens side by side"
    return {k: v.unflatten(0, (seqs, -1)).movedim(1, -1).contiguous() if k in ('u', 'delta', 'B', 'C', 'z') else v for k, v in x.items()}

def check_channels_first(dtype):
    "The same numbers for a batch (B,D,L)"
    length = 8 if DRY else 200
    x = scan_inputs([length]*2, D, N, dtype, seed=9)
    def ours(**kw):
        y, last = selective_scan(**turned(kw, 2), delta_softplus=True, return_last_state=True, backend='triton')
        return y.movedim(-1, 1).flatten(0, 1), last
    row = dict(errors=errors(results(ours, x), results(scan_loop, x, torch.float64, lengths=[length]*2)))
    row['worst'] = max(row['errors'].values())
    return row | dict(good=row['worst'] < LIMIT[dtype])

def mixer_arguments(lengths, d, n, dtype, c=8, rank=4):
    g = torch.Generator().manual_seed(4)
    rand = lambda *s: torch.randn(*s, generator=g).to(DEVICE)
    return dict(x=rand(sum(lengths), c).to(DTYPES[dtype]), in_w=rand(2*d, c)*.3, conv_w=rand(d, 4)*.5, conv_b=rand(d), x_w=rand(rank + 2*n, d)*d**-.5, dt_w=rand(d, rank)*.5, dt_b=rand(d) - 4,
                A=-rand(d, n).exp(), D=rand(d), out_w=rand(c, d)*d**-.5)

def check_mixer(dtype):
    "A whole mixer by the CUDA kernels, with and without kept states, against the Triton kernels in float32"
    lengths = ragged(2, 4 if DRY else 300)
    x = mixer_arguments(lengths, D, N, dtype)
    run = lambda x, **change: results(lambda **kw: mixer_packed(**kw, cu_seqlens=offsets(lengths), config=scan_config(N)._replace(**change))[:2], x)
    want = run({k: v.float() for k, v in x.items()}, lanes=False)
    row = dict(errors={f'{name} {k}': v for name, change in (('kept', {}), ('again', dict(coarse=0)), ('Triton', dict(lanes=False))) for k, v in errors(run(x, **change), want).items()})
    row['worst'] = max(row['errors'].values())
    return row | dict(good=row['worst'] < (1e-4 if dtype == 'float32' else 5e-2))

def check_conv(dtype, width):
    lengths, d = ragged(3, 4 if DRY else 200), 4 if DRY else 200
    g = torch.Generator().manual_seed(width)
    rand = lambda *s: torch.randn(*s, generator=g).to(DEVICE)
    x = dict(x=rand(sum(lengths), d).to(DTYPES[dtype]), weight=rand(d, width), bias=rand(d), initial_state=rand(len(lengths), width - 1, d))
    row = dict(errors=errors(results(lambda **kw: conv_packed(**kw, cu_seqlens=offsets(lengths)), x), results(conv_loop, x, torch.float64, lengths=lengths)))
    row['worst'] = max(row['errors'].values())
    return row | dict(good=row['worst'] < (1e-5 if dtype == 'float32' else 1e-2))

def check_carried():
    "Two parts with the states handed over are the whole"
    x = scan_inputs([L], D, N, 'float32', state=False)
    part = lambda a, b: {k: v if k in ('A', 'D', 'delta_bias') else v[a:b] for k, v in x.items()}
    whole, last = scan_packed(**x, delta_softplus=True)
    one, state = scan_packed(**part(0, L//3), delta_softplus=True)
    two, end = scan_packed(**part(L//3, L), delta_softplus=True, initial_state=state)
    row = dict(errors=errors(dict(out=torch.cat([one, two]), last=end), dict(out=whole, last=last)))
    return row | dict(worst=max(row['errors'].values()), good=max(row['errors'].values()) < 1e-5)

# ------------------------------------------------------------------------------------------------ times
def cuts(train):
    "Ways to cut the work: the usual one first"
    if train: return {'usual': {}, 'state every 16': dict(coarse=16), 'no states kept': dict(coarse=0), 'Triton': dict(lanes=False), 'Triton, states saved': dict(lanes=False, save_states=True)}
    return {'usual': {}, 'Triton': dict(lanes=False)}

def graphed(fn):
    "`fn` as a CUDA graph: the card's time without the host's"
    side = torch.cuda.Stream(); side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side): fn(); fn()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): fn()
    return graph.replay

def milliseconds(fn):
    "Median, eager and in a graph"
    if DRY:
        begin = time.perf_counter(); fn()
        return dict(ms=1000*(time.perf_counter() - begin))
    fn(); torch.cuda.synchronize()
    bench = lambda f: triton.testing.do_bench(f, warmup=20, rep=100, return_mode='median')
    row = dict(ms=bench(fn))
    try: row['graph_ms'] = bench(graphed(fn))
    except Exception as e: row['graph'] = repr(e)[-200:]; torch.cuda.synchronize()
    return row

def calls(fn, x, train, **kw):
    "A function without arguments that runs `fn` forward, or forward and backward"
    if not train:
        def forward():
            with torch.no_grad(): return fn(**x, **kw)
        return forward
    leaf = {k: v.detach().clone().requires_grad_() for k, v in x.items()}
    g = torch.randn_like(next(iter(x.values())))
    return lambda: torch.autograd.grad(fn(**leaf, **kw)[0], list(leaf.values()), g)

def mamba_rows(x, train):
    "mamba-ssm on its own layout, without the time for turning ours into it"
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    y = {k: v.view(S, -1, v.shape[-1]).transpose(1, 2).contiguous() if k in ('u', 'delta', 'B', 'C', 'z') else v for k, v in x.items()}
    return calls(lambda **kw: (selective_scan_fn(*(kw[k] for k in ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')), True),), y, train)

def times():
    table, cu = {}, offsets([L]*S)
    for dtype in KINDS[:2]:
        x = scan_inputs([L]*S, D, N, dtype, seed=1, state=False)
        for train in (False, True):
            kind = f'{dtype} forward' + (' + backward' if train else '')
            try: table[kind, 'mamba-ssm'] = milliseconds(mamba_rows(x, train))
            except Exception as e: table[kind, 'mamba-ssm'] = dict(error=repr(e)[-200:])
            for name, change in cuts(train).items():
                config = scan_config(N)._replace(**change)
                table[kind, name] = milliseconds(calls(scan_packed, x, train, delta_softplus=True, cu_seqlens=cu, config=config))
            batch = turned(x, S)
            table[kind, 'usual, (B,D,L)'] = milliseconds(calls(lambda **kw: (selective_scan(**kw, backend='triton'),), batch, train, delta_softplus=True))
        conv = dict(x=x['u'], weight=torch.randn(D, 4, device=DEVICE), bias=torch.randn(D, device=DEVICE))
        for train in (False, True): table[f'{dtype} convolution' + (' + backward' if train else ''), 'usual'] = milliseconds(calls(conv_packed, conv, train, cu_seqlens=cu))
    x, state = scan_inputs([L//4 or 1]*S, D, N, 'bfloat16', state=False), torch.randn(S, N, D, device=DEVICE).transpose(1, 2)
    stream = calls(scan_packed, x, False, delta_softplus=True, initial_state=state, cu_seqlens=offsets([L//4 or 1]*S))
    table[f'bfloat16 stream, {S} windows of {L//4 or 1} tokens, states in and out', 'usual'] = milliseconds(stream)
    return table

# ------------------------------------------------------------------------------------------------ all of it
def attempt(fn, *args):
    try: return fn(*args)
    except Exception as e: return dict(good=False, error=repr(e)[-400:])

def main():
    begin, checks = time.time(), {}
    print('CUDA kernels:', lanes_missing(DEVICE) or 'used where they fit')
    for case in scan_cases(): checks[case[0]] = attempt(check_scan, *case)
    for dtype in KINDS:
        for width in (2, 4): checks[f'convolution W={width} {dtype}'] = attempt(check_conv, dtype, width)
    for dtype in KINDS: checks[f'channels first {dtype}'] = attempt(check_channels_first, dtype)
    for dtype in KINDS[:2]: checks[f'mixer {dtype}'] = attempt(check_mixer, dtype)
    checks['carried state'] = attempt(check_carried)
    for name, row in checks.items():
        theirs = row.get('mamba_ssm')
        beside = '  ours / mamba-ssm: ' + ' '.join(f"{k} {row['errors'][k]/max(v, 1e-12):.2f}" for k, v in theirs.items()) if isinstance(theirs, dict) else ''
        print(f"{name:44s} {'good' if row['good'] else 'BAD '} {row.get('worst', row.get('error'))}{beside}")
    good = sum(row['good'] for row in checks.values())
    print(f'CHECKS {good} of {len(checks)} good, {time.time() - begin:.0f} s')
    table = times()
    print(f'-- milliseconds at (S, D, L, N) = {(S, D, L, N)}: eager, in a CUDA graph, times faster than mamba-ssm')
    for (kind, name), row in table.items():
        base = table.get((kind, 'mamba-ssm'), {})
        faster = ''.join(f" {base[k]/row[k]:6.2f}x" for k in ('ms', 'graph_ms') if k in base and k in row)
        print(f"{kind:28s} {name:24s} " + (f"{row['ms']:8.3f} {row.get('graph_ms', float('nan')):8.3f}{faster}" if 'ms' in row else row['error']))
    report = dict(device='cpu' if DRY else torch.cuda.get_device_name(), torch=torch.__version__, triton=triton.__version__, shape=[S, D, L, N], checks=checks,
                  times={f'{kind} / {name}': row for (kind, name), row in table.items()}, seconds=time.time() - begin)
    with open(os.path.join(os.environ.get('OUT', '.'), 'kernels.json'), 'w') as f: json.dump(report, f, indent=1)
    print(report['device'], 'torch', report['torch'], 'triton', report['triton'], f"{report['seconds']:.0f} s")
    return good < len(checks)

if __name__ == '__main__': sys.exit(main())
