# TV3S with MiT-B5 on Cityscapes, 512x1024.
_base_ = ['../_base_/models/tv3s_mit.py', '../_base_/datasets/cityscapes_clips.py', '../_base_/schedules/adamw_160k.py', '../_base_/runtime/mmcv1.py']

model = dict(
    pretrained='pretrained/mit_b5.pth',
    backbone=dict(type='mit_b5'))
