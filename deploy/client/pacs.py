"""Fetch the images of a study from a PACS over DICOMweb, and store what was written about them.

Needs the extra `pacs`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_pipeline.dicom.file import quiet
from data_pipeline.files import whole_file
from deploy.client.address import read_address

MISSING = "--dicomweb needs more packages: pip install 'resformer-deploy[client,dicom,pacs]'"
# Where fetched objects lie in the output folder.
RECEIVED = "received"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
LONGEST_UID = 64
# Kinds of objects that are no images: what an earlier run has stored, and others' notes.
NO_IMAGES = frozenset({"SEG", "SR", "KO", "PR", "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "AU", "ECG", "PLAN"})
SECONDS = 60.0


def read_uid(text: str) -> str:
    """Read the UID of a study, or raise ValueError where the text is none."""
    if len(text) > LONGEST_UID or UID.fullmatch(text) is None:
        raise ValueError(f"a study's UID has digits and dots, at most {LONGEST_UID}, got {text!r}")
    return text


class Pacs:
    """Fetch from and store to one DICOMweb server.

    Its methods raise OSError in one line where the server does not answer as it should.
    """

    def __init__(self, url: str) -> None:
        """Prepare the connection.

        Args:
            url: where the DICOMweb services are, such as http://localhost:8042/dicom-web.

        Raises:
            ValueError: the URL is none, or the packages for it are missing.
        """
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ModuleNotFoundError:
            raise ValueError(MISSING) from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a DICOMweb server: expected http://HOST:PORT/PATH")
        session = requests.Session()
        # This machine itself is reached without the proxy that the environment may name.
        session.trust_env = not read_address(parts.netloc.rpartition("@")[2], "http").is_local
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._client = DICOMwebClient(url, session=session, timeout=SECONDS)
        # It would try for half a minute where nobody listens.
        self._client.set_http_retry_params(retry=False)

    def fetch(self, study: str, output: Path) -> list[Path]:
        """Fetch the images of a study that are not there yet, one at a time, and return their files.

        Args:
            study: its UID.
            output: the folder for results, in which they get a folder of their own.
        """
        with self._one_line():
            listed = self._client.search_for_instances(study, fields=["Modality"], get_remaining=True)
        if not listed:
            raise OSError(f"{self._url} has no study {study}")
        files = []
        for entry in listed:
            series, instance, modality = (_value(entry, tag) for tag in ("0020000E", "00080018", "00080060"))
            if modality in NO_IMAGES:
                continue
            with self._one_line():
                # The names come from the server, and must not lead out of the folder.
                file = output / RECEIVED / f"{read_uid(instance)}.dcm"
            if not file.exists():
                with self._one_line():
                    dataset = self._client.retrieve_instance(study, series, instance)
                with whole_file(file) as temporary:
                    dataset.save_as(temporary)
            files.append(file)
        return files

    def store(self, files: Sequence[Path]) -> None:
        """Store objects, those of one source at a time."""
        import pydicom

        for file in files:
            with self._one_line():
                stored = self._client.store_instances([pydicom.dcmread(file)])
            if stored.get("FailedSOPSequence"):
                raise OSError(f"{self._url} refuses {file.name}")

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        import requests

        try:
            with quiet():
                yield
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            reason = f"answers with status {status}" if status else f"does not answer ({type(error).__name__})"
            raise OSError(f"the DICOMweb server at {self._url} {reason}") from None
        # What it sends may be no DICOM at all.
        except (KeyError, TypeError, ValueError, AttributeError):
            raise OSError(f"the DICOMweb server at {self._url} sends what is no DICOM") from None


def _value(entry: dict[str, Any], tag: str) -> str:
    return str((entry.get(tag, {}).get("Value") or [""])[0])
