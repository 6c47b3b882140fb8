"""The users file and the command that writes it."""

import base64
import hashlib
import io
import os
import stat
import sys
from pathlib import Path

import pytest

from ether_broker import manage, users
from ether_broker.users import UsersError

PASSWORD = "correct horse"


class Terminal(io.StringIO):
    """Standard input of a test; a class of its own, so that a test can make it a terminal."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users.yaml"


@pytest.fixture
def run(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", Terminal(stdin))
        verb, *rest = words
        code = manage.main([verb, "--file", str(file), *rest])
        said = capsys.readouterr()
        return code, said.out, said.err.replace(str(file), "FILE")

    return run


def test_a_user_is_added_listed_and_removed(run, file: Path) -> None:
    added = run("add", "oven", "--role", "device", "--publish", "lab/oven/#", "--password-stdin", stdin=f"{PASSWORD}\n")
    listed = run("list")
    mode = stat.S_IMODE(file.stat().st_mode)
    removed = run("remove", "oven")

    assert added[0] == 0 and added[2] == ""
    assert listed[1] == "oven             device     publish lab/oven/#\n"
    assert mode == 0o600 or sys.platform == "win32"
    assert removed[0] == 0 and users.read(file) == {}


def test_both_hashes_are_of_the_password_and_it_is_not_in_the_file(run, file: Path) -> None:
    run("add", "oven", "--password-stdin", stdin=f"{PASSWORD}\n")
    user = users.read(file)["oven"]
    _, kind, iterations, salt, digest = user.mosquitto.split("$")

    assert users.verify(user.argon2, PASSWORD.encode()) and not users.verify(user.argon2, b"another")
    expected = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), base64.b64decode(salt), int(iterations))
    assert kind == "7" and base64.b64decode(digest) == expected
    assert PASSWORD not in file.read_text()


def test_passwords_of_any_characters(run, file: Path) -> None:
    password = "grün: \"'$#\\ %u"
    run("add", "oven", "--password-stdin", stdin=f"{password}\n")

    assert users.verify(users.read(file)["oven"].argon2, password.encode())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "oven", "--password-stdin"),
         "FILE: user oven exists; `ether broker users remove oven --file FILE` first"),
        (("add", "a b", "--password-stdin"), "user 'a b': a name has up to 64 letters, digits, `_`, `-` and `.`"),
        (("add", "+", "--password-stdin"), "user '+': a name has up to 64 letters, digits, `_`, `-` and `.`"),
        (("add", "ether-session", "--password-stdin"),
         "user ether-session: that name is taken by the processes of a session; choose another"),
        (("add", "ether", "--role", "device", "--password-stdin"),
         "user ether: the data of a device of that name would be ether's own topics; choose another name"),
        (("add", "x", "--role", "king", "--password-stdin"),
         "user x: 'king' is no role; there are component, recorder, device, dashboard, admin"),
        (("add", "x", "--publish", "#", "--password-stdin"),
         "user x: '#' covers the topics of ether itself; name the first level, such as lab/#"),
        (("add", "x"), "no terminal to ask for a password; give it on stdin with --password-stdin"),
        (("remove", "pump"), "FILE: no user pump; there are oven"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_change_nothing(run, file: Path, words: tuple[str, ...], why: str) -> None:
    run("add", "oven", "--password-stdin", stdin=f"{PASSWORD}\n")
    before = file.read_bytes()

    assert run(*words, stdin=f"{PASSWORD}\n") == (2, "", f"ether: {why}\n")
    assert file.read_bytes() == before


def test_a_short_password_is_refused(run, file: Path) -> None:
    code, _, said = run("add", "oven", "--password-stdin", stdin="1234567\n")

    assert (code, said.count("\n")) == (2, 1) and "8 characters at least" in said
    assert not file.exists()


def test_a_password_of_another_encoding_is_refused(run, file: Path) -> None:
    latin = "passwörter".encode("latin-1").decode(errors="surrogateescape")  # as Python reads it from stdin

    assert run("add", "oven", "--password-stdin", stdin=f"{latin}\n") == (
        2, "", "ether: user oven: the password is no UTF-8, as which devices send it\n",
    )  # fmt: skip
    assert not file.exists()


def test_the_password_is_asked_for_twice(run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([PASSWORD, "correct house"])
    monkeypatch.setattr(Terminal, "isatty", lambda self: True)
    monkeypatch.setattr(manage.getpass, "getpass", lambda prompt: next(answers))

    assert run("add", "oven") == (2, "", "ether: the two passwords differ; nothing was changed\n")
    assert not file.exists()


def test_a_missing_file_says_how_to_make_it(run) -> None:
    said = run("list")[2]

    assert said.startswith("ether: FILE: no such users file; ") and "ether broker users add NAME --file FILE" in said


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_a_file_others_may_read_is_refused(run, file: Path) -> None:
    run("add", "oven", "--password-stdin", stdin=f"{PASSWORD}\n")
    file.chmod(0o640)

    assert run("list")[2] == "ether: FILE: others on this machine may read it (mode 640); run `chmod 600 FILE`\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "not YAML: "),
        ("- oven", "not a users file; it begins with `users:`"),
        ("users: {oven: 3}", "user 'oven': a name with role, argon2 and mosquitto below it was wanted"),
        ("users: {oven: {role: device}}", "user oven: `argon2` is missing; remove the user and add it again"),
        ("users: {oven: {rule: device}}", "user oven: 'rule' is unknown; known are role, argon2,"),
        ("users: {oven: {role: device, argon2: x, mosquitto: y}}", "user oven: a hash is damaged;"),
        ("users: {oven: {role: device, argon2: x, mosquitto: y, publish: a}}", "user oven: `publish` is a list"),
    ],
)
def test_a_damaged_file_is_one_line(file: Path, text: str, why: str) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as opened:
        opened.write(text)

    with pytest.raises(UsersError) as caught:
        users.read(file)

    assert str(caught.value).startswith(f"{file}: {why}") and "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_file_and_nothing_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users.write(file, {})
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsersError, match="cannot be written: No space left on device"):
        users.write(file, {"oven": users.make_user("oven", "device", PASSWORD)})

    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]
