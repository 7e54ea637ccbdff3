"""unread.py: no option is passed over in silence."""

import pytest

import parsers
from arguments import TEST, TRAIN, resumed_options, train_options
from arguments import test_options as options_of_test
from common.errors import UserError
from pictures import prepare as prepare_data
from pictures.prepare import FACES

ONE = "--input x.jpg --direction BtoA --output out"


@pytest.mark.parametrize(
    "flags,words",
    [
        (f"{ONE} --domain_B_path data", "--domain_B_path data: is not read beside --input x.jpg"),
        (f"{ONE} --dataset_size 5", "--dataset_size 5: is not read beside --input x.jpg"),
        (f"{ONE} --face_margin 1.5", "--face_margin 1.5: goes with --detect_faces"),
        (f"{ONE} --cascade x.xml", "--cascade x.xml: goes with --detect_faces"),
        ("--face_margin 1.5", "--face_margin 1.5: goes with --input"),
    ],
)
def test_an_option_that_test_would_not_read_is_refused(flags, words):
    with pytest.raises(UserError, match=words):
        options_of_test(flags.split())


@pytest.mark.parametrize(
    "flags,words",
    [
        (
            "--generator unet --n_blocks 9",
            "--n_blocks 9: is read only with --generator resnet8 "
            "or --generator resnet, and this is --generator unet; leave it out",
        ),
        (
            "--lambda_gp 5",
            "--lambda_gp 5.0: is read only with --gan_mode .*, and this is --gan_mode sn",
        ),
        ("--clip_value 0.5", "--clip_value 0.5: is read only with --gan_mode wgan"),
        (
            "--gan_mode wgan --no-attention",
            "--no-attention: is read only with .*--generator sagan "
            "or --discriminator sagan, and .*--discriminator patch",
        ),
        ("--init_type kaiming --init_gain 1", "--init_gain 1.0: is read only with --init_type"),
        ("--lambda_tid 5", "--lambda_tid 5.0: is read only with --model dtn"),
        ("--model dtn --n_blocks 9", "--n_blocks 9: is read only with --model cyclegan"),
    ],
)
def test_an_option_that_training_would_not_read_is_refused(flags, words):
    with pytest.raises(UserError, match=words):
        train_options(flags.split())


def test_what_a_resumed_run_would_not_read_is_refused():
    saved = vars(train_options(["--gan_mode", "wgan"])[0])
    resumed_options(saved, {"resume": True, "clip_value": 0.02})
    for given in ({"init_type": "xavier"}, {"init_gain": 1.0}):
        with pytest.raises(UserError, match="is not read beside --resume; leave one"):
            resumed_options(saved, {"resume": True} | given)
    with pytest.raises(UserError, match="--lambda_gp 5.0: is read only with --gan_mode"):
        resumed_options(saved, {"resume": True, "lambda_gp": 5.0})


@pytest.mark.parametrize("flag", ["--face_margin 1.5", "--cascade x.xml"])
def test_a_way_to_find_faces_goes_with_finding_them(flag):
    with pytest.raises(UserError, match=f"{flag}: goes with --detect_faces"):
        prepare_data.prepare_options(["--source", "a", "--output", "b", *flag.split()])


def test_every_row_is_of_an_option_that_its_script_has():
    for parser, rows in (
        (parsers.train_parser(), TRAIN),
        (parsers.test_parser(), TEST),
        (prepare_data._parser(), FACES),
    ):
        assert rows.keys() <= {action.dest for action in parser._actions}
