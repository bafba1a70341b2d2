"Other people's trees: each layout in a few tiny frames of our own making, read exactly; faults are named; no recording on both sides; broken files under both policies"
import json, os, shutil
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from torch.utils.data import DataLoader
from segvid.augment import ClipDataLoaders
from segvid.clips import ClipDataset, FrameIndex, read_frame, seconds_to_frames
from segvid.labels import LabelSet, camvid32_labels, camvid_from_codes, camvid_labels, cityscapes_labels, vspw_labels
from segvid.organize import check_dataset, find_layout, layouts, scan_folder

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding capabilities:DeprecationWarning')
H, W = 24, 32
CODES = '''Animal Archway Bicyclist Bridge Building Car CartLuggagePram Child Column_Pole Fence LaneMkgsDriv LaneMkgsNonDriv Misc_Text MotorcycleScooter
OtherMoving ParkingBlock Pedestrian Road RoadShoulder Sidewalk SignSymbol Sky SUVPickupTruck TrafficCone TrafficLight Train Tree Truck_Bus Tunnel VegetationMisc Void Wall'''.split()
ELEVEN = dict(sky='Sky', building='Bridge Building Wall Tunnel Archway', pole='Column_Pole TrafficCone', road='Road LaneMkgsDriv LaneMkgsNonDriv',
    pavement='Sidewalk ParkingBlock RoadShoulder', tree='Tree VegetationMisc', sign='SignSymbol Misc_Text TrafficLight', fence='Fence',
    car='Car SUVPickupTruck Truck_Bus Train OtherMoving', pedestrian='Pedestrian Child CartLuggagePram Animal', bicyclist='Bicyclist MotorcycleScooter')
OWN = LabelSet('own', ['scene', 'walker', 'dog'], [(90, 90, 90), (200, 30, 30), (10, 200, 10)])


def frame(path, n):
    "A frame of one color that tells who it is"
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (W, H), (n % 250, 60, 90)).save(path)

def mask(path, *values, colors=None):
    "A label picture in stripes of the given values"
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.repeat(np.array(values, np.uint8), -(-W//len(values)))[None, :W].repeat(H, 0)
    Image.fromarray(ids if colors is None else np.array(colors, np.uint8)[ids]).save(path)

def segnet(root, lists=False):
    moments = dict(train=[('0001TP', 6690+30*n) for n in range(4)] + [('0006R0_f', 930+30*n) for n in range(4)] + [('0016E5', 7860+30*n) for n in range(3)] + [('0016E5', 8190+30*n) for n in range(3)],
                   val=[('0016E5', 7959+2*n) for n in range(6)], test=[('0001TP', 8550+30*n) for n in range(4)] + [('Seq05VD_f', 30*n) for n in range(4)])
    for split, files in moments.items():
        stems = [f'{s}{n:05d}' if s.endswith('_f') else f'{s}_{n:0{6 if s == "0001TP" else 5}d}' for s, n in files]
        for stem, (s, n) in zip(stems, files): frame(root/split/f'{stem}.png', n); mask(root/f'{split}annot'/f'{stem}.png', n % 11, 11)
        if lists: (root/f'{split}.txt').write_text('\n'.join(f'/SegNet/CamVid/{split}/{s}.png /SegNet/CamVid/{split}annot/{s}.png' for s in stems) + '\n')
    return root

def fastai(root, colors=None):
    moments = [('0001TP_', 6690+30*n, 6) for n in range(4)] + [('Seq05VD_f', 30*n, 5) for n in range(4)] + [('0016E5_', 7920, 5)] + [('0016E5_', 7959+2*n, 5) for n in range(4)] + [('0016E5_', 8190, 5)]
    for s, n, pad in moments:
        frame(root/f'images/{s}{n:0{pad}d}.png', n); mask(root/f'labels/{s}{n:0{pad}d}_{"P" if colors is None else "L"}.png', n % 32, 30, colors=colors)
    (root/'codes.txt').write_text('\n'.join(CODES)+'\n')
    (root/'valid.txt').write_text('\n'.join(f'0016E5_{7959+2*n:05d}.png' for n in range(4))+'\n')
    return root

def vspw(root, step=1):
    for v, video in enumerate(('0_wHZ0', '12_sea', '127_-hIVC')):
        for n in range(5): frame(root/f'data/{video}/origin/{100+step*n:08d}.jpg', n); mask(root/f'data/{video}/mask/{100+step*n:08d}.png', 0, 255, 1, 124, 10*v+n)
    for split, names in dict(train=['0_wHZ0', '12_sea'], val=['127_-hIVC']).items(): (root/f'{split}.txt').write_text('\n'.join(names)+'\n')
    return root

def own(root, splits=('train/', 'train/', 'val/'), labels=True):
    for v, split in enumerate(splits):
        for n in range(6): frame(root/f'{split}video{v}/frames/shot_{n:04d}.jpg', n)
        for n in (2, 5): mask(root/f'{split}video{v}/masks/shot_{n:04d}.png', 0, 1, 2, 255)
    if labels: (root/'labels.json').write_text(json.dumps(OWN.to_dict()))
    return root

def official(root, kind='labelIds', splits=('train', 'val', 'test')):
    towns = dict(train='aachen', val='frankfurt', test='berlin')
    for split in splits:
        for n in range(10, 25): frame(root/f'leftImg8bit_sequence/{split}/{towns[split]}/{towns[split]}_000000_{n:06d}_leftImg8bit.png', n)
        base = root/f'gtFine/{split}/{towns[split]}/{towns[split]}_000000_000019_gtFine'
        mask(f'{base}_{kind}.png', *([7, 0, 26] if kind == 'labelIds' else [0, 255, 13])); mask(f'{base}_color.png', 0, colors=[(128, 64, 128)]); mask(f'{base}_instanceIds.png', 7)
        Path(f'{base}_polygons.json').write_text('{}')
    return root

MAKERS = dict(camvid=segnet, camvid32=fastai, vspw=vspw, folder=own, cityscapes=official)
def faults(root, **kwargs): return sorted((p.path, p.reason) for p in check_dataset(root, progress=False, **kwargs).skipped)


@pytest.mark.parametrize('name', MAKERS)
def test_layout_is_found_read_and_clean(tmp_path, name):
    root = MAKERS[name](tmp_path/'data')
    assert find_layout(root) == scan_folder(root).layout == name
    report = check_dataset(root, progress=False)
    assert report.skipped == [] and report.layout == f'{name}: {layouts[name].says}' and report.labelled and report.frames
    assert json.loads(report.to_json())['layout'] == report.layout
    dls = ClipDataLoaders.from_path(root, size=(16, 32), bs=2, num_workers=0, device='cpu')
    assert not set(dls.train_ds.index.sequences) & set(dls.valid_ds.index.sequences)
    for dl in dls:
        x, y = dl.one_batch()
        assert x.shape[1] == 4 and y.max() == 255 or y.max() < dls.c
        assert ((y < dls.c) | (y == 255)).all()
    index = FrameIndex(root, 'val')                                        # the same kind of index everywhere: streams and labels
    seen = [r for snippet in index.stream() for r, f, m in snippet]
    assert seen == index.records and index.labelled and index.step >= 1 and index.rate is not None or name == 'folder'

@pytest.mark.parametrize('name', MAKERS)
def test_every_layout_names_its_faults(tmp_path, name):
    root = MAKERS[name](tmp_path/'data')
    names = dict(camvid=('train/0001TP_006690.png', *(f'trainannot/0006R0_f{n:05d}.png' for n in (930, 960, 990))),
                 camvid32=('images/0001TP_006690.png', *(f'labels/Seq05VD_f{n:05d}_P.png' for n in (0, 30, 60))),
                 vspw=('data/12_sea/origin/00000100.jpg', *(f'data/0_wHZ0/mask/{n:08d}.png' for n in (100, 101, 102))),
                 folder=('train/video0/frames/shot_0000.jpg', 'train/video0/masks/shot_0002.png', 'train/video0/masks/shot_0005.png', 'val/video2/masks/shot_0002.png'),
                 cityscapes=('leftImg8bit_sequence/train/aachen/aachen_000000_000010_leftImg8bit.png', *(f'gtFine/{s}/{c}/{c}_000000_000019_gtFine_labelIds.png'
                             for s, c in (('train', 'aachen'), ('val', 'frankfurt'), ('test', 'berlin')))))
    broken, *labels = (root/name for name in names[name])
    broken.write_bytes(broken.read_bytes()[:60])
    mask(labels[0], 199); Image.new('L', (W+2, H), 1).save(labels[1]); labels[2].write_bytes(b'')
    found = {root/p: r for p, r in faults(root)}
    assert found == {broken: 'unreadable', labels[0]: 'label value', labels[1]: 'label size', labels[2]: 'unreadable'}


# ---- CamVid
@pytest.mark.parametrize('lists', [False, True])
def test_segnet(tmp_path, lists):
    root = segnet(tmp_path/'camvid', lists)
    train, val, test = (FrameIndex(root, s) for s in ('train', 'val', 'test'))
    assert [len(i) for i in (train, val, test)] == [14, 6, 8] and {i.labels for i in (train, val, test)} == {camvid_labels}
    assert (train.step, val.step, train.rate) == (33, 2, 30.) and [len(s) for s in train.snippets] == [4, 4, 3, 3]
    assert train.sequences == ['0001TP', '0006R0', '0016E5'] and val.sequences == ['0016E5-val'] and test.sequences == ['0001TP-test', 'Seq05VD']
    assert [note.split(' ')[0] for note in train.notes] == ['0001TP', '0016E5'] and '39 frames apart' in train.notes[1]
    for index in (train, val, test):
        for i, (frames, masks) in enumerate(data := ClipDataset(index, [-30])):
            record = data.items[i][-1]
            assert masks[-1].unique().tolist() == sorted({record.frame % 11, 255}) and int(frames[-1, 0, 0, 0]) == record.frame % 250
    clip = [r.frame for r in ClipDataset(train, [-60, -30]).items[2]]
    assert clip == [6690, 6720, 6750]

def test_segnet_partial_copies(tmp_path):
    root = segnet(tmp_path/'camvid')
    for split in ('train', 'val'): shutil.rmtree(root/split), shutil.rmtree(root/f'{split}annot')
    assert FrameIndex(root).sequences == ['0001TP', 'Seq05VD'] and find_layout(root) == 'camvid'
    with pytest.raises(ValueError, match="split='train': expected one of test"): FrameIndex(root, 'train')
    with pytest.raises(ValueError, match="split='train': expected one of test"): ClipDataLoaders.from_camvid(root)

def test_segnet_pairs_and_lists_are_checked(tmp_path):
    root = segnet(tmp_path/'camvid', lists=True)
    os.remove(root/'train/0001TP_006690.png'); os.remove(root/'valannot/0016E5_07959.png'); frame(root/'train/extra_000001.png', 1)
    assert faults(root) == [('train/0001TP_006690.png', 'missing'), ('trainannot/0001TP_006690.png', 'no frame'), ('val/0016E5_07959.png', 'no label'), ('valannot/0016E5_07959.png', 'missing')]
    for split in ('train', 'val', 'test'): os.remove(root/f'{split}.txt')
    frame(root/'train/strange.png', 1)
    assert ('train/strange.png', 'name') in faults(root) and ('train/extra_000001.png', 'no label') in faults(root)
    assert len(ClipDataset(FrameIndex(root, 'val'), [-2])) == 5           # the frame without a label is no clip of its own

def test_mixed_splits_are_refused(tmp_path):
    root = tmp_path/'camvid'
    for n in range(8): split = ('train', 'val')[n % 2]; frame(root/f'{split}/a_{30*n:05d}.png', n); mask(root/f'{split}annot/a_{30*n:05d}.png', 1)
    with pytest.raises(ValueError, match='a: this recording is in train and in val: .*leave it on one side only'): FrameIndex(root, 'train')
    assert faults(root) == [('a', 'split')]

@pytest.mark.parametrize('how_many', [1, 14])
def test_the_same_frames_on_both_sides_are_refused(tmp_path, how_many):
    "Copies of training frames in the folder of those that validate, one or all of them"
    root = segnet(tmp_path/'camvid')
    for p in sorted((root/'train').iterdir())[:how_many]: shutil.copy(p, root/'val'/p.name); shutil.copy(root/'trainannot'/p.name, root/'valannot'/p.name)
    with pytest.raises(ValueError, match='0001TP: this recording is in test and in train and in val, . of its frames in two of them, such as val/0001TP_006690.png'): ClipDataLoaders.from_camvid(root)
    assert ('0001TP', 'split') in faults(root) and ('val/0001TP_006690.png', 'duplicate') in faults(root)

def test_a_video_in_two_lists_is_refused(tmp_path):
    root = vspw(tmp_path/'vspw')
    (root/'val.txt').write_text('127_-hIVC\n0_wHZ0\n')
    with pytest.raises(ValueError, match='0_wHZ0: this recording is in train and in val'): ClipDataLoaders.from_vspw(root)
    assert ('0_wHZ0', 'split') in faults(root)

@pytest.mark.parametrize('name,gone', [('camvid', 'trainannot'), ('camvid32', 'labels'), ('vspw', 'data/*/mask'), ('folder', '*/*/masks'), ('cityscapes', 'gtFine')])
def test_without_masks(tmp_path, name, gone):
    "Nothing to learn from: said at once, with a file where the layout promises labels"
    root = MAKERS[name](tmp_path/'data')
    for folder in list(root.glob(gone)): shutil.rmtree(folder)
    assert find_layout(root) == name
    with pytest.raises(ValueError, match='train: .* 0 labelled.*no labelled frame' + ('.*a frame without its label' if name in ('camvid', 'camvid32', 'vspw') else '')):
        getattr(ClipDataLoaders, 'from_' + name.replace('32', ''))(root, size=(16, 32))

@pytest.mark.parametrize('name,empty', [('camvid', 'val*/*'), ('camvid32', 'valid.txt'), ('vspw', 'val.txt'), ('folder', 'val/*/*/*'), ('cityscapes', '*/val/*/*')])
def test_an_empty_split(tmp_path, name, empty):
    root = MAKERS[name](tmp_path/'data')
    for path in list(root.glob(empty)): path.unlink()
    with pytest.raises(ValueError, match=r"split='val': expected one of (test, )?train; no other split has frames in .*data.* FrameIndex\(path\).divide\(\)"): ClipDataLoaders.from_path(root, size=(16, 32))
    train, val = FrameIndex(root).divide(.3) if name != 'camvid' else FrameIndex(root, 'train').divide(.3)      # the cure
    assert train.labelled and val.labelled and not set(train.sequences) & set(val.sequences)

@pytest.mark.parametrize('gone', [0, 1, 2])
def test_videos_without_labels_train_and_never_validate(tmp_path, gone):
    root = own(tmp_path/'own', splits=('', '', ''))
    shutil.rmtree(root/f'video{gone}/masks')
    dls = ClipDataLoaders.from_folder(root, size=(H, W), dilation=[-1], num_workers=0, device='cpu')
    assert f'video{gone}' in dls.train_ds.index.sequences and len(dls.train_ds) == len(dls.valid_ds) == 2
    shutil.rmtree(root/f'video{(gone+1) % 3}/masks')
    with pytest.raises(ValueError, match=rf'only one recording with labels \(video{(gone+2) % 3}\)'): ClipDataLoaders.from_folder(root)

def test_strict_split(tmp_path):
    root = segnet(tmp_path/'camvid')
    dls = ClipDataLoaders.from_camvid(root, split='recording', num_workers=0)
    assert dls.train_ds.index.sequences == ['0006R0'] and dls.valid_ds.index.sequences == ['0016E5-val']
    with pytest.raises(ValueError, match="split='frames'"): ClipDataLoaders.from_camvid(root, split='frames')
    shutil.rmtree(root/'train'); [frame(root/f'train/0016E5_{n:05d}.png', n) for n in (7860, 7890)]
    with pytest.raises(ValueError, match='nothing is left to train on'): ClipDataLoaders.from_camvid(root, split='recording')

def test_eleven_of_thirty_two():
    lut = {name: k for k, names in enumerate(ELEVEN.values()) for name in names.split()} | dict(Void=255)
    assert list(ELEVEN) == list(camvid_labels.classes) and len(lut) == 32
    assert camvid32_labels.encode(np.arange(32)).tolist() == [lut[name] for name in CODES]
    shuffled = CODES[::-1]
    assert camvid_from_codes(shuffled).encode(np.arange(32)).tolist() == [lut[name] for name in shuffled]
    colors = {raw: color for raw, *color in camvid32_labels.file_colors}
    picture = np.array([[colors[CODES.index(name)] for name in CODES]], np.uint8)
    assert camvid32_labels.encode_colors(picture)[0].tolist() == [lut[name] for name in CODES]
    assert colors[CODES.index('Road')] == [128, 64, 128] and colors[CODES.index('Truck_Bus')] == [192, 128, 192]
    assert LabelSet.from_dict(json.loads(json.dumps(camvid32_labels.to_dict()))) == camvid32_labels

@pytest.mark.parametrize('colored', [False, True])
def test_fastai(tmp_path, colored):
    colors = [color for _, *color in camvid32_labels.file_colors]
    root = fastai(tmp_path/'camvid', colors if colored else None)
    train, val = FrameIndex(root, 'train'), FrameIndex(root, 'val')
    assert (len(train), len(val), val.sequences, train.labels.classes) == (10, 4, ['0016E5-val'], camvid_labels.classes)
    lut = {CODES.index(name): k for k, names in enumerate(ELEVEN.values()) for name in names.split()} | {30: 255}
    for index in (train, val):
        for i, (_, masks) in enumerate(data := ClipDataset(index, [])):
            assert masks.unique().tolist() == sorted({lut[data.items[i][-1].frame % 32], 255})
    dls = ClipDataLoaders.from_camvid(root, size=(16, 32), num_workers=0, device='cpu')
    assert dls.c == 11 and dls.one_batch()[1].shape == (2, 4, 16, 32)

def test_fastai_faults(tmp_path):
    root = fastai(tmp_path/'camvid')
    (root/'valid.txt').write_text('0016E5_07959.png\n0099XX_00001.png\n')
    assert ('images/0099XX_00001.png', 'missing') in faults(root)
    (root/'codes.txt').write_text('Sky\nTram\n')
    with pytest.raises(ValueError, match='Tram'): FrameIndex(root)
    mask(root/'labels/0001TP_006690_P.png', 31, 32); (root/'codes.txt').unlink()
    with pytest.raises(ValueError, match='0001TP_006690_P.png.*unknown raw id 32'): ClipDataset(FrameIndex(root, 'train'), [])[0]


# ---- VSPW
def test_vspw(tmp_path):
    root = vspw(tmp_path/'vspw')
    dls = ClipDataLoaders.from_vspw(root, dilation=[-2, -1], size=(16, 32), num_workers=0, device='cpu')
    assert (dls.c, dls.dilation, len(dls.train_ds), len(dls.valid_ds)) == (124, [-2, -1], 10, 5)
    _, masks = dls.valid_ds.clips[3]
    assert masks[-1].unique().tolist() == [0, 22, 123, 255]                # 1 and 124 are the first and last class, 23 the 23rd; 0 and 255 ignored
    assert dls.valid_ds.index.sequences == ['127_-hIVC'] and dls.valid_ds.items[0][-1].name == '127_-hIVC_000100'
    assert ClipDataLoaders.from_vspw(root, dilation_seconds=[-0.2], num_workers=0).dilation == [-3]
    twos = ClipDataLoaders.from_vspw(vspw(tmp_path/'twos', step=2), dilation=[-2, -1], num_workers=0)
    assert [[r.frame for r in item] for item in twos.train_ds.items[2:3]] == [[100, 102, 104]]

def test_vspw_faults(tmp_path):
    root = vspw(tmp_path/'vspw')
    (root/'train.txt').write_text('0_wHZ0\n12_sea\n99_gone\n'); frame(root/'data/55_extra/origin/00000001.jpg', 1)
    os.remove(root/'data/12_sea/mask/00000101.png'); mask(root/'data/12_sea/mask/00000077.png', 1); mask(root/'data/0_wHZ0/mask/00000100.png', 252)
    assert faults(root) == [('data/0_wHZ0/mask/00000100.png', 'label value'), ('data/12_sea/mask/00000077.png', 'no frame'),
                            ('data/12_sea/origin/00000101.jpg', 'no label'), ('data/99_gone', 'missing')]
    assert check_dataset(root, progress=False).left_out == {'videos in no list': 1}
    with pytest.raises(ValueError, match='00000100.png: vspw: unknown raw id 252'): ClipDataset(FrameIndex(root, 'train'), [])[0]


# ---- one's own
def test_own(tmp_path):
    dls = ClipDataLoaders.from_folder(own(tmp_path/'own'), dilation=[-2, -1], num_workers=0, device='cpu', aug='none')
    assert (dls.c, dls.size, dls.labels) == (3, (H, W), OWN) and len(dls.train_ds) == 4 and len(dls.valid_ds) == 2
    assert [[r.frame for r in item] for item in dls.valid_ds.items] == [[0, 1, 2], [3, 4, 5]]
    _, y = dls.valid.one_batch()
    assert y[:, :2].unique().tolist() == [255] and y[:, 2].unique().tolist() == [0, 1, 2, 255]

def test_own_without_folders_for_splits(tmp_path):
    root = own(tmp_path/'own', splits=('',)*5, labels=False)
    with pytest.raises(ValueError, match='labels.json'): ClipDataLoaders.from_folder(root)
    names = ['scene', 'walker', 'dog']
    split = lambda **o: ClipDataLoaders.from_folder(root, labels=names, num_workers=0, **o).valid_ds.index.sequences
    assert split() == ['video4'] == split(seed=3) and len(split(val=0.4)) == 2
    assert split(split_seed=1) == split(split_seed=1) and len({tuple(split(split_seed=k)) for k in range(20)}) == 5
    assert ClipDataLoaders.from_folder(root, labels=names, dilation_seconds=[-0.08], rate=25, num_workers=0).dilation == [-2]
    with pytest.raises(ValueError, match='give rate='): ClipDataLoaders.from_folder(root, labels=names, dilation_seconds=[-0.08])
    (root/'labels.json').write_text('{"name": "x"}')
    assert ('labels.json', 'labels') in faults(root)
    shutil.rmtree(tmp_path/'own'); own(tmp_path/'own', splits=('',))
    with pytest.raises(ValueError, match='only one recording'): ClipDataLoaders.from_folder(tmp_path/'own')

def test_same_video_on_both_sides(tmp_path):
    root = own(tmp_path/'own', splits=('train/', 'val/'))
    shutil.copytree(root/'train/video0', root/'val/video0', dirs_exist_ok=True)
    with pytest.raises(ValueError, match='video0'): ClipDataLoaders.from_folder(root)
    assert any(p.reason == 'duplicate' or p.reason == 'split' for p in check_dataset(root, progress=False).skipped)

def test_colored_masks_of_ones_own(tmp_path):
    root = own(tmp_path/'own')
    mask(root/'val/video2/masks/shot_0002.png', 1, 2, 0, colors=[*OWN.colors]); mask(root/'val/video2/masks/shot_0005.png', 0, 1, colors=[(1, 2, 3), (90, 90, 90)])
    data = ClipDataset(FrameIndex(root, 'val'), [])
    assert data[0][1].unique().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r'shot_0005.png: own: unknown color \(1, 2, 3\)'): data[1]
    assert [(Path(p).name, r) for p, r in faults(root)] == [('shot_0005.png', 'label value')]


# ---- Cityscapes as shipped
@pytest.mark.parametrize('kind', ['labelIds', 'labelTrainIds'])
def test_official_trees(tmp_path, kind):
    root = official(tmp_path/'cs', kind)
    dls = ClipDataLoaders.from_cityscapes(root, size=(16, 32), bs=1, num_workers=0, device='cpu')
    assert [[r.frame for r in item] for item in dls.train_ds.items] == [[10, 13, 16, 19]] and dls.valid_ds.items[0][-1].city == 'frankfurt'
    _, masks = dls.valid_ds.clips[0]
    assert masks[:3].unique().tolist() == [255] and masks[3].unique().tolist() == [0, 13, 255]
    assert ClipDataLoaders.from_cityscapes(root, dilation_seconds=[-0.5], num_workers=0).dilation == [-8]

def test_official_polygons_only(tmp_path):
    root = official(tmp_path/'cs')
    for p in root.rglob('*labelIds.png'): p.unlink()
    assert any('csCreateTrainIdLabelImgs' in note for note in check_dataset(root, progress=False).notes)
    with pytest.raises(ValueError, match='csCreateTrainIdLabelImgs'): ClipDataLoaders.from_cityscapes(root)

def test_wrong_door(tmp_path):
    root = vspw(tmp_path/'vspw')
    with pytest.raises(ValueError, match=r'looks like VSPW \(vspw\).*from_path takes any'): ClipDataLoaders.from_camvid(root)
    with pytest.raises(ValueError, match='looks like'): ClipDataLoaders.from_vspw(segnet(tmp_path/'c'))
    with pytest.raises(FileNotFoundError, match='nowhere'): ClipDataLoaders.from_path(tmp_path/'nowhere')
    with pytest.raises(ValueError, match="give one of them"): ClipDataLoaders.from_path(root, dilation=[-1], dilation_seconds=[-1])


# ---- unreadable files
def hurt(tmp_path):
    root = own(tmp_path/'own')
    (root/'train/video0/frames/shot_0001.jpg').write_bytes(b'nothing'); (root/'train/video1/masks/shot_0002.png').write_bytes(b'')
    os.remove(root/'train/video1/frames/shot_0005.jpg')
    (root/'val/video2/frames/shot_0001.jpg').write_bytes(b'')
    return root

def loaders(root, **kwargs): return ClipDataLoaders.from_folder(root, dilation=[-1], size=(H, W), bs=2, num_workers=0, device='cpu', aug='none', **kwargs)

@pytest.mark.parametrize('workers', [0, 2])
def test_unreadable_raises_with_the_path(tmp_path, workers):
    dls = loaders(hurt(tmp_path))
    with pytest.raises(OSError, match='shot_000'): list(dls.train.new(num_workers=workers))

@pytest.mark.parametrize('workers', [0, 2])
def test_unreadable_is_replaced_and_counted(tmp_path, workers):
    root = hurt(tmp_path)
    dls = loaders(root, unreadable='replace')
    with pytest.warns(UserWarning, match='2 files could not be read'): batches = list(dls.train.new(num_workers=workers, shuffle=False, drop_last=False))
    x, y = (torch.cat(part) for part in zip(*batches))
    assert torch.equal(x[0, 0], x[0, 1]) and y[0, 0].unique().tolist() == [255] and y[0, 1].unique().tolist() == [0, 1, 2, 255]      # its neighbour is broken
    assert y[2].unique().tolist() == [255]                                                    # frame 2 of video1 has lost its label
    report = dls.unreadable()
    assert {Path(path).name: n for path, n in report.items()}.keys() == {'shot_0001.jpg', 'shot_0002.png'} and all(report.values())

def test_vanished_after_the_index_was_made(tmp_path):
    root = own(tmp_path/'own')
    dls = loaders(root, unreadable='replace')
    for n in (1, 2): os.remove(root/f'train/video0/frames/shot_{n:04d}.jpg')
    with pytest.raises(OSError, match='none of the 2 frames of a clip can be read'): list(dls.train)
    with pytest.raises(ValueError, match="unreadable='skip'"): loaders(root, unreadable='skip')

def test_bad_values_are_no_accident(tmp_path):
    root = own(tmp_path/'own')
    mask(root/'train/video0/masks/shot_0002.png', 9)
    with pytest.raises(ValueError, match='unknown raw id 9'): list(loaders(root, unreadable='replace').train)

def test_streams_go_on(tmp_path):
    index = FrameIndex(hurt(tmp_path), 'train')
    with pytest.raises(OSError, match='shot_0001.jpg'): [list(s) for s in index.stream()]
    readers = list(index.stream(unreadable='replace'))
    seen = [[(r.frame, f) for r, f, m in reader] for reader in readers]
    assert [n for n, _ in seen[0]] == list(range(6)) and torch.equal(seen[0][1][1], seen[0][0][1]) and [len(r.replaced) for r in readers] == [1, 1]


# ---- the real thing
def test_real_camvid(shared):
    root = shared/'data/camvid'
    if not root.is_dir(): pytest.skip('no CamVid in the shared folder')
    train, val = FrameIndex(root, 'train'), FrameIndex(root, 'val')
    assert (len(train), len(val), len(train.labelled), len(val.labelled)) == (367, 101, 367, 101) and [len(s) for s in val.snippets] == [101]
    assert [len(s) for s in train.snippets] == [62, 101, 68, 120, 16]
    dls = ClipDataLoaders.from_camvid(root, dilation_seconds=[-3, -2, -1], bs=2, num_workers=0, device='cpu', seed=0)
    x, y = dls.one_batch()
    assert x.shape == (2, 4, 3, 360, 480) and int(y[y != 255].max()) <= 10
    assert ClipDataLoaders.from_camvid(root, split='recording', num_workers=0).train_ds.index.sequences == ['0001TP', '0006R0']
    report = check_dataset(root, verify=False, progress=False)
    assert report.exit_status == 0 and report.sizes == {'360x480': 468}
