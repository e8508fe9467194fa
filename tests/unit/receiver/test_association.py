"""What an association may hold beside a plain push: other commands, fragments, many contexts, silence; and sending with our own client."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE

from insitu_services.receiver import command, negotiation, pdu

from .conftest import Receiver
from .test_receiver import (
    EXPLICIT,
    assert_archived,
    data_set,
    element,
    made,
    objects,
    p_data,
    read_pdu,
    rq,
    scripted_store,
    store_command,
)  # fmt: skip

C_FIND_RQ = 0x0020


def request(field: int, sop_class: str, *, with_data_set: bool) -> bytes:
    """The command set of a request."""
    uid = sop_class.encode()
    body = (
        element(command.AFFECTED_SOP_CLASS, uid + b"\0" * (len(uid) % 2))
        + element(command.COMMAND_FIELD, struct.pack("<H", field)) + element(command.MESSAGE_ID, b"\x07\x00")
        + element(command.DATA_SET_TYPE, struct.pack("<H", 0 if with_data_set else command.NO_DATA_SET))
    )  # fmt: skip
    return element(0, struct.pack("<I", len(body))) + body


def response(connection: object) -> command.Command:
    """The response that comes next."""
    kind, body = read_pdu(connection)
    assert kind == pdu.P_DATA_TF, kind
    return command.decode(body[6:])


def test_another_command_is_refused_and_the_association_goes_on(receiver: Receiver) -> None:
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        connection.sendall(p_data(request(C_FIND_RQ, "1.2.3", with_data_set=True), 3) + p_data(b"\0" * 40, 2))
        refused = response(connection)
        assert refused.field == C_FIND_RQ | command.RESPONSE
        assert refused.number(command.STATUS) == 0x0211
        assert refused.number(command.MESSAGE_ID_RESPONDED_TO) == 7
        connection.sendall(p_data(request(command.C_ECHO_RQ, negotiation.VERIFICATION, with_data_set=False), 3))
        assert response(connection).number(command.STATUS) == 0


def test_nothing_is_stored_by_way_of_verification(receiver: Receiver, tmp_path: Path) -> None:
    file = made(tmp_path, 1)[0]
    uid = str(dcmread(file).SOPInstanceUID)
    with receiver.connect() as connection:
        connection.sendall(rq(abstract=negotiation.VERIFICATION))
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        connection.sendall(p_data(store_command(uid, negotiation.VERIFICATION), 3) + p_data(data_set(file), 2))
        assert response(connection).number(command.STATUS) == 0x0122
    assert objects(receiver) == []
    assert receiver.count("receipt") == 0


def test_fragments_of_any_size_make_one_object(receiver: Receiver, tmp_path: Path) -> None:
    file = made(tmp_path, 1)[0]
    said = store_command(str(dcmread(file).SOPInstanceUID))
    content = data_set(file)

    def fragment(payload: bytes, control: int) -> bytes:
        return struct.pack(">IBB", len(payload) + 2, 1, control) + payload

    values = [fragment(said[at : at + 7], 1 if at + 7 < len(said) else 3) for at in range(0, len(said), 7)]
    values += [fragment(content[at : at + 13], 0) for at in range(0, len(content), 13)] + [fragment(b"", 2)]
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        for at in range(0, len(values), 5):  # several values in one PDU, commands and data mixed
            body = b"".join(values[at : at + 5])
            connection.sendall(struct.pack(">BxI", pdu.P_DATA_TF, len(body)) + body)
        assert response(connection).number(command.STATUS) == 0
    assert_archived(receiver, file)


def test_each_of_128_contexts_is_answered_for_itself(receiver: Receiver) -> None:
    classes = sorted(negotiation.storage_classes())[:100] + [f"1.2.826.0.1.3680043.2.1143.77.{n}" for n in range(28)]
    entity = AE()
    for number, sop_class in enumerate(classes):
        entity.add_requested_context(sop_class, "1.2.3.4.5" if number == 0 else ["1.2.3.4.5", EXPLICIT])
    association = entity.associate("127.0.0.1", receiver.port)
    assert association.is_established
    try:
        assert {str(context.abstract_syntax) for context in association.accepted_contexts} == set(classes[1:100])
        assert {str(context.transfer_syntax[0]) for context in association.accepted_contexts} == {EXPLICIT}
        refused = {str(context.abstract_syntax): context.result for context in association.rejected_contexts}
        assert refused[classes[0]] == negotiation.TRANSFER_SYNTAXES_UNKNOWN
        assert {refused[sop_class] for sop_class in classes[100:]} == {negotiation.ABSTRACT_SYNTAX_UNKNOWN}
    finally:
        association.release()


def test_a_peer_that_falls_silent_in_mid_object_is_aborted_without_a_trace(
    start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(idle_timeout="2")
    file = made(tmp_path, 1)[0]
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        said = store_command(str(dcmread(file).SOPInstanceUID))
        connection.sendall(p_data(said, 3) + p_data(data_set(file)[:300], 0))
        kind, body = read_pdu(connection)
        assert (kind, body[2]) == (pdu.ABORT, 2)
    receiver.until("the association has ended", lambda: "nothing came in time" in receiver.log.read_text())
    assert receiver.count("instance") == 0
    assert objects(receiver) == []
    assert scripted_store(receiver, data_set(file), str(dcmread(file).SOPInstanceUID)) == (0, "")


def test_a_request_of_another_protocol_version_is_rejected_and_a_cut_off_one_aborted(receiver: Receiver) -> None:
    right = rq()
    other = right[:6] + b"\0\2" + right[8:]
    for sent, expected in (
        (other, (pdu.ASSOCIATE_RJ, bytes([0, 1, 2, 2]))),
        (bytes([1, 0, 0, 0, 0, 4, 0, 1, 0, 0]), (pdu.ABORT, bytes([0, 0, 2, pdu.INVALID_PARAMETER]))),
    ):
        with receiver.connect() as connection:
            connection.sendall(sent)
            assert read_pdu(connection) == expected


def test_a_mistake_in_the_allowed_networks_is_told_at_the_start(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
    environment |= {"INSITU_HOME": str(tmp_path), "INSITU_DICOM": "127.0.0.1:0", "INSITU_PEERS_ALLOWED": "10.0.0.0/99"}
    said = subprocess.run(
        [sys.executable, "-m", "insitu_services.receiver"], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert "10.0.0.0/99" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("name", ["image_dfl.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm"])
def test_our_client_sends_the_bytes_of_the_file(receiver: Receiver, name: str) -> None:
    path = get_testdata_file(name)
    assert path is not None
    insitu = Path(sys.executable).parent / "insitu"
    said = receiver.run(str(insitu), "send", "--json", f"INSITU@127.0.0.1:{receiver.port}", str(path))
    assert said.returncode == 0, (said.stderr, receiver.log.read_text())
    assert_archived(receiver, Path(path))


def test_our_client_names_an_object_as_its_data_set_does(receiver: Receiver) -> None:
    path = get_testdata_file("rtplan.dcm")  # its file meta information names another SOP instance
    assert path is not None
    header = dcmread(path)
    assert header.file_meta.MediaStorageSOPInstanceUID != header.SOPInstanceUID
    insitu = Path(sys.executable).parent / "insitu"
    said = receiver.run(str(insitu), "send", f"INSITU@127.0.0.1:{receiver.port}", str(path))
    assert said.returncode == 0, (said.stderr, receiver.log.read_text())
    with receiver.database.transaction() as connection:
        row = connection.execute("SELECT sop_instance_uid FROM instance").fetchone()
    assert row == {"sop_instance_uid": str(header.SOPInstanceUID)}
