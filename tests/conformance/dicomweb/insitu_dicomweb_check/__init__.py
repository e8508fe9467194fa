"""Does a DICOMweb server do what PS3.18 says? A suite of checks against any server, by its address.

Nothing of the platform beside it: httpx, pydicom and the standard library only, so that it judges every server alike.
"""
