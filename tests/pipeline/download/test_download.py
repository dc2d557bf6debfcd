"""KiTS19 fetched from a real server on this machine, which misbehaves in every way a server can."""

import contextlib
import gzip
import hashlib
import json
import re
import shutil
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import rng

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.download import Patience, Sources, case_ids, download_dataset
from kits_unet3d.pipeline.runtime.errors import UsageError

#: What every good address gives: 40 kB that no packer makes smaller.
WHOLE = gzip.compress(rng(0).bytes(40_000), mtime=0)
QUICK = Patience(timeout_s=0.5, retries=3, wait_s=0.01)


class Server(ThreadingHTTPServer):
    """Answers ``/<mood>/…``; remembers how often each path was asked for, and with which range."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked, self.ranges = Counter(), []

    def address(self, mood: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{mood}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked[self.path] += 1
        first = self.server.asked[self.path] == 1
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that has given up
            getattr(self, self.path.split("/")[1])(first, int(asked[6:-1]) if asked else 0)
        self.close_connection = True

    def give(self, body, start=0, length=None, status=None, **headers):
        self.send_response(status or (206 if start else 200))
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(WHOLE) - 1}/{len(WHOLE)}")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def good(self, first, start):
        self.give(WHOLE[start:], start, ETag='"1"')

    def breaks(self, first, start):
        """Half of it, then nothing; the rest when asked to go on."""
        self.give(WHOLE[:15_000] if first else WHOLE[start:], start, len(WHOLE[start:]), ETag='"1"')

    def deaf(self, first, start):
        """Breaks off, and knows no ranges."""
        self.give(WHOLE[:15_000] if first else WHOLE, 0, len(WHOLE), ETag='"1"')

    def changed(self, first, start):
        """Breaks off, and has another file when asked to go on with the first."""
        if first:
            self.give(b"\x1f\x8b" + bytes(9_998), 0, 20_000, ETag='"0"')
        else:
            assert self.headers["If-Range"] == '"0"'
            self.give(WHOLE, 0, ETag='"1"')

    def nameless(self, first, start):
        """Breaks off without ever saying which version of the file it is."""
        self.give(WHOLE[:15_000] if first else WHOLE, 0, len(WHOLE))

    def elsewhere(self, first, start):
        """Goes on at another byte than it was asked to."""
        if first:
            return self.give(WHOLE[:15_000], 0, len(WHOLE), ETag='"1"')
        if start and self.server.asked[self.path] == 2:
            return self.give(WHOLE[9:], 9, ETag='"1"')
        self.give(WHOLE[start:], start, ETag='"1"')

    def stalls(self, first, start):
        self.give(WHOLE[:15_000] if first else WHOLE[start:], start, len(WHOLE[start:]), ETag='"1"')
        if first:
            self.wfile.flush()
            time.sleep(2)

    def mute(self, first, start):
        time.sleep(2)

    def busy(self, first, start):
        if first:
            return self.give(b"", status=503, Retry_After="0")
        self.give(WHOLE)

    def ill(self, first, start):
        self.give(b"", status=500)

    def missing(self, first, start):
        self.give(b"", status=404)

    def long(self, first, start):
        """Promises more than it has."""
        if start:
            return self.give(b"", status=416)
        self.give(WHOLE, 0, len(WHOLE) + 1000, ETag='"1"')

    def short(self, first, start):
        """Promises less than there is."""
        self.give(WHOLE, 0, 15_000)

    def html_report(self, first, start):
        self.give(b"<html>please log in</html>")

    def pointer(self, first, start):
        self.give(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")

    def flipped(self, first, start):
        self.give(WHOLE[:-8] + bytes(4) + WHOLE[-4:])

    def redirected(self, first, start):
        self.give(b"", status=302, Location="ftp://127.0.0.1:9/case_00003.nii.gz")

    def moved(self, first, start):
        self.give(b"", status=302, Location=self.server.address("good") + "/case_00003.nii.gz")

    def lengthless(self, first, start):
        self.give(WHOLE, length="none")


@pytest.fixture(scope="module")
def server():
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def fresh(request):
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        running.asked.clear()
        running.ranges.clear()


def get(server, mood, directory, patience=QUICK):
    return download_dataset(directory, ["case_00003"], ["images"], Sources(images=server.address(mood)), patience)


@pytest.mark.parametrize(
    "mood", ["good", "breaks", "deaf", "changed", "nameless", "elsewhere", "stalls", "busy", "lengthless", "moved"]
)
def test_a_whole_file_arrives_from_a_server_that_is_not_past_help(server, tmp_path, mood):
    assert get(server, mood, tmp_path) == {}
    assert (tmp_path / "case_00003" / "imaging.nii.gz").read_bytes() == WHOLE
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["download.json", "imaging.nii.gz"]
    entry = json.loads((tmp_path / "download.json").read_text())["files"]["case_00003/imaging.nii.gz"]
    assert entry == {
        "url": server.address(mood) + "/case_00003.nii.gz",
        "bytes": len(WHOLE),
        "sha256": hashlib.sha256(WHOLE).hexdigest(),
    }
    if mood in ("breaks", "stalls"):
        assert server.ranges == [None, "bytes=15000-"]


@pytest.mark.parametrize(
    ("mood", "tries", "reason"),
    [
        ("missing", 1, "HTTP 404"),
        ("redirected", 1, "redirects to ftp://.*not followed"),
        ("ill", 4, "HTTP 500"),
        ("mute", 4, "timed out"),
        ("long", 4, "connection ended after|HTTP 416"),
        ("short", 1, "truncated"),
        ("html_report", 1, "an HTML page"),
        ("pointer", 1, "a Git LFS pointer"),
        ("flipped", 1, "CRC"),
    ],
)
def test_what_is_not_whole_is_named_and_not_kept(server, tmp_path, mood, tries, reason):
    failed = get(server, mood, tmp_path)
    assert re.search(reason, failed["case_00003/imaging.nii.gz"])
    assert server.address(mood) in failed["case_00003/imaging.nii.gz"]
    assert sum(server.asked.values()) == tries
    assert not (tmp_path / "case_00003" / "imaging.nii.gz").exists()
    assert json.loads((tmp_path / "download.json").read_text())["files"] == {}


def test_a_link_planted_at_a_part_files_name_is_not_followed(server, tmp_path):
    directory, victim = tmp_path / "out" / "case_00003", tmp_path / "victim"
    directory.mkdir(parents=True)
    victim.write_bytes(b"of another user")
    for name in (".part-imaging.nii.gz", ".part-imaging.nii.gz.etag"):
        (directory / name).symlink_to(victim)
    (tmp_path / "out" / ".part-download.json").symlink_to(victim)
    assert get(server, "good", tmp_path / "out") == {} and victim.read_bytes() == b"of another user"
    assert (directory / "imaging.nii.gz").read_bytes() == WHOLE and not (directory / "imaging.nii.gz").is_symlink()


def test_a_later_call_goes_on_where_the_first_gave_up(server, tmp_path):
    assert get(server, "breaks", tmp_path, Patience(0.5, 0, 0))
    assert get(server, "breaks", tmp_path, Patience(0.5, 0, 0)) == {}
    assert server.ranges == [None, "bytes=15000-"]


def test_what_is_there_and_right_is_not_fetched_again(server, tmp_path):
    sources = Sources(server.address("good"), server.address("good"))
    cases = ["case_00000", "case_00001"]
    assert download_dataset(tmp_path, cases, sources=sources, patience=QUICK) == {}
    assert sum(server.asked.values()) == 4
    kept = tmp_path / "case_00000" / "imaging.nii.gz"
    (tmp_path / "case_00001" / "segmentation.nii.gz").write_bytes(b"damaged since")
    shutil.copy(kept, tmp_path / "case_00000" / "segmentation.nii.gz")
    assert download_dataset(tmp_path, cases, sources=sources, patience=QUICK) == {}
    assert sum(server.asked.values()) == 5
    assert (tmp_path / "case_00001" / "segmentation.nii.gz").read_bytes() == WHOLE


def test_a_whole_file_from_elsewhere_is_taken_over(server, tmp_path):
    (tmp_path / "case_00003").mkdir()
    (tmp_path / "case_00003" / "imaging.nii.gz").write_bytes(WHOLE)
    assert get(server, "missing", tmp_path) == {} and not server.asked
    assert json.loads((tmp_path / "download.json").read_text())["files"]["case_00003/imaging.nii.gz"]["url"] is None


def test_the_command_says_licence_and_size_first_and_counts_failures(server, tmp_path, capsys):
    command = ["download", "-o", str(tmp_path), "--cases", "3", "5-6", "--retries", "0", "--parallel", "2"]
    code = main([*command, "--images-url", server.address("good"), "--labels-url", server.address("missing")])
    printed = capsys.readouterr()
    assert code == 1 and printed.err.count("failed: http") == 3
    assert "images and labels of 3 cases, about 0.4 GB" in printed.out and "CC BY-NC-SA 4.0" in printed.out
    assert sorted(p.parent.name for p in tmp_path.rglob("imaging.nii.gz")) == ["case_00003", "case_00005", "case_00006"]


def test_cases_are_named_by_number_or_range():
    assert case_ids(["case_00003", "0-1", "1"]) == ["case_00000", "case_00001", "case_00003"]
    assert len(case_ids([])) == 210
    for wrong in ("three", "210", "5-3", "0-300"):
        with pytest.raises(UsageError, match=re.escape(repr(wrong))):
            case_ids([wrong])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images-url", "file:///etc"], "not an http(s) address"),
        (["--timeout", "0"], "must be a positive number of seconds"),
        (["--parallel", "0"], "must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(tmp_path, capsys, arguments, message):
    assert main(["download", "-o", str(tmp_path / "o"), "--cases", "3", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_is_found_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 10**6))
    with pytest.raises(UsageError, match="0.1 GB are needed and 0.0 GB are free"):
        get(server, "good", tmp_path)
    assert not server.asked
