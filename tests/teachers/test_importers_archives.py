"""Zip archives made to hurt, built member by member."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile

import pytest

from pd_jax.teachers.importers.archives import check_archive, member_names, read_members
from pd_jax.teachers.metadata import Malformed


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, mode: int = 0) -> io.BytesIO:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")  # Of names that occur twice.
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = mode << 16
            file.writestr(info, content)
    return buffer


def refusal(file: io.BytesIO, limit: int = 2**20) -> str:
    with pytest.raises(Malformed) as refused:
        read_members(file, {"data": limit})
    return str(refused.value)


def test_members_are_read_and_absent_ones_left_out():
    file = archive(("data", b"text"), ("other/member", b"x"), ("folder/", b""))
    assert read_members(file, {"data": 4, "absent": 9}) == {"data": b"text"}
    check_archive(archive(("data", b"a" * 5000), method=zipfile.ZIP_DEFLATED))


def test_an_archive_at_the_end_of_another_file_is_not_taken_for_the_file():
    inner = archive(("data", b"text")).getvalue()
    assert member_names(io.BytesIO(inner)) == ["data"]
    outer = archive(("before", b"x"), ("inner.zip", inner), ("after", b"y")).getvalue()
    assert member_names(io.BytesIO(outer)) == ["before", "inner.zip", "after"]
    assert member_names(io.BytesIO(outer[: outer.index(inner) + len(inner)])) == []


@pytest.mark.parametrize(
    "name",
    ["../data", "a/../../b", "/etc/passwd", "\\share\\x", "..\\x", "C:\\x", "c:x", "a\\..\\b", "data\x1b[2J", "a\nb"],
)
def test_names_that_leave_the_archive_are_refused(name):
    assert refusal(archive(("data", b""), (name, b"x"))).endswith("lies outside the archive; nothing was unpacked")


def test_a_name_that_is_cut_at_a_null_byte_is_refused():
    file = archive(("data", b""), ("dataX.py", b"x"))
    raw = file.getvalue().replace(b"dataX.py", b"data\0.py")
    assert refusal(io.BytesIO(raw)) == "holds 'data\\x00.py' twice"


def test_a_name_that_occurs_twice_is_refused():
    assert refusal(archive(("data", b"a"), ("data", b"b"))) == "holds 'data' twice"


def test_links_are_refused():
    assert refusal(archive(("data", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)).startswith("member 'data' is a link")


def test_encrypted_members_are_refused():
    raw = bytearray(archive(("data", b"x")).getvalue())
    place = raw.index(b"PK\x01\x02")
    raw[place + 8] |= 1
    assert refusal(io.BytesIO(bytes(raw))) == "member 'data' is encrypted"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compressions_are_refused(method):
    assert "only stored and deflated ones are read" in refusal(archive(("data", bytes(100)), method=method))


def test_bombs_are_refused_before_they_are_unpacked(monkeypatch):
    archive_of_one = archive(("data", b"x"))
    bomb = archive(("data", bytes(2**28)), method=zipfile.ZIP_DEFLATED)
    assert len(bomb.getvalue()) < 2**19
    monkeypatch.delattr(zipfile.ZipFile, "open")  # Without it no member can be read.
    assert refusal(bomb, limit=2**30).startswith("member 'data' would unpack from ")
    with pytest.raises(AttributeError):
        read_members(archive_of_one, {"data": 9})


def test_many_members_that_are_large_together_are_refused():
    # Stored members whose directory entries all announce the same bytes, as in overlapping bombs.
    raw = bytearray(archive(*((f"m{index}", bytes(1000)) for index in range(900))).getvalue())
    place = 0
    while (place := raw.find(b"PK\x01\x02", place)) >= 0:
        raw[place + 20 : place + 28] = (2**21).to_bytes(4, "little") * 2
        place += 4
    assert refusal(io.BytesIO(bytes(raw))) == f"would unpack to {900 * 2**21:,} bytes, more than any agent's"
    assert refusal(archive(*((f"m{index}", b"") for index in range(1001)))) == "holds 1,001 members; an agent has a few"


def test_a_member_beyond_its_limit_is_refused():
    assert refusal(archive(("data", bytes(11))), limit=10) == "member 'data' has 11 bytes, more than any agent's"
    # Others may have any size that the archive has.
    assert read_members(archive(("other", bytes(11))), {"data": 10}) == {}


def test_a_member_that_is_not_what_its_checksum_says_is_refused():
    raw = archive(("data", b"weights")).getvalue().replace(b"weights", b"weightz")
    assert refusal(io.BytesIO(raw)).startswith("not a zip archive, or a damaged one (Bad CRC-32")
