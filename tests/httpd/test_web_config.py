# SPDX-License-Identifier: GPL-2.0-or-later
"""With real certificates, made by openssl, and real connections."""

from __future__ import annotations

import base64
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from dynstack_probe.errors import UsageError
from dynstack_probe.httpd.web_config import CIPHER_SUITES, CURVES, WebConfig
from tests.httpd.test_server import World, received, serving
from tests.tools import needs

needs_openssl = needs("openssl", "openssl")


@dataclass
class Pki:
    """A folder of certificates: NAME.pem and NAME.key."""

    folder: Path

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def issue(self, name: str, issuer: str | None, *extensions: str) -> None:
        """A certificate and key; self-signed, and a CA, without an issuer."""
        signed_by = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key"] if issuer else []
        self.openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *signed_by,
            *(part for extension in extensions for part in ("-addext", extension)),
        )

    def text(self, file: str) -> str:
        return (self.folder / file).read_text()


LEAF = "basicConstraints=critical,CA:FALSE"
# Python 3.13 verifies as RFC 5280 says: an authority must say that its key signs certificates.
AUTHORITY = "keyUsage=critical,keyCertSign,cRLSign"


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    pki.issue("ca", None, AUTHORITY)
    pki.issue("other-ca", None, AUTHORITY)
    san = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    pki.issue("server", "ca", LEAF, san)
    pki.issue("renewed", "ca", LEAF, san)
    names = "DNS:prometheus.example,IP:10.0.0.7,IP:2001:db8::7,email:a@b.example,URI:spiffe://a/b"
    pki.issue("client", "ca", LEAF, f"subjectAltName={names}")
    pki.issue("stranger", "other-ca", LEAF)
    pki.openssl("ec", "-in", "server.key", "-aes256", "-passout", "pass:x", "-out", "locked.key")
    pki.openssl("genrsa", "-out", "rsa.key", "2048")
    return pki


@dataclass
class Folder:
    """Where a configuration and its files are."""

    path: Path

    def write(self, text: str) -> Path:
        file = self.path / "web.yml"
        file.write_text(text)
        return file

    def config(self, text: str) -> WebConfig:
        return WebConfig(self.write(text))

    def refusal(self, text: str) -> str:
        """What is said of a file that is refused, without the file's name in front."""
        file = self.write(text)
        with pytest.raises(UsageError) as caught:
            WebConfig(file)
        message = str(caught.value)
        assert "\n" not in message
        assert str(file) in message
        return message.removeprefix(f"{file}: ")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def with_certificates(folder: Folder, pki: Pki) -> Folder:
    for file in pki.folder.iterdir():
        shutil.copy(file, folder.path)
    return folder


TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
MUTUAL = TLS + "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"


def client_context(
    pki: Pki, certificate: str | None = None, adjust: Callable[[ssl.SSLContext], None] | None = None
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.folder / "ca.pem"))
    if certificate is not None:
        context.load_cert_chain(
            pki.folder / f"{certificate}.pem", pki.folder / f"{certificate}.key"
        )
    if adjust is not None:
        adjust(context)
    return context


def get(
    world: World,
    context: ssl.SSLContext | None,
    path: str = "/-/ready",
    headers: dict[str, str] | None = None,
) -> http.client.HTTPResponse:
    connection = (
        http.client.HTTPSConnection("127.0.0.1", world.port, timeout=5, context=context)
        if context
        else http.client.HTTPConnection("127.0.0.1", world.port, timeout=5)
    )
    try:
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        return connection.getresponse()
    except BaseException:
        connection.close()
        raise


def is_turned_away(world: World, context: ssl.SSLContext) -> bool:
    """Whether TLS ends before an answer: with TLS 1.3 the client learns it when it reads."""
    try:
        get(world, context)
    except (OSError, http.client.HTTPException):
        return True
    return False


# --- TLS


@needs_openssl
def test_tls(with_certificates: Folder, pki: Pki) -> None:
    with serving(with_certificates.config(TLS)) as world:
        assert world.server.url.startswith("https://127.0.0.1:")
        response = get(world, client_context(pki), "/metrics")
        assert response.status == 200
        assert b"dynstack_tasks" in response.read()
        assert world.logged == []


@needs_openssl
def test_certificate_and_key_in_the_file_itself(folder: Folder, pki: Pki) -> None:
    def block(file: str) -> str:
        return "|\n" + "".join(f"    {line}\n" for line in pki.text(file).splitlines())

    config = folder.config(
        f"tls_server_config:\n  cert: {block('server.pem')}  key: {block('server.key')}"
        f"  client_ca: {block('ca.pem')}  client_auth_type: RequireAndVerifyClientCert\n"
    )
    with serving(config) as world:
        assert get(world, client_context(pki, "client")).status == 200
        assert is_turned_away(world, client_context(pki))


@needs_openssl
def test_a_large_answer_over_tls(with_certificates: Folder, pki: Pki) -> None:
    with serving(with_certificates.config(TLS)) as world:
        world.facts[:] = [("", "x" * 3_000_000)]
        assert len(get(world, client_context(pki), "/").read()) > 3_000_000


@needs_openssl
def test_requests_and_garbage_on_a_tls_port(with_certificates: Folder, pki: Pki) -> None:
    with serving(with_certificates.config(TLS), request_seconds=0.3) as world:
        answer = world.raw(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"this is an HTTPS server\n")
        for garbage in (bytes(300), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(600)):
            assert b"HTTP" not in world.raw(garbage)
        with world.connect() as silent:
            assert received(silent) == b""
        assert get(world, client_context(pki)).status == 200
        assert len(world.logged) == 1
        assert world.logged[0].startswith("TLS handshake failed: ")


@needs_openssl
def test_60_scrapers_over_tls(with_certificates: Folder, pki: Pki) -> None:
    statuses: list[int] = []
    context = client_context(pki)
    with serving(with_certificates.config(TLS)) as world:
        threads = [
            threading.Thread(target=lambda: statuses.append(get(world, context).status))
            for _ in range(60)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 60


@needs_openssl
@pytest.mark.parametrize(
    ("setting", "client", "refused"),
    [
        ("min_version: TLS13", "TLSv1_2", True),
        ("min_version: TLS13", "TLSv1_3", False),
        ("max_version: TLS12", "TLSv1_3", True),
        ("max_version: TLS12", "TLSv1_2", False),
        ("min_version: TLS12", "TLSv1_2", False),
    ],
)
def test_versions(
    with_certificates: Folder, pki: Pki, setting: str, client: str, refused: bool
) -> None:
    def adjust(context: ssl.SSLContext) -> None:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[client]

    with serving(with_certificates.config(f"{TLS}  {setting}\n")) as world:
        assert is_turned_away(world, client_context(pki, adjust=adjust)) == refused


def negotiated_cipher(world: World, pki: Pki, offered: str) -> str:
    def adjust(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(offered)

    with (
        socket.create_connection(("127.0.0.1", world.port), timeout=5) as plain,
        client_context(pki, adjust=adjust).wrap_socket(
            plain, server_hostname="localhost"
        ) as client,
    ):
        cipher = client.cipher()
        assert cipher is not None
        return cipher[0]


@needs_openssl
def test_cipher_suites_and_who_chooses(with_certificates: Folder, pki: Pki) -> None:
    aes256 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    aes128 = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    text = f"{TLS}  cipher_suites: [{aes256}, {aes128}]\n"
    clients = f"{CIPHER_SUITES[aes128]}:{CIPHER_SUITES[aes256]}"
    with serving(with_certificates.config(text)) as world:
        assert negotiated_cipher(world, pki, clients) == CIPHER_SUITES[aes256]
        with pytest.raises(ssl.SSLError):
            negotiated_cipher(world, pki, "ECDHE-ECDSA-CHACHA20-POLY1305")
    with serving(
        with_certificates.config(text + "  prefer_server_cipher_suites: false\n")
    ) as world:
        assert negotiated_cipher(world, pki, clients) == CIPHER_SUITES[aes128]


@needs_openssl
def test_every_cipher_suite_and_curve_is_known_to_openssl(with_certificates: Folder) -> None:
    names = ", ".join(CIPHER_SUITES)
    with_certificates.config(f"{TLS}  cipher_suites: [{names}]\n")
    for curve in sorted(CURVES.keys() - {"X25519"}):  # which not every Python's ssl can choose
        with_certificates.config(f"{TLS}  curve_preferences: [{curve}]\n")


@needs_openssl
def test_the_curve(with_certificates: Folder, pki: Pki) -> None:
    with serving(with_certificates.config(f"{TLS}  curve_preferences: [CurveP384]\n")) as world:
        for curve, refused in (("secp384r1", False), ("prime256v1", True)):
            context = client_context(pki)
            context.set_ecdh_curve(curve)
            assert is_turned_away(world, context) == refused


# --- client certificates


@needs_openssl
def test_a_required_client_certificate(with_certificates: Folder, pki: Pki) -> None:
    with serving(with_certificates.config(MUTUAL)) as world:
        assert get(world, client_context(pki, "client")).status == 200
        assert is_turned_away(world, client_context(pki))
        assert is_turned_away(world, client_context(pki, "stranger"))
        assert world.stacks.collected == 0


@needs_openssl
def test_a_client_certificate_checked_if_given(with_certificates: Folder, pki: Pki) -> None:
    text = MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")
    with serving(with_certificates.config(text)) as world:
        assert get(world, client_context(pki, "client")).status == 200
        assert get(world, client_context(pki)).status == 200
        assert is_turned_away(world, client_context(pki, "stranger"))


@needs_openssl
@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("prometheus.example", True),
        ("10.0.0.7", True),
        ("'2001:db8::7'", True),
        ("'2001:0DB8:0::7'", True),
        ("a@b.example", True),
        ("spiffe://a/b", True),
        ("client", False),  # the common name is no such name
        ("rometheus.example", False),
        ("'*.example'", False),
    ],
)
def test_allowed_names(with_certificates: Folder, pki: Pki, name: str, accepted: bool) -> None:
    text = f"{MUTUAL}  client_allowed_sans: [nobody.example, {name}]\n"
    with serving(with_certificates.config(text)) as world:
        assert is_turned_away(world, client_context(pki, "client")) != accepted


# --- passwords


def hash_of(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str) -> dict[str, str]:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def test_passwords(folder: Folder) -> None:
    long = "x" * 80
    text = (
        f"basic_auth_users:\n  alice: {hash_of('se:cret')}\n"
        f"  bób: {hash_of('pass').replace('$2b$', '$2y$')}\n  carol: {hash_of(long[:72])}\n"
    )
    with serving(folder.config(text)) as world:
        good = [("alice", "se:cret"), ("bób", "pass"), ("carol", long)]
        for user, password in good * 2:
            assert get(world, None, "/metrics", basic(user, password)).status == 200
        bad = [("alice", "secret"), ("alice", ""), ("mallory", "se:cret"), ("", ""), ("bób", "x\0")]
        for user, password in bad * 2:
            response = get(world, None, "/metrics", basic(user, password))
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic ")
        assert world.stacks.collected == 6


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/ready", "/-/healthy", "/nothing"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic ####", "Basic YWxpY2U=", "Bearer YTpi", "Basic YTpi"],
)
def test_every_page_needs_one(folder: Folder, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    with serving(folder.config(f"basic_auth_users: {{alice: {hash_of('secret')}}}\n")) as world:
        assert get(world, None, path, headers).status == 401


def test_bcrypt_is_asked_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    real = bcrypt.checkpw

    def count(password: bytes, hashed: bytes) -> bool:
        asked.append(password)
        return real(password, hashed)

    config = folder.config(f"basic_auth_users: {{alice: {hash_of('secret')}}}\n")
    monkeypatch.setattr(bcrypt, "checkpw", count)
    with serving(config) as world:
        for _ in range(5):
            assert get(world, None, headers=basic("alice", "secret")).status == 200
            assert get(world, None, headers=basic("alice", "wrong")).status == 401
        assert asked == [b"secret", b"wrong"]
        for number in range(150):  # guessing does not push out who is known
            assert not config.permits(basic("alice", str(number))["Authorization"])
        assert not config.needs_bcrypt(basic("alice", "secret")["Authorization"])
        assert config.needs_bcrypt(basic("alice", "wrong")["Authorization"])


def test_those_who_guess_do_not_delay_those_who_know(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder.config(f"basic_auth_users: {{alice: {hash_of('secret')}}}\n")
    with serving(config) as world:
        assert get(world, None, headers=basic("alice", "secret")).status == 200
        release = threading.Event()

        def slow(password: bytes, hashed: bytes) -> bool:
            release.wait(5)
            return False

        monkeypatch.setattr(bcrypt, "checkpw", slow)
        guessers = [world.connect() for _ in range(20)]
        for number, guesser in enumerate(guessers):
            authorization = basic("alice", str(number))["Authorization"]
            guesser.sendall(f"GET / HTTP/1.0\r\nAuthorization: {authorization}\r\n\r\n".encode())
        assert get(world, None, headers=basic("alice", "secret")).status == 200
        release.set()
        for guesser in guessers:
            assert received(guesser).startswith(b"HTTP/1.1 401 ")
            guesser.close()


def test_no_such_user_costs_what_a_wrong_password_costs(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[bytes] = []
    config = folder.config(f"basic_auth_users: {{alice: {hash_of('secret', 5)}}}\n")

    def refuse(password: bytes, hashed: bytes) -> bool:
        costs.append(hashed[:7])
        return False

    monkeypatch.setattr(bcrypt, "checkpw", refuse)
    for user in ("alice", "mallory"):
        assert not config.permits(basic(user, "guess")["Authorization"])
    assert costs == [b"$2b$05$", b"$2b$05$"]


def test_the_stand_in_for_no_user_lets_nobody_in(folder: Folder) -> None:
    config = folder.config(f"basic_auth_users: {{alice: {hash_of('secret', 10)}}}\n")
    assert not config.permits(basic("mallory", "fakepassword")["Authorization"])


# --- headers


def test_headers(folder: Folder) -> None:
    text = """
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    Content-Security-Policy: ""
    X-Content-Type-Options: nosniff
    Strict-Transport-Security: max-age=60
"""
    with serving(folder.config(text)) as world:
        response = get(world, None, "/")
        assert response.read().endswith(b"</html>\n")
        assert response.headers["X-Frame-Options"] == "deny"
        assert response.headers["Strict-Transport-Security"] == "max-age=60"
        assert response.headers["Content-Security-Policy"] is None


# --- change


@needs_openssl
def test_a_renewed_certificate_is_used_at_once(with_certificates: Folder, pki: Pki) -> None:
    folder = with_certificates.path

    def subject(world: World) -> str:
        with (
            socket.create_connection(("127.0.0.1", world.port), timeout=5) as plain,
            client_context(pki).wrap_socket(plain, server_hostname="localhost") as client,
        ):
            certificate = client.getpeercert()
            assert certificate
            return str(certificate["subject"])

    logged: list[str] = []
    config = WebConfig(with_certificates.write(TLS), logged.append)
    with serving(config) as world:
        assert "server" in subject(world)
        shutil.copy(folder / "renewed.pem", folder / "server.pem")
        assert "server" in subject(world)  # the key is still the old one
        assert "server" in subject(world)
        assert len(logged) == 1
        assert "does not match the certificate; the previous" in logged[0]
        shutil.copy(folder / "renewed.key", folder / "server.key")
        assert "renewed" in subject(world)
        (folder / "server.pem").unlink()
        assert "renewed" in subject(world)
        assert len(logged) == 2


def test_reload(folder: Folder) -> None:
    config = folder.config(f"basic_auth_users: {{alice: {hash_of('old')}}}\n")
    with serving(config) as world:
        assert get(world, None, headers=basic("alice", "old")).status == 200
        with world.connect() as idle:
            time.sleep(0.05)
            folder.write(f"basic_auth_users: {{alice: {hash_of('new')}}}\n")
            assert get(world, None, headers=basic("alice", "old")).status == 200
            world.server.reload()
            assert received(idle) == b""
        assert get(world, None, headers=basic("alice", "old")).status == 401
        assert get(world, None, headers=basic("alice", "new")).status == 200
        folder.write("basic_auth_users: {alice: plain}\n")
        with pytest.raises(UsageError, match="alice: not a bcrypt hash"):
            world.server.reload()
        assert get(world, None, headers=basic("alice", "new")).status == 200


@needs_openssl
def test_tls_cant_be_turned_off_by_a_reload(with_certificates: Folder, pki: Pki) -> None:
    with serving(with_certificates.config(TLS)) as world:
        with_certificates.write("")
        with pytest.raises(UsageError, match="turning TLS on or off needs a restart"):
            world.server.reload()
        assert get(world, client_context(pki)).status == 200


def test_reload_without_a_configuration() -> None:
    with serving() as world:
        world.server.reload()


# --- what is refused


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "tls_server_config:\n", "basic_auth_users: {}"]
)
def test_an_empty_file_asks_for_nothing(folder: Folder, text: str) -> None:
    with serving(folder.config(text)) as world:
        assert get(world, None).status == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "the file: must be a mapping"),
        ("tls_server_config: [", "line 1: not valid YAML"),
        ("a: b: c", "line 1: not valid YAML: mapping values"),
        ("\t", "line 1: not valid YAML"),
        ("\0", "not valid YAML"),
        ("a: *x", "not valid YAML: found undefined alias"),
        (
            "!!python/object/apply:os.system [ls]",
            "not valid YAML: could not determine a constructor",
        ),
        ("--- 1\n--- 2\n", "not valid YAML"),
        ("a: 2024-99-99", "not valid YAML: month"),
        ("[" * 1500, "not valid YAML"),
        ("!!map [1]", "not valid YAML"),
        ("{[a]: b}", "not valid YAML"),
        ("tls_config: {}", "tls_config: unknown key; valid keys: tls_server_config"),
        ("1: {}", "1: a key must be a string"),
        ("tls_server_config: {}\ntls_server_config: {}", "tls_server_config: duplicate key"),
        ("http_server_config:\n  http2: no\n  http2: no", "http2: duplicate key on line 3"),
        ("rate_limit: {interval: 1s}", "rate_limit: not supported"),
        ("http_server_config: {http2: true}", "http_server_config.http2: HTTP/2 is not supported"),
        ("http_server_config: {http2: 1}", "http_server_config.http2: must be true or false"),
        ("http_server_config: {http3: true}", "http_server_config.http3: unknown key"),
        ("http_server_config: true", "http_server_config: must be a mapping"),
        (
            "http_server_config: {headers: {Server: x}}",
            "http_server_config.headers.Server: unknown key",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "http_server_config.headers.X-Frame-Options: allow is not one of deny, sameorigin",
        ),
        (
            'http_server_config: {headers: {Content-Security-Policy: "a\\r\\nSet-Cookie: b"}}',
            "http_server_config.headers.Content-Security-Policy: must be a single line",
        ),
        ("basic_auth_users: {alice: secret}", "basic_auth_users.alice: not a bcrypt hash"),
        ("basic_auth_users: {alice: }", "basic_auth_users.alice: not a bcrypt hash"),
        ("basic_auth_users: {alice: 12}", "basic_auth_users.alice: must be a string"),
        ("basic_auth_users: {1: x}", "basic_auth_users.1: a key must be a string"),
        ('basic_auth_users: {"a:b": x}', "basic_auth_users.a:b: a user name can't contain a colon"),
        ('basic_auth_users: {"a\\nb": x}', r"'basic_auth_users.a\nb': not a bcrypt hash"),
        (
            "basic_auth_users: {alice: $2b$99$" + "a" * 53 + "}",
            "basic_auth_users.alice: not a bcrypt hash",
        ),
    ],
)
def test_refused(folder: Folder, text: str, told: str) -> None:
    assert told in folder.refusal(text)


@needs_openssl
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cert_file: none.pem", "cert_file: can't read {folder}/none.pem: No such file"),
        ("cert_file: .", "cert_file: can't read {folder}: Is a directory"),
        ("key_file: none.key", "key_file: can't read {folder}/none.key: No such file"),
        ("cert_file: ''", "cert_file: missing"),
        ("key_file: ''", "key_file: missing"),
        ("cert_file: server.key", "cert_file: {folder}/server.key is not a PEM certificate"),
        ("key_file: server.pem", "key_file: {folder}/server.pem is not a PEM private key"),
        ("key_file: ca.key", "key_file: {folder}/ca.key does not match the certificate"),
        ("key_file: rsa.key", "key_file: {folder}/rsa.key does not match the certificate"),
        ("key_file: locked.key", "key_file: {folder}/locked.key is encrypted"),
        ("key_file: 7", "key_file: must be a string"),
        ("cert: x", "cert: set this or cert_file, not both"),
        ("key: x", "key: set this or key_file, not both"),
        ("client_auth_type: Always", "client_auth_type: Always is unknown; choose one of NoClie"),
        ("client_auth_type: RequestClientCert", "client_auth_type: RequestClientCert does not"),
        ("client_auth_type: RequireAnyClientCert", "client_auth_type: RequireAnyClientCert does"),
        ("client_auth_type: RequireClientCert", "client_auth_type: RequireClientCert does not"),
        (
            "client_auth_type: RequireAndVerifyClientCert",
            "client_ca_file: missing, and RequireAndVerifyClientCert needs it",
        ),
        ("client_auth_type: VerifyClientCertIfGiven", "client_ca_file: missing"),
        ("client_ca_file: ca.pem", "client_auth_type: missing"),
        (
            "client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: none.pem",
            "client_ca_file: can't read {folder}/none.pem: No such file",
        ),
        (
            "client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.key",
            "client_ca_file: {folder}/ca.key is not a PEM certificate",
        ),
        ("client_allowed_sans: [a]", "client_allowed_sans: needs a client_auth_type"),
        ("client_allowed_sans: []", "client_allowed_sans: is empty"),
        ("client_allowed_sans: a", "client_allowed_sans: must be a list of strings"),
        ("min_version: TLS10", "min_version: TLS10 is not supported"),
        ("max_version: TLS11", "max_version: TLS11 is not supported"),
        ("min_version: 1.3", "min_version: must be a string"),
        ("min_version: SSL3", "min_version: SSL3 is unknown"),
        ("min_version: TLS13\n  max_version: TLS12", "min_version: TLS13 is above max_version"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", "cipher_suites: TLS_AES_128_GCM_SHA256 is a"),
        ("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "cipher_suites: TLS_RSA_WITH_RC4_128_SHA i"),
        (
            f"min_version: TLS13\n  cipher_suites: [{next(iter(CIPHER_SUITES))}]",
            "cipher_suites: has no effect with min_version TLS13",
        ),
        ("curve_preferences: [Curve1]", "curve_preferences: Curve1 is not one of CurveP256"),
        ("curve_preferences: [X25519, CurveP256]", "curve_preferences: more than one curve"),
        ("prefer_server_cipher_suites: 1", "prefer_server_cipher_suites: must be true or false"),
        ("certfile: server.pem", "certfile: unknown key"),
    ],
)
def test_refused_in_tls_server_config(with_certificates: Folder, line: str, told: str) -> None:
    given = {key.strip() for key in line.split(":")}
    usual = ["cert_file: server.pem", "key_file: server.key"]
    lines = [*(entry for entry in usual if entry.split(":")[0] not in given), line]
    message = with_certificates.refusal("tls_server_config:\n  " + "\n  ".join(lines) + "\n")
    expected = told.format(folder=with_certificates.path)
    assert message.startswith(f"tls_server_config.{expected}")


def test_tls_settings_without_a_certificate_are_not_ignored(folder: Folder) -> None:
    assert folder.refusal("tls_server_config: {min_version: TLS13}").startswith(
        "tls_server_config.cert_file: missing"
    )


def test_a_file_that_cant_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't read .*none\.yml: No such file"):
        WebConfig(tmp_path / "none.yml")
    with pytest.raises(UsageError, match=r"can't read .*: Is a directory"):
        WebConfig(tmp_path)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("yaml", "apt install python3-yaml"),
        ("bcrypt", r"basic_auth_users: .*python3-bcrypt, or pip install dynstack-probe\[auth\]"),
    ],
)
def test_a_missing_package(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, module: str, told: str
) -> None:
    file = folder.write(f"basic_auth_users: {{alice: {hash_of('secret')}}}\n")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=told):
        WebConfig(file)
