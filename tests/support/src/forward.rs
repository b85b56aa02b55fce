//! The proxy of a network that lets nobody out directly: takes requests in absolute form (RFC 9112, 3.2.2), asks in
//! the client's place, and counts. `CONNECT` is refused, since nothing here speaks HTTPS through it.

use std::collections::HashMap;
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::listener::Listener;

const MAX_HEAD: usize = 64 * 1024;

/// What is known and what was seen.
#[derive(Debug, Default)]
struct Shared {
    /// Where names lead that only the proxy can resolve.
    names: HashMap<String, String>,
    /// The address of each request, as it came.
    seen: Mutex<Vec<String>>,
}

/// A running proxy; ends with its connections when dropped.
#[derive(Debug)]
pub struct ForwardProxy {
    listener: Listener,
    shared: Arc<Shared>,
}

impl ForwardProxy {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::with_names(&[])
    }

    /// Same; requests for the first of each pair go to the second (both `host:port`).
    pub fn with_names(names: &[(&str, &str)]) -> Self {
        let names = names.iter().map(|(name, to)| ((*name).to_owned(), (*to).to_owned())).collect();
        let shared = Arc::new(Shared { names, ..Shared::default() });
        let serving = Arc::clone(&shared);
        Self { listener: Listener::start(move |stream| serve(stream, &serving)), shared }
    }

    /// `http://127.0.0.1:PORT`, for `HTTP_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// The addresses that it was asked for, oldest first.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One request for each connection: `Connection: close` goes both ways.
fn serve(mut client: &TcpStream, shared: &Shared) -> Result<()> {
    let mut bytes = Vec::new();
    let Some((host, head, rest)) = read_head(client, &mut bytes, |bytes| asked(bytes, shared))? else {
        return client
            .write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut server = match TcpStream::connect(&host) {
        Ok(server) => server,
        Err(_) => {
            return client
                .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    };
    server.write_all(head.as_bytes())?;
    server.write_all(&bytes[rest..])?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    // The rest of a body; ends with the connection.
    std::thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
    let mut bytes = Vec::new();
    let Some((head, rest)) = read_head(&server, &mut bytes, answered)? else { return Ok(()) };
    client.write_all(head.as_bytes())?;
    client.write_all(&bytes[rest..])?;
    std::io::copy(&mut server, &mut client)?;
    server.shutdown(Shutdown::Both)
}

/// Reads until `parse` finds a whole head; `None` when it will not.
fn read_head<T>(
    mut source: &TcpStream,
    bytes: &mut Vec<u8>,
    parse: impl Fn(&[u8]) -> httparse::Result<Option<T>>,
) -> Result<Option<T>> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match parse(bytes) {
            Ok(httparse::Status::Complete(parsed)) => return Ok(parsed),
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => {}
            _ => return Ok(None),
        }
        let n = source.read(&mut buffer)?;
        if n == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

/// Whom to ask, the request's head in origin form, and where its body begins; nothing of it when the request is not
/// in absolute form.
fn asked(bytes: &[u8], shared: &Shared) -> httparse::Result<Option<(String, String, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(rest) = request.parse(bytes)? else {
        return Ok(httparse::Status::Partial);
    };
    let address = request.path.unwrap_or_default();
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(address.to_owned());
    let Some(below) = address.strip_prefix("http://") else { return Ok(httparse::Status::Complete(None)) };
    let (host, path) = below.split_once('/').unwrap_or((below, ""));
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let to = shared.names.get(&host).unwrap_or(&host).clone();
    let line = format!("{} /{path} HTTP/1.1", request.method.unwrap_or("GET"));
    Ok(httparse::Status::Complete(Some((to, closing(&line, request.headers), rest))))
}

/// The answer's head, and where its body begins.
fn answered(bytes: &[u8]) -> httparse::Result<Option<(String, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(rest) = response.parse(bytes)? else {
        return Ok(httparse::Status::Partial);
    };
    let line = format!("HTTP/1.1 {} {}", response.code.unwrap_or(502), response.reason.unwrap_or_default());
    Ok(httparse::Status::Complete(Some((closing(&line, response.headers), rest))))
}

/// A head with that first line, after which the connection ends.
fn closing(line: &str, headers: &[httparse::Header<'_>]) -> String {
    let mut head = format!("{line}\r\nConnection: close\r\n");
    for header in headers {
        if !["connection", "proxy-connection", "keep-alive"].contains(&header.name.to_lowercase().as_str()) {
            head.push_str(&format!("{}: {}\r\n", header.name, String::from_utf8_lossy(header.value)));
        }
    }
    head + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Place, ask};
    use crate::{Content, Hub, Model};

    #[test]
    fn requests_go_through_are_counted_and_names_are_resolved_here() {
        let (hub, weights) = (Hub::start(), Content::pattern(3_000_000, 1));
        hub.add(Model::new("acme/tiny").file("big.txt", weights.clone()));
        let there = hub.endpoint().replace("http://", "");
        let proxy = ForwardProxy::with_names(&[("hub.invalid:80", &there)]);
        let place = Place::Tcp(proxy.listener.address());
        for host in [there.as_str(), "hub.invalid"] {
            let request = format!("GET http://{host}/acme/tiny/resolve/main/big.txt");
            let reply = ask(&place, &request, &[("Host", host), ("Range", "bytes=1000000-")], b"");
            assert_eq!((reply.status, reply.header("connection")), (206, "close"), "{}", reply.text());
            assert_eq!(reply.body, weights.slice(1_000_000, u64::MAX).expect("reads"));
        }
        let body = b"{\"paths\": [\"big.txt\"]}";
        let request = format!("POST http://{there}/api/models/acme/tiny/paths-info/main");
        assert_eq!(ask(&place, &request, &[("Host", "x")], body).json()[0]["path"], "big.txt");
        assert_eq!((proxy.seen().len(), hub.requests().len()), (3, 3));
        assert!(proxy.seen()[1].starts_with("http://hub.invalid/acme"), "{:?}", proxy.seen());
    }

    #[test]
    fn what_it_cannot_do_it_refuses() {
        let proxy = ForwardProxy::start();
        let place = Place::Tcp(proxy.listener.address());
        assert_eq!(ask(&place, "CONNECT example.invalid:443", &[], b"").status, 405);
        assert_eq!(ask(&place, "GET /origin/form", &[], b"").status, 405);
        assert_eq!(ask(&place, "GET http://127.0.0.1:1/", &[], b"").status, 502, "nobody listens there");
    }
}
