"""The TV3S head said a second time, as plainly as possible: published structure, loops, no shared code.

Nine kinds of window cut out one after another, resize-then-fuse on the joined map, a scan token by token. It is slow,
float64, and knows nothing of segvid; `python tests/plain_tv3s.py` writes the small fixture that every machine tests against.
"""
import math, sys
from pathlib import Path
import torch
import torch.nn.functional as F

SHAPE = dict(channels=(6, 8, 10, 12), classes=5, dim=8, depth=4, window=4, shift=1, clips=2, frames=3, size=(19, 30))
FIXTURE = Path(__file__).parent/'fixtures'/'tv3s_tiny.safetensors'

def by_rule(shapes):
    "Weights that follow from the place and shape of each tensor: name -> float64"
    out = {}
    for i, (name, shape) in enumerate(shapes.items()):
        wave = torch.sin((1.3 + .07*i)*torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).reshape(shape)
        if name.endswith('A_log'): v = torch.log(torch.arange(1, shape[1] + 1, dtype=torch.float64))[None] + .1*wave
        elif name.endswith('dt_proj.bias'): v = -2 + .5*wave
        elif name.endswith('running_var'): v = 1 + .3*wave.abs()
        elif len(shape) == 1: v = (1. if name.endswith(('weight', '.D')) else 0.) + .2*wave
        else: v = 1.5*wave/math.sqrt(math.prod(shape[1:]))
        out[name] = v
    return out

def maps(s):
    "Four feature maps of clips x frames frames, by rule"
    h, w = s['size']
    return [torch.sin(.61*(i + 1)*torch.arange(s['clips']*s['frames']*c*-(-h//2**i)*-(-w//2**i), dtype=torch.float64)**1.02)
            .reshape(-1, c, -(-h//2**i), -(-w//2**i)) for i, c in enumerate(s['channels'])]

resize = lambda x, size: F.interpolate(x, size, mode='bilinear', align_corners=False)
norm = lambda x, weight: x/torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)*weight

def mamba(x, p):
    "One Mamba layer on one sequence (L,C), token by token"
    D, W = p['conv1d.weight'].shape[0], p['conv1d.weight'].shape[2]
    N = p['A_log'].shape[1]
    rank = p['dt_proj.weight'].shape[1]
    past, h, out = torch.zeros(W, D, dtype=x.dtype), torch.zeros(D, N, dtype=x.dtype), []
    for token in x:
        u, z = (p['in_proj.weight'] @ token).split(D)
        past = torch.cat([past[1:], u[None]])
        u = F.silu((past*p['conv1d.weight'][:, 0].t()).sum(0) + p['conv1d.bias'])
        dt, B, C = (p['x_proj.weight'] @ u).split([rank, N, N])
        step = F.softplus(p['dt_proj.weight'] @ dt + p['dt_proj.bias'])
        h = torch.exp(-torch.exp(p['A_log'])*step[:, None])*h + step[:, None]*B*u[:, None]
        out.append(p['out_proj.weight'] @ ((h*C).sum(1) + p['D']*u).mul(F.silu(z)))
    return torch.stack(out)

def layer(x, p, window, shift):
    "Windows of a clip (T,H,W,C): plain ones, or the nine kinds of a rolled grid, cut out one by one"
    T, H, W, _ = x.shape
    x, out = x.roll((-shift, -shift), (1, 2)), torch.empty_like(x)
    cuts = lambda n: [0, *range(window, n - window + 1, window), *([n - shift] if shift else []), n]
    for top, bottom in zip(cuts(H), cuts(H)[1:]):
        for left, right in zip(cuts(W), cuts(W)[1:]):
            tile = x[:, top:bottom, left:right]
            out[:, top:bottom, left:right] = mamba(tile.reshape(-1, tile.shape[-1]), p).reshape(tile.shape)
    return out.roll((shift, shift), (1, 2))

def head(p, features, frames, window, shift, depth):
    "Per-frame logits of all frames (B,T,K,h,w) and temporal logits of all frames (B,T,K,h,w)"
    size = features[0].shape[-2:]
    joined = torch.cat([resize(torch.einsum('bchw,dc->bdhw', f, p[f'linear_c{i + 1}.proj.weight']) + p[f'linear_c{i + 1}.proj.bias'][:, None, None], size)
                        for i, f in reversed(list(enumerate(features)))], 1)
    x = F.conv2d(joined, p['linear_fuse.conv.weight'])
    x = (x - p['linear_fuse.bn.running_mean'][:, None, None])/torch.sqrt(p['linear_fuse.bn.running_var'] + 1e-5)[:, None, None]
    fused = torch.relu(x*p['linear_fuse.bn.weight'][:, None, None] + p['linear_fuse.bn.bias'][:, None, None])
    each = F.conv2d(fused, p['linear_pred.weight'], p['linear_pred.bias'])
    grid = [window*math.ceil((n//2)/window) for n in size]
    clips, temporal = resize(fused, grid).unflatten(0, (-1, frames)), []
    for clip in clips:
        hidden, residual = clip.permute(0, 2, 3, 1), 0.
        for i in range(depth):
            q = {k.split(f'layers.{i}.mixer.')[1]: v for k, v in p.items() if f'layers.{i}.mixer.' in k}
            residual = residual + hidden
            hidden = layer(norm(residual, p[f'vs.layers.{i}.norm.weight']), q, window, shift*(i % 2))
        hidden = norm(residual + hidden, p['vs.norm_f.weight']).permute(0, 3, 1, 2)
        temporal.append(resize(F.conv2d(hidden, p['linear_pred2.weight'], p['linear_pred2.bias']), size))
    return each.unflatten(0, (-1, frames)), torch.stack(temporal)

def shapes(s):
    "Published parameter names of the head with their shapes"
    C, D, N, rank = s['dim'], 2*s['dim'], 16, math.ceil(s['dim']/16)
    out = {}
    for i, c in enumerate(s['channels']): out |= {f'linear_c{i + 1}.proj.weight': (C, c), f'linear_c{i + 1}.proj.bias': (C,)}
    for i in range(s['depth']):
        m = f'vs.layers.{i}.mixer.'
        out |= {m + 'A_log': (D, N), m + 'D': (D,), m + 'in_proj.weight': (2*D, C), m + 'conv1d.weight': (D, 1, 4), m + 'conv1d.bias': (D,), m + 'x_proj.weight': (rank + 2*N, D),
                m + 'dt_proj.weight': (D, rank), m + 'dt_proj.bias': (D,), m + 'out_proj.weight': (C, D), f'vs.layers.{i}.norm.weight': (C,)}
    out |= {'vs.norm_f.weight': (C,), 'linear_fuse.conv.weight': (C, 4*C, 1, 1)}
    out |= {f'linear_fuse.bn.{k}': (C,) for k in ('weight', 'bias', 'running_mean', 'running_var')}
    return out | {f'{n}.{k}': (s['classes'], C, 1, 1) if k == 'weight' else (s['classes'],) for n in ('linear_pred', 'linear_pred2') for k in ('weight', 'bias')}

if __name__ == '__main__':
    from safetensors.torch import save_file
    each, temporal = head(by_rule(shapes(SHAPE)), maps(SHAPE), SHAPE['frames'], SHAPE['window'], SHAPE['shift'], SHAPE['depth'])
    save_file({'each': each.float().contiguous(), 'temporal': temporal.float().contiguous()}, FIXTURE)
    print(FIXTURE.name, FIXTURE.stat().st_size, 'bytes', file=sys.stderr)
