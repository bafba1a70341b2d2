"""Checks and times scan_triton.py and conv_triton.py on one GPU; python3 gpu_check.py  (about 3 minutes).

1. Values and gradients against a float64 loop on random ragged shapes, next to mamba_ssm's errors on the same inputs.
2. Times at (28, 512, 1600, 16): forward, forward + backward, parts, variants; streaming and training sizes.
Every case stands alone in try / except; checks and compilations run in worker processes, times in this one afterwards.
Prints a short table last; full numbers go to scan_check.json in the folder that the variable OUT names (default: here).  `--dry` runs the logic on the CPU, tiny, interpreted.
"""
import argparse, json, os, sys, time, traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
import multiprocessing

DRY = '--dry' in sys.argv
if DRY:
    os.environ['TRITON_INTERPRET'] = '1'
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch
import torch.nn.functional as F
import triton

BEGIN = time.time()
LIMIT = 285.
DEVICE = 'cpu' if DRY else 'cuda'
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
SEQS, CHANNELS, LENGTH, STATES = (2, 32, 9, 4) if DRY else (28, 512, 1600, 16)


# ---------------------------------------------------------------------------------------------- inputs and references
def scan_inputs(lengths, D, N, dtype, seed=0, h0=True, options=True):
    """Packed inputs shaped as a model makes them: deltas of a trained size, A about -1 .. -N."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(*s, generator=g)
    tokens = sum(lengths)
    A = -(torch.arange(1, N + 1).float() * (.5 + torch.rand(D, N, generator=g)))
    x = dict(u=rand(tokens, D), delta=rand(tokens, D) * .5, A=A, B=rand(tokens, N), C=rand(tokens, N))
    if options:
        x.update(D=rand(D), z=rand(tokens, D), delta_bias=rand(D) * .7 - 4)
    if h0:
        x.update(initial_state=rand(len(lengths), D, N))
    x = {k: v.to(DEVICE, dtype if k in ('u', 'delta', 'B', 'C', 'z') else torch.float32) for k, v in x.items()}
    offsets = torch.tensor([0] + list(torch.tensor(lengths).cumsum(0)), dtype=torch.int32, device=DEVICE)
    return x, offsets


def scan_float64(u, delta, A, B, C, D=None, z=None, delta_bias=None, initial_state=None, cu_seqlens=None):
    """All sequences at once, padded; one step a time, so that autograd differentiates it."""
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    length = int((ends - starts).max())
    place = starts[:, None] + torch.arange(length, device=u.device)
    inside = place < ends[:, None]
    place = torch.minimum(place, (ends - 1)[:, None])
    delta = F.softplus(delta if delta_bias is None else delta + delta_bias, threshold=40)
    pu, pd, pb, pc = (x[place] for x in (u, delta, B, C))
    h = u.new_zeros(len(starts), *A.shape) if initial_state is None else initial_state
    ys = []
    for t in range(length):
        new = torch.exp(pd[:, t, :, None] * A) * h + (pd[:, t] * pu[:, t])[..., None] * pb[:, t, None]
        h = torch.where(inside[:, t, None, None], new, h)
        ys.append((h * pc[:, t, None]).sum(-1))
    y = torch.stack(ys, 1)[inside]
    if D is not None:
        y = y + D * u
    return (y if z is None else y * F.silu(z)), h


def gradients(fn, x, dtype=None, last=True, seed=5, **kw):
    """out, last state and gradients of a fixed random functional of them, for any of the scans here."""
    leaf = {k: v.detach().clone().to(dtype or v.dtype).requires_grad_() for k, v in x.items()}
    out, state = fn(**leaf, **kw)
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(out.shape, generator=g).to(out.device, x['u'].dtype)
    loss = (out.double() * w.double()).sum()
    if last and state is not None:
        loss = loss + (state.double() * torch.randn(state.shape, generator=g).to(state.device).double()).sum()
    grads = torch.autograd.grad(loss, list(leaf.values()))
    return dict(out=out.detach(), **({'last': state.detach()} if last and state is not None else {}),
                **{'d' + k: v for k, v in zip(leaf, grads)})


def relative(a, b):
    a, b = a.double(), b.double()
    e = float((a - b).norm() / b.norm().clamp_min(1e-30))
    return e if e == e else float('inf')


def mamba_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, cu_seqlens=None):
    """mamba_ssm on packed sequences of one length."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    S = cu_seqlens.numel() - 1
    turn = lambda x: None if x is None else x.view(S, -1, x.shape[-1]).transpose(1, 2).contiguous()
    out = selective_scan_fn(turn(u), turn(delta), A, turn(B), turn(C), D, turn(z), delta_bias, True)
    return out.transpose(1, 2).reshape(u.shape), None


# ---------------------------------------------------------------------------------------------- checks (in workers)
def ragged(seed, total):
    g = torch.Generator().manual_seed(seed)
    lengths = [1, 2]
    while sum(lengths) < total:
        lengths.append(int(torch.randint(1, max(2, total // 2), (1,), generator=g)))
    return lengths


def check_cases():
    """name -> (lengths, D, N, dtype, options, initial state, config changes)"""
    total, cases = (12 if DRY else 300), {}
    shapes = [(32, 4), (5, 3)] if DRY else [(512, 16), (96, 16), (40, 1), (100, 7), (64, 32), (33, 20), (64, 64)]
    for i, (D, N) in enumerate(shapes):
        for dtype in DTYPES if i < 3 else ['float32', 'bfloat16']:
            cases[f'ragged D{D} N{N} {dtype}'] = (ragged(i, total), D, N, dtype, True, True, {})
    cases['bare D64 N16 float32'] = (ragged(9, total), 64, 16, 'float32', False, False, {})
    for name, change in bwd_variants().items():
        cases[f'variant {name}'] = (ragged(11, total), CHANNELS, STATES, 'float32', True, True, change)
    for dtype in DTYPES:   # equal lengths, no initial state: mamba_ssm can do the same
        cases[f'mamba D{CHANNELS} N{STATES} {dtype}'] = ([total] * 3, CHANNELS, STATES, dtype, True, False, {})
    return cases


def scan_check(name):
    import scan_triton as st
    lengths, D, N, dtype, options, h0, change = check_cases()[name]
    x, cu = scan_inputs(lengths, D, N, DTYPES[dtype], seed=D + N, h0=h0, options=options)
    scan = lambda **kw: st.selective_scan_triton(**kw, delta_softplus=True, return_last_state=True, cu_seqlens=cu,
                                                 config=st.scan_config(D, N)._replace(**change))
    against_mamba = name.startswith('mamba')
    ours = gradients(scan, x, last=not against_mamba)
    want = gradients(scan_float64, x, torch.float64, last=not against_mamba, cu_seqlens=cu)
    result = dict(ours={k: relative(ours[k], want[k]) for k in want})
    again = gradients(scan, x, last=not against_mamba)
    result['reproducible'] = all(torch.equal(ours[k], again[k]) for k in ours)
    if against_mamba:
        try:
            theirs = gradients(mamba_scan, x, last=False, cu_seqlens=cu)
            result['mamba'] = {k: relative(theirs[k], want[k]) for k in want}
        except Exception as e:
            result['mamba_error'] = repr(e)[-300:]
    limit = dict(float32=2e-5, bfloat16=2e-2, float16=4e-3)[dtype]
    result['worst'] = max(result['ours'].values())
    result['good'] = result['worst'] < limit and result['reproducible']
    return result


def layout_check(name):
    """The (B, D, L) layout with groups, and two halves with carried state, in float32."""
    import scan_triton as st
    B, D, L, N = (2, 16, 5, 4) if DRY else (3, 64, 150, 16)
    x, cu = scan_inputs([L] * B, D, N, torch.float32, seed=77)
    packed, last = st.selective_scan_triton(**x, delta_softplus=True, return_last_state=True, cu_seqlens=cu)
    turn = lambda v: v.view(B, L, -1).transpose(1, 2).contiguous()
    plain = {k: turn(v) if k in ('u', 'delta', 'z', 'B', 'C') else v for k, v in x.items()}
    plain['B'], plain['C'] = plain['B'][:, None], plain['C'][:, None]
    out, end = st.selective_scan_triton(**plain, delta_softplus=True, return_last_state=True)
    errors = dict(plain=relative(turn(packed), out), plain_last=relative(last, end))
    cut, state, outs = L // 3, x['initial_state'], []
    for part in (slice(0, cut), slice(cut, L)):
        piece = {k: v.view(B, L, -1)[:, part].reshape(-1, v.shape[-1]) if k in ('u', 'delta', 'z', 'B', 'C') else v
                 for k, v in x.items()}
        piece['initial_state'] = state
        n = (part.stop - part.start)
        offsets = torch.arange(0, B * n + 1, n, dtype=torch.int32, device=DEVICE)
        o, state = st.selective_scan_triton(**piece, delta_softplus=True, return_last_state=True, cu_seqlens=offsets)
        outs.append(o.view(B, n, -1))
    errors.update(carried=relative(torch.cat(outs, 1).reshape(packed.shape), packed), carried_last=relative(state, last))
    return dict(ours=errors, worst=max(errors.values()), good=max(errors.values()) < 1e-5)


def conv_check(name):
    from conv_triton import causal_conv1d_triton
    from ref import causal_conv1d_loop
    dtype, W = DTYPES[name.split()[1]], int(name.split()[2])
    lengths = ragged(3, 12 if DRY else 200)
    g = torch.Generator().manual_seed(W)
    rand = lambda *s: torch.randn(*s, generator=g).to(DEVICE)
    D = 16 if DRY else 200
    x = dict(u=rand(sum(lengths), D).to(dtype), weight=rand(D, W), bias=rand(D), initial_state=rand(len(lengths), D, W - 1))
    cu = torch.tensor([0] + list(torch.tensor(lengths).cumsum(0)), dtype=torch.int32, device=DEVICE)
    wrap = lambda fn: lambda u, **kw: fn(x=u, **kw, cu_seqlens=cu, return_last_state=True, activation='silu')
    ours, want = gradients(wrap(causal_conv1d_triton), x), gradients(wrap(causal_conv1d_loop), x, torch.float64)
    errors = {k: relative(ours[k], want[k]) for k in want}
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    return dict(ours=errors, worst=max(errors.values()), good=max(errors.values()) < limit)


# ---------------------------------------------------------------------------------------------- variants and times
def fwd_variants():
    return {'base': {}, 'unroll 4': dict(unroll=4), 'unroll 16': dict(unroll=16), '4 warps': dict(warps=4),
            '4 warps unroll 4': dict(warps=4, unroll=4), 'regs free': dict(registers=0), 'regs 168': dict(registers=168),
            'bc as given': dict(float_bc=False), '16 channels': dict(block_d=16), 'two tiles': dict(tile=8)}


def bwd_variants():
    return {'base': {}, 'save states': dict(save_states=True), 'together': dict(separate=False),
            'state late': dict(ahead_states=False), 'together, late': dict(separate=False, ahead_states=False),
            'bc as given': dict(float_bc=False), 'keep 2 tile 16': dict(keep=2, bwd_tile=16),
            'keep 2 tile 8': dict(keep=2), 'tile 4': dict(bwd_tile=4), 'tile 16': dict(bwd_tile=16),
            '16 channels': dict(bwd_block_d=16, bwd_tile=16), 'shuffles': dict(transpose=False)}


def time_inputs(dtype, sequences=None, length=None):
    lengths = [length or LENGTH] * (sequences or SEQS)
    return scan_inputs(lengths, CHANNELS, STATES, DTYPES[dtype], seed=1, h0=False)


def scan_call(x, cu, change, train):
    import scan_triton as st
    config = st.scan_config(CHANNELS, STATES)._replace(**change)
    if not train:
        def call():
            with torch.no_grad():
                return st.selective_scan_triton(**x, delta_softplus=True, cu_seqlens=cu, config=config)
        return call
    leaf = {k: v.detach().clone().requires_grad_() for k, v in x.items()}
    g = torch.randn_like(x['u'])

    def step():
        out = st.selective_scan_triton(**leaf, delta_softplus=True, cu_seqlens=cu, config=config)
        return torch.autograd.grad(out, list(leaf.values()), g)
    return step


def mamba_call(x, cu, train):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    S = cu.numel() - 1
    y = {k: v.view(S, -1, v.shape[-1]).transpose(1, 2).contiguous() if k in ('u', 'delta', 'z', 'B', 'C') else v
         for k, v in x.items()}
    names = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')
    if not train:
        def call():
            with torch.no_grad():
                return selective_scan_fn(*(y[k] for k in names), True)
        return call
    leaf = [y[k].detach().clone().requires_grad_() for k in names]
    g = torch.randn_like(y['u'])
    return lambda: torch.autograd.grad(selective_scan_fn(*leaf, True), leaf, g)


def compile_job(kind, dtype, variant):
    """Run one variant once at a short length, so that its kernels are in the disk cache."""
    begin = time.time()
    x, cu = time_inputs(dtype, 2, 40)
    change = (bwd_variants() if kind == 'train' else fwd_variants())[variant]
    scan_call(x, cu, change, kind == 'train')()
    if not DRY:
        torch.cuda.synchronize()
    return dict(seconds=round(time.time() - begin, 1))


def worker(job):
    kind, *args = job
    try:
        torch.set_num_threads(1)
        table = dict(scan=scan_check, layout=layout_check, conv=conv_check, compile=compile_job)
        return job, table[kind](*args)
    except Exception as e:
        return job, dict(error=repr(e)[-500:], trace=traceback.format_exc()[-1500:])


def bench(fn):
    """Median and quartiles in milliseconds; do_bench empties the L2 cache between calls."""
    if DRY:
        begin = time.time(); fn()
        return [1e3 * (time.time() - begin)] * 3
    fn()
    torch.cuda.synchronize()
    return triton.testing.do_bench(fn, warmup=20, rep=100, quantiles=[.5, .25, .75])


def graphed(fn):
    """fn captured in a CUDA graph: the GPU's time without the host's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        fn(); fn()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fn()
    return graph.replay


def timed(results, key, make, graph=True):
    """results[key] = {'ms', 'iqr', 'graph_ms'} or {'error': ..}; skipped when the time is up."""
    if time.time() - BEGIN > LIMIT:
        results[key] = dict(error='skipped: out of time')
        return
    try:
        fn = make()
        q = bench(fn)
        results[key] = dict(ms=q[0], iqr=[q[1], q[2]])
    except Exception as e:
        results[key] = dict(error=repr(e)[-300:])
        return
    if graph and not DRY:
        try:
            results[key]['graph_ms'] = bench(graphed(fn))[0]
        except Exception as e:
            results[key]['graph_error'] = repr(e)[-200:]
            torch.cuda.synchronize()


def part_times(dtype):
    """The pieces of one forward + backward, each alone."""
    import scan_triton as st
    x, cu = time_inputs(dtype)
    config = st.scan_config(CHANNELS, STATES)
    At, B, C = x['A'].t().contiguous(), x['B'].float(), x['C'].float()
    u, delta, D, z, bias = (x[k] for k in ('u', 'delta', 'D', 'z', 'delta_bias'))
    results = {}
    timed(results, 'forward kernel', lambda: lambda: st._run_forward(u, delta, At, B, C, D, z, bias, None, cu, True, config))
    only = lambda: st._run_forward(u, delta, At, B, C, None, None, bias, None, cu, True, config, output=False, states=True)
    timed(results, 'states kernel', lambda: only)
    states, g = only()[2], torch.randn_like(u)
    timed(results, 'backward kernel + sums', lambda: lambda: st._run_backward(
        u, delta, At, B, C, D, z, bias, states, cu, g, None, False, True, config))
    parts = torch.empty(triton.cdiv(CHANNELS, config.bwd_block_d), u.shape[0], 2 * STATES, device=DEVICE)
    timed(results, 'sum of dB dC parts', lambda: lambda: parts.sum(0))
    timed(results, 'B, C to float32', lambda: lambda: (x['B'].float(), x['C'].float()))
    return results


def other_sizes():
    """Streaming (28 windows x 400 tokens with carried state), training (56 windows), ragged windows, plain layout."""
    import scan_triton as st
    results = {}
    x, cu = time_inputs('bfloat16', 28, 9 if DRY else 400)
    h = torch.randn(28, CHANNELS, STATES, device=DEVICE)

    def stream():
        with torch.no_grad():
            return st.selective_scan_triton(**x, delta_softplus=True, cu_seqlens=cu, initial_state=h, return_last_state=True)
    timed(results, 'stream 28 x 400, states in and out', lambda: stream)
    if not DRY:
        try:
            begin = time.time()
            for _ in range(50):
                stream()
            results['host time of one call'] = dict(ms=(time.time() - begin) * 20)
            torch.cuda.synchronize()
            kept = []
            replay = graphed(lambda: kept.append(stream()[0]))
            want = stream()[0]
            replay()
            torch.cuda.synchronize()
            results['cuda graph is exact'] = dict(value=bool(torch.equal(kept[-1], want)))
        except Exception as e:
            results['cuda graph'] = dict(error=repr(e)[-300:])
    for n in (() if DRY else (8, 56)):
        x2, cu2 = time_inputs('bfloat16', n)
        timed(results, f'{n} sequences, forward', lambda: scan_call(x2, cu2, {}, False))
        timed(results, f'{n} sequences, forward + backward', lambda: scan_call(x2, cu2, {}, True))
        try:
            timed(results, f'{n} sequences, mamba forward', lambda: mamba_call(x2, cu2, False))
            timed(results, f'{n} sequences, mamba forward + backward', lambda: mamba_call(x2, cu2, True))
        except Exception as e:
            results[f'{n} mamba'] = dict(error=repr(e)[-200:])
    x, cu = time_inputs('bfloat16')
    y = {k: v.view(SEQS, -1, v.shape[-1]).transpose(1, 2).contiguous() if k in ('u', 'delta', 'z', 'B', 'C') else v
         for k, v in x.items()}

    def plain():
        with torch.no_grad():
            return st.selective_scan_triton(**y, delta_softplus=True)
    timed(results, 'plain (B, D, L) layout, forward', lambda: plain)
    if not DRY:
        step = scan_call(x, cu, {}, True)
        step(); torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(); torch.cuda.synchronize()
        results['peak memory of a step above its inputs, GB'] = dict(value=(torch.cuda.max_memory_allocated() - before) / 1e9)
    return results


def conv_times():
    from conv_triton import causal_conv1d_triton
    results, W = {}, 4
    x, cu = time_inputs('bfloat16')
    u, weight, bias = x['u'], torch.randn(CHANNELS, W, device=DEVICE), torch.randn(CHANNELS, device=DEVICE)

    def call():
        with torch.no_grad():
            return causal_conv1d_triton(u, weight, bias, cu, activation='silu')
    timed(results, 'conv forward', lambda: call)
    leaf = [v.detach().clone().requires_grad_() for v in (u, weight, bias)]
    g = torch.randn_like(u)
    step = lambda: torch.autograd.grad(causal_conv1d_triton(*leaf, cu, activation='silu'), leaf, g)
    timed(results, 'conv forward + backward', lambda: step)
    try:
        from causal_conv1d import causal_conv1d_fn
        v = u.view(SEQS, -1, CHANNELS).transpose(1, 2)
        w2, b2 = weight.to(u.dtype), bias.to(u.dtype)

        def other():
            with torch.no_grad():
                return causal_conv1d_fn(v, w2, b2, activation='silu')
        timed(results, 'causal_conv1d forward (channels last)', lambda: other)
        leaf2 = [t.detach().clone().requires_grad_() for t in (u, w2, b2)]
        step2 = lambda: torch.autograd.grad(causal_conv1d_fn(leaf2[0].view(SEQS, -1, CHANNELS).transpose(1, 2), leaf2[1],
                                            leaf2[2], activation='silu'), leaf2, g.view(SEQS, -1, CHANNELS).transpose(1, 2))
        timed(results, 'causal_conv1d forward + backward', lambda: step2)
    except Exception as e:
        results['causal_conv1d'] = dict(error=repr(e)[-200:])
    return results


def bandwidth():
    if DRY:
        return None
    a = torch.empty(1 << 29, dtype=torch.int32, device=DEVICE)
    b = torch.empty_like(a)
    return 2 * 4 * (1 << 29) / (triton.testing.do_bench(lambda: b.copy_(a), warmup=10, rep=60, return_mode='median') * 1e9)


# ---------------------------------------------------------------------------------------------- all of it
def run_workers(jobs, workers):
    """Every job in some process; -> {job: result}.  Stops waiting when the time for checks is over."""
    results = {}
    if DRY:
        return dict(map(worker, jobs))
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context('spawn'))
    futures = [pool.submit(worker, job) for job in jobs]
    try:
        for f in as_completed(futures, timeout=max(10, 150 - (time.time() - BEGIN))):
            try:
                job, result = f.result()
                results[job] = result
            except Exception as e:
                print('worker lost:', repr(e)[-200:])
    except Exception as e:
        print('checks cut short:', repr(e)[-200:])
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for p in processes:
        p.terminate()          # only processes of this pool
    time.sleep(1)
    return results


def show_check(job, r):
    name = ' '.join(str(a) for a in job[1:])
    if 'error' in r:
        return f'{name:34s} ERROR {r["error"][:110]}'
    line = f'{name:34s} {"ok " if r["good"] else "BAD"} worst {r["worst"]:.1e}'
    if 'mamba' in r:
        line += '  ours/mamba ' + ' '.join(f'{k}:{r["ours"][k] / max(r["mamba"][k], 1e-12):.2f}' for k in r['mamba'])
    elif not r['good']:
        line += '  ' + ' '.join(f'{k}:{v:.0e}' for k, v in r['ours'].items())
    return line


def show_times(title, table, base=None):
    """One line a row: eager and graph medians, and how many times faster than mamba_ssm each is."""
    print(f'-- {title}' + ('' if base is None else ': eager, in a graph'))
    for k, r in table.items():
        value = r.get('ms', r.get('value', 'ERROR ' + str(r.get('error', ''))[:100]))
        text = format(value, '.3f') if isinstance(value, float) else str(value)
        if 'ms' in r:
            text += format(r['graph_ms'], '9.3f') if 'graph_ms' in r else '        -'
        if base and 'ms' in r:
            text += ''.join(f'  {base[key] / r[key]:5.2f}x' for key in ('ms', 'graph_ms') if key in r and key in base)
        print(f'   {k:44s} {text}')


def main():
    report = dict(torch=torch.__version__, triton=triton.__version__, dry=DRY,
                  device='cpu' if DRY else torch.cuda.get_device_name(), shape=[SEQS, CHANNELS, LENGTH, STATES])
    jobs = [('compile', k, 'bfloat16', v) for k, vs in (('train', bwd_variants()), ('infer', fwd_variants())) for v in vs]
    jobs += [('compile', 'train', 'float32', v) for v in list(bwd_variants())[:5]]
    jobs += [('compile', 'infer', 'float32', v) for v in list(fwd_variants())[:4]]
    jobs += [('scan', name) for name in check_cases()] + [('layout', 'layouts')]
    jobs += [('conv', f'conv {d} {w}') for d in ('float32', 'bfloat16') for w in (2, 4)]
    checks = run_workers(jobs, 14)
    report['checks'] = {' '.join(map(str, k)): v for k, v in checks.items()}
    report['seconds for checks'] = time.time() - BEGIN
    save(report)
    report['copy TB/s'] = bandwidth()
    times = report['times'] = {}
    for dtype in ('bfloat16', 'float32'):
        x, cu = time_inputs(dtype)
        t = times[dtype] = dict(forward={}, step={})
        for kind, table in (('forward', t['forward']), ('step', t['step'])):
            try:
                timed(table, 'mamba_ssm', lambda: mamba_call(x, cu, kind == 'step'))
            except Exception as e:
                table['mamba_ssm'] = dict(error=repr(e)[-200:])
            variants = fwd_variants() if kind == 'forward' else bwd_variants()
            for name in list(variants)[:None if dtype == 'bfloat16' else 4 if kind == 'forward' else 5]:
                timed(table, name, lambda: scan_call(x, cu, variants[name], kind == 'step'))
        try:
            t['parts'] = part_times(dtype)
        except Exception as e:
            t['parts'] = dict(parts=dict(error=repr(e)[-300:]))
        save(report)
    for name, fn in (('other sizes, bfloat16', other_sizes), ('convolution, bfloat16', conv_times)):
        try:
            times[name] = fn()
        except Exception as e:
            times[name] = dict(all=dict(error=repr(e)[-300:]))
    report['seconds'] = time.time() - BEGIN
    save(report)
    show(report, checks)


def show(report, checks):
    slow = sorted(((r['seconds'], ' '.join(j[1:])) for j, r in checks.items() if 'seconds' in r), reverse=True)[:4]
    print('slowest compilations:', slow)
    for job, r in checks.items():
        if 'error' in r and job[0] == 'compile':
            print('compile', show_check(job, r))
    for job, r in checks.items():
        if job[0] != 'compile':
            print(show_check(job, r))
    for key, t in report['times'].items():
        if 'forward' not in t:
            show_times(key, t)
            continue
        for kind in ('forward', 'step'):
            show_times(f'{key} {kind} (ms) at {report["shape"]}', t[kind], t[kind].get('mamba_ssm', {}))
        show_times(f'{key} parts (ms)', t['parts'])
    summary(report, checks)
    print(f'{report["device"]}, torch {report["torch"]}, triton {report["triton"]}, copy {report["copy TB/s"]} TB/s, '
          f'{report["seconds"]:.0f} s ({report["seconds for checks"]:.0f} s checks)')


def summary(report, checks):
    """The answer in a few lines."""
    judged = [r for j, r in checks.items() if j[0] != 'compile']
    print(f'CHECKS {sum(bool(r.get("good")) for r in judged)} of {len(judged)} good, '
          f'{sum("error" in r for r in checks.values())} errors')
    for dtype in ('bfloat16', 'float32'):
        for kind in ('forward', 'step'):
            table = report['times'][dtype][kind]
            for key in ('ms', 'graph_ms'):
                rows = sorted((r[key], k) for k, r in table.items() if key in r and k != 'mamba_ssm')
                base = table.get('mamba_ssm', {}).get(key)
                if rows:
                    print(f'BEST {dtype} {kind} {key}: ' + ', '.join(f'{k} {v:.3f}' for v, k in rows[:3]) +
                          (f'; mamba_ssm {base:.3f} = {base / rows[0][0]:.2f}x' if base else ''))


def save(report):
    folder = os.environ.get('OUT', '.')
    with open(os.path.join(folder, 'scan_check.json'), 'w') as f:
        json.dump(report, f, indent=1, default=str)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--dry', action='store_true', help='tiny, interpreted, on the CPU')
    parser.parse_args()
    main()
    sys.stdout.flush()
    os._exit(0)            # the pool's own threads have nothing left to wait for
