# TV3S with MiT-B0 on VSPW, 480x480 crops of 480p.
_base_ = ['../_base_/models/tv3s_mit.py', '../_base_/datasets/vspw_clips.py', '../_base_/schedules/adamw_160k.py', '../_base_/runtime/mmcv1.py']

model = dict(
    pretrained='pretrained/mit_b0.pth',
    backbone=dict(type='mit_b0'),
    decode_head=dict(in_channels=[32, 64, 160, 256], type='TV3SHead_shift', num_classes=124))
