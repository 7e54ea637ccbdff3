"""Write one direction of a model as an ONNX file, for programs without PyTorch."""

import contextlib
import io
import logging
import warnings
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn

from common.errors import UserError, one_line_errors
from common.options import make_parser
from common.tensors import derived_generator
from cyclegan_model import GENERATORS
from interop.generators import find_generators, load_generators, refuse_dtn
from interop.layouts import PUBLISHED
from parsers import add_model_options
from storage.files import atomic_write, refuse_overwriting

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4  # of a range of 2
# Steps of the image size, where it is free; not that of sagan, whose attention would be exported
# with the sizes of its feature maps.
STEPS = {"resnet8": 8, "resnet": 4, "unet": 32}


@one_line_errors
def main() -> None:
    opt = export_options()
    onnx, onnxruntime = import_packages()
    path = find_generators(opt)
    model, found = load_generators(
        path, [], batch_size=8, direction=opt.direction, image_size=opt.image_size
    )
    refuse_dtn(found, "export_onnx.py")
    if len(model.directions) > 1 and not opt.direction:
        raise UserError(
            f"--direction: {path} translates both ways and an ONNX file one; give AtoB "
            "(anime to person) or BtoA"
        )
    direction = opt.direction or model.directions[0]
    output = Path(opt.output or Path(PUBLISHED[direction]).with_suffix(".onnx"))
    refuse_overwriting(output, opt.overwrite)
    net, size = model.averaged(GENERATORS[direction]).eval(), model.opt.image_size
    step = STEPS.get(model.opt.generator)

    proto = to_onnx(net, size, step)
    onnx.helper.set_model_props(
        proto,
        {
            "direction": direction,
            "from": "anime" if direction == "AtoB" else "person",
            "to": "person" if direction == "AtoB" else "anime",
            "image_size": str(size),
            "size_step": str(step or "fixed"),
            "layout": "NCHW, RGB",
            "value_range": "-1 to 1",
        },
    )
    content = proto.SerializeToString()
    difference = compare(onnxruntime, content, net, size, step)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: onnxruntime's outputs differ from PyTorch's by {difference:.1e}, "
            f"allowed is {TOLERANCE} of a range of 2; nothing was written; another "
            "version of these packages may help"
        )
    with atomic_write(output) as file:
        file.write(content)
    print(
        f"{output}: {len(content) / 1e6:.1f} MB, {direction} of {path} ({found.about}), images "
        f"of {size} pixels{f', or any multiple of {step}' if step else ''}; onnxruntime differs "
        f"from PyTorch by at most {difference:.1e} of a range of 2"
    )


def to_onnx(net: nn.Module, size: int, step: int | None) -> "ModelProto":
    """A net (B, 3, H, W) -> (B, 3, H, W) as onnx.ModelProto: any B; any H and W if `step`."""
    shapes = {0: torch.export.Dim("batch")}
    if step:
        shapes |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    # The exporter tells its progress, and warns of its own parts, in three ways.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        program = torch.onnx.export(
            net,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            input_names=["images"],
            output_names=["translated"],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
        logging.disable(logging.NOTSET)
    assert program  # None is what the exporter of before, dynamo=False, returns
    proto = program.model_proto
    graph = proto.graph
    # Every node carries a stack trace with paths of this machine.
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")  # sizes of inner tensors, by other names than these
    for dims in (value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)):
        dims[0].dim_param = "batch"
        if step:
            dims[2].dim_param, dims[3].dim_param = "height", "width"
    return proto


def compare(
    onnxruntime: ModuleType, content: bytes, net: nn.Module, size: int, step: int | None
) -> float:
    """Largest difference of onnxruntime's outputs from PyTorch's, on batches of random images."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = derived_generator(0, "export")
    shapes = [(1, size, size), (2, size, size), (5, size, size)]
    if step:
        shapes += [(1, size + step, size + step), (2, 2 * size, size + 3 * step)]
    worst = 0.0
    for b, height, width in shapes:
        x = 2 * torch.rand(b, 3, height, width, generator=generator) - 1
        with torch.no_grad():
            expected = net(x)
        found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        if found.shape != expected.shape:
            return float("inf")
        worst = max(worst, (found - expected).abs().max().item())
    return worst


def import_packages() -> tuple[ModuleType, ModuleType]:
    """onnx and onnxruntime, and onnxscript for torch. Raises UserError where one is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"export_onnx.py needs packages that train.py does not ({error}); install "
            "them with: pip install -r requirements-onnx.txt"
        ) from error
    return onnx, onnxruntime


def export_options() -> Namespace:
    """Parse the options. Raises UserError."""
    parser = make_parser("Write one direction of a model as an ONNX file.")
    add_model_options(parser)
    files = parser.add_argument_group("file")
    files.add_argument(
        "--direction", choices=tuple(PUBLISHED), help="AtoB: anime to person; BtoA: person to anime"
    )
    files.add_argument(
        "--output", help="file; if not given: person_to_anime.onnx or anime_to_person.onnx"
    )
    files.add_argument("--overwrite", action="store_true", help="replace --output")
    return parser.parse_args()
