"""Reading multipart bodies in pieces, and what the client accepts: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu_services.api.dicomweb import multipart
from insitu_services.api.dicomweb.multipart import Parser, PartData, PartEnd, PartStart
from insitu_services.api.dicomweb.negotiation import BadRequest, NotAcceptable, Offer, choose, parse_accept

# pieces of delimiters are the bytes most likely to be mistaken for one
CONTENT = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"\r\n--b", b"x", b"\x00"]), max_size=30).map(
    b"".join
)


def parts_of(pieces: list[bytes]) -> tuple[list[list], bool]:
    """Headers, content and completeness of each part, and whether the body was closed."""
    parser, parts = Parser("bound"), []
    for piece in pieces:
        for event in parser.feed(piece):
            if isinstance(event, PartStart):
                parts.append([event.headers, b"", False])
            elif isinstance(event, PartData):
                parts[-1][1] += event.data
            else:
                assert isinstance(event, PartEnd)
                parts[-1][2] = True
    return parts, parser.complete


@given(st.lists(CONTENT, min_size=1, max_size=4), st.integers(1, 40))
def test_a_body_in_pieces_of_any_size_gives_back_its_parts(contents, size):
    body = b"".join(multipart.body("bound", (({"Content-Type": "a/b"}, [content]) for content in contents)))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    parts, complete = parts_of(pieces)
    assert parts == [[{"content-type": "a/b"}, content, True] for content in contents]
    assert complete


def test_a_part_without_its_delimiter_is_not_taken_for_complete():
    parts, complete = parts_of([b"--bound\r\n\r\nwhole\r\n--bound\r\n\r\nhalf"])
    assert [part[2] for part in parts] == [True, False]
    assert not complete


def test_headers_without_end_do_not_fill_the_memory():
    parser = Parser("bound")
    list(parser.feed(b"--bound\r\n"))
    list(parser.feed(b"X" * 16_000))
    with pytest.raises(BadRequest, match="headers"):
        list(parser.feed(b"X" * 1000))


DICOM = [
    Offer("application/dicom", multipart=True, transfer_syntax="1.2.840.10008.1.2.4.70"),
    Offer("application/dicom", multipart=True, transfer_syntax="1.2.840.10008.1.2.1"),
]


@pytest.mark.parametrize(
    ("accept", "syntax"),
    [
        (None, "1.2.840.10008.1.2.4.70"),
        ("*/*", "1.2.840.10008.1.2.4.70"),
        ('multipart/related; type="application/dicom"', "1.2.840.10008.1.2.4.70"),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', "1.2.840.10008.1.2.4.70"),
        ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1', "1.2.840.10008.1.2.1"),
        ("multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.1;q=0.5, */*;q=0.1",
         "1.2.840.10008.1.2.1"),
        ("multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.1;q=0.1, */*;q=0.5",
         "1.2.840.10008.1.2.4.70"),
    ],
)  # fmt: skip
def test_the_representation_the_client_wants_most_is_sent(accept, syntax):
    assert choose(accept, DICOM).transfer_syntax == syntax


@pytest.mark.parametrize(
    "accept", ["image/png", 'multipart/related; type="application/dicom+xml"', "*/*;q=0", "application/dicom"]
)
def test_what_there_is_not_is_refused_with_a_list_of_what_there_is(accept):
    with pytest.raises(NotAcceptable) as refusal:
        choose(accept, DICOM)
    assert 'type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.70' in str(refusal.value)


def test_quotes_and_case_of_an_accept_header_do_not_matter():
    (accepted,) = parse_accept('Multipart/Related;Type="Application/Octet-Stream";Transfer-Syntax="*"')
    assert (accepted.name, accepted.multipart, accepted.transfer_syntax) == ("application/octet-stream", True, "*")
