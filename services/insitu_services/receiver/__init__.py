"""The DICOM storage service: C-ECHO and C-STORE as SCP, by several processes that share one port.

    parent ── forks ──▶ worker ── accepts ──▶ association ──▶ negotiation     may this peer, which contexts
                                                  │  pdu      bytes of the socket as PDUs and fragments (PS3.8 9.3)
                                                  │  command  command sets (PS3.7 6.3, 9.3)
                                                  └─ storage  C-STORE into the archive, its outcome as a status

pynetdicom decodes and encodes the negotiation; the data is read here, because objects are written as they come.
"""
