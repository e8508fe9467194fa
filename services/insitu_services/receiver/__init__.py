"""The DICOM services as SCP: C-ECHO and C-STORE; C-FIND, C-MOVE, C-GET and storage commitment for known nodes.

Several processes share one port.

    parent ── forks ──▶ worker ── accepts ──▶ association ──▶ negotiation     may this peer, which contexts
                                                  │              callers       which known node it is, and what it may see
                                                  │  pdu         bytes of the socket as PDUs and fragments (PS3.8 9.3)
                                                  │  command     command sets (PS3.7 6.3, 9.3)
                                                  ├─ storage     C-STORE into the archive, its outcome as a status
                                                  ├─ query       C-FIND (identifier: what is asked, answers: what is said)
                                                  ├─ retrieve    C-GET, C-MOVE (suboperations, outgoing, destination)
                                                  └─ commitment  storage commitment, and telling its results

`dialogue` is what these services see of the association; `sop_classes` the tables of what is served.
pynetdicom decodes and encodes the negotiation; the data is read here, because objects are written as they come.
"""
