"Label sets: the official tables, and translation as a law for any table"
import pickle
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from segvid.labels import LabelSet, camvid_labels, cityscapes_labels, spread_colors, vspw_labels

ALL = [cityscapes_labels, camvid_labels, vspw_labels]


def test_cityscapes_table_is_the_official_one():
    from cityscapesscripts.helpers.labels import labels as official
    scored = sorted((l for l in official if 0 <= l.trainId < 255), key=lambda l: l.trainId)
    assert cityscapes_labels.classes == tuple(l.name for l in scored)
    assert cityscapes_labels.ids == tuple(l.id for l in scored)
    assert cityscapes_labels.colors == tuple(l.color for l in scored)
    for l in official: assert cityscapes_labels.encode([l.id]) == [l.trainId if 0 <= l.trainId < 255 else 255], l.name
    assert sorted(cityscapes_labels.ignored) == sorted(l.id for l in official if l.ignoreInEval)


def test_camvid_and_vspw_as_published():
    assert camvid_labels.encode(np.arange(12)).tolist() == [*range(11), 255]
    # the rule of the published training code: 0 becomes 255, everything else moves down by one, 254 becomes 255
    raw = np.array([*range(125), 255], np.uint8)
    published = raw.copy(); published[raw == 0] = 255; published = published-1; published[published == 254] = 255
    assert (vspw_labels.encode(raw) == published).all()


@st.composite
def label_sets(draw):
    K = draw(st.integers(1, 200))
    numbers = draw(st.permutations(range(-1, 255)))[:K+draw(st.integers(0, 20))]
    return LabelSet('any', [f'class {k}' for k in range(K)], spread_colors(K), ids=numbers[:K], ignored=numbers[K:])


@settings(deadline=None, max_examples=40)
@given(label_sets(), st.integers(0, 2**32-1), st.sampled_from([np.uint8, np.int16, np.int32, np.int64, np.uint16]))
def test_there_and_back(labels, seed, dtype):
    rng, kept = np.random.default_rng(seed), np.array([i for i in labels.ids if i >= 0 or np.issubdtype(dtype, np.signedinteger)], int)
    if not len(kept): return
    raw = rng.choice(kept, (7, 5)).astype(dtype)
    train = labels.encode(raw)
    assert train.dtype == np.uint8 and train.max() < len(labels)
    assert (labels.decode(train) == (raw.astype(int) & 255)).all()
    assert all(labels.ids[t] == r for t, r in zip(train.flat, raw.flat))            # by the plain rule
    assert (labels.colorize(train) == np.array(labels.colors)[train]).all()


@settings(deadline=None, max_examples=60)
@given(label_sets(), st.integers(-300, 70000), st.integers(1, 9))
def test_no_unknown_value_passes(labels, value, count):
    known = {*labels.ids, *labels.ignored, labels.ignore_index}
    if known & {-1, 255}: known |= {-1, 255}                                        # -1 as a byte is 255
    raw = np.array([labels.ids[0]]*3+[value]*count)
    if value in known: assert len(labels.encode(raw)) == 3+count; return
    with pytest.raises(ValueError, match=rf'unknown raw id {value} \({count} pixel'): labels.encode(raw)


@pytest.mark.parametrize('labels', ALL, ids=lambda l: l.name)
def test_survives_pickle_and_dict(labels):
    assert pickle.loads(pickle.dumps(labels)) == labels == LabelSet.from_dict(labels.to_dict())
    assert hash(labels) == hash(LabelSet.from_dict(labels.to_dict()))


def test_pictures_and_tensors_are_taken():
    ids = Image.new('L', (4, 2), 26)
    assert cityscapes_labels.encode(ids).tolist() == [[13]*4]*2
    assert cityscapes_labels.encode(torch.full((2, 4), 26)).tolist() == [[13]*4]*2
    mask = torch.from_numpy(cityscapes_labels.encode(ids))                          # writable, so torch does not warn
    mask[0, 0] = 255
    picture = torch.rand(3, 2, 4)
    assert (cityscapes_labels.overlay(picture, mask)[0, 0] == np.rint(picture[:, 0, 0].numpy()*255)).all()
    assert cityscapes_labels.overlay(picture, mask, alpha=1)[1, 1].tolist() == list(cityscapes_labels.colors[13])


def test_wrong_shapes_and_types_are_named():
    with pytest.raises(ValueError, match='expected a color picture'): cityscapes_labels.overlay(np.zeros((4, 5)), np.zeros((4, 5), int))
    with pytest.raises(ValueError, match='resize one of them'): cityscapes_labels.overlay(np.zeros((4, 5, 3)), np.zeros((5, 4), int))
    with pytest.raises(TypeError, match='whole numbers, got float32'): cityscapes_labels.encode(np.zeros((2, 2), np.float32))
    with pytest.raises(TypeError, match='whole numbers'): cityscapes_labels.encode(Image.new('F', (2, 2)))
