"""Every command of README and docs/ is run, or docs/code.md says why not.

They are run as they stand there, in the order of the page, on a few tiny pictures; what makes nets
and trainings tiny is added at their ends.
"""

import re
import shlex
import shutil

import pytest
from conftest import ROOT
from PIL import Image
from test_celeba import tables
from test_prepare_data import noise, zipped

from demo.make import make_demo

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COUNT = 60  # pictures of each folder: labels want 20 with and 20 without
CPU = "--gpu_ids -1"
EPOCH = "--niter 1 --niter_decay 0"
SMALL = {  # what is added to a script's commands
    "train.py": f"{CPU} {EPOCH} --dataset_size 24",
    "test.py": CPU,
    "evaluate.py": f"{CPU} --dataset_size 16",
    "pretrain_encoder.py": f"{CPU} --steps 2 --batch_size 4 --width 4 --dim 8 "
    f"--dataset_size {COUNT}",
}


def commands(page):
    """The commands of a page's bash blocks: continued lines joined, no comments, && split."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL))
    lines = re.sub(r"\\\n", " ", text).splitlines()
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return [part.strip() for line in lines if line for part in line.split("&&")]


def not_run():
    """What the commands that are not run begin with, by the table of docs/code.md."""
    text = (ROOT / "docs/code.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?`) \| \S.* \|$", text.partition("| command begins with |")[2],
                      flags=re.MULTILINE)  # fmt: skip
    return tuple(start for row in rows for start in re.findall(r"`(.*?)`", row))


def added(script, words):
    """Flags that make a command tiny, where they go with those that it has."""
    if script != "train.py":
        return SMALL.get(script, "").split()
    if "--resume" in words:
        return f"{CPU} --niter 2 --niter_decay 0".split()
    if "--init_from" in words:  # its nets are those of the file
        nets = "--batch_size 4"
    elif "dtn" in words:
        nets = "--batch_size 4 --ngf 4 --ndf 4"
    else:
        nets = "--batch_size 4 --ngf 4 --ndf 4 --n_blocks 1 --warm_steps 2"
    return SMALL[script].split() + nets.split()


@pytest.fixture
def place(tmp_path, monkeypatch, script):
    """A folder with all that the commands of a page take, but not with what they make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make_demo, "__defaults__", (0, 200, 20, 64))  # not 2,000 faces, and 200
    for folder in (
        "data/anime",
        "data/person",
        "data/anime_test",
        "data/person_test",
        "own/a",
        "own/b",
    ):
        fill(tmp_path / folder)
    (tmp_path / "data/person/attributes.csv").write_text(
        "file,Male\n" + "".join(f"{n:02}.png,{n % 2}\n" for n in range(COUNT))
    )
    for name, faces in (("me.jpg", 1), ("party.jpg", 2), ("drawing.png", 1), ("photos/a.jpg", 1)):
        photograph(faces, tmp_path / name)
    for name in ("animefacedataset", "anime_crops"):
        zipped(tmp_path / "data/anime", tmp_path / f"{name}.zip")
    eyes = "".join(f"{number:02}.png,22,32,41,32\n" for number in range(COUNT))
    (tmp_path / "anime_eyes.csv").write_text(
        f"name,lefteye_x,lefteye_y,righteye_x,righteye_y\n{eyes}"
    )
    for kind, name in (("txt", "img_align_celeba"), ("csv", "archive")):
        celeba(tmp_path / name, kind)
    own = "--domain_A_path own/a --domain_B_path own/b --name sn_50000".split()
    assert script("train.py", *own, *added("train.py", own)).code == 0
    (tmp_path / "model_ckpt/pretrained").symlink_to(ROOT / "model_ckpt/pretrained")
    return tmp_path


def fill(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        noise(number, 64, 64).save(folder / f"{number:02}.png")


def photograph(faces, path):
    """Bundled faces beside each other, large enough to be found."""
    photo = Image.new("RGB", (100 + 400 * faces, 500), "grey")
    for number in range(faces):
        face = Image.open(ROOT / "test_image/inputs/person/01.png").resize((256, 256))
        photo.paste(face, (70 + 400 * number, 100))
    path.parent.mkdir(exist_ok=True)
    photo.save(path)


def celeba(folder, kind):
    """A zip of made-up CelebA pictures, its tables beside it (txt) or in it (csv)."""
    tables(folder if kind == "csv" else folder.parent, kind)
    (folder / "img_align_celeba").mkdir(parents=True)
    for number in range(1, 6):
        noise(number).save(folder / f"img_align_celeba/{number:06}.jpg")
    zipped(folder, folder.with_suffix(".zip"))
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run_as_they_stand_there(place, script, page):
    left_out = not_run()
    if page.stem == "evaluation":  # its reader has run README's commands
        assert script("train.py", "--demo", *added("train.py", ())).code == 0
    for command in commands(page):
        if command.startswith(left_out) or command == ". .venv/bin/activate":
            continue
        words = shlex.split(command)
        assert words[0] == "python", command
        if "--detect_faces" in words:
            pytest.importorskip("cv2", reason="needs opencv-python-headless<5")
        if words[1] == "prepare_data.py":
            output = place / words[words.index("--output") + 1]
            shutil.rmtree(output, ignore_errors=True)
        if words[1] == "export_onnx.py":
            pytest.importorskip("onnxscript", reason="needs requirements-onnx.txt")
        done = script(*words[1:], *added(words[1], words[2:]))
        assert done.code == 0, f"{command}\n{done.out}\n{done.err}"
        if words[1] == "prepare_data.py":
            fill(output)  # where it found too few for a training


def test_whatever_is_said_not_to_be_run_is_somewhere():
    every = [command for page in PAGES for command in commands(page)]
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    for start in not_run():
        assert any(c.startswith(start) for c in every) or f"`{start}" in text, start
