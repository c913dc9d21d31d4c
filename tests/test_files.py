"""Files that have their name only when they are whole."""

import os
import stat

import pytest

from sksmooth._files import whole_file


@pytest.mark.parametrize("sync", [True, False])
def test_replaces_what_was_there(tmp_path, sync):
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(path, sync=sync) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_leaves_the_old_one_after_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), whole_file(path) as unfinished:
        unfinished.write_text(b"half")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with whole_file(tmp_path / "link") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with whole_file(tmp_path / "pipe") as path:
        assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_that_is_not_there(tmp_path):
    file = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as told, whole_file(file) as unfinished:
        unfinished.write_text("new")
    assert told.value.filename == str(file)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(NotADirectoryError) as told, whole_file(tmp_path / "file" / "b") as other:
        other.write_text("new")
    assert told.value.filename == str(tmp_path / "file" / "b")


@pytest.mark.parametrize("name", ["n" * 255, "名" * 85])
def test_a_name_as_long_as_the_system_takes(name, tmp_path):
    with whole_file(tmp_path / name) as unfinished:
        unfinished.write_text("new")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="has no names of open files")
def test_a_pipe_that_is_open_is_written_to():
    to_read, to_write = os.pipe()
    with whole_file(f"/dev/fd/{to_write}") as path:
        path.write_text("new")
    os.close(to_write)
    with open(to_read) as pipe:
        assert pipe.read() == "new"


def test_who_may_read_it_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert stat.S_IMODE(unfinished.stat().st_mode) == 0o600
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
