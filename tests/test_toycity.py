"The toy city: every pixel fixed by the seed, labels exact, folders whole or untouched"
import hashlib, json, os, subprocess, sys
import numpy as np
import pytest
from PIL import Image
from segvid import toycity
from segvid.labels import cityscapes_labels
from segvid.organize import check_dataset
from segvid.toycity import StreetCamera, draw_shapes, make_toycity, plan_street, street_camera, street_shapes, toycity_frame

SMALL = dict(sequences=3, frames=4, val=1, size=(32, 64))

def digest(folder):
    "One hash over names and bytes of all PNG files"
    files = sorted(folder.rglob('*.png'))
    return hashlib.sha256(b''.join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()

def test_same_pixels_in_another_process(tmp_path):
    make_toycity(tmp_path/'here', **SMALL)
    code = f"from segvid.toycity import make_toycity; make_toycity({str(tmp_path/'there')!r}, **{SMALL!r})"
    subprocess.run([sys.executable, '-c', code], check=True, env=dict(os.environ, PYTHONHASHSEED='5', OMP_NUM_THREADS='1'))
    assert digest(tmp_path/'here') == digest(tmp_path/'there')

def test_same_pixels_twice_and_other_pixels_for_another_seed(tmp_path):
    make_toycity(tmp_path/'a', **SMALL)
    plan_street.cache_clear()
    make_toycity(tmp_path/'b', **SMALL)
    make_toycity(tmp_path/'c', seed=1, **SMALL)
    assert digest(tmp_path/'a') == digest(tmp_path/'b') != digest(tmp_path/'c')

def test_longer_film_begins_like_the_shorter(tmp_path):
    short, long = make_toycity(tmp_path/'s', **SMALL), make_toycity(tmp_path/'l', **{**SMALL, 'frames': 6})
    for f in short.rglob('*.png'): assert f.read_bytes() == (long/f.relative_to(short)).read_bytes()

def test_frames_far_down_the_street():
    late = toycity_frame(sequence=3, frame=1000, noise=0, flicker=0, dropout=0)
    assert len(np.unique(late.mask)) >= 6                              # the street does not end

def test_the_tree_is_a_sound_dataset(tmp_path):
    report = check_dataset(make_toycity(tmp_path/'city', **SMALL), dilation=[-3, -2, -1])
    assert report.exit_status == 0 and not report.gaps and report.labelled == report.frames == 12
    assert {name: split['sequences'] for name, split in report.splits.items()} == dict(train=2, val=1)

def test_every_frame_is_labelled_and_split_by_sequence(tmp_path):
    city = make_toycity(tmp_path/'city', **SMALL)
    frames = sorted(city.glob('leftImg8bit/*/toycity/*_leftImg8bit.png'))
    assert len(frames) == 12
    sides = {}
    for f in frames:
        label = city/'gtFine'/f.parts[-3]/'toycity'/f.name.replace('leftImg8bit', 'gtFine_labelTrainIds')
        assert Image.open(f).size == Image.open(label).size == (64, 32)
        assert Image.open(f).mode == 'RGB' and Image.open(label).mode == 'L'
        sides.setdefault(f.name.split('_')[1], set()).add(f.parts[-3])
    assert sides == {'000000': {'train'}, '000001': {'train'}, '000002': {'val'}}

def test_labels_are_classes_and_nothing_between():
    names = 'road sidewalk building pole vegetation sky person car'.split() + ['traffic sign']
    seen = set().union(*(np.unique(toycity_frame(s, t).mask).tolist() for s in range(4) for t in (0, 15, 29)))
    assert seen == {cityscapes_labels.index(n) for n in names}

def test_label_is_the_class_at_the_center_of_the_pixel():
    street = plan_street(0, 2)
    shapes = street_shapes(street, 7)
    _, mask = draw_shapes(shapes, street_camera(street, 7, (64, 128)), street.sky)
    _, large = draw_shapes(shapes, street_camera(street, 7, (192, 384)), street.sky, supersample=1)
    assert (mask == large[1::3, 1::3]).mean() > 0.9999                 # the last digits of pixel coordinates may differ

def test_truth_does_not_depend_on_the_spoiling():
    clean, spoiled = toycity_frame(1, 9, noise=0, flicker=0, dropout=0), toycity_frame(1, 9, noise=0.3, flicker=1, dropout=0.8)
    assert (clean.mask == spoiled.mask).all()
    assert (clean.image == clean.clean).all() and not clean.washed.any()

@pytest.mark.parametrize('knob, low, high', [('noise', 0.02, 0.3), ('flicker', 0.1, 1.), ('dropout', 0.1, 0.8)])
def test_a_stronger_knob_spoils_more(knob, low, high):
    def damage(strength):
        options = {**dict(noise=0, flicker=0, dropout=0), knob: strength}
        reference = [toycity_frame(0, t, noise=0, flicker=0, dropout=0).image.astype(float) for t in range(8)]
        return np.mean([np.abs(toycity_frame(0, t, **options).image - r).mean() for t, r in enumerate(reference)])
    assert damage(high) > 2*damage(low) > 0

@pytest.mark.parametrize('size', [(16, 16), (33, 71), (96, 192), (128, 64)])
def test_sizes(size):
    toy = toycity_frame(0, 3, size=size)
    assert toy.image.shape == (*size, 3) and toy.mask.shape == toy.washed.shape == size

def test_interrupted_build_is_finished(tmp_path, monkeypatch):
    whole = digest(make_toycity(tmp_path/'whole', **SMALL))
    write, count = toycity._write_png, []
    def stop(*args):
        count.append(1)
        if len(count) == 8: raise KeyboardInterrupt
        write(*args)
    monkeypatch.setattr(toycity, '_write_png', stop)
    with pytest.raises(KeyboardInterrupt): make_toycity(tmp_path/'city', **SMALL)
    assert len(list((tmp_path/'city').rglob('*.png'))) == 7
    monkeypatch.undo()
    assert digest(make_toycity(tmp_path/'city', **SMALL)) == whole
    assert not list((tmp_path/'city').rglob('*.part'))

def test_asked_again_it_renders_nothing(tmp_path, monkeypatch):
    make_toycity(tmp_path, **SMALL)
    def never(*args, **kwargs): raise AssertionError('rendered again')
    monkeypatch.setattr(toycity, 'toycity_frame', never)
    assert make_toycity(tmp_path, **SMALL) == tmp_path

def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path/'letters').mkdir()
    (tmp_path/'letters'/'dear.txt').write_text('keep me')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match='holds no toycity.json'): make_toycity(tmp_path/'letters', overwrite=overwrite, **SMALL)
    assert [f.name for f in (tmp_path/'letters').iterdir()] == ['dear.txt']

def test_another_film_is_replaced_only_on_request(tmp_path):
    make_toycity(tmp_path, **SMALL)
    before = digest(tmp_path)
    with pytest.raises(ValueError, match='noise=0.06 .asked for 0.2.'): make_toycity(tmp_path, noise=0.2, **SMALL)
    assert digest(tmp_path) == before
    smaller = {**SMALL, 'frames': 2}
    make_toycity(tmp_path, overwrite=True, **smaller)
    assert len(list(tmp_path.rglob('*.png'))) == 12                    # nothing of the longer film is left
    assert json.loads((tmp_path/'toycity.json').read_text())['frames'] == 2

def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('SEGVID_CACHE', str(tmp_path))
    a, b = make_toycity(**SMALL), make_toycity(seed=1, **SMALL)
    assert a != b and a.parent == b.parent == tmp_path
    assert make_toycity(**SMALL) == a

@pytest.mark.parametrize('options, words', [
    (dict(noise=0.7), 'noise=0.7: expected a number in 0..0.5'), (dict(flicker=-0.1), 'flicker=-0.1'), (dict(dropout=1), 'dropout=1'),
    (dict(seed=-1), 'seed=-1'), (dict(size=(8, 8)), '16 pixels'), (dict(frames=0), 'frames=0'), (dict(val=9), 'val=9')])
def test_wrong_arguments(tmp_path, options, words):
    with pytest.raises(ValueError, match=words): make_toycity(tmp_path/'new', **{**SMALL, **options})
    assert not (tmp_path/'new').exists()

def test_things_behind_the_camera_are_not_drawn():
    behind = toycity._facing(-9, 9, 0, 9, -5, 'car', (0, 0, 0))
    _, mask = draw_shapes([behind], StreetCamera())
    assert (mask == cityscapes_labels.index('sky')).all()
