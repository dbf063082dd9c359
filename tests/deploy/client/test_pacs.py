"""Test the loop over a real PACS: Orthanc of Debian, started on this machine's loopback."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient

from deploy.client.__main__ import main
from deploy.client.pacs import Pacs
from deploy.server import Server
from tests.helpers.dicom import make_dicom

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """Start Orthanc with DICOMweb, and return the address of its services."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin")
    if program is None or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    port = free_port()
    options = {
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(tmp_path / "store"),
        "IndexDirectory": str(tmp_path / "store"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(options))
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/system", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                assert time.monotonic() < give_up
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait()


def test_a_study_is_fetched_answered_and_stored(
    orthanc: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = pydicom.uid.generate_uid()
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(2)]
    sources = [
        make_dicom(tmp_path / f"{index}.dcm", "dermoscopy", one, StudyInstanceUID=study, spacing=(0.05, 0.05))
        for index, one in enumerate(pixels)
    ]
    pacs = DICOMwebClient(orthanc)
    pacs.store_instances([pydicom.dcmread(file) for file in sources])
    output = tmp_path / "out"
    command = ["--dicomweb", orthanc, "--study", study, "--url", server.grpc_url, "--output", str(output)]
    assert main(command) == 0
    assert "4 SEG and SR objects stored" in capsys.readouterr().err
    listed = pacs.search_for_instances(study, fields=["Modality"])
    assert sorted(one["00080060"]["Value"][0] for one in listed) == ["DMS", "DMS", "SEG", "SEG", "SR", "SR"]
    # What is stored is what was written, and refers to what was fetched.
    originals = {pydicom.dcmread(file).SOPInstanceUID for file in sources}
    for file in output.glob("*.seg.dcm"):
        written = highdicom.seg.segread(file)
        stored = pacs.retrieve_instance(study, written.SeriesInstanceUID, written.SOPInstanceUID)
        assert stored.PixelData == written.PixelData
        (series,) = written.ReferencedSeriesSequence
        assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} <= originals
    # A second run sends only the images, not what the first one has stored.
    assert main([*command, "--resume"]) == 0
    assert len(json.loads((output / "result.json").read_text())["images"]) == 2
    with pytest.raises(OSError, match="has no study"):
        Pacs(orthanc).fetch("1.2.3", output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dicomweb", "http://127.0.0.1:9/dicom-web"], "belong together"),
        (["--dicomweb", "http://127.0.0.1:9/dicom-web", "--study", "../1"], "digits and dots"),
        ([], "name at least one IMAGE"),
        (["a.dcm", "--deidentify"], "belong to --dicom"),
    ],
)
def test_misuse_is_said_at_once(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--output", "out"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


class Foreign:
    """Answer searches as a PACS that gives an object a name that is no UID."""

    def search_for_instances(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"00080018": {"Value": ["../../1"]}, "00080060": {"Value": ["OPT"]}}]


def test_an_object_without_a_uid_is_the_fault_of_the_pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pacs = Pacs("http://localhost:8042/dicom-web")
    monkeypatch.setattr(pacs, "_client", Foreign())
    with pytest.raises(OSError, match="localhost:8042/dicom-web sends what is no DICOM"):
        pacs.fetch("1.2.3", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_fetched_for_a_server_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Pacs, "fetch", lambda *_: pytest.fail("fetched"))
    command = ["--dicomweb", "http://localhost:8042/dicom-web", "--study", "1.2.3", "--url", "127.0.0.1:9"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_a_pacs_that_does_not_answer_is_one_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Port 9 (discard) is not listened on.
    command = ["--dicomweb", "http://user:secret@127.0.0.1:9/dicom-web", "--study", "1.2.3"]
    assert main([*command, "--url", server.grpc_url, "--output", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the DICOMweb server at http://127.0.0.1:9/dicom-web does not answer")
    with pytest.raises(ValueError, match="no address of a DICOMweb server"):
        Pacs("localhost:8042")
