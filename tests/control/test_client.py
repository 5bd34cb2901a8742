"""Problems become the errors they were; silence becomes `Unavailable`."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from isochrone.control.client import Client, path
from isochrone.control.views import Problem
from isochrone.errors import (
    DeadlinePassed,
    InvalidInput,
    IsochroneError,
    NotFound,
    PeerFault,
    Unavailable,
)


class Answers(http.server.BaseHTTPRequestHandler):
    """Says what the test put into `body`."""

    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[tuple[type[Answers], str]]:
    handler = type("Mine", (Answers,), {})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(site: str) -> bytes:
    client = Client(site)
    try:
        return client.call("GET", "/v1/status")
    finally:
        client.close()


def test_the_document_as_it_came(answers: tuple[type[Answers], str]) -> None:
    answers[0].body = b'{"a": 1}'
    assert get(answers[1]) == b'{"a": 1}'


@pytest.mark.parametrize("kind", [NotFound, DeadlinePassed, PeerFault])
def test_an_error_comes_through(
    answers: tuple[type[Answers], str], kind: type[IsochroneError]
) -> None:
    error = kind("it is so", hint="do this")
    answers[0].status = error.http_status
    answers[0].body = msgspec.json.encode(
        Problem(
            type=error.code, title="t", status=error.http_status, detail="it is so", hint="do this"
        )
    )
    with pytest.raises(kind) as caught:
        get(answers[1])
    assert (caught.value.message, caught.value.hint) == ("it is so", "do this")


def test_an_unknown_error_is_still_one(answers: tuple[type[Answers], str]) -> None:
    answers[0].status = 418
    answers[0].body = msgspec.json.encode(
        Problem(type="Teapot", title="t", status=418, detail="short and stout")
    )
    with pytest.raises(IsochroneError, match="short and stout") as caught:
        get(answers[1])
    assert caught.value.exit_code == 1


def test_somebody_else_answers(answers: tuple[type[Answers], str]) -> None:
    answers[0].status, answers[0].body = 502, b"<html>"
    with pytest.raises(PeerFault, match="not a controller's: 502"):
        get(answers[1])


def test_nobody_answers_at_a_directory(fresh: Path) -> None:
    with pytest.raises(Unavailable, match="no controller answers") as caught:
        get(str(fresh))
    assert caught.value.hint == f"start it with: isochrone serve {fresh}"


def test_nobody_answers_at_a_url() -> None:
    with pytest.raises(Unavailable, match="no controller answers at http"):
        get("http://127.0.0.1:1")


@pytest.mark.parametrize("site", ["ftp://host", "http://h:x/"])
def test_no_site(site: str) -> None:
    with pytest.raises(InvalidInput, match="is no site"):
        get(site)


def test_a_directory_with_too_long_a_path() -> None:
    with pytest.raises(InvalidInput, match="Linux takes 107"):
        Client("/tmp/" + "d" * 100)


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert path("volumes", "v@c") == "/v1/volumes/v%40c"
    assert path("volumes", "../groups") == "/v1/volumes/..%2Fgroups"
    assert path("volumes", "a?b#c") == "/v1/volumes/a%3Fb%23c"
    for name in ("", ".", ".."):
        with pytest.raises(InvalidInput):
            path("volumes", name)
