"""TLS as libpq does it, against a server of our own: the embedded PostgreSQL is built without it."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import struct
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connectors.errors import ConnectorError
from connectors.postgres.client import connect
from connectors.postgres.options import PostgresOptions


def self_signed(name):
    """A certificate for an address, and its key, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


class Greeter:
    """Speaks enough of the protocol to finish TLS, then says that there is no such database."""

    def __init__(self, folder, certificate, key):
        (folder / "pem").write_text(certificate + key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.saw_clear_text = False
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self):
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain:
                if struct.unpack("!II", plain.recv(8))[1] != 80877103:  # SSLRequest
                    self.saw_clear_text = True
                    continue
                plain.sendall(b"S")
                try:
                    with self._context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(4096)
                        fields = b'SFATAL\0C3D000\0Mdatabase "d" does not exist\0\0'
                        secure.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)
                except OSError:
                    continue


@pytest.fixture
def certificate():
    return self_signed("127.0.0.1")


def attempt(port, **options):
    with pytest.raises(ConnectorError) as refused:
        connect(PostgresOptions("127.0.0.1", "d", "u", port=port, **options), timeout_s=30)
    return refused.value


def test_a_server_is_trusted_by_the_certificate_that_was_given(tmp_path, certificate):
    pem, key = certificate
    greeter = Greeter(tmp_path, pem, key)
    assert attempt(greeter.port, sslmode="verify-full", sslrootcert=pem).code == "database_missing"
    assert attempt(greeter.port, sslmode="require").code == "database_missing"
    greeter.close()


def test_a_server_that_cannot_prove_itself_is_refused(tmp_path, certificate):
    pem, key = certificate
    greeter = Greeter(tmp_path, pem, key)
    stranger, _ = self_signed("127.0.0.1")
    for given in ("", stranger):
        for mode in ("verify-full", "verify-ca"):
            error = attempt(greeter.port, sslmode=mode, sslrootcert=given)
            assert (error.code, error.field, error.transient) == ("tls_untrusted", "sslrootcert", False)
    assert not greeter.saw_clear_text
    greeter.close()


def test_a_certificate_for_another_host_is_refused(tmp_path):
    pem, key = self_signed("192.0.2.7")
    greeter = Greeter(tmp_path, pem, key)
    assert attempt(greeter.port, sslmode="verify-full", sslrootcert=pem).code == "tls_untrusted"
    assert attempt(greeter.port, sslmode="verify-ca", sslrootcert=pem).code == "database_missing"
    greeter.close()
