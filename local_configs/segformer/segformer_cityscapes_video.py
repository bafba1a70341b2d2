# SegFormer's encoder with TV3S's temporal head on Cityscapes video, for MMEngine's Runner and for `segvid_train --config`.
_base_ = ['../_base_/models/tv3s_mit.py', '../_base_/runtime/mmengine.py']

# What one usually changes.
data_root = 'dataset'            # what `segvid_organize --output_dir dataset` wrote
dilation = [-9, -6, -3]          # neighbours of the labelled frame, in frame numbers: clips of four frames
samples_per_gpu = 1              # clips in a batch
workers_per_gpu = 4
max_epochs = 160
crop_size = (512, 1024)          # height, width

model = dict(
    backbone=dict(type='mit_b0'),
    decode_head=dict(in_channels=[32, 64, 160, 256], num_clips=len(dilation) + 1),
    data_preprocessor=dict(type='ClipDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(crop_size[1], crop_size[0]), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop_clips', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip_clips', prob=0.5),
    dict(type='PhotoMetricDistortion_clips'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(crop_size[1], crop_size[0]), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=samples_per_gpu, num_workers=workers_per_gpu,
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'),
    dataset=dict(type='CityscapesDataset_clips', data_root=data_root, dilation=dilation,
                 data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=workers_per_gpu,
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'),
    dataset=dict(type='CityscapesDataset_clips', data_root=data_root, dilation=dilation, test_mode=True,
                 data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline))
val_evaluator = dict(type='IoUMetric_clips', iou_metrics=['mIoU'])

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0), 'head': dict(lr_mult=10.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
