"Segment a film with an exported model, without PyTorch:  python onnx_video.py model.onnx film.mp4 out.mp4"
import json, sys
import av, numpy as np, onnxruntime as ort

model, source, target = sys.argv[1:4]
session = ort.InferenceSession(model, providers=['CPUExecutionProvider'])
facts = json.loads(session.get_modelmeta().custom_metadata_map['segvid'])
height, width = facts['size']
mean, std = (np.array(facts[k], np.float32) for k in ('mean', 'std'))
palette = np.array((facts['labels'] or {}).get('colors') or np.random.default_rng(0).integers(0, 256, (facts['num_classes'], 3)), np.uint8)
state = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()[1:]}          # no memory yet

with av.open(source) as film, av.open(target, 'w') as result:
    stream = result.add_stream('libx264', rate=film.streams.video[0].average_rate or 25, width=width, height=height, pix_fmt='yuv420p')
    for frame in film.decode(video=0):
        picture = frame.reformat(width, height, 'rgb24').to_ndarray()                      # (H,W,3) uint8
        pixels = ((picture/np.float32(255) - mean)/std).transpose(2, 0, 1)[None]           # (1,3,H,W)
        logits, *memory = session.run(None, {'frame': pixels, **state})
        state = dict(zip(state, memory))                                                   # to the next frame
        overlay = (picture//2 + palette[logits[0].argmax(0)]//2).astype(np.uint8)
        result.mux(stream.encode(av.VideoFrame.from_ndarray(overlay, 'rgb24')))
    result.mux(stream.encode())
