"""Content negotiation of DICOMweb (PS3.18 8.7): what the client accepts, and which of our representations that is.

Pure functions of header and query values. Not here: making the representations (wado, frames, rendered).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from insitu.errors import Invalid

# Media type of one compressed frame by transfer syntax (PS3.18 8.7.3.3).
FRAME_MEDIA_TYPES = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}

JSON_TYPES = ("application/dicom+json", "application/json")
XML_TYPE = "application/dicom+xml"


class NotAcceptable(Invalid):
    """None of the representations we have is one the client accepts."""

    status = 406
    slug = "not-acceptable"


class UnsupportedMediaType(Invalid):
    """The request's body has a media type this resource does not take."""

    status = 415
    slug = "unsupported-media-type"


class BadRequest(Invalid):
    """The request itself is malformed: an unknown parameter, a value that cannot be read."""

    status = 400
    slug = "bad-request"


@dataclass(frozen=True)
class MediaType:
    """A media type with its parameters; names in lower case, values without quotes."""

    name: str
    parameters: tuple[tuple[str, str], ...] = ()

    def parameter(self, name: str) -> str | None:
        """The value of a parameter, or None where it is absent."""
        return dict(self.parameters).get(name)


@dataclass(frozen=True)
class Accepted:
    """One media range the client accepts: `name` (of the part, where `multipart`), transfer syntax, quality."""

    name: str
    multipart: bool
    transfer_syntax: str | None
    quality: float

    def covers(self, media_type: str) -> bool:
        """Whether `media_type` falls into this range."""
        if self.name in ("*/*", media_type):
            return True
        return self.name.endswith("/*") and media_type.startswith(self.name[:-1])


@dataclass(frozen=True)
class Offer:
    """One representation we could send. `transfer_syntax` None: it has none (JSON, rendered images)."""

    media_type: str
    multipart: bool
    transfer_syntax: str | None = None


def _split(text: str, separator: str) -> list[str]:
    """Split outside of quotes."""
    parts, current, quoted = [], "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        if character == separator and not quoted:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part.strip() for part in (*parts, current) if part.strip()]


def parse_media_type(text: str) -> MediaType:
    """Read `type/subtype; name=value; name="value"` (RFC 9110 8.3.1).

    Raises
    ------
    BadRequest
        It has no slash, or a parameter no value.
    """
    name, *rest = _split(text, ";") or [""]
    if "/" not in name:
        raise BadRequest("This is not a media type", value=text[:200], remedy="Write it as type/subtype")
    parameters = []
    for item in rest:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadRequest("A parameter of the media type has no value", value=text[:200])
        parameters.append((key.strip().lower(), value.strip().strip('"')))
    return MediaType(name.lower(), tuple(parameters))


def parse_accept(text: str | None) -> list[Accepted]:
    """Read an Accept header or query parameter (PS3.18 8.3.3.1), the most wanted first; `*/*` where there is none.

    Parameters
    ----------
    text : str or None
        For example `multipart/related; type="application/dicom"; transfer-syntax=*; q=0.9, */*;q=0.1`.

    Returns
    -------
    list of Accepted
        Ranges with a quality above zero, sorted by quality; equal ones stay in their order.
    """
    accepted = []
    for item in _split(text or "*/*", ","):
        media = parse_media_type(item)
        try:
            quality = float(media.parameter("q") or 1.0)
        except ValueError as error:
            raise BadRequest("The quality of a media type is not a number", value=item[:200]) from error
        if not 0 < quality <= 1:
            continue
        multipart = media.name in ("multipart/related", "multipart/*")
        name = (media.parameter("type") or "*/*").lower() if multipart else media.name
        accepted.append(Accepted(name, multipart, media.parameter("transfer-syntax"), quality))
    return sorted(accepted, key=lambda a: -a.quality)


def matches(accepted: Accepted, offer: Offer) -> bool:
    """Whether the range covers the offer.

    `*/*` covers single and multipart alike. A range without transfer syntax, or with `*`, covers every one.
    """
    if not accepted.covers(offer.media_type):
        return False
    if accepted.name != "*/*" and accepted.multipart != offer.multipart:
        return False
    if accepted.name == "*/*" and accepted.multipart and not offer.multipart:
        return False
    wanted = accepted.transfer_syntax
    return offer.transfer_syntax is None or wanted in (None, "*", offer.transfer_syntax)


O = TypeVar("O", bound=Offer)  # noqa: E741


def choose(accept: str | None, offers: Sequence[O], defaults: Mapping[str, str] | None = None) -> O:
    """The offer for the most wanted range; within a range the first of `offers`, so order them by our preference.

    Parameters
    ----------
    accept : str or None
        Accept header.
    offers : sequence of Offer
    defaults : mapping, optional
        Transfer syntax that a media type means where the client names none (PS3.18 8.7.3.5).

    Raises
    ------
    NotAcceptable
        No range covers any offer; the message lists what there is.
    """
    for accepted in parse_accept(accept):
        for offer in offers:
            wanted = accepted
            if accepted.transfer_syntax is None and accepted.name in ("*/*", offer.media_type):
                wanted = replace(accepted, transfer_syntax=(defaults or {}).get(offer.media_type))
            if matches(wanted, offer):
                return offer
    raise NotAcceptable(
        "There is no such representation of this resource",
        value=(accept or "")[:200],
        remedy="Accept one of: " + ", ".join(dict.fromkeys(describe(offer) for offer in offers)),
    )


def describe(offer: Offer) -> str:
    """The offer as a media range."""
    text = f'multipart/related; type="{offer.media_type}"' if offer.multipart else offer.media_type
    return text + (f"; transfer-syntax={offer.transfer_syntax}" if offer.transfer_syntax else "")


def document_offer(accept: str | None, *, multipart: bool = True) -> Offer:
    """The form of DICOM attributes the client takes: JSON, or XML, of which each document has a part of its own.

    Parameters
    ----------
    accept : str or None
        Accept header.
    multipart : bool
        Whether there can be several documents (PS3.18 8.7.3.2); else XML is one document by itself.
    """
    offers = [Offer(name, multipart=False) for name in JSON_TYPES]
    return choose(accept, [*offers, Offer(XML_TYPE, multipart=multipart)])
