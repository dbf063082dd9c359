"""Write what a network found in a DICOM image as DICOM: a segmentation and a structured report."""

from deploy.client.dicom.codes import Codes, read_codes
from deploy.client.dicom.written import Found, write_dicom

__all__ = ["Codes", "Found", "read_codes", "write_dicom"]
