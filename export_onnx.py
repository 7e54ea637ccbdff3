"""Write one direction of a model as an ONNX file, for programs without PyTorch.

    pip install -r requirements-onnx.txt
    python export_onnx.py --direction BtoA --output person_to_anime.onnx          # the newest run
    python export_onnx.py --ckpt model_ckpt/pretrained --direction AtoB

The file takes "images" and gives "translated", float32 (B, 3, H, W), RGB in [-1, 1], of any batch
size. H and W are free, in steps of 8 for the resnet8 generator, 4 for resnet and 32 for unet, and
fixed for the sagan generator. Its metadata say so. Before it is written, onnxruntime's outputs are
compared with PyTorch's, to 1e-4.

With onnxruntime, numpy and pillow alone:

    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps

    net = onnxruntime.InferenceSession("person_to_anime.onnx")
    size = int(net.get_modelmeta().custom_metadata_map["image_size"])
    face = ImageOps.fit(Image.open("me.jpg").convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(face, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    anime = net.run(None, {"images": pixels})[0][0].transpose(1, 2, 0)
    Image.fromarray(((anime + 1) * 127.5).round().clip(0, 255).astype(np.uint8)).save("anime.png")
"""

from interop.export_onnx import main

if __name__ == "__main__":
    main()
