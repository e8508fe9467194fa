"""The DICOMweb routes as one router, under /dicom-web."""

from __future__ import annotations

from fastapi import APIRouter

from . import capabilities, delete, qido, rendered, stow, wado

router = APIRouter(prefix="/dicom-web")
for part in (qido, stow, wado, rendered, delete, capabilities):
    router.include_router(part.router)
