"""What is taken out of other people's lines."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.logging import AccessFormatter, DefaultFormatter

from socketguard.errors import ConfigurationError
from socketguard.logs import RedactFilter

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1LTEifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
SID = "Vh3kQ9tLr2mXw8bNAAAB"


def record(msg: object, *args: Any, name: str = "app", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, "app.py", 1, msg, args, None)
    made.__dict__.update(extra)
    return made


ACCESS = '%s - "%s %s HTTP/%s" %d'
PATH = f"/socket.io/?EIO=4&transport=polling&sid={SID}&t=abc"


def shown(one: logging.LogRecord, formatter: logging.Formatter | None = None) -> str:
    assert RedactFilter().filter(one) is True
    return (formatter or logging.Formatter()).format(one)


def test_the_access_log_of_uvicorn() -> None:
    one = record(ACCESS, "127.0.0.1:5", "GET", PATH, "1.1", 200, name="uvicorn.access")
    formatter = AccessFormatter('%(client_addr)s - "%(request_line)s" %(status_code)s', use_colors=False)
    path = "/socket.io/?EIO=4&transport=polling&sid=[redacted]&t=abc"
    assert shown(one, formatter) == f'127.0.0.1:5 - "GET {path} HTTP/1.1" 200 OK'
    assert (one.msg, one.args) == (ACCESS, ("127.0.0.1:5", "GET", path, "1.1", 200))
    # The arguments stay five, whatever is in them.
    one = record(ACCESS, "Cookie: a=b", "token=x", "/?%74oken=y", "Bearer abcdefgh", 200, name="uvicorn.access")
    shown(one, formatter)
    assert one.args == ("Cookie: [redacted]", "token=[redacted]", "/?%74oken=[redacted]", "Bearer [redacted]", 200)


def test_websocket_lines_of_uvicorn() -> None:
    one = record('%s - "WebSocket %s" [accepted]', "10.0.0.1:5", f"/socket.io/?token={JWT}", name="uvicorn.error")
    assert shown(one) == '10.0.0.1:5 - "WebSocket /socket.io/?token=[redacted]" [accepted]'
    assert one.args == ("10.0.0.1:5", "/socket.io/?token=[redacted]")


def test_records_without_secrets_are_left_alone() -> None:
    numbers = [1, 2, 3]
    mapping = {"a": 1, "token": None}
    error = ValueError("x")
    one = record("%s %s %d %s", "a", numbers, 3, error)
    two = record("%(a)d %(token)s", mapping)
    three = record("Joined '/m': the token_id is t-1, code=7, auth=required; Invalid token: signature_mismatch")
    for each in (one, two, three):
        before = dict(each.__dict__)
        RedactFilter().filter(each)
        assert each.__dict__ == before
    assert one.args[1] is numbers  # type: ignore[index]


RECEIVED = "%s: Received packet %s data %s"
OPENED = {"sid": SID, "upgrades": ["websocket"], "pingTimeout": 1}
HIDDEN = "{'sid': '[redacted]', 'upgrades': ['websocket'], 'pingTimeout': 1}"
INVALID = "Invalid session %s (further occurrences of this error will be logged with level INFO)"


@pytest.mark.parametrize(
    ("msg", "args", "expected"),
    [
        (RECEIVED, (SID, "MESSAGE", '0{"token":"x y"}'), "packet MESSAGE data 0[redacted]"),
        (RECEIVED, (SID, "MESSAGE", '0/ns,{"t":"opaque"}'), "data 0/ns,[redacted]"),
        (RECEIVED, (SID, "MESSAGE", '٠{"t":"opaque"}'), "data ٠[redacted]"),
        (RECEIVED, (SID, "MESSAGE", '2["chat","hi"]'), 'data 2["chat","hi"]'),
        (RECEIVED, (SID, "MESSAGE", '2["socketguard:refresh","opaque"]'), '2["socketguard:refresh",[redacted]'),
        ("%s: Sending packet %s data %s", (SID, "OPEN", OPENED), HIDDEN),
        ("%s: Client is gone, closing socket", (SID,), "[redacted]: Client is gone"),
        ("%s: Received request to upgrade to %s", (SID, "websocket"), "[redacted]: Received request"),
        ("%s: Failed websocket upgrade, no PING packet", (SID,), "[redacted]: Failed websocket"),
        ("%s: Upgrade to websocket successful", (SID,), "[redacted]: Upgrade to websocket successful"),
        ("Cannot send to sid %s", (SID,), "Cannot send to sid [redacted]"),
        (f"Invalid session {SID}", (), "Invalid session [redacted]"),
        (INVALID % SID, (), "session [redacted] (further"),
        (f"Socket for session {SID} is not connected", (), "for session [redacted] is not"),
        (f"'Session is disconnected' {SID}", (), "'Session is disconnected' [redacted]"),
        (f'0{{"sid":"{SID}","upgrades":[]}}', (), '"sid":"[redacted]","upgrades"'),
        ("< TEXT '%s' [%d bytes]", ('40/ns,{"t":"opaque"}', 21), "< TEXT '40/ns,[redacted]"),
        ('emitting event "%s" to %s [%s]', ("chat", "room-1", "/"), 'emitting event "chat" to room-1 [/]'),
    ],
)
def test_the_lines_of_engineio_and_socketio(msg: str, args: tuple[Any, ...], expected: str) -> None:
    text = shown(record(msg, *args, name="engineio.server"))
    assert expected in text
    assert SID not in text
    assert "opaque" not in text


SECRET = "s3cr3t-Opaque.Value"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /socket.io/?EIO=4&access_token={SECRET}&t=1",
        f"/?jwt={SECRET}",
        f"/?auth={SECRET}#x",
        f"/?authorization=Bearer%20{SECRET}",
        f"/?AUTHORIZATION=Bearer+{SECRET}",
        f"/?a=b&s%69d={SECRET}",
        f"/ns?ticket={SECRET}",
        f'{{"token":"{SECRET}"}}',
        f'{{"a":{{"refreshToken" : "{SECRET}"}}}}',
        f'{{"id_token":"a\\"{SECRET}"}}',
        f'data \'{{"token":"{SECRET}"}}\'',
        f"'data': '{{\"token\":\"{SECRET}\"}}'",
        f'{{\\"token\\":\\"{SECRET}\\"}}',
        f'{{\\"token\\":\\"{SECRET}',
        f'{{"token":"{SECRET}',
        f"{{'password': '{SECRET}'}}",
        f'{{"auth": "{SECRET}"}}',
        f"[(b'host', b'x'), (b'authorization', b'Basic {SECRET}')]",
        f'["x", "cookie", "sid={SECRET}"]',
        f"token={SECRET}",
        f"token='{SECRET}'",
        f'x (api_key="{SECRET}")',
        f"client-secret={SECRET}, next",
        f"> Authorization: Basic {SECRET}",
        f"< Cookie: a=b; io={SECRET}\r\n< Host: x",
        f"Set-Cookie: io={SECRET}; HttpOnly",
        f"X-API-Key: {SECRET}",
        f"sent bearer {SECRET} away",
    ],
)
def test_secrets_by_their_names(text: str) -> None:
    for one in (record(text), record("%s", text), record("seen: %(what)s", {"what": text}), record("%s %d", text, 1)):
        assert SECRET not in shown(one)
        assert "[redacted]" in logging.Formatter().format(one)


@pytest.mark.parametrize("header", ["eyJhbGciOiJIUzI1NiJ9", "eyAiYWxnIjoiSFMyNTYifQ", "ewogICJhbGciOiAiSFMyNTYiCn0"])
@pytest.mark.parametrize("before", ["", " ", "%20", "x", "/", "'", "Bearer%20"])
def test_a_jwt_anywhere(before: str, header: str) -> None:
    text = shown(record("got %s!", f"{before}{header}.eyJzdWIiOiJ1LTEifQ.c2lnbmF0dXJl"))
    assert "eyJzdWIi" not in text
    assert "c2lnbmF0dXJl" not in text
    assert text.endswith("[redacted]!")


@pytest.mark.parametrize("text", ["framework_core.middleware.auth", "ewo", "eyJ", "they.eyed.eggs", "ewok.eye.test"])
def test_words_are_no_jwt(text: str) -> None:
    assert shown(record(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"token":"required"}',
        "token='optional'",
        "token=none, next",
        '{"token":null}',
        '{"token":{"a":1}}',
        "auth: {'issuer': 'x'}",
        "?sid=",
        "the cookie: a story",
        'the event "token", then "x"',
        "payload_keys=('token', 'access_token', 'jwt')",
        "max_tokens=7 token_id=t-1",
        "'Invalid token' and 'secret'",
        '{"password": 12345, "n": 1}',  # A number can be a secret.
    ],
)
def test_words_that_are_no_secrets_stay(text: str) -> None:
    assert shown(record(text)) == text.replace("a story", "[redacted]").replace("12345", "[redacted]")


def test_arguments_of_every_kind() -> None:
    class Request:
        def __str__(self) -> str:
            return f"<Request /?token={SECRET}>"

    arguments = Request(), f"token={SECRET}".encode(), [f"token={SECRET}"], {1: {"token": SECRET}}
    assert SECRET not in shown(record("%s %s %s %s", *arguments))
    assert shown(record("%(token)s %(n)d", {"token": SECRET, b"auth": SECRET, "n": 7})) == "[redacted] 7"


def test_dictionaries_keep_their_type_and_large_ones_are_searched_as_text() -> None:
    class Atoms(dict[str, Any]):
        def __missing__(self, key: str) -> str:
            return "-"

    atoms = Atoms(r=f"GET /?sid={SID} HTTP/1.1", s=200)
    one = record("%(r)s %(s)s %({x-missing}i)s", atoms)
    assert shown(one) == "GET /?sid=[redacted] HTTP/1.1 200 -"
    assert isinstance(one.args, Atoms)
    assert SID in atoms["r"]
    large = {f"k{n}": n for n in range(300)}
    assert shown(record("%s", large)) == str(large)
    assert SECRET not in shown(record("%s", {"token": SECRET, **large}))


def test_a_secret_that_shows_only_in_the_whole_message() -> None:
    one = record("token=%s for %s", SECRET, "u-1")
    assert shown(one) == "token=[redacted] for u-1"
    assert one.args == ()
    coloured = record("token=%s", "opaque", color_message="\x1b[1mtoken=%s", name="uvicorn.error")
    text = shown(coloured, DefaultFormatter("%(levelprefix)s %(message)s", use_colors=True))
    assert text.endswith("token=[redacted]")


def test_structlog_event_dictionaries_as_messages() -> None:
    event = {"event": "x", "token": SECRET, "sid": "sio-sid", "nested": {"token": SECRET}, "n": 1}
    one = record(event)
    RedactFilter().filter(one)
    expected: Any = {**event, "token": "[redacted]", "nested": {"token": "[redacted]"}}
    assert one.msg == expected
    assert event["token"] == SECRET


def test_extra_attributes() -> None:
    request = object()
    one = record("x", token=SECRET, detail=f"token={SECRET}", request=request, **{"socketguard.token_id": "t-1"})
    RedactFilter().filter(one)
    assert (one.token, one.detail, one.request) == ("[redacted]", "token=[redacted]", request)  # type: ignore[attr-defined]
    assert one.__dict__["socketguard.token_id"] == "t-1"


def with_exception(text: str) -> logging.LogRecord:
    made = record("failed")
    try:
        raise ValueError(text)
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    return made


def test_tracebacks() -> None:
    text = shown(with_exception(f"bad token={SECRET}"))
    assert text.startswith("failed\nTraceback (most recent call last)")
    assert text.endswith("ValueError: bad token=[redacted]")
    harmless = with_exception("harmless")
    RedactFilter().filter(harmless)
    assert harmless.exc_info is not None
    assert harmless.exc_text is None
    rendered = with_exception("x")
    rendered.exc_text = f"ValueError: token={SECRET}"
    assert shown(rendered) == "failed\nValueError: token=[redacted]"
    absent = record("fine")
    absent.exc_info = (None, None, None)
    assert shown(absent).startswith("fine")


def test_a_wrong_format_is_left_to_logging_but_without_the_secret() -> None:
    one = record("%s %s", f"token={SECRET}")
    RedactFilter().filter(one)
    assert one.args == ("token=[redacted]",)
    with pytest.raises(TypeError):
        one.getMessage()


def test_what_cannot_be_searched_is_left_out() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    one = record(Unprintable())
    one.exc_text = "x"
    assert shown(one) == "a log line that can't be searched for secrets was left out"


def test_lines_of_a_megabyte_are_cut() -> None:
    text = shown(record("%s: Received packet %s data %s", SID, "MESSAGE", "2" + "x" * 1_000_000))
    assert len(text) < 20_000
    assert "991809 more characters]" in text


@pytest.mark.parametrize("before", range(8192 - len(JWT) - 1, 8194, 3))
def test_a_cut_leaves_no_half_of_a_token(before: int) -> None:
    assert JWT[:12] not in shown(record("%s", "." * before + JWT))


@pytest.mark.parametrize("replacement", ["***", "<hidden>", "REDACTED", "[x-1]"])
def test_the_replacement_can_be_chosen(replacement: str) -> None:
    one = record(f"/?token={SECRET}&sid={SID} Bearer {SECRET} token={SECRET}")
    for _ in range(2):
        RedactFilter(replacement).filter(one)
        assert one.msg == f"/?token={replacement}&sid={replacement} Bearer {replacement} token={replacement}"


@pytest.mark.parametrize("replacement", ["", "a b", "%s", "\\1", "'", "a\n", "x" * 41])
def test_replacements_that_change_a_line_are_refused(replacement: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedactFilter(replacement)
    assert caught.value.option == "replacement"


alphabet = st.sampled_from([*"\"'\\{}[]:,=&?; \r\n%ab0-_", "token", "cookie", "eyJ", "bearer ", ": ", "sid"])


@given(st.lists(alphabet, max_size=40).map("".join))
def test_filtering_twice_changes_nothing(text: str) -> None:
    redact = RedactFilter()
    once = redact.text(text)
    assert redact.text(once) == once


@given(
    st.lists(alphabet, max_size=15).map("".join),
    st.sampled_from(["/?token={}", '{{"token":"{}"}}', "Cookie: {}", "Bearer {}", " token={}", "/?x=1&sid={}"]),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.", min_size=16, max_size=40),
)
@example(before="bearer ", shape="Bearer {}", secret="0000000000000000")
def test_a_secret_is_found_in_any_neighbourhood(before: str, shape: str, secret: str) -> None:
    text = shown(record("%s", f"{before} \n{shape.format(secret)}"))
    assert secret not in text


@pytest.mark.parametrize(
    "text",
    [
        "bearer+",
        "bearer%20",
        "token={",
        "secret=[",
        '"token":{',
        "eyJabcdefgh",
        "ewo",
        "Invalid session ",
        "cookie: ",
        '\\"',
        "?a&",
    ],
)
def test_the_work_grows_with_the_length_only(text: str) -> None:
    many = f"token bearer {text * (400_000 // len(text))}"
    began = time.thread_time()
    RedactFilter().text(many, limit=len(many))
    # Hundredths of a second; the square of the length would take minutes.
    assert time.thread_time() - began < 20


@pytest.mark.parametrize("row", ["Bearer ", "bearer+", "Bearer%20", "Bearer Bearer ", "bearer bearer+Bearer%20"])
def test_a_row_of_the_word_hides_no_token(row: str) -> None:
    for text in (f"GET /?x={row}tok12345", f"{row * 50}tok12345 next", f"{row}short"):
        clean = RedactFilter().text(text)
        assert "tok12345" not in clean
        assert "short" not in text or clean == text
