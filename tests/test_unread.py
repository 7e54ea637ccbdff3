"""unread.py: no option is passed over in silence."""

import pytest

from arguments import test_options as options_of_test
from errors import UserError
from unread import TEST

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
)  # fmt: skip
def test_an_option_that_test_would_not_read_is_refused(flags, words):
    with pytest.raises(UserError, match=words):
        options_of_test(flags.split())


def test_every_row_is_of_an_option_that_its_script_has():
    import arguments

    known = {action.dest for action in arguments._test_parser()._actions}
    assert TEST.keys() <= known
