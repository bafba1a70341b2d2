"Films in and out: what the notebook cannot show in a minute, or not in one process."
import contextlib, functools, gc, http.server, itertools, json, os, signal, subprocess, sys, textwrap, threading, time
from fractions import Fraction
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from several import Program, script, text
from segvid.labels import cityscapes_labels
from segvid.stream import (Ahead, CutDetector, FilmWriter, TileView, VideoSource, VideoStream, find_encoder, labels_for, load_any_model, open_source,
                           read_mask_video, segment_frames, segment_video, thumbnail, scene_change)

av = pytest.importorskip('av')

class Brightness(torch.nn.Module):
    "Four classes by brightness, averaged over time: the smallest model with a memory"
    num_classes = 4
    def stream(self): return BrightnessStream()

class BrightnessStream:
    def __init__(self): self.state, self.frames = None, 0
    def reset(self): self.state = None
    def step(self, frame):
        light = frame.mean(1, keepdim=True)
        self.state = light if self.state is None else .5*self.state + .5*light
        self.frames += 1
        return -(self.state - torch.linspace(-1.5, 1.5, 4).view(1, 4, 1, 1)).abs()

def pictures(count, size=(48, 80), seed=0):
    "A scene that moves to the left: smooth random spots"
    random = np.random.default_rng(seed)
    wide = np.asarray(Image.fromarray(random.integers(0, 256, (6, 40, 3), dtype=np.uint8)).resize((size[1] + 2*count, size[0]), Image.BICUBIC))
    return [np.ascontiguousarray(wide[:, n:n + size[1]]) for n in range(count)]

def write_film(path, images, rate=25, times=None, tick=Fraction(1, 90_000), codec='libx264', sound=None, turn=None, options=None, container=None):
    with av.open(str(path), 'w', options=container or {}) as file:
        video = file.add_stream(codec, rate=rate, options={'g': '12', **(options or {})})
        video.height, video.width, video.pix_fmt = *images[0].shape[:2], 'yuv420p'
        video.time_base = video.codec_context.time_base = tick
        if turn is not None: video.set_display_rotation(*turn)
        if sound: audio = file.add_stream(sound, rate=48000, layout='mono')
        for n, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = round(Fraction(n, rate)/tick) if times is None else times[n], tick
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound:
            for start in range(0, len(images)*48000//rate, 1024):
                tone = av.AudioFrame.from_ndarray(.3*np.sin(2*np.pi*440*(start + np.arange(1024))/48000).astype('float32')[None], format='fltp', layout='mono')
                tone.sample_rate, tone.pts, tone.time_base = 48000, start, Fraction(1, 48000)
                file.mux(audio.encode(tone))
            file.mux(audio.encode(None))
    return Path(path)

def masks_of(source, **options): return [r.mask for r in segment_frames(VideoStream(Brightness(), **options), open_source(source))]

def pngs(folder): return {p.stem: np.asarray(Image.open(p)) for p in sorted(Path(folder).iterdir())}

@pytest.fixture
def film(tmp_path): return write_film(tmp_path/'film.mp4', pictures(30), sound='aac')

@pytest.fixture(autouse=True)
def no_thread_left():
    "Whatever happens in a test, its threads end"
    yield
    for _ in range(100):
        left = [t.name for t in threading.enumerate() if t.name.startswith('segvid')]
        if not left: return
        gc.collect(); time.sleep(.05)
    assert not left

# ---- memory

def resident():
    "Memory of this process, MB"
    return int(Path('/proc/self/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')/1e6

@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='reads memory from /proc')
def test_constant_memory_over_10_000_frames(tmp_path):
    scene, seen = pictures(100, (16, 24)), {}
    def note(result):
        n = result.row['frame']
        if n in (2000, 4000, 9990): gc.collect(); seen[n] = resident()
    report = segment_video(Brightness(), (scene[n % 100] for n in range(10_000)), tmp_path/'out.mp4', frames_json=tmp_path/'lines.jsonl', progress=False, on_frame=note)
    assert report.frames == 10_000 and report.exit_status == 0
    assert seen[9990] - seen[2000] < 12, seen
    assert open_source(tmp_path/'out.mp4').total == 10_000
    assert sum(1 for _ in (tmp_path/'lines.jsonl').open()) == 10_000
    assert len(report.strip) < 12 and len(report.resets) <= 100

def test_endless_faults_do_not_fill_the_memory(tmp_path):
    for n in range(150): (tmp_path/f'{n}.png').write_bytes(b'no picture')
    Image.fromarray(pictures(1)[0]).save(tmp_path/'150.png')
    report = segment_video(Brightness(), tmp_path, masks=tmp_path/'masks', progress=False)
    assert report.frames == 1 and len(report.faults) == 100 and report.faults.count == 150 and json.loads(report.to_json())['fault_count'] == 150

# ---- films of all kinds

@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
@pytest.mark.parametrize('hflip', [False, True])
def test_phone_films_stand_upright(tmp_path, degrees, hflip):
    if not hasattr(av.video.stream.VideoStream, 'set_display_rotation'): pytest.skip('this PyAV cannot write display matrices')
    upright = np.zeros((48, 96, 3), np.uint8); upright[:24, :32] = 250; upright[24:, 80:] = (0, 0, 250)
    stored = np.rot90(upright[:, ::-1] if hflip else upright, -degrees//90)
    path = write_film(tmp_path/'phone.mp4', [np.ascontiguousarray(stored)]*3, turn=(degrees, hflip))
    with av.open(str(path)) as file: matrix = next(file.decode(video=0)).side_data.get('DISPLAYMATRIX')
    assert (matrix is None) == (degrees == 0 and not hflip)
    frame = next(iter(open_source(path))).image
    assert frame.shape == upright.shape or hflip
    report = segment_video(Brightness(), path, tmp_path/'seen.mp4', overlay=True, progress=False)
    assert report.size == frame.shape[:2] and report.exit_status == 0
    if not hflip: assert np.abs(frame.astype(int) - upright).mean() < 6
    else: assert np.abs(frame.astype(int).mean() - upright.mean()) < 6

def test_uneven_rate_is_kept_to_the_tick(tmp_path):
    times = [0, 3003, 9000, 9100, 20_000, 50_000, 60_061, 61_000, 90_000, 180_007]
    path = write_film(tmp_path/'vfr.mp4', pictures(10), times=times)
    segment_video(Brightness(), path, tmp_path/'seen.mp4', masks=tmp_path/'m.mkv', frames_json=tmp_path/'l.jsonl', progress=False)
    assert [round(f.time*90_000) for f in open_source(tmp_path/'seen.mp4')] == times
    assert [json.loads(l)['time'] for l in (tmp_path/'l.jsonl').open()] == [round(t/90_000, 6) for t in times]
    assert max(abs(float(f.time) - t/90_000) for f, t in zip(open_source(tmp_path/'m.mkv'), times)) <= .00051

@pytest.mark.parametrize('rate', [24, Fraction(24_000, 1001), Fraction(30_000, 1001), 50])
def test_usual_rates_are_kept(tmp_path, rate):
    path = write_film(tmp_path/'in.mp4', pictures(12), rate=rate)
    segment_video(Brightness(), path, tmp_path/'out.mp4', progress=False)
    before, after = open_source(path), open_source(tmp_path/'out.mp4')
    assert before.rate == after.rate and before.total == after.total == 12
    assert [f.time for f in before] == [f.time for f in after]

def test_film_that_begins_later(tmp_path):
    "Time counts from where the film begins; pictures and sound keep their distance"
    path = write_film(tmp_path/'late.mkv', pictures(20), times=[270_000 + n*3600 for n in range(20)])
    assert [f.time for f in open_source(path)][:2] == [0, Fraction(1, 25)]
    path = write_film(tmp_path/'sound.mkv', pictures(20), times=[90_000 + n*3600 for n in range(20)], sound='aac')       # the sound begins at 0
    segment_video(Brightness(), path, tmp_path/'out.mp4', progress=False)
    with av.open(str(tmp_path/'out.mp4')) as file: begins = [min(p.pts*p.time_base for p in av.open(str(tmp_path/'out.mp4')).demux(**{kind: 0}) if p.size) for kind in ('video', 'audio')]
    assert abs(float(begins[0] - begins[1]) - 1) < .05

@pytest.mark.parametrize('size', [(31, 33), (48, 51), (17, 64), (2, 2)])
@pytest.mark.parametrize('suffix', ['.mp4', '.webm'])
def test_odd_sizes(tmp_path, size, suffix):
    report = segment_video(Brightness(), pictures(4, size), tmp_path/f'o{suffix}', masks=tmp_path/'m.mkv', progress=False)
    film = next(iter(open_source(tmp_path/f'o{suffix}')))
    assert film.image.shape[:2] == tuple(n + n % 2 for n in size) and report.size == size
    assert all(m.shape == size for m in read_mask_video(tmp_path/'m.mkv'))

def test_overlay_film_is_what_browsers_want(tmp_path, film):
    segment_video(Brightness(), film, tmp_path/'o.mp4', progress=False)
    with av.open(str(tmp_path/'o.mp4')) as file:
        video = file.streams.video[0]
        assert video.codec_context.name in ('h264', 'av1', 'libdav1d') and video.codec_context.pix_fmt == 'yuv420p' and video.codec_context.colorspace == 1
    data = (tmp_path/'o.mp4').read_bytes()
    assert 0 < data.find(b'moov') < data.find(b'mdat')                                       # the index comes first
    assert not list(tmp_path.glob('.*'))

@pytest.mark.parametrize('suffix', ['.mkv', '.mp4', '.webm'])
@pytest.mark.parametrize('size', [(16, 16), (57, 101), (120, 98)])
def test_mask_films_are_exact(tmp_path, suffix, size):
    masks = [np.random.default_rng(n).integers(0, 256, size, dtype=np.uint8) for n in range(6)]
    writer = FilmWriter(tmp_path/f'm{suffix}', exact=True)
    for n, mask in enumerate(masks): writer.write(mask, Fraction(n, 25))
    writer.close()
    back = list(read_mask_video(tmp_path/f'm{suffix}', size))
    assert len(back) == 6 and all((a == b).all() for a, b in zip(masks, back))

@pytest.mark.parametrize('suffix,codec', [('.mp4', 'libx264'), ('.mkv', 'libx264'), ('.webm', 'libvpx-vp9'), ('.avi', 'mpeg4')])
def test_start_is_exact_in_every_container(tmp_path, suffix, codec):
    path = write_film(tmp_path/f'f{suffix}', pictures(40), codec=codec, tick=Fraction(1, 25), options={'bf': '2'} if codec == 'libx264' else {})
    whole = [f.image for f in open_source(path)]
    assert len(whole) == 40
    for skip in (1, 11, 12, 13, 25, 39):
        source = open_source(path); source.skip = skip
        frames = list(source)
        assert [f.number for f in frames] == list(range(skip, 40)) and all((f.image == w).all() for f, w in zip(frames, whole[skip:])), skip

def test_trimmed_film_is_not_called_truncated(tmp_path):
    "Frames before zero are not shown (an edit list says so): nobody misses them"
    path = write_film(tmp_path/'cut.mp4', pictures(20), times=[(n - 5)*3600 for n in range(20)])
    source = open_source(path)
    assert len(list(source)) <= 20 and not source.faults

def test_device_and_url(tmp_path, film):
    report = segment_video(Brightness(), 'lavfi:testsrc2=size=64x48:rate=10:duration=1.5', tmp_path/'t.mp4', progress=False)
    assert report.frames == 15 and report.exit_status == 0
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(film.parent))
    handler.log_message = lambda *a: None
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(film.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = segment_video(Brightness(), f'http://127.0.0.1:{server.server_port}/film.mp4', tmp_path/'u.mp4', progress=False)
        with pytest.raises(ValueError, match='404|Not Found'): open_source(f'http://127.0.0.1:{server.server_port}/none.mp4')
        server.shutdown()
    assert report.frames == 30
    with av.open(str(tmp_path/'u.mp4')) as file: assert file.streams.audio                    # the sound came over the wire too

# ---- sound

def sound_bytes(path):
    with av.open(str(path)) as file: return [bytes(p) for p in file.demux(audio=0) if p.size]

def test_sound_is_copied_bit_by_bit(tmp_path, film):
    segment_video(Brightness(), film, tmp_path/'o.mp4', progress=False)
    assert sound_bytes(film) == sound_bytes(tmp_path/'o.mp4')
    segment_video(Brightness(), film, tmp_path/'silent.mp4', audio=False, progress=False)
    with av.open(str(tmp_path/'silent.mp4')) as file: assert not file.streams.audio

def test_sound_of_a_part(tmp_path, film):
    segment_video(Brightness(), film, tmp_path/'o.mp4', start=10, stop=20, progress=False)
    with av.open(str(tmp_path/'o.mp4')) as file:
        seconds = sum(f.samples for f in file.decode(audio=0))/48000
    assert abs(seconds - 10/25) < .06                                                         # ten frames, to an AAC frame

def test_film_with_broken_sound_is_still_a_film(tmp_path):
    path = write_film(tmp_path/'f.mkv', pictures(30), sound='pcm_s16le')
    assert segment_video(Brightness(), path, tmp_path/'o.mp4', progress=False).exit_status == 0          # PCM becomes AAC
    with av.open(str(tmp_path/'o.mp4')) as file: assert file.streams.audio[0].codec_context.name == 'aac'

# ---- trouble

def test_truncated_films(tmp_path):
    images = pictures(200)
    for suffix, container in (('.mp4', {'movflags': 'faststart'}), ('.mkv', {}), ('.webm', {})):
        whole = write_film(tmp_path/f'whole{suffix}', images, codec='libvpx-vp9' if suffix == '.webm' else 'libx264', container=container,
                           options={'deadline': 'realtime', 'cpu-used': '8'} if suffix == '.webm' else {}).read_bytes()
        (tmp_path/f'cut{suffix}').write_bytes(whole[:len(whole)*2//3])
        report = segment_video(Brightness(), tmp_path/f'cut{suffix}', tmp_path/'o.mp4', progress=False)
        assert 0 < report.frames < 200 and report.exit_status == 1, suffix
        assert any(f.reason in ('truncated', 'reading', 'lost') for f in report.faults), suffix
        assert open_source(tmp_path/'o.mp4').total == report.frames and 'promises' in str(report)
        report = segment_video(Brightness(), tmp_path/f'whole{suffix}', tmp_path/'o.mp4', progress=False)
        assert report.frames == 200 and report.exit_status == 0, (suffix, report)

def test_damaged_films_give_what_they_can(tmp_path):
    data = bytearray(write_film(tmp_path/'w.mp4', pictures(120), container={'movflags': 'faststart'}).read_bytes())
    random = np.random.default_rng(0)
    for at in range(len(data)//2, len(data) - 200, len(data)//7): data[at:at + 150] = random.integers(0, 256, 150, dtype=np.uint8).tobytes()
    (tmp_path/'d.mp4').write_bytes(data)
    report = segment_video(Brightness(), tmp_path/'d.mp4', tmp_path/'o.mp4', frames_json=tmp_path/'l.jsonl', progress=False)
    assert report.frames > 60 and report.exit_status == 1
    numbers = [json.loads(line)['frame'] for line in (tmp_path/'l.jsonl').open()]
    assert numbers == sorted(set(numbers)) and len(numbers) == report.frames

@pytest.mark.parametrize('content', [b'', b'no film at all', bytes(5000)])
def test_files_that_are_no_films(tmp_path, content):
    (tmp_path/'x.mp4').write_bytes(content); (tmp_path/'o.mp4').write_bytes(b'an older film')
    with pytest.raises(ValueError, match='x.mp4 cannot be opened as video'): segment_video(Brightness(), tmp_path/'x.mp4', tmp_path/'o.mp4', progress=False)
    assert (tmp_path/'o.mp4').read_bytes() == b'an older film'                              # nothing was touched

def test_film_without_pictures(tmp_path):
    with av.open(str(tmp_path/'s.mp4'), 'w') as file:
        audio = file.add_stream('aac', rate=48000, layout='mono')
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), 'float32'), format='fltp', layout='mono'); tone.sample_rate, tone.pts, tone.time_base = 48000, 0, Fraction(1, 48000)
        file.mux(audio.encode(tone)); file.mux(audio.encode(None))
    with pytest.raises(ValueError, match='holds no video'): open_source(tmp_path/'s.mp4')

def test_nothing_between_start_and_stop(tmp_path, film):
    report = segment_video(Brightness(), film, tmp_path/'o.mp4', start=99, progress=False)
    assert report.frames == 0 and report.exit_status == 1 and report.faults[0].reason == 'empty' and not (tmp_path/'o.mp4').exists()

def test_frames_that_change_their_size(tmp_path):
    frames = pictures(4, (48, 80)) + pictures(4, (60, 60), seed=1)
    report = segment_video(Brightness(), frames, tmp_path/'o.mp4', masks=tmp_path/'m', progress=False)
    assert [(r['frame'], r['why']) for r in report.resets] == [(0, 'first frame'), (4, 'another size')]
    assert [m.shape for m in pngs(tmp_path/'m').values()] == [(48, 80)]*4 + [(60, 60)]*4      # exact masks keep their size, a film cannot
    assert [f.reason for f in report.faults] == ['size']

class NotANumber(Brightness):
    "Gives NaN for dark frames"
    def stream(self):
        stream, step = BrightnessStream(), BrightnessStream.step
        stream.step = lambda frame: step(stream, frame)*(float('nan') if frame.mean() < -1.5 else 1)
        return stream

def test_numbers_that_are_not_finite_are_never_a_mask(tmp_path):
    frames = pictures(6); frames[3] = np.zeros_like(frames[3])
    report = segment_video(NotANumber(), frames, masks=tmp_path/'m', frames_json=tmp_path/'l.jsonl', progress=False, cuts=False)
    masks = list(pngs(tmp_path/'m').values())
    assert (masks[3] == 255).all() and all((m < 4).all() for n, m in enumerate(masks) if n != 3)
    assert report.exit_status == 1 and [f.frame for f in report.faults] == [3] and 'not finite' in report.faults[0].detail
    rows = [json.loads(l) for l in (tmp_path/'l.jsonl').open()]
    assert rows[3]['shares'] == {'ignored': 1.} and rows[3]['reset'] == 'not finite' and 'fault' in rows[3] and 'fault' not in rows[4]

@pytest.mark.parametrize('where', ['source', 'model', 'writer', 'on_frame'])
def test_errors_of_any_thread_come_out_and_the_film_is_finished(tmp_path, where):
    def source():
        for n, image in enumerate(pictures(40)):
            if where == 'source' and n == 20: raise RuntimeError('broken source')
            yield image
    class Broken(Brightness):
        def stream(self):
            stream, step, count = BrightnessStream(), BrightnessStream.step, itertools.count()
            def failing(frame):
                if where == 'model' and next(count) == 20: raise RuntimeError('broken model')
                return step(stream, frame)
            stream.step = failing
            return stream
    def on_frame(result):
        if where == 'on_frame' and result.row['frame'] == 20: raise RuntimeError('broken on_frame')
        if where == 'writer' and result.row['frame'] == 20: os.rmdir(tmp_path/'m') if not list((tmp_path/'m').iterdir()) else [p.unlink() for p in (tmp_path/'m').iterdir()] and os.rmdir(tmp_path/'m')
    with pytest.raises((RuntimeError, OSError), match='broken|No such file'):
        for _ in range(20 if where == 'writer' else 1):                                       # whether the folder vanishes between two masks is a matter of luck
            segment_video(Broken(), source(), tmp_path/'o.mp4', masks=tmp_path/'m' if where == 'writer' else None, progress=False, on_frame=on_frame, depth=1)
    frames = open_source(tmp_path/'o.mp4').total
    assert frames == 20 if where != 'writer' else 1 <= frames <= 40

def test_bad_arguments_before_anything_is_written(tmp_path, film):
    for options, words in ((dict(out='o.wmv'), 'films are written as'), (dict(out='o.mp4', mode='zoom'), "'resize', 'pad' or 'tile'"), (dict(out='o.mp4', start='soon'), 'no place in a film'),
                           (dict(out='o.mp4', stop='later'), 'no place in a film'), (dict(out='o.mp4', codec='libnone'), 'libnone'), (dict(out=film.name), 'is the source itself')):
        with pytest.raises(ValueError, match=words): segment_video(Brightness(), film, tmp_path/options.pop('out'), progress=False, **options)
    assert [p.name for p in tmp_path.iterdir()] == ['film.mp4']
    with pytest.raises(TypeError, match='no stream'): segment_video(torch.nn.Linear(2, 2), film, tmp_path/'o.mp4')

# ---- the stream itself

def test_every_tile_has_its_own_memory():
    frames, stream = pictures(6, (64, 100)), VideoStream(Brightness(), size=(32, 48), mode='tile', tiles_at_once=3, cuts=False)
    got = [stream.step(f) for f in frames]
    view = TileView((64, 100), (32, 48))
    assert len(view.places) >= 6 and [s.frames for s in stream.streams] == [6]*len(stream.streams)
    alone = [BrightnessStream() for _ in view.places]
    for frame, mask in zip(frames, got):
        parts = (view.split(torch.from_numpy(frame).permute(2, 0, 1)[None].float())/255 - stream.mean)/stream.std
        logits = torch.cat([s.step(p[None]) for s, p in zip(alone, parts)])
        assert (view.join(logits).argmax(0).numpy() == mask).all()

@pytest.mark.parametrize('mode', ['resize', 'pad', 'tile'])
@pytest.mark.parametrize('frame', [(48, 80), (33, 47), (20, 200), (300, 40)])
def test_masks_have_the_size_of_the_source(mode, frame):
    for size in (None, (32, 64), (96, 96)):
        assert VideoStream(Brightness(), size=size, mode=mode).step(pictures(1, frame)[0]).shape == frame

def test_modes_agree_on_a_plain_scene():
    left = np.zeros((64, 128, 3), np.uint8); left[:, 64:] = 255
    for mode in ('resize', 'pad', 'tile'):
        mask = VideoStream(Brightness(), size=(32, 32) if mode != 'pad' else (64, 64), mode=mode).step(left)
        assert (mask[:, :56] == 0).all() and (mask[:, 72:] == 3).all(), mode

def test_real_model_streams_as_it_does_alone(tmp_path):
    from segvid.segmenter import video_segmenter
    torch.manual_seed(0)
    model = video_segmenter('mit_b0', 5, embed_dim=32, depth=2, window=4, shift=2).eval()
    frames, stream, live = pictures(5, (64, 96)), model.stream(), VideoStream(model, cuts=False)
    assert live.labels.num_classes == 5
    for frame in frames:
        logits = stream.step(((torch.from_numpy(frame).permute(2, 0, 1)/255 - live.mean)/live.std))
        assert (live.step(frame) == logits.argmax(1)[0].numpy()).all()
    half = [VideoStream(model, cuts=False, precision=p).step(frames[0]) for p in ('fp32', 'bf16')]
    assert (half[0] == half[1]).mean() > .9

def test_learner_and_stream_agree(tmp_path):
    from segvid.augment import ClipDataLoaders
    from segvid.learner import clip_learner
    from segvid.toycity import make_toycity
    city = make_toycity(tmp_path/'city', sequences=2, frames=4, size=(32, 64), val=1)
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=1, aug='none', num_workers=0, seed=0)
    learn = clip_learner(dls, 'mit_b0', embed_dim=32, depth=2, window=4, shift=2)
    frames = pictures(4, (50, 70))
    live = VideoStream(learn, cuts=False)
    assert live.size == (32, 64) and live.labels == dls.labels
    for mine, theirs in zip([live.step(f) for f in frames], learn.stream_masks(frames)): assert (mine == theirs.numpy()).mean() > .999
    learn.export(tmp_path/'learn.pkl')
    with pytest.raises(ValueError, match='--trust'): load_any_model(tmp_path/'learn.pkl')
    again = VideoStream(load_any_model(tmp_path/'learn.pkl', trust=True, device='cpu'), cuts=False)
    assert (again.step(frames[0]) == VideoStream(learn, cuts=False).step(frames[0])).all()

def test_progress_bar_tells_speed_and_time_left(film, capsys):
    frames = [f.image for f in open_source(film)]
    def slow(result): time.sleep(.02)
    segment_video(Brightness(), frames, progress=True, on_frame=slow)
    told = capsys.readouterr().err
    assert '/30' in told and 'frames/s' in told and '<00:' in told
    segment_video(Brightness(), frames, progress=False)
    assert capsys.readouterr().err == ''

# ---- resume and Ctrl-C

def test_interrupted_and_resumed_is_the_whole(tmp_path, film):
    whole = segment_video(Brightness(), film, tmp_path/'whole', progress=False)
    def stop(result):
        if result.row['frame'] == 11: signal.raise_signal(signal.SIGINT)
    first = segment_video(Brightness(), film, tmp_path/'parts', progress=False, on_frame=stop)
    assert first.interrupted and first.exit_status == 130 and first.last == 11 and 'start=12' in str(first)
    with pytest.raises(ValueError, match='overlay_from_12.mp4'): segment_video(Brightness(), film, tmp_path/'parts', start=12, progress=False)
    rest = segment_video(Brightness(), film, tmp_path/'parts', overlay=tmp_path/'parts'/'rest.mp4', start=12, warmup=12, progress=False)
    assert (rest.first, rest.last) == (12, 29)
    one, two = pngs(tmp_path/'whole'/'masks'), pngs(tmp_path/'parts'/'masks')
    assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)
    lines = [[{k: v for k, v in json.loads(l).items() if k not in ('seconds', 'reset')} for l in (tmp_path/n/'frames.jsonl').open()] for n in ('whole', 'parts')]
    assert lines[0] == lines[1] and whole.frames == 30
    assert open_source(tmp_path/'parts'/'overlay.mp4').total + open_source(tmp_path/'parts'/'rest.mp4').total == 30

program = '''
import sys, time, itertools
import numpy as np
sys.path.insert(0, {tests!r})
from test_stream import Brightness, pictures
from segvid.stream import segment_video
def slowly():
    frames = pictures(50)
    for n in itertools.count(): time.sleep(.01); yield frames[n % 50]
def tell(result):
    if result.row['frame'] == 20: print('twenty', flush=True)
report = segment_video(Brightness(), slowly(), {out!r}, progress=False, on_frame=tell)
print(report.frames)
sys.exit(report.exit_status)
'''

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_playable_film(tmp_path, number):
    code = program.format(tests=str(Path(__file__).parent), out=str(tmp_path/'out'))
    process = Program(text, code, log=tmp_path/'log')
    process.wait_until(lambda lines: 'twenty' in lines)
    process.signal(number)
    status, frames = process.wait(60), int(process.text.split()[-1])
    assert status == 130 and frames >= 21
    assert len(list(open_source(tmp_path/'out'/'overlay.mp4'))) == frames == len(pngs(tmp_path/'out'/'masks'))
    assert json.loads((tmp_path/'out'/'report.json').read_text())['interrupted'] and not list((tmp_path/'out').glob('.*'))

def test_ctrl_c_while_waiting_for_a_silent_camera(tmp_path):
    silent = threading.Event()
    def camera():
        yield from pictures(3)
        silent.wait(30)                                                                        # a camera that has nothing more to say
    timer = threading.Timer(1., lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(.5), silent.set()))
    timer.start()
    report = segment_video(Brightness(), camera(), tmp_path/'o.mp4', progress=False)
    timer.join()
    assert report.interrupted and report.frames == 3 and open_source(tmp_path/'o.mp4').total == 3

def test_slow_model_sees_the_present_of_a_live_source():
    go = threading.Event()
    def camera():
        yield 0
        for n in range(1, 200): yield n
        go.set()
    frames = Ahead(camera(), depth=2, drop=True)
    assert go.wait(10)
    seen = list(frames)
    assert seen[-1] == 199 and len(seen) <= 3 and frames.dropped == 200 - len(seen)

# ---- the command

def run(*options, code=0):
    "Output and errors of segvid_predict in a process of its own"
    done = script('segvid.stream', 'segvid_predict', *options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr

@pytest.fixture(scope='module')
def model_file(tmp_path_factory):
    from segvid.learner import save_model
    from segvid.segmenter import video_segmenter
    torch.manual_seed(0)
    return save_model(video_segmenter('mit_b0', embed_dim=32, depth=2, window=4, shift=2), tmp_path_factory.mktemp('model')/'small', labels=cityscapes_labels, size=(32, 64))

def test_command(tmp_path, film, model_file, capsys):
    out, err = run('--model', model_file, '--source', film, '--out', tmp_path/'o.mp4', '--masks', 'yes', '--start', '0.4s', '--stop', 15, '--device', 'cpu', '--json')
    report = json.loads(out)                                                                   # nothing else is printed there
    assert report['frames'] == 5 and report['first'] == 10 and report['exit_status'] == 0 and all(line.startswith('segvid:') for line in err.splitlines())
    assert sorted(p.name for p in tmp_path.iterdir()) == ['film.mp4', 'o.mp4', 'o_masks'] and len(pngs(tmp_path/'o_masks')) == 5
    from segvid.organize import run_command
    from segvid.stream import segvid_predict
    assert run_command(segvid_predict, ['--help']) == 0
    out = capsys.readouterr().out
    assert 'segvid_predict --model m.safetensors --source drive.mp4' in out and '--frames_json' in out
    for options, words in ((('--source', film), '--model and --source are needed'), (('--model', model_file, '--source', film), 'nothing to write'),
                           (('--model', 'none.safetensors', '--source', film, '--out', 'o.mp4'), 'no model file'), (('--model', 'x.pkl', '--source', film, '--out', 'o.mp4'), '--trust'),
                           (('--model', model_file, '--source', 'nowhere', '--out', 'o.mp4', '--device', 'cpu'), 'no such file')):
        assert run_command(segvid_predict, [str(o) for o in options]) == 2
        out, err = capsys.readouterr()
        assert words in err and out == '' and len(err.strip().splitlines()) == 1

def test_command_calms_masks(tmp_path, film, model_file):
    "With --steady fewer pixels change from mask to mask; a share above 1 is refused"
    from segvid.organize import run_command
    from segvid.stream import segvid_predict
    def changes(name, *options):
        assert run_command(segvid_predict, [str(o) for o in ('--model', model_file, '--source', film, '--out', tmp_path/f'{name}.mp4', '--masks', 'yes', '--stop', 8, '--device', 'cpu', '--quiet', *options)]) == 0
        masks = np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path/f'{name}_masks').glob('*.png'))])
        return (masks[1:] != masks[:-1]).mean()
    assert changes('steady', '--steady', .5) < changes('plain')
    assert run_command(segvid_predict, [str(o) for o in ('--model', model_file, '--source', film, '--out', tmp_path/'no.mp4', '--device', 'cpu', '--steady', 1.5)]) == 2

def test_command_tells_of_faults_and_interruption(tmp_path, film, model_file):
    data = write_film(tmp_path/'w.mp4', pictures(60), container={'movflags': 'faststart'}).read_bytes()
    (tmp_path/'cut.mp4').write_bytes(data[:len(data)*2//3])
    out, _ = run('--model', model_file, '--source', tmp_path/'cut.mp4', '--out', tmp_path/'o.mp4', '--device', 'cpu', '--bf16', '--size', '32x64', '--mode', 'pad', code=1)
    assert 'the file promises 60 frames' in out
    command = [sys.executable, '-W', 'ignore', '-c', 'from segvid.stream import segvid_predict; import sys; sys.exit(segvid_predict())', '--model', str(model_file), '--device', 'cpu',
               '--source', 'lavfi:testsrc2=size=64x48:rate=10', '--out', str(tmp_path/'live')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path/'live'/'masks'/'000003.png').exists(): break
        time.sleep(.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'interrupted; go on with start=' in out and open_source(tmp_path/'live'/'overlay.mp4').total >= 4

# ---- real video

def test_real_street_film(shared, tmp_path):
    "Thirty frames of 2048x1024, a cut to another street, back to a film, and every pixel of every mask there"
    paths = sorted((shared/'data'/'cityscapes_raw'/'frames').glob('aachen_00000[01]_*_leftImg8bit.jpg'))[15:45]
    images = [np.asarray(Image.open(p).convert('RGB')) for p in paths]
    film = write_film(tmp_path/'street.mp4', images, rate=17, options={'preset': 'ultrafast', 'crf': '18'})
    report = segment_video(Brightness(), film, tmp_path/'seen.mp4', masks=tmp_path/'m.mkv', size=(256, 512), progress=False)
    assert report.frames == 30 and report.size == (1024, 2048) and report.exit_status == 0
    assert [r['frame'] for r in report.resets] == [0, 15] and report.resets[1]['why'] == 'scene cut'
    assert [f.time for f in open_source(tmp_path/'seen.mp4')] == [f.time for f in open_source(film)]
    assert all(m.shape == (1024, 2048) and m.max() < 4 for m in read_mask_video(tmp_path/'m.mkv'))

def test_cuts_between_real_streets(shared):
    paths = sorted((shared/'data'/'cityscapes_raw'/'frames').glob('*_leftImg8bit.jpg'))
    detector = CutDetector()
    found = [n for n, p in enumerate(paths) if detector(np.asarray(Image.open(p).convert('RGB').reduce(4)))]
    assert found == [30, 60, 90, 120]
