"""A page to try a model on your own pictures, on this machine alone.

    python app.py                              # then open the address that it prints
    python app.py --port 8000 --gpu_ids -1
    python app.py --host 0.0.0.0               # for other machines too, as in a container

Choose, drop or paste a picture, or take one with the camera. The page lists every checkpoint in
model_ckpt/, the pretrained one first. requirements-app.txt brings OpenCV, which finds the faces;
without it the middle of a picture is taken.
"""

from common.device import resolve_gpu_ids
from common.errors import one_line_errors
from common.options import make_parser, whole
from viewer.web_page import serve


@one_line_errors
def main() -> None:
    parser = make_parser("Serve a page on which models translate your own pictures.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in"
    )
    parser.add_argument("--port", type=whole(0, 65535), default=7860, help="0: any free one")
    parser.add_argument(
        "--gpu_ids",
        help="a number, or -1 for the CPU; if not given: the first "
        "GPU if there is one, else the CPU",
    )
    opt = parser.parse_args()
    serve(opt.host, opt.port, resolve_gpu_ids(opt.gpu_ids)[:1])


if __name__ == "__main__":
    main()
