"""Images from all kinds of buckets."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import pytest

from icf_utils.cli.main import main
from icf_utils.credentials import Secret
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.errors import FetchFailure
from icf_utils.retrieve.api import BucketPlace, BucketSource, CodRetrieve, Retriever, parse_bucket
from icf_utils.retrieve.buckets import parse_bucket_details
from tests.data.make_cod import CodSeries, sample_bucket, write_bucket
from tests.fetch.server import Fault, serving
from tests.retrieve.bucket_server import BUCKET, BucketServer
from tests.retrieve.conftest import QUICK, STUDY, expected, files, made, retriever

PREFIXES = ["", "v1meta/dicomweb", "deid/dicomweb", "appended/dicomweb", "j2k/dicomweb", "pub/v1/dicomweb"]
KINDS = ["json", "folder", "gs", "s3"]


@pytest.fixture(scope="module")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket in a folder, with what the format's own writer leaves in practice."""
    folder = tmp_path_factory.mktemp("bucket")
    write_bucket(folder, sample_bucket())
    return folder


@pytest.fixture(scope="module")
def real_folder(shared: Path) -> Path:
    """A bucket of third-party images that the format's own writer has made."""
    folder = shared / "data" / "cod-bucket"
    if not folder.is_dir():
        pytest.skip("the sample bucket is not there: ../shared/data/cod-bucket")
    return folder


def in_tars(objects: dict[str, bytes], prefix: str) -> dict[str, bytes]:
    """The members of the TARs below a prefix, read by ``tarfile``, by the paths that they should get."""
    found = {}
    root = f"{prefix}/studies/" if prefix else "studies/"
    for name, data in objects.items():
        if name.startswith(root) and name.endswith(".tar"):
            study, _, series = name.removeprefix(root).removesuffix(".tar").split("/")
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file
                    found[f"{study}/{series}/{member.name}"] = file.read()
    return found


def place(kind: str, server: BucketServer, folder: Path, prefix: str) -> BucketPlace:
    if kind == "folder":
        return parse_bucket(folder.as_uri(), prefix)
    if kind == "json":
        return parse_bucket(server.place, prefix)
    pytest.importorskip("obstore")
    return parse_bucket(f"{kind}://{BUCKET}/{prefix}", endpoint=server.url, token=Secret("t"))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_made_bucket(
    kind: str, prefix: str, made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    check_bucket(kind, prefix, made_folder, tmp_path)


def test_the_sample_bucket(real_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    for kind, prefix in itertools.product(KINDS, PREFIXES):
        check_bucket(kind, prefix, real_folder, tmp_path / kind / prefix)


def check_bucket(kind: str, prefix: str, folder: Path, target: Path) -> None:
    """All studies below a prefix are retrieved completely, once."""
    state = BucketServer()
    state.load(folder)
    with serving(state):
        origin = BucketSource(place(kind, state, folder, prefix))
        with Retriever(origin, target, retry=QUICK) as own:
            done = own.job().result()
            assert done.failures == ()
            assert files(target) == in_tars(state.objects, prefix) != {}
            stats = own.stats()
            assert stats.totalSavedSizeBytes == stats.totalSizeBytes == sum(map(len, files(target).values()))
            assert (stats.series, stats.items) == ((), ())
            again = own.job().result()
            assert (again.saved, again.unchanged) == (0, done.saved)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_compressed_and_plain_metadata(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path, raw: bool, packed: bool, told: bool
) -> None:
    """Also if a listing does not say which objects are stored compressed, and so have another size."""
    bucket.raw, bucket.tells_encoding = raw, told
    for series in two:
        bucket.fill(series.objects(packed))
    assert retriever(bucket, tmp_path, STUDY).job().result().failures == ()
    assert files(tmp_path) == expected(*two)


def test_all_pages_are_read(bucket: BucketServer, tmp_path: Path) -> None:
    many = [made(f"1.2.3.{number}", 1) for number in range(10, 40)]
    for series in many:
        bucket.fill(series.objects())
    with retriever(bucket, tmp_path, STUDY) as own:
        assert own.stats().totalSeriesCount == 32
    assert len([request for request in bucket.of("/o$") if "pageToken" in request.query]) > 5


def test_only_the_right_token_works(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    bucket.authorization = "Bearer t0ken"
    with Retriever(BucketSource(parse_bucket(f"{bucket.place}?token=t0ken")), tmp_path, retry=QUICK) as own:
        assert own.job().result().failures == ()
    assert files(tmp_path) == expected(*two)
    with pytest.raises(FetchFailure, match=r"authentication \(401\); give a token$"):
        retriever(bucket, tmp_path).job().result()
    assert "Authorization" not in bucket.requests[-1].headers


def test_sizes_that_a_listing_omits_are_checked(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path
) -> None:
    bucket.tells_encoding = False
    image = two[0].images[f"{two[0].series}.1"]
    bucket.fill({f"{two[0].name}.tar": two[0].tar.replace(image, bytes(len(image)))})
    bucket.fill({f"{two[1].name}/metadata.json": two[1].objects()[f"{two[1].name}/metadata.json"][:-9]})
    bucket.raw = True
    done = retriever(bucket, tmp_path, STUDY).job().result()
    assert sorted(failure.problem[:30] for failure in done.failures) == [
        f"expected crc32c {two[0].records[f'{two[0].series}.1']['crc32c']}, found"[:30],
        "its metadata.json cannot be us",
    ]
    assert done.saved == 2


def test_only_selected_series_are_read(bucket: BucketServer, tmp_path: Path) -> None:
    from icf_utils.retrieve.selection import Selection

    with retriever(bucket, tmp_path, selection=Selection(series=("1.2.3.1",))) as own:
        assert own.job().result().saved == 3
    assert not bucket.of(r"1\.2\.3\.2")


@pytest.mark.parametrize(
    ("kind", "fault", "word"),
    [
        ("s3", Fault("", status=403), "access denied"),
        ("gs", Fault("", status=401), "rejects the token"),
        ("s3", Fault("", status=401), "requires other credentials"),
        ("gs", Fault("", status=404), "not found"),
    ],
)
def test_refusals_through_obstore(
    kind: str, fault: Fault, word: str, bucket: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    bucket.faults.append(fault)
    origin = BucketSource(parse_bucket(f"{kind}://{BUCKET}/dicomweb", endpoint=bucket.url, token=Secret("t0ken")))
    with pytest.raises(FetchFailure, match=word) as caught, Retriever(origin, tmp_path, retry=QUICK) as own:
        own.job().result()
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "prefix", "name"),
    [
        ("https://host/b", None, "dicomweb/studies"),
        ("https://host/b/", None, "dicomweb/studies"),
        ("https://host/b/pub/v1", None, "pub/v1/dicomweb/studies"),
        ("https://host/b/pub/dicomweb/", None, "pub/dicomweb/studies"),
        ("https://host/b/pub", "", "studies"),
        ("gs://b/pub/v1", None, "pub/v1/studies"),
        ("s3://b", None, "studies"),
        ("b", None, "studies"),
        ("b", "/x/y/", "x/y/studies"),
    ],
)
def test_prefixes(text: str, prefix: str | None, name: str) -> None:
    found = parse_bucket(text, prefix)
    assert (found.bucket, found.named("studies")) == ("b", name)


def test_a_stream_of_obstore_that_is_cut(
    bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    bucket.faults.append(Fault(r"\.tar$", times=2, cut=500))
    origin = BucketSource(parse_bucket(f"s3://{BUCKET}/dicomweb", endpoint=bucket.url))
    with Retriever(origin, tmp_path, retry=QUICK) as own:
        assert own.job().result().failures == ()
    assert files(tmp_path) == expected(*two)


def test_the_details_of_cod_retrieve(bucket: BucketServer, two: tuple[CodSeries, CodSeries], tmp_path: Path) -> None:
    bucket.authorization = "Bearer t0ken"
    details = {"bucket": BUCKET, "bucketPrefix": "dicomweb", "token": "t0ken", "endpoint": bucket.url}
    CodRetrieve(details, tmp_path).download([STUDY]).result()
    assert files(tmp_path) == expected(*two)


@pytest.mark.parametrize(
    ("details", "place"),
    [
        ({"bucket": "b"}, BucketPlace("b")),
        ({"bucket": "b", "bucketPrefix": "/p/q/", "token": "t"}, BucketPlace("b", "p/q", Secret("t"))),
        ({"bucket": "b", "bucketPrefix": None, "token": "null"}, BucketPlace("b")),
    ],
)
def test_details_are_used_unchanged(details: dict[str, object], place: BucketPlace) -> None:
    assert parse_bucket_details(details) == place


@pytest.mark.parametrize("details", [{}, {"bucket": "b", "prefix": "p"}, {"bucket": 7}, {"bucket": "a b"}])
def test_invalid_details(details: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match="bucket"):
        parse_bucket_details(details)


def test_a_token_in_the_address_is_not_shown() -> None:
    found = parse_bucket("https://host/b/p?token=s3cret")
    assert found.token == Secret("s3cret")
    assert "s3cret" not in repr(found) + found.where
    assert parse_bucket("https://host/b?token=null").token is None


@pytest.mark.parametrize(
    "text", ["ftp://host/b", "https://host", "https://me:pw@host/b", "a b", "https://host/b/../c", ""]
)
def test_invalid_buckets(text: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_bucket(text)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "payer", "login"),
    [
        ("https", ("--billed-project", "my-project"), "", "Bearer zq-token"),
        ("gs", ("--billed-project", "my-project"), "x-goog-user-project: my-project", "Bearer zq-token"),
        ("s3", ("--requester-pays",), "x-amz-request-payer: requester", "AWS4-HMAC-SHA256 "),
        ("gs", ("--public",), "", ""),
        ("s3", ("--public",), "", ""),
    ],
)
def test_requester_pays_and_public_buckets(
    kind: str,
    options: tuple[str, ...],
    payer: str,
    login: str,
    bucket: BucketServer,
    two: tuple[CodSeries, CodSeries],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request names who pays, and those to public buckets have no credentials, though the environment has some."""
    if kind != "https":
        pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "zq-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "zq-secret")
    monkeypatch.setenv("ICF_TOKEN", "zq-token")
    place = bucket.place if kind == "https" else f"{kind}://{BUCKET}/dicomweb"
    more = () if kind == "https" else ("--endpoint", bucket.url)
    assert main(["retrieve", "--bucket", place, *more, *options, "-d", str(tmp_path / "out"), STUDY]) == 0
    assert files(tmp_path / "out") == in_tars(bucket.objects, "dicomweb")
    assert len(bucket.requests) > 2
    for request in bucket.requests:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers.get("authorization", "").startswith(login)
        assert bool(login) == ("authorization" in headers)
        assert request.query.get("userProject", "") == ("my-project" if kind == "https" else "")
        name, _, value = payer.partition(": ")
        assert headers.get(name, "") == value


@pytest.mark.parametrize(
    ("place", "options", "problem"),
    [
        ("s3://b", ("--billed-project", "p"), "use --requester-pays"),
        ("gs://b", ("--requester-pays",), "--billed-project"),
        ("https://h/b", ("--public",), "--public: cannot be combined"),
        ("s3://b", ("--public", "--requester-pays"), "--requester-pays: cannot be combined with --public"),
        ("file:///b", ("--requester-pays",), "cannot be combined with a bucket at file://"),
        ("gs://b", ("--billed-project", "a b"), "not the ID of a project"),
    ],
)
def test_payment_that_a_bucket_does_not_have(
    place: str, options: tuple[str, ...], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrieve", "--bucket", place, *options, "-d", str(tmp_path)]) == 2
    assert problem in capsys.readouterr().err
