use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::*;
use crate::connection::Times;
use crate::credentials::Vigil;
use crate::error::Error;
use crate::url::Url;

const TIMES: Times = Times {
    answer: Duration::from_secs(1),
    watch: Duration::from_secs(1),
};
const OK: &str = "HTTP/1.1 200 OK\r\n";

/// Serves one answer a connection, in two parts; the connection closes afterwards.
fn serve(answers: Vec<Vec<u8>>) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for answer in answers {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = socket.read(&mut request);
            let (first, second) = answer.split_at(answer.len() / 2);
            let _ = socket.write_all(first);
            thread::sleep(Duration::from_millis(20));
            let _ = socket.write_all(second);
        }
    });
    Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()
}

fn with<T>(url: &Url, body: impl FnOnce(&mut Client<'_>) -> T) -> T {
    let vigil = Vigil::new(&Arc::new(AtomicBool::new(false)));
    let endpoint = Endpoint {
        url,
        tls: None,
        server_name: None,
        times: TIMES,
        vigil: &vigil,
    };
    body(&mut Client::open(&endpoint).unwrap())
}

/// Returns status and body of an answer.
fn get(answer: &[u8]) -> Result<(u16, String), Error> {
    let url = serve(vec![answer.to_vec()]);
    let got = with(&url, |client| -> Step<(u16, String)> {
        let request = Request {
            path: "/x",
            ..Request::default()
        };
        let mut response = client.exchange(&request)?;
        let mut text = String::new();
        response.body.read_to_string(&mut text)?;
        Ok((response.status, text))
    });
    got.map_err(|ended| match ended {
        Ended::Failed(err) => err,
        Ended::Stopped | Ended::Renewed => panic!("{ended}"),
    })
}

#[test]
fn bodies_of_every_framing_are_read() {
    for (name, answer, want) in [
        (
            "length",
            format!("{OK}Content-Length: 5\r\n\r\nhelloX"),
            "hello",
        ),
        ("close", format!("{OK}\r\nhello"), "hello"),
        (
            "chunks",
            format!(
                "{OK}Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
            ),
            "hello",
        ),
        (
            "chunks win over a length",
            format!(
                "{OK}Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            ),
            "hello",
        ),
        ("empty", format!("{OK}Content-Length: 0\r\n\r\n"), ""),
        (
            "informational",
            format!("HTTP/1.1 100 Continue\r\n\r\n{OK}Content-Length: 2\r\n\r\nhi"),
            "hi",
        ),
    ] {
        assert_eq!(get(answer.as_bytes()), Ok((200, want.to_owned())), "{name}");
    }
}

#[test]
fn broken_answers_are_errors() {
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    let long = "x".repeat(2 * HEAD_MAX_BYTES);
    for (name, answer, kind) in [
        ("nothing", String::new(), Kind::Unreachable),
        (
            "not HTTP",
            "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
            Kind::Protocol,
        ),
        (
            "half a body",
            format!("{OK}Content-Length: 9\r\n\r\nhello"),
            Kind::Unreachable,
        ),
        (
            "half a chunk",
            format!("{chunked}9\r\nhello"),
            Kind::Unreachable,
        ),
        (
            "no last chunk",
            format!("{chunked}5\r\nhello\r\n"),
            Kind::Unreachable,
        ),
        ("no size", format!("{chunked}-1\r\nhello"), Kind::Protocol),
        (
            "no end of a chunk",
            format!("{chunked}4\r\nhello\r\n"),
            Kind::Protocol,
        ),
        (
            "gzip",
            format!("{OK}Transfer-Encoding: gzip\r\n\r\n"),
            Kind::Protocol,
        ),
        (
            "no length",
            format!("{OK}Content-Length: many\r\n\r\n"),
            Kind::Protocol,
        ),
        ("a large head", format!("{OK}X: {long}"), Kind::Protocol),
    ] {
        let got = get(answer.as_bytes());
        assert_eq!(
            got.as_ref().map_err(|err| err.kind),
            Err(kind),
            "{name}: {got:?}"
        );
    }
}

#[test]
fn a_silent_server_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let start = Instant::now();
    let ended = with(&url, |client| client.exchange(&Request::default()).err());
    assert!(matches!(ended, Some(Ended::Failed(err)) if err.kind == Kind::Timeout));
    assert!(start.elapsed() < TIMES.answer * 3);
}

#[test]
fn a_connection_that_the_server_closed_is_opened_again() {
    let answer = format!("{OK}Content-Length: 2\r\n\r\nhi").into_bytes();
    let url = serve(vec![answer.clone(), answer]);
    with(&url, |client| {
        for _ in 0..2 {
            let mut text = String::new();
            let mut response = client.exchange(&Request::default()).unwrap();
            response.body.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hi");
        }
    });
}

#[test]
fn lines_are_split_wherever_the_chunks_end() {
    let answer = format!(
        "{OK}Transfer-Encoding: chunked\r\n\r\n4\r\na\n\nb\r\n5\r\nc\nd\ne\r\n1\r\nf\r\n0\r\n\r\n"
    );
    let url = serve(vec![answer.into_bytes()]);
    with(&url, |client| {
        let mut lines = Lines::new(client.exchange(&Request::default()).unwrap().body);
        let mut got = Vec::new();
        loop {
            match lines.following().unwrap() {
                Line::Text(line) => got.push(String::from_utf8(line).unwrap()),
                Line::Quiet => {}
                Line::End => break,
            }
        }
        assert_eq!(got, ["a", "bc", "d", "ef"]);
    });
}

#[test]
fn a_request_is_the_one_of_the_standard() {
    let url = Url::parse("https://[2001:db8::1]:2379/base").unwrap();
    let mut request = Request {
        path: "/v3/kv/range",
        body: Some("{}"),
        headers: vec![("Authorization", "abc")],
    };
    let agent = concat!("User-Agent: peerwall-sources/", env!("CARGO_PKG_VERSION"));
    let head = format!("Host: [2001:db8::1]:2379\r\n{agent}\r\nAuthorization: abc\r\n");
    let want = format!(
        "POST /base/v3/kv/range HTTP/1.1\r\n{head}Content-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(String::from_utf8(encode(&request, &url)).unwrap(), want);
    request.body = None;
    let want = format!("GET /base/v3/kv/range HTTP/1.1\r\n{head}\r\n");
    assert_eq!(String::from_utf8(encode(&request, &url)).unwrap(), want);
}
