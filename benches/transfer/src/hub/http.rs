//! HTTP/1.1 on a blocking socket, with keep-alive.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use super::Limits;

const MAX_HEAD: usize = 64 * 1024;
/// Bytes that sendfile is asked for at once.
const LARGE: u64 = 8 << 20;
/// The same on a connection that is capped: at 50 MB/s, 100 of these a second.
const PACED: u64 = 512 << 10;

/// What is needed of a request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) is_head: bool,
    /// Path and query as sent.
    pub(super) target: String,
    /// First byte and, if named, last byte of the range.
    pub(super) range: Option<(u64, Option<u64>)>,
    close: bool,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Lines, each with its end.
    pub(super) headers: String,
    pub(super) body: Body,
    /// Whether a range of the body may be asked for.
    pub(super) ranged: bool,
}

/// The bytes of an answer.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Memory(Arc<[u8]>),
    File(Arc<File>, u64),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }
}

/// Answers request after request until the client is done.
pub(super) fn talk(
    mut stream: TcpStream,
    limits: Option<Limits>,
    answer: impl Fn(&Request) -> Reply,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    while let Some(request) = read(&mut stream, &mut buffer)? {
        let reply = answer(&request);
        if let Some(limits) = limits {
            std::thread::sleep(limits.first_byte);
        }
        send(&mut stream, &request, &reply, limits)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let mut chunk = [0; 4096];
    loop {
        if let Some((length, request)) = parse(buffer)? {
            buffer.drain(..length);
            return Ok(Some(request));
        }
        let n = stream.read(&mut chunk)?;
        if n == 0 || buffer.len() > MAX_HEAD {
            return Ok(None);
        }
        buffer.extend_from_slice(&chunk[..n]);
    }
}

/// The request at the start of `buffer` and the length of its head. Nobody sends a body here.
fn parse(buffer: &[u8]) -> io::Result<Option<(usize, Request)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(buffer).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let request = Request {
        is_head: request.method == Some("HEAD"),
        target: request.path.unwrap_or("/").to_owned(),
        range: header("range").and_then(range),
        close: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    };
    Ok(Some((length, request)))
}

fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

fn send(stream: &mut TcpStream, request: &Request, reply: &Reply, limits: Option<Limits>) -> io::Result<()> {
    let total = reply.body.len();
    let (mut status, mut part, mut content_range) = (reply.status, 0..total, String::new());
    if let Some((first, last)) = request.range.filter(|_| reply.ranged) {
        let end = last.map_or(total, |last| total.min(last.saturating_add(1)));
        if first < end {
            (status, part) = (206, first..end);
            content_range = format!("Content-Range: bytes {first}-{}/{total}\r\n", end - 1);
        } else {
            (status, part) = (416, 0..0);
            content_range = format!("Content-Range: bytes */{total}\r\n");
        }
    }
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\n{}{content_range}Content-Length: {}\r\n\r\n",
        reason(status),
        reply.headers,
        part.end - part.start,
    )
    .into_bytes();
    match &reply.body {
        _ if request.is_head => stream.write_all(&head),
        Body::Memory(bytes) if limits.is_none() => {
            let range = usize::try_from(part.start).map_err(io::Error::other)?
                ..usize::try_from(part.end).map_err(io::Error::other)?;
            head.extend_from_slice(&bytes[range]);
            stream.write_all(&head)
        }
        Body::Memory(_) => Err(io::Error::other("the second origin serves files only")),
        Body::File(file, _) => {
            stream.write_all(&head)?;
            stream_file(stream, file, part, limits)
        }
    }
}

fn stream_file(
    stream: &TcpStream,
    file: &File,
    part: std::ops::Range<u64>,
    limits: Option<Limits>,
) -> io::Result<()> {
    let (mut offset, begun) = (part.start, Instant::now());
    while offset < part.end {
        let chunk = if limits.is_some() { PACED } else { LARGE };
        let want = usize::try_from(chunk.min(part.end - offset)).map_err(io::Error::other)?;
        if let Some(limits) = limits {
            // A chunk goes out when the last of its bytes is due.
            let sent = offset - part.start + want as u64;
            let due =
                begun + std::time::Duration::from_secs_f64(sent as f64 / limits.bytes_per_second as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if rustix::fs::sendfile(stream, file, Some(&mut offset), want)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        416 => "Range Not Satisfiable",
        _ => "Not Found",
    }
}
