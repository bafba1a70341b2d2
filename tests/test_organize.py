"The organizer: faults are named and the rest goes on, nothing is ever half done, and splits are by recording"
import errno, json, os, subprocess, sys, textwrap, time
from collections import Counter
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
import segvid.organize as organize
from segvid.labels import camvid_labels, cityscapes_labels
from segvid.organize import (assign_splits, check_dataset, choose_frames, neighbour_counts, organize_frames, parse_frame_name, picture_size,
                             scan_folder, segvid_organize, split_snippets, spread_choice)

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def draw(folder, names, size=(32, 16), label=26, seed=0):
    "Frames (noise) and labels (constant) under the given names; returns the folder"
    rng = np.random.default_rng(seed)
    for name in names:
        path = Path(folder)/name; path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new('L', size, label) if 'gtFine' in name else Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
        picture.save(path)
    return Path(folder)


def heap(folder, sequences=3, frames=6, city='aachen', suffix='png', labelled=(2, 5), kind='labelIds', label=26):
    stems = [(s, f) for s in range(sequences) for f in range(frames)]
    draw(folder, [f'frames/{city}_{s:06d}_{f:06d}_leftImg8bit.{suffix}' for s, f in stems])
    return draw(folder, [f'labels/{city}_{s:06d}_{f:06d}_gtFine_{kind}.png' for s, f in stems if f in labelled], label=label)


def run(source, target, **kwargs): return organize_frames(source, target, progress=False, **kwargs)
def tree(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file()}
def stamps(folder): return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in [Path(folder), *sorted(Path(folder).rglob('*'))]}


# ---- names
@quick
@given(st.text(alphabet='abcXYZ019_-äß', min_size=1, max_size=12), st.integers(0, 10**7), st.integers(0, 10**7), st.booleans(), st.booleans(),
       st.sampled_from(['leftImg8bit', 'gtFine_labelIds', 'gtFine_labelTrainIds', 'gtFine_color']))
def test_names_are_read_from_the_right(city, sequence, frame, pad_s, pad_f, kind):
    s, f = f'{sequence:06d}' if pad_s else str(sequence), f'{frame:06d}' if pad_f else str(frame)
    name = parse_frame_name(f'some/where/{city}_{s}_{f}_{kind}.png')
    assert name == (city, f'{sequence:06d}', frame, kind, f'{city}_{s}_{f}')


@pytest.mark.parametrize('bad', ['x.png', 'aachen_leftImg8bit.png', 'aachen_0_leftImg8bit.png', '_0_0_leftImg8bit', '0_0_leftImg8bit.png', 'aachen_0_x_leftImg8bit.png',
                                 'aachen_0_0.png', 'aachen_0_-1_leftImg8bit.png', 'aachen_0_0_leftImg8bit_copy.png', 'aachen_0_٣_leftImg8bit.png'])
def test_unparsable_names_raise(bad):
    with pytest.raises(ValueError, match='expected city_sequence_frame_kind'): parse_frame_name(bad)


# ---- splits
recordings = st.dictionaries(st.tuples(st.sampled_from(['aachen', 'ulm', 'lindau', 'berlin', 'toyville', 'my_town']), st.integers(0, 40).map('{:06d}'.format)),
                             st.sampled_from([None, 'train', 'val', 'test']), min_size=1, max_size=25)

@quick
@given(recordings, st.floats(0, 1), st.sampled_from(['auto', 'sequence']))
def test_every_recording_has_one_side_and_no_side_is_empty(folders, val, rule):
    sides = assign_splits(folders, val, rule)
    assert set(sides) == set(folders) and sides == assign_splits(dict(reversed(folders.items())), val, rule)
    splits = Counter(side.split for side in sides.values())
    assert set(splits) <= {'train', 'val', 'test'}
    if 0 < val < 1 and splits['train']+splits['val'] >= 2: assert splits['train'] and splits['val']
    if rule == 'sequence': assert not splits['test']


@quick
@given(recordings, recordings, st.floats(0.01, 0.99))
def test_later_recordings_move_nobody(first, second, val):
    before = assign_splits(first, val)
    kept = {recording: side.split for recording, side in before.items()}
    after = assign_splits({**second, **first}, val, kept=kept)
    assert all(after[recording].split == split for recording, split in kept.items())


@quick
@given(st.integers(2, 300), st.floats(0.001, 0.999))
def test_choice_is_spread(n, share):
    chosen = spread_choice(n, share)
    assert 1 <= len(chosen) <= n-1 and len(set(chosen)) == len(chosen) and chosen[-1] == n-1
    assert abs(len(chosen)-share*n) <= 1
    jumps = np.diff([-1, *chosen])
    assert jumps.max()-jumps.min() <= 1


def test_five_sequences_of_an_official_city(tmp_path):
    report = run(heap(tmp_path/'in', sequences=5), tmp_path/'out')
    assert {split: counts['sequences'] for split, counts in report.splits.items()} == dict(train=4, val=1)


def test_official_split_and_folders(tmp_path):
    source = tmp_path/'in'
    for city in ('aachen', 'lindau', 'bonn'): heap(source, sequences=2, city=city)
    run(source, tmp_path/'flat')
    assert sorted(p.name for p in (tmp_path/'flat/leftImg8bit').glob('*/*')) == ['aachen', 'bonn', 'lindau']
    assert {p.parent.name: p.name for p in (tmp_path/'flat/leftImg8bit').glob('*/*')} == dict(train='aachen', val='lindau', test='bonn')
    draw(tmp_path/'tree', [f'leftImg8bit_sequence/{split}/x/x_{i}_{f}_leftImg8bit.png' for i, split in enumerate(('val', 'train')) for f in range(3)])
    report = run(tmp_path/'tree', tmp_path/'by_folder')
    assert (tmp_path/'by_folder/leftImg8bit/val/x/x_0_1_leftImg8bit.png').exists() and report.exit_status == 0
    assert run(tmp_path/'tree', tmp_path/'by_sequence', split='sequence', val=0.5).exit_status == 0
    assert (tmp_path/'by_sequence/leftImg8bit/train/x/x_0_1_leftImg8bit.png').exists()


def test_recording_in_two_folders_is_named(tmp_path):
    source = draw(tmp_path/'in', [f'train/x_0_{f}_leftImg8bit.png' for f in range(3)]+['val/x_0_3_leftImg8bit.png', 'val/y_0_0_leftImg8bit.png'])
    report = run(source, tmp_path/'out')
    assert [(p.path, p.reason) for p in report.skipped] == [('val/x_0_3_leftImg8bit.png', 'split')]
    assert check_dataset(tmp_path/'out', progress=False).exit_status == 0
    assert [p.reason for p in check_dataset(source, progress=False).skipped] == ['split']


# ---- pictures
@quick
@given(st.sampled_from(['PNG', 'JPEG']), st.integers(0, 10**6), st.sampled_from(['RGB', 'L']))
def test_no_cut_goes_unnoticed(form, cut, mode):
    import io
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(cut).integers(0, 255, (13, 17, 3), np.uint8)).convert(mode).save(buffer, form)
    data = buffer.getvalue()
    assert picture_size(data) == (13, 17)
    with pytest.raises(ValueError): picture_size(data[:cut % len(data)])


# ---- all faults in one heap
def test_every_fault_is_named_and_the_rest_goes_on(tmp_path):
    source = heap(tmp_path/'in', sequences=4)
    def frame(s, f): return source/f'frames/aachen_{s:06d}_{f:06d}_leftImg8bit.png'
    def label(s, f): return source/f'labels/aachen_{s:06d}_{f:06d}_gtFine_labelIds.png'
    frame(0, 1).write_bytes(frame(0, 1).read_bytes()[:-30])                       # truncated
    frame(0, 2).write_bytes(b'')                                                  # empty, and it has a label
    label(1, 2).write_bytes(label(1, 2).read_bytes()[:50])                        # truncated label
    Image.new('L', (30, 16), 26).save(label(1, 5))                                # other size
    Image.new('L', (32, 16), 99).save(label(2, 2))                                # unknown value
    Image.new('RGB', (32, 16)).save(label(2, 5))                                  # colors
    draw(source, ['more/aachen_3_4_leftImg8bit.png', 'photo.png', 'more/aachen_x_000001_leftImg8bit.jpg'])
    Image.new('L', (32, 16), 26).save(source/'labels/aachen_000003_000003_gtFine_labelIds.jpg')
    (source/'readme.txt').write_text('not a picture')
    report = run(source, tmp_path/'out')
    assert report.exit_status == 1
    assert sorted((p.path.split('/')[-1], p.reason) for p in report.skipped) == sorted([
        ('aachen_000000_000001_leftImg8bit.png', 'unreadable'), ('aachen_000000_000002_leftImg8bit.png', 'unreadable'),
        ('aachen_000001_000002_gtFine_labelIds.png', 'unreadable'), ('aachen_000001_000005_gtFine_labelIds.png', 'label size'),
        ('aachen_000002_000002_gtFine_labelIds.png', 'label value'), ('aachen_000002_000005_gtFine_labelIds.png', 'label format'),
        ('aachen_3_4_leftImg8bit.png', 'duplicate'), ('photo.png', 'name'), ('aachen_x_000001_leftImg8bit.jpg', 'name'),
        ('aachen_000003_000003_gtFine_labelIds.jpg', 'label format')])
    details = {p.reason: p.detail for p in report.skipped}
    assert '99 (512 pixels)' in details['label value'] and '(16, 30)' in details['label size'] and '(16, 32)' in details['label size']
    assert (report.frames, report.labelled) == (22, 8-5) and report.left_out['labels without a usable frame'] == 1
    checked = check_dataset(tmp_path/'out', progress=False)                       # what came out is clean
    assert (checked.exit_status, checked.frames, checked.labelled) == (0, 22, 3)
    before = stamps(tmp_path/'out')
    again = run(source, tmp_path/'out')                                           # and says the same a second time
    assert stamps(tmp_path/'out') == before and again.skipped == report.skipped and again.splits == report.splits
    text, page, data = str(report), report._repr_html_()+report.to_markdown(), json.loads(report.to_json())
    for problem in report.skipped: assert problem.path in text and problem.path in page
    assert len(data['skipped']) == 10 and data['exit_status'] == 1


def test_check_names_the_same_faults_in_a_tree(tmp_path):
    run(heap(tmp_path/'in', kind='labelTrainIds', label=13), tmp_path/'out')
    out = tmp_path/'out'
    frames, labels = sorted((out/'leftImg8bit').rglob('*.png')), sorted((out/'gtFine').rglob('*.png'))
    frames[0].write_bytes(frames[0].read_bytes()[:99])
    Image.new('L', (9, 9), 13).save(labels[0]); Image.new('L', (32, 16), 26).save(labels[1])
    draw(out, ['leftImg8bit/train/aachen/what.png', 'leftImg8bit/train/aachen/aachen_0_3_leftImg8bit.png'])
    before = stamps(out)
    reasons = Counter(p.reason for p in check_dataset(out, progress=False).skipped)
    assert reasons == Counter({'unreadable': 1, 'label size': 1, 'label value': 1, 'name': 1, 'duplicate': 1})
    assert stamps(out) == before


# ---- twice, killed, moved
@pytest.mark.parametrize('mode', ['copy', 'symlink', 'hardlink', 'move'])
def test_twice_changes_nothing(tmp_path, mode):
    source, out = heap(tmp_path/'in', suffix='jpg'), tmp_path/'out'
    first = run(source, out, mode=mode)
    before = stamps(out)
    second = run(source, out, mode=mode)
    assert stamps(out) == before
    assert second.splits == first.splits and second.exit_status == 0 and second.done == {'frames kept': 18, 'labels kept': 6}
    assert len(list((source/'frames').iterdir())) == (0 if mode == 'move' else 18)


def test_modes_agree_and_train_ids_pass_through(tmp_path):
    trees = []
    for mode in ('copy', 'symlink', 'hardlink', 'move'):
        run(heap(tmp_path/mode, kind='labelTrainIds', label=13), tmp_path/f'out_{mode}', mode=mode)
        trees.append(tree(tmp_path/f'out_{mode}'))
    assert all(t == trees[0] for t in trees)
    run(heap(tmp_path/'raw', kind='labelIds', label=26), tmp_path/'out_raw')
    for name, data in trees[0].items():
        if 'gtFine' in name: assert (np.asarray(Image.open(tmp_path/'out_raw'/name)) == 13).all()


def test_both_numberings_are_no_fault(tmp_path):
    heap(tmp_path/'in', kind='labelTrainIds', label=13)
    report = run(heap(tmp_path/'in', kind='labelIds', label=26), tmp_path/'out')
    assert report.exit_status == 0 and report.done['labels translated'] == 6


def test_changed_source_is_brought_again(tmp_path):
    source, out = heap(tmp_path/'in'), tmp_path/'out'
    run(source, out)
    frame = next((source/'frames').iterdir())
    draw(source, [f'frames/{frame.name}'], seed=7); os.utime(frame, ns=(10**18, 10**18))
    assert run(source, out).done == {'frames copied': 1, 'frames kept': 17, 'labels kept': 6}
    assert next(out.rglob(frame.name)).read_bytes() == frame.read_bytes()


def test_more_recordings_later(tmp_path):
    source, out = heap(tmp_path/'in', sequences=2), tmp_path/'out'
    run(source, out)
    sides = {p.name: p.parent.parent.name for p in (out/'leftImg8bit').rglob('*.png')}
    heap(source, sequences=9)
    report = run(source, out)
    now = {p.name: p.parent.parent.name for p in (out/'leftImg8bit').rglob('*.png')}
    assert all(now[name] == side for name, side in sides.items()) and report.frames == 9*6


KILLED = '''
import os, sys, threading
from pathlib import Path
import segvid.organize as organize
mode, left, where = sys.argv[3], int(sys.argv[4]), sys.argv[5]
lock, real_replace, real_write = threading.Lock(), os.replace, Path.write_bytes
def count_down():
    global left
    with lock: left -= 1
    return left < 0
def replace(a, b):
    if where == 'rename' and count_down(): os._exit(9)
    real_replace(a, b)
def write(path, data):
    if where == 'write' and count_down():
        real_write(path, data[:len(data)//2]); os._exit(9)
    return real_write(path, data)
os.replace, Path.write_bytes = replace, write
organize.organize_frames(sys.argv[1], sys.argv[2], mode=mode, progress=False)
'''

@pytest.mark.parametrize('mode,where', [('copy', 'write'), ('move', 'rename')])
def test_killed_run_continues(tmp_path, mode, where):
    "Killed in the middle of a write, or between write and rename: nothing half-written is visible, and the next run ends as if nothing had happened"
    run(heap(tmp_path/'whole'), tmp_path/'expected')
    source, out = heap(tmp_path/'in'), tmp_path/'out'
    died = subprocess.run([sys.executable, '-c', KILLED, str(source), str(out), mode, '9', where], capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    expected, there = tree(tmp_path/'expected'), {name: data for name, data in tree(out).items() if not Path(name).name.startswith('.')}
    assert 0 < len(there) < len(expected)
    for name, data in there.items(): assert data == expected[name], name
    report = run(source, out, mode=mode)
    assert report.exit_status == 0 and tree(out) == expected                      # no leftovers either
    before = stamps(out)
    run(source, out, mode=mode)
    assert stamps(out) == before


@pytest.mark.parametrize('first', ['copy', 'symlink', 'hardlink'])
def test_move_after_another_mode_takes_the_sources_away(tmp_path, first):
    "Also the end of a move across disks that was killed between copy and removal"
    source, out = heap(tmp_path/'in', kind='labelTrainIds', label=13), tmp_path/'out'
    run(source, out, mode=first)
    expected = tree(out)
    assert run(source, out, mode='move', dry_run=True).exit_status == 0 and len(list(source.rglob('*.png'))) == 24
    assert run(source, out, mode='move').exit_status == 0
    assert not list(source.rglob('*.png')) and tree(out) == expected and not any(p.is_symlink() for p in out.rglob('*'))


def test_move_across_disks(tmp_path, monkeypatch):
    source, out, real = heap(tmp_path/'in'), tmp_path/'out', os.replace
    def other_disk(a, b):
        if Path(a).parent != Path(b).parent: raise OSError(errno.EXDEV, 'Invalid cross-device link')
        real(a, b)
    monkeypatch.setattr(organize.os, 'replace', other_disk)
    report = run(source, out, mode='move')
    assert report.exit_status == 0 and not list((source/'frames').iterdir())
    assert tree(out) == (run(heap(tmp_path/'again'), tmp_path/'copy') and tree(tmp_path/'copy'))


def test_move_of_links_takes_the_pictures(tmp_path):
    kept = heap(tmp_path/'kept', labelled=()); source = tmp_path/'in'; source.mkdir()
    for p in (kept/'frames').iterdir(): (source/p.name).symlink_to(os.path.relpath(p, source))
    assert run(source, tmp_path/'out', mode='move').exit_status == 0
    assert not list(source.iterdir()) and len(list((kept/'frames').iterdir())) == 18
    assert all(not p.is_symlink() and picture_size(p.read_bytes()) for p in (tmp_path/'out').rglob('*.png'))


def test_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    source, out, real = heap(tmp_path/'in'), tmp_path/'out', Path.write_bytes
    def write(path, data):
        if '000001_000003' in path.name: real(path, data[:10]); raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path, data)
    monkeypatch.setattr(Path, 'write_bytes', write)
    report = run(source, out)
    assert [(p.reason, 'No space left' in p.detail) for p in report.skipped] == [('file system', True)]
    assert report.frames == 17 and not [p for p in out.rglob('*') if p.name.startswith('.')]
    monkeypatch.undo()
    assert run(source, out).done == {'frames copied': 1, 'frames kept': 17, 'labels kept': 6}


def test_interrupt_stops_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    source, out, real = heap(tmp_path/'in'), tmp_path/'out', organize._run_job
    def job(job, options):
        if job.name.key == ('aachen', '000001', 3): raise KeyboardInterrupt
        return real(job, options)
    monkeypatch.setattr(organize, '_run_job', job)
    with pytest.raises(KeyboardInterrupt): run(source, out)
    assert not [p for p in out.rglob('.*')]
    monkeypatch.undo()
    assert run(source, out).frames == 18


# ---- arguments
def test_dry_run_writes_nothing_and_finds_everything(tmp_path):
    source = heap(tmp_path/'in')
    (source/'frames/aachen_000000_000000_leftImg8bit.png').write_bytes(b'no picture')
    before = stamps(tmp_path)
    dry = run(source, tmp_path/'out', dry_run=True)
    assert stamps(tmp_path) == before
    real = run(source, tmp_path/'out')
    assert dry.skipped == real.skipped and dry.done == real.done and dry.splits == real.splits


def test_bad_arguments_are_refused(tmp_path):
    source = heap(tmp_path/'in', sequences=1)
    for kwargs, error, text in [(dict(mode='teleport'), ValueError, 'teleport'), (dict(val=-0.1), ValueError, 'between 0 and 1'), (dict(val='0.2'), ValueError, 'between 0 and 1'),
                                (dict(val=float('nan')), ValueError, 'between 0 and 1'), (dict(split='city'), ValueError, "split='city'")]:
        with pytest.raises(error, match=text): run(source, tmp_path/'out', **kwargs)
    with pytest.raises(FileNotFoundError, match='no such folder'): run(tmp_path/'nothing', tmp_path/'out')
    with pytest.raises(NotADirectoryError): run(source/'frames/aachen_000000_000000_leftImg8bit.png', tmp_path/'out')
    with pytest.raises(ValueError, match='same folder'): run(source, tmp_path/'elsewhere'/'..'/'in')
    (tmp_path/'void').mkdir()
    with pytest.raises(ValueError, match='no frames in'): run(tmp_path/'void', tmp_path/'out')
    assert not (tmp_path/'out').exists()


def test_output_inside_input(tmp_path):
    source = heap(tmp_path/'in')
    first = run(source, source/'tidy')
    again = run(source, source/'tidy')
    assert first.exit_status == again.exit_status == 0 and again.frames == 18 and again.done == {'frames kept': 18, 'labels kept': 6}


def test_other_label_sets(tmp_path):
    report = run(heap(tmp_path/'in', city='cam', label=11), tmp_path/'out', labels=camvid_labels)
    assert report.exit_status == 0
    assert {int(np.asarray(Image.open(p)).max()) for p in (tmp_path/'out/gtFine').rglob('*.png')} == {255}
    assert run(heap(tmp_path/'in2', city='cam', label=12), tmp_path/'out2', labels=camvid_labels).exit_status == 1


def test_command(tmp_path, capsys):
    source = heap(tmp_path/'in')
    assert segvid_organize(input_dir=str(source), output_dir=str(tmp_path/'out'), json='-', quiet=True) == 0
    assert json.loads(capsys.readouterr().out)['splits']['val']['sequences'] == 1
    (source/'odd.png').write_bytes(b'')
    command = [sys.executable, '-c', 'import sys; from segvid.organize import segvid_organize; sys.exit(segvid_organize())']
    done = subprocess.run([*command, '--input_dir', str(source), '--output_dir', str(tmp_path/'out2'), '--val=0.5', '--mode', 'symlink', '--json', str(tmp_path/'r.json')],
                          capture_output=True, text=True)
    assert done.returncode == 1 and 'odd.png' in done.stdout and not done.stderr
    assert json.loads((tmp_path/'r.json').read_text())['mode'] == 'symlink'
    done = subprocess.run([*command, '--input_dir', str(source), '--output_dir', str(tmp_path/'out3'), '--dry_run', '--json'], capture_output=True, text=True)
    assert done.returncode == 1 and json.loads(done.stdout)['mode'] == 'copy' and not (tmp_path/'out3').exists()    # like the other commands: printed, and nothing else


# ---- snippets and neighbours
@quick
@given(st.sets(st.integers(0, 80)), st.integers(1, 5))
def test_snippets_are_a_partition_without_gaps(numbers, step):
    snippets = split_snippets(numbers, step)
    assert sorted(numbers) == [n for snippet in snippets for n in snippet]
    assert all(b-a <= step for snippet in snippets for a, b in zip(snippet, snippet[1:]))
    assert all(b[0]-a[-1] > step for a, b in zip(snippets, snippets[1:]))


def chosen_plainly(numbers, current, dilation, missing):
    "The policies once more, in plain loops"
    wanted = [current+d for d in dilation]
    if all(w in numbers for w in wanted): return wanted+[current]
    if missing == 'drop': return [w for w in wanted if w in numbers]+[current]
    if missing == 'mirror' and all(current-d in numbers for d in dilation): return [current-d for d in dilation]+[current]
    answer = []
    for w in wanted:
        distance = 0
        while True:
            near = [n for n in (w-distance, w+distance) if n in numbers]
            if near: answer.append(min(near, key=lambda n: (abs(n-current), n))); break
            distance += 1
    return answer+[current]


@quick
@given(st.sets(st.integers(0, 40), min_size=1), st.data(), st.lists(st.integers(-12, 6).filter(bool), unique=True, max_size=5), st.sampled_from(['mirror', 'repeat', 'drop']))
def test_policies(numbers, data, dilation, missing):
    current = data.draw(st.sampled_from(sorted(numbers)))
    chosen = choose_frames(sorted(numbers), current, dilation, missing)
    assert chosen == chosen_plainly(numbers, current, dilation, missing)
    assert chosen[-1] == current and set(chosen) <= numbers
    if missing != 'drop': assert len(chosen) == len(dilation)+1
    absent = [current+d for d in dilation if current+d not in numbers]
    if absent:
        with pytest.raises(ValueError, match='not in its snippet'): choose_frames(numbers, current, dilation, 'error')
    else: assert choose_frames(numbers, current, dilation, 'error') == chosen


@pytest.mark.parametrize('numbers,current,offset,expected', [([0, 6, 9], 9, -6, 6), ([1, 4, 10], 1, 6, 4), ([0, 4, 9], 9, -7, 4), ([5], 5, -3, 5), ([3, 5, 7], 5, -4, 3)])
def test_ties_go_to_the_frame_nearer_to_the_current_one(numbers, current, offset, expected):
    assert choose_frames(numbers, current, [offset], 'repeat') == [expected, current]


@quick
@given(st.sets(st.integers(0, 30), min_size=1), st.lists(st.integers(-9, -1), unique=True, max_size=4))
def test_counts_agree_with_the_choice(numbers, dilation):
    counts = neighbour_counts([(numbers, numbers)], dilation)
    kinds = Counter()
    for n in numbers:
        chosen = choose_frames(numbers, n, dilation)[:-1]
        kinds['all' if chosen == [n+d for d in dilation] else 'mirror' if chosen == [n-d for d in dilation] else 'repeat' if len(numbers) > 1 else 'none'] += 1
    assert {kind: count for kind, count in counts.items() if count} == dict(kinds)


# ---- real video
def test_real_video(shared, tmp_path):
    report = run(shared/'data/cityscapes_raw', tmp_path/'out', val=0.2, mode='symlink')
    assert report.exit_status == 0 and report.sizes == {'1024x2048': 150} and report.gaps == []
    assert report.splits == dict(train=dict(sequences=4, snippets=4, frames=120, labelled=120), val=dict(sequences=1, snippets=1, frames=30, labelled=30))
    assert run(shared/'data/cityscapes_raw', tmp_path/'out', mode='symlink').done == {'frames kept': 150, 'labels kept': 150}
    label = next((tmp_path/'out/gtFine').rglob('*.png'))
    raw = next((shared/'data/cityscapes_raw/labels').glob(label.name.replace('labelTrainIds', 'labelIds')))
    assert (np.asarray(Image.open(label)) == cityscapes_labels.encode(Image.open(raw))).all()
    found = check_dataset(tmp_path/'out', verify=False, progress=False).dilation
    assert [row['all'] for row in found] == [4*21, 21] and [row['mirror'] for row in found] == [4*9, 9]
