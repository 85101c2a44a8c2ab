"""What ends a command is one line: a mistake, whatever the names in it, and Ctrl-C, however often."""

import signal
import subprocess
import sys

import pytest

from shapjax import errors
from shapjax.errors import UserError

# Undoes what a shell does to the tests if it runs them in the background.
HEAR_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
# A command that says when it begins, and takes its time to clean up.
COMMAND = """
import sys, time
from shapjax.errors import cleaning_up_on_interrupt, end_on_interrupt
end_on_interrupt()
with cleaning_up_on_interrupt():
    try:
        print("begun", flush=True)
        time.sleep(WORK)
    finally:
        print("cleaning", flush=True)
        time.sleep(CLEANING)
        print("cleaned")
"""
IMPORTING = """
from shapjax.errors import end_on_interrupt
end_on_interrupt()
try:
    print("begun", flush=True)
    import time
    time.sleep(60)
except BaseException as error:  # as extension modules turn it into an ImportError
    raise ImportError
"""


def begin(code):
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize(("interrupts", "cleaning", "out"), [(1, 0, ["cleaning", "cleaned"]), (2, 60, [])])
def test_ctrl_c_is_one_line_and_status_130_and_a_second_one_does_not_wait(interrupts, cleaning, out):
    process = begin(HEAR_CTRL_C + COMMAND.replace("WORK", "60").replace("CLEANING", str(cleaning)))
    process.send_signal(signal.SIGINT)
    if interrupts == 2:
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "stopped; what was saved stays\n"
    assert rest.split() == out


def test_ctrl_c_ends_the_imports_of_a_command_at_once():
    process = begin(HEAR_CTRL_C + IMPORTING)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "stopped; what was saved stays\n") and process.returncode == 130


def test_ctrl_c_that_is_ignored_stays_so():
    """As under nohup."""
    code = COMMAND.replace("WORK", "0.2").replace("CLEANING", "0")
    process = begin(f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN){code}")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "cleaning\ncleaned\n" and process.returncode == 0


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", "a\udcffb", "a\u2028b"])
def test_a_mistake_is_one_line_whatever_is_named_in_it(name):
    message = str(UserError(f"there is no file {name}"))
    assert message == "there is no file a\N{REPLACEMENT CHARACTER}b"
    fine = "NFD e\u0301, 猫 and 1\N{NARROW NO-BREAK SPACE}000"
    assert str(UserError(fine)) == fine


def test_near_names_are_found_in_another_case():
    assert errors.near_names("CAT", ["cat", "dog"]) == "did you mean cat?"
    assert errors.near_names("xyz", ["Cat", "dog"]) == "there are Cat, dog"
