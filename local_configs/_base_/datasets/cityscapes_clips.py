# Cityscapes as clips of four frames: the labelled one and those 9, 6 and 3 frames before it.
dataset_type = 'CityscapesDataset_clips'
data_root = 'data/cityscapes'
dilation = [-9, -6, -3]
crop_size = (512, 1024)
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', img_scale=(1024, 512), ratio_range=(0.5, 2.0), process_clips=True),
    dict(type='RandomCrop_clips', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip_clips', prob=0.5),
    dict(type='PhotoMetricDistortion_clips'),
    dict(type='Normalize_clips', **img_norm_cfg),
    dict(type='Pad_clips', size=crop_size, pad_val=0, seg_pad_val=255),
    dict(type='DefaultFormatBundle_clips'),
    dict(type='Collect', keys=['img', 'gt_semantic_seg']),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1024, 512), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True, process_clips=True),
        dict(type='RandomFlip_clips'),
        dict(type='Normalize_clips', **img_norm_cfg),
        dict(type='ImageToTensor_clips', keys=['img']),
        dict(type='Collect', keys=['img']),
    ]),
]
val = dict(type=dataset_type, data_root=data_root, img_dir='leftImg8bit/val', ann_dir='gtFine/val',
           pipeline=test_pipeline, dilation=dilation, istraining=False)
data = dict(
    samples_per_gpu=1,
    workers_per_gpu=4,
    train=dict(type='RepeatDataset', times=500, dataset=dict(
        type=dataset_type, data_root=data_root, img_dir='leftImg8bit/train', ann_dir='gtFine/train',
        pipeline=train_pipeline, dilation=dilation, istraining=True)),
    val=val,
    test=val)
