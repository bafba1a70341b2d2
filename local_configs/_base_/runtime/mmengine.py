# What MMEngine's Runner wants to know beside the model, the data and the schedule. The import registers segvid's parts.
custom_imports = dict(imports=['segvid.mmseg'], allow_failed_imports=False)
default_scope = 'segvid'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'))
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False
