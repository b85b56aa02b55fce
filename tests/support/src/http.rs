//! Requests written byte by byte: any Host header, any body, no decompression, over TCP or a unix socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to ask.
#[derive(Clone, Debug)]
pub enum Place {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// An answer as it came over the wire, its chunks joined.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body's bytes, still compressed if they came so.
    pub body: Vec<u8>,
}

impl Reply {
    /// A header's value; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Panics unless this is a problem document (RFC 9457) with this status and reason, and a hint; returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, reason: &str) -> Value {
        let (text, json) = (self.text(), self.json());
        assert_eq!(self.status, status, "status of {text}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{text}");
        assert_eq!(json["status"], status, "{text}");
        assert_eq!(json["reason"], reason, "{text}");
        for field in ["type", "title", "detail", "hint"] {
            assert!(json[field].as_str().is_some_and(|value| !value.is_empty()), "{field} of {text}");
        }
        json
    }
}

/// Sends one request with these headers (`Connection: close` and the length are added) and reads the answer to its end.
/// Panics when nobody answers like HTTP.
#[track_caller]
pub fn ask(place: &Place, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut head = format!("{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let bytes = match place {
        Place::Unix(path) => {
            let stream =
                UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            exchange(stream, head.as_bytes(), body)
        }
        Place::Tcp(address) => {
            let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            exchange(stream, head.as_bytes(), body)
        }
    };
    parse(&bytes).unwrap_or_else(|| panic!("{request}: no HTTP: {:?}", String::from_utf8_lossy(&bytes)))
}

fn exchange(mut stream: impl Read + Write, head: &[u8], body: &[u8]) -> Vec<u8> {
    // A server may refuse a large body before it has read it; its answer is what counts.
    let _ = stream.write_all(head).and_then(|()| stream.write_all(body));
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..n]);
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(bytes).ok()? else { return None };
    let status = response.code?;
    let headers = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()));
    let mut reply = Reply { status, headers: headers.collect(), body: bytes[start..].to_vec() };
    if reply.header("transfer-encoding") == "chunked" {
        reply.body = joined(&reply.body)?;
    }
    Some(reply)
}

fn joined(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let httparse::Status::Complete((start, length)) = httparse::parse_chunk_size(bytes).ok()? else {
            return None;
        };
        if length == 0 {
            return Some(out);
        }
        let end = start + usize::try_from(length).ok()?;
        out.extend_from_slice(bytes.get(start..end)?);
        bytes = bytes.get(end + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_headers_found() {
        let reply = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        );
        let reply = reply.expect("HTTP");
        assert_eq!((reply.status, reply.text().as_str(), reply.header("x")), (200, "abcde", "y"));
        assert!(parse(b"nonsense").is_none());
    }
}
