# TV3S on a MiT encoder (arXiv 2503.20824). The files that build on this one name the encoder and the number of classes.
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder_clips',
    pretrained=None,
    backbone=dict(type='mit_b1', style='pytorch'),
    decode_head=dict(
        type='TV3SHead_shift_city',
        in_channels=[64, 128, 320, 512],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=19,
        num_clips=4,
        norm_cfg=norm_cfg,
        align_corners=False,
        decoder_params=dict(embed_dim=256, window_w=20, window_h=20, shift_size=10, real_shift=True, model_type=0),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
