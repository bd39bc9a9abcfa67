"""Which certificates are taken, which are kept out, and what is said of those that end soon."""

import logging
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from tests.harness.certificates import DAY, Authority, Pair
from tmi.tls import BadCertificate, Certificate


class Files:
    """Where a certificate and its key lie."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.certificate, self.key = folder / "tls.pem", folder / "tls.key"

    def write(self, pair: Pair) -> None:
        pair.write(self.certificate, self.key)

    def load(self) -> Certificate:
        return Certificate.load(self.certificate, self.key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write(files.authority.issue())
    return files


def test_tls_1_3_is_the_oldest_that_is_spoken(files: Files) -> None:
    assert ssl.TLSVersion.TLSv1_3 == files.load().context.minimum_version


def test_what_is_no_pair_stops_the_start(files: Files) -> None:
    good, other = files.authority.issue(), files.authority.issue()
    for certificate, key, why in (
        (good.certificate, other.key, "key values mismatch"),
        (b"", good.key, "."),
        (good.certificate[:-200], good.key, "."),
        (good.certificate, good.key[:-40], "."),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.key, "."),
        (good.key, good.certificate, "."),
    ):
        files.certificate.write_bytes(certificate)
        files.key.write_bytes(key)
        with pytest.raises(BadCertificate, match=why):
            files.load()


def test_missing_files_are_named(files: Files) -> None:
    for path in (files.key, files.certificate):
        path.unlink()
        with pytest.raises(BadCertificate, match="No such file"):
            files.load()


def test_an_encrypted_key_is_refused_without_asking_for_its_password(files: Files) -> None:
    files.write(files.authority.issue(password=b"secret"))
    with pytest.raises(BadCertificate, match="encrypted"):
        files.load()


def test_a_changed_pair_is_taken_once(files: Files) -> None:
    certificate = files.load()
    before = certificate.context
    certificate.refresh()
    assert before is certificate.context
    files.write(files.authority.issue())
    certificate.refresh()
    assert (taken := certificate.context) is not before
    certificate.refresh()
    assert taken is certificate.context


def test_a_replaced_link_is_a_change(files: Files, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        files.authority.issue().write(tmp_path / name / "tls.pem", tmp_path / name / "tls.key")
    link = tmp_path / "current"
    link.symlink_to("old")
    certificate = Certificate.load(link / "tls.pem", link / "tls.key")
    before = certificate.context
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(link)
    certificate.refresh()
    assert before is not certificate.context


def test_a_broken_pair_never_replaces_a_good_one_and_the_next_good_one_does(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = files.load()
    before = certificate.context
    good, other = files.authority.issue(), files.authority.issue()
    for broken in (
        Pair(good.certificate, other.key, 0),
        Pair(good.certificate[:100], good.key, 0),
        Pair(b"", b"", 0),
        files.authority.issue(ends_in=timedelta(seconds=-1)),
        files.authority.issue(age=-DAY),
    ):
        caplog.clear()
        files.write(broken)
        certificate.refresh()
        certificate.refresh()
        assert (before, True) == (certificate.context, certificate.is_stale)
        assert [logging.ERROR] == [record.levelno for record in caplog.records], "said once"
    files.certificate.unlink()
    certificate.refresh()
    assert (before, True) == (certificate.context, certificate.is_stale)
    files.write(good)
    certificate.refresh()
    assert before is not certificate.context
    assert not certificate.is_stale


def test_an_expired_one_gives_way_to_another_expired_one(files: Files) -> None:
    files.write(files.authority.issue(ends_in=timedelta(seconds=-1), age=3 * DAY))
    certificate = files.load()
    before = certificate.context
    files.write(files.authority.issue(ends_in=timedelta(seconds=-1), age=3 * DAY))
    certificate.refresh()
    assert before is not certificate.context


@pytest.mark.parametrize(
    ("age", "ends_in", "level"),
    [
        (80 * DAY, 10 * DAY, logging.WARNING),
        (75 * DAY, 15 * DAY, None),
        (5 * DAY, 2 * DAY, None),
        (5 * DAY, 1 * DAY, logging.WARNING),
        (5 * DAY, -timedelta(seconds=1), logging.ERROR),
    ],
)
def test_one_that_should_have_been_renewed_is_told_of_once_a_day(
    age: timedelta, ends_in: timedelta, level: int | None, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.write(files.authority.issue(ends_in=ends_in, age=age))
    certificate = files.load()
    caplog.clear()
    certificate.refresh()
    certificate.refresh()
    assert ([] if level is None else [level]) == [record.levelno for record in caplog.records]


def test_a_key_that_everybody_may_read_is_told_of(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.key.chmod(0o644)
    files.load()
    assert "chmod 600" in caplog.text
