"""Listens on a port of its pod for as long as it may, for others to try."""

import socket
import sys
import time

PORT = 7777

with socket.create_server(("0.0.0.0", PORT)) as server:
    print("listening", flush=True)
    while True:
        connection, _ = server.accept()
        connection.close()
        sys.stdout.write("somebody came\n")
        sys.stdout.flush()
        time.sleep(0.01)
