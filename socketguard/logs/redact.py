"""Takes tokens and session ids out of other people's log lines: uvicorn's and python-engineio's."""

from __future__ import annotations

import copy
import logging
import re
import sys
import traceback
from typing import Any
from urllib.parse import unquote

from socketguard.errors import ConfigurationError
from socketguard.text import JWT, REDACTED

__all__ = ["RECORD_ATTRIBUTES", "TRACEBACK_LIMIT", "RedactFilter", "traceback_text"]

RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""The attributes that each record has; no further field may be named so."""

TRACEBACK_LIMIT = 16_384
"""How many characters of a traceback are kept."""


def traceback_text(exc_info: Any) -> str | None:
    """The text of ``exc_info`` (an exception, a triple as of `sys.exc_info`, or true for the current exception)."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    error = exc_info if isinstance(exc_info, BaseException) else (sys.exc_info()[1] if exc_info else None)
    if error is None:
        return None
    # Not by ConsoleRenderer, which uses Rich where that is installed and prints local variables, tokens too.
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    # The end is the telling part: the exception itself and where it was raised.
    return text if len(text) <= TRACEBACK_LIMIT else "…" + text[-TRACEBACK_LIMIT:]


# The names of what must not be read, in lower case without - and _: in a query, as a quoted key, before "=".
_SENSITIVE_ENDS = ("token", "jwt", "bearer", "authorization", "cookie", "password", "passwd", "secret", "apikey")
_SENSITIVE_PARAMETERS = frozenset({"auth", "sid", "ticket", "code", "assertion", "signature"})
_SENSITIVE_KEYS = frozenset({"auth", "credentials"})
# Looked for first, because the usual line holds none of them and the patterns cost more.
_SENSITIVE_HINTS = ("token", "jwt", "bearer", "auth", "cookie", "passw", "secret", "key", "credentials")
# The words of options such as NamespacePolicy(token="required"): no secrets.
_NO_SECRET = frozenset({"", "required", "optional", "none", "null", "true", "false"})

_QUERY = re.compile(r"([?&])([^=&?\s\"'#]{1,64}+)=([^&\s\"'#]*+)")
# "key": "value", 'key': 'value', \"key\":\"value\", ('key', 'value') and key=value, up to where the value begins.
_PAIR = re.compile(
    r"(?:(?<!\\)(?P<mark>\\*+[\"'])(?P<key>[\w-]{2,64}+)(?P=mark)\s*+(?P<between>[:,])\s*+"
    r"|(?<![\w?&%-])(?P<name>[\w-]{2,64}+)=)(?=b?(?P<quote>\\*+[\"'])?)"
)
_VALUE_END = {
    '"': re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL),
    "'": re.compile(r"(?:[^'\\]|\\.)*+", re.DOTALL),
    None: re.compile(r"[^\s\"'&,;)}]*+"),
}
_HEADER_NAMES = frozenset({"authorization", "proxyauthorization", "cookie", "setcookie", "xapikey"})
_HEADER_LINE = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-(?:access|auth)-token)(:\s++)([^\r\n\"']++)",
    re.IGNORECASE,
)
# The word may be there twice, as where a client puts it before a token that has it already. It matches without a value
# too: else a long row of the word would be read again from each of them.
_BEARER = re.compile(r"\b((?:bearer(?:\s++|%20|\+))++)([\w.~+/=%-]{6,}+)?", re.IGNORECASE | re.ASCII)
# python-engineio: "<sid>: Received packet …", "Invalid session <sid>"; its OPEN packet, which holds the session id.
_ENGINEIO_LINE = re.compile(
    r"\A\S{1,256}?(?=: (?:Received packet|Sending packet|Received request to upgrade|Client is gone"
    r"|Failed websocket upgrade|Upgrade to websocket))"
)
_ENGINEIO_SID = re.compile(r"((?:Invalid|for) session |Cannot send to sid |Session is disconnected' )(\S++)")
_ENGINEIO_OPEN = re.compile(r"([\"']sid[\"']: ?)([\"'])[^\"']*+\2(?=, ?[\"']upgrades[\"'])")
# A Socket.IO CONNECT, also as a frame in the debug lines of websockets: everything after the namespace is the `auth`
# of the client. python-socketio reads the type by int(), so every decimal digit of Unicode counts as one.
_CONNECT = re.compile(r"((?:packet MESSAGE data |TEXT [\"']4)(?:0|(?=\d)[^0-9])(?:/[^,{]*+,?)?)(.++)", re.DOTALL)
_REFRESH = re.compile(r"([\"']socketguard:refresh\\*[\"']\s*+,\s*+)(.++)", re.DOTALL)

_LINE_LIMIT = 8192
_MESSAGE_LIMIT = 16_384
_WIDTH_LIMIT = 200


class RedactFilter(logging.Filter):
    """Takes tokens, cookies and Engine.IO session ids out of log records: put it on *handlers*.

    Made for the lines of ``uvicorn.access`` and ``uvicorn.error`` (whose paths carry ``?sid=…`` and ``?token=…``) and
    for the packet lines of python-engineio's and python-socketio's loggers; whatever looks like a JWT, a Bearer
    value or a cookie is taken out of any line. A text beyond 8 KiB is cut, so that one line can't cost the loop much.

    The record itself is changed, for all handlers that come later. Where a secret shows only in the finished message,
    that replaces ``msg`` and ``args``; the five arguments of ``uvicorn.access`` always stay five.
    """

    def __init__(self, replacement: str = REDACTED) -> None:
        """
        Args:
            replacement: what stands where a secret was: letters, digits, ``_``, ``-`` and ``*``, which may be in
                ``[]`` or ``<>``.

        Raises:
            ConfigurationError: ``replacement`` holds something that would change the meaning of a line.
        """
        super().__init__()
        if not re.fullmatch(r"[\[<]?[\w*-]{1,40}[\]>]?", replacement, re.ASCII):
            raise ConfigurationError(
                "replacement must consist of letters, digits, _, - and *, up to 40, which may be in [] or <>; "
                'write replacement="[redacted]"',
                option="replacement",
            )
        self._replacement = replacement

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the secrets out; no record is dropped."""
        try:
            self._record(record)
        except Exception:
            # What can't be looked through must not go out as it is, and a filter must not raise into the application.
            record.msg, record.args = "a log line that can't be searched for secrets was left out", ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True

    def _record(self, record: logging.LogRecord) -> None:
        access = record.name == "uvicorn.access"
        if record.args:
            args: Any = record.args
            record.args = tuple(map(self._value, args)) if isinstance(args, tuple) else self._value(args)
            try:
                message = record.getMessage()
            except (TypeError, ValueError, KeyError):  # wrong format: logging reports it, with what is now harmless
                record.msg = self._value(record.msg)
            else:
                clean = self.text(message, limit=_MESSAGE_LIMIT)
                if clean != message and not access:
                    record.msg, record.args = clean, ()
                    record.__dict__.pop("color_message", None)  # uvicorn's variant of msg, which needs the arguments
        else:
            record.msg = self._value(record.msg)
        if record.exc_info and not record.exc_text:
            found = traceback_text(record.exc_info)
            if found is not None and (clean := self.text(found, limit=TRACEBACK_LIMIT)) != found:
                # Without exc_info no formatter can render the traceback again.
                record.exc_text, record.exc_info = clean, None
        elif record.exc_text:
            record.exc_text = self.text(record.exc_text, limit=TRACEBACK_LIMIT)
        for name in record.__dict__.keys() - RECORD_ATTRIBUTES:
            value = record.__dict__[name]
            # Other objects stay: a handler may need the object itself, as Django's needs `request`.
            if isinstance(value, str | bytes | dict | list | tuple):
                record.__dict__[name] = self._item(name.rpartition(".")[2], value)

    def _item(self, name: object, value: Any) -> Any:
        key = name.decode("latin-1") if isinstance(name, bytes) else name
        if isinstance(key, str) and _is_sensitive(key, _SENSITIVE_KEYS) and not self._is_no_secret(value):
            return self._replacement
        return self._value(value)

    @staticmethod
    def _is_no_secret(value: Any) -> bool:
        return value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _NO_SECRET)

    def _value(self, value: Any) -> Any:
        """The value without secrets: the same object when there is none, a text when there is one in an object."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict) and len(value) <= _WIDTH_LIMIT:
            cleaned = {name: self._item(name, item) for name, item in value.items()}
            if "upgrades" in value and "sid" in value:
                cleaned["sid"] = self._replacement
            if all(cleaned[name] is value[name] for name in cleaned):
                return value
            # A copy keeps the type: the dictionaries of gunicorn's and hypercorn's access logs have default values.
            same_type = copy.copy(value)
            same_type.update(cleaned)
            return same_type
        shown = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        clean = self.text(shown)
        if clean == shown:
            return value
        return clean.encode("latin-1", "replace") if isinstance(value, bytes) else clean

    def text(self, text: str, *, limit: int = _LINE_LIMIT) -> str:
        """A log line, or a part of one, without its secrets and what is beyond the limit."""
        if len(text) > limit:
            text = f"{text[:limit]}… [{len(text) - limit} more characters]"
        text = self._packets(text)
        if "ey" in text or "ew" in text:
            text = JWT.sub(self._replacement, text)
        if "=" in text:
            text = _QUERY.sub(self._parameter, text)
        lower = text.lower()
        if any(hint in lower for hint in _SENSITIVE_HINTS):
            text = self._pairs(text)
            if ": " in text:
                text = _HEADER_LINE.sub(rf"\1\2{self._replacement}", text)
            if "bearer" in lower:
                text = _BEARER.sub(lambda match: f"{match[1]}{self._replacement}" if match[2] else match[0], text)
        return text

    def _packets(self, text: str) -> str:
        """The lines of python-engineio and python-socketio."""
        hidden = self._replacement
        if "packet " in text or "websocket" in text or "upgrade" in text or "Client is gone" in text or "TEXT" in text:
            text = _ENGINEIO_LINE.sub(hidden, text)
            text = _ENGINEIO_OPEN.sub(rf"\1\2{hidden}\2", text)
            text = _CONNECT.sub(rf"\1{hidden}", text)
        if "session " in text or " sid " in text or "Session " in text:
            text = _ENGINEIO_SID.sub(rf"\1{hidden}", text)
        if "socketguard:refresh" in text:
            text = _REFRESH.sub(rf"\1{hidden}", text)
        return text

    def _parameter(self, match: re.Match[str]) -> str:
        mark, name, value = match.groups()
        plain_name = unquote(name) if "%" in name else name
        if not value or not _is_sensitive(plain_name, _SENSITIVE_PARAMETERS):
            return match[0]
        return f"{mark}{name}={self._replacement}"

    def _pairs(self, text: str) -> str:
        """Values that follow a name: a loop and no substitution, because a value may hold further pairs."""
        parts = []
        done = 0
        for match in _PAIR.finditer(text):
            key, name, quote = match["key"], match["name"], match["quote"]
            if match.start() < done or not _is_sensitive(key or name, _SENSITIVE_KEYS if key else frozenset()):
                continue
            if match["between"] == "," and (quote is None or _normal(key) not in _HEADER_NAMES):
                continue
            start = match.end() if quote is None else match.end("quote")
            if quote is None and text[start : start + 1] in ("{", "["):
                continue  # What begins an object or a list is no value itself: its own pairs come next.
            if quote in _VALUE_END:
                ending = _VALUE_END[quote].match(text, start)
                end = start if ending is None else ending.end()
            else:  # JSON within JSON: the quotes are escaped themselves
                end = text.find(quote, start)
                end = len(text) if end < 0 else end
            if text[start:end].lower() in _NO_SECRET:
                continue
            parts += [text[done:start], self._replacement]
            done = end
        return "".join([*parts, text[done:]]) if parts else text


def _normal(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _is_sensitive(name: str, also: frozenset[str]) -> bool:
    normal = _normal(name)
    return normal.endswith(_SENSITIVE_ENDS) or normal in also
