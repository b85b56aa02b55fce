//! HTTP/1.1 on the bare socket, because a reset, a stall or a wrong length is what no server library will do.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::FaultKind;
use super::record::Host;
use super::reply::{Call, Reply, decode};
use super::resolve;
use super::state::{Shared, Ticket};

const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 1024 * 1024;
const CHUNK: u64 = 256 * 1024;

/// How a connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Not yet: the next request may come.
    KeepAlive,
    /// Orderly.
    Close,
    /// TCP RST.
    Reset,
}

/// Serves one connection until it ends or all are told to.
pub(crate) async fn serve(mut stream: TcpStream, host: Host, shared: Arc<Shared>) {
    let mut kill = shared.kill.subscribe();
    let _open = Gauge::new(&shared);
    let end = tokio::select! {
        end = requests(&mut stream, host, &shared) => end.unwrap_or(End::Close),
        _ = kill.changed() => End::Reset,
    };
    if end == End::Reset {
        // Setting linger to zero throws away what the kernel still holds; give it the moment that loopback needs.
        sleep(Duration::from_millis(20)).await;
        stream.set_zero_linger().ok();
    }
}

/// Counts the connection while it lives.
struct Gauge<'a>(&'a Shared);

impl<'a> Gauge<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.change(|state| state.open += 1);
        Self(shared)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.open -= 1);
    }
}

async fn requests(stream: &mut TcpStream, host: Host, shared: &Shared) -> io::Result<End> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(call) = read_call(stream, &mut buffer, host).await? {
        let (end, close) = (respond(stream, shared, &call).await?, call.close);
        if end != End::KeepAlive || close {
            return Ok(end);
        }
    }
    Ok(End::Close)
}

/// Reads one request; `None` when the peer is done.
async fn read_call(stream: &mut TcpStream, buffer: &mut Vec<u8>, host: Host) -> io::Result<Option<Call>> {
    loop {
        if let Some((head, mut call, length)) = parse_head(buffer, host)? {
            if call.expects && length > 0 && buffer.len() == head {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            while buffer.len() < head + length {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            call.body = buffer[head..head + length].to_vec();
            buffer.drain(..head + length);
            return Ok(Some(call));
        }
        if buffer.len() > MAX_HEAD || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The request at the start of `buffer`: length of its head, its meaning, length of its body.
fn parse_head(buffer: &[u8], host: Host) -> io::Result<Option<(usize, Call, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(buffer).map_err(io::Error::other)?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let target = request.path.unwrap_or("/");
    let (raw_path, query) = target.split_once('?').unwrap_or((target, ""));
    let length = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    if length > MAX_BODY {
        return Err(io::Error::other("request body too large"));
    }
    let call = Call {
        host,
        method: request.method.unwrap_or("GET").to_owned(),
        path: decode(raw_path),
        segments: raw_path.split('/').skip(1).map(decode).collect(),
        raw_path: raw_path.to_owned(),
        query: query.to_owned(),
        range: header("range"),
        expects: header("expect").is_some(),
        authorization: header("authorization"),
        user_agent: header("user-agent").unwrap_or_default(),
        body: Vec::new(),
        close: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    };
    Ok(Some((head, call, length)))
}

async fn respond(stream: &mut TcpStream, shared: &Shared, call: &Call) -> io::Result<End> {
    let (reply, fault, switches) = {
        let mut state = shared.lock();
        let mut reply = resolve::answer(shared, &state, call);
        let fault = state.take_fault(call, &reply);
        if let Some(kind) = &fault {
            reply.suffer(kind);
        }
        state.apply_updates(&call.path);
        (reply, fault, state.switches)
    };
    let ticket = shared.open_record(call, &reply, fault.as_ref());
    let guard = Done { shared, ticket };
    if !switches.latency.is_zero() {
        sleep(switches.latency).await;
    }
    stream.write_all(head(&reply, ticket).as_bytes()).await?;
    let mut body = Body { stream, shared, ticket, reply: &reply, fault: fault.as_ref() };
    let end = if call.method == "HEAD" { End::KeepAlive } else { body.send(switches.throttle).await? };
    drop(guard);
    Ok(end)
}

/// Marks the record when the answer is over, also when the connection broke.
struct Done<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.shared.record(self.ticket, |request| request.done = true);
    }
}

fn head(reply: &Reply, ticket: Ticket) -> String {
    let reason = match reply.status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        410 => "Gone",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    };
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = reply.stated_len.unwrap_or(reply.len);
    text.push_str(&format!("Content-Length: {length}\r\nX-Request-Id: {}\r\n\r\n", ticket.id()));
    text
}

/// The body of one answer on its way.
struct Body<'a> {
    stream: &'a mut TcpStream,
    shared: &'a Shared,
    ticket: Ticket,
    reply: &'a Reply,
    fault: Option<&'a FaultKind>,
}

impl Body<'_> {
    async fn send(&mut self, throttle: Option<u64>) -> io::Result<End> {
        match self.fault {
            Some(FaultKind::Cut { after_bytes }) => {
                self.part(0, *after_bytes, throttle).await?;
                self.stream.shutdown().await?;
                Ok(End::Close)
            }
            Some(FaultKind::Reset { after_bytes }) => {
                self.part(0, *after_bytes, throttle).await?;
                Ok(End::Reset)
            }
            Some(FaultKind::Stall { after_bytes }) => {
                let release = self.shared.release.subscribe();
                self.part(0, *after_bytes, throttle).await?;
                self.stall(release).await?;
                self.part(*after_bytes, self.reply.len, throttle).await?;
                Ok(End::KeepAlive)
            }
            Some(FaultKind::Trickle { after_bytes, rate }) => {
                self.part(0, *after_bytes, throttle).await?;
                self.part(*after_bytes, self.reply.len, Some(*rate)).await?;
                Ok(End::KeepAlive)
            }
            _ => {
                self.part(0, self.reply.len, throttle).await?;
                Ok(End::KeepAlive)
            }
        }
    }

    /// Sends the bytes `from..to` of the body, at most `throttle` a second.
    async fn part(&mut self, from: u64, to: u64, throttle: Option<u64>) -> io::Result<()> {
        let wrong = match self.fault {
            Some(FaultKind::WrongBytes { at }) => *at..*at + 1,
            Some(FaultKind::WrongRange { from, to }) => *from..*to,
            _ => 0..0,
        };
        let chunk = throttle.map_or(CHUNK, |rate| (rate / 20).clamp(1, CHUNK));
        let mut buffer = vec![0; usize::try_from(chunk.min(to - from)).expect("a chunk fits")];
        let mut reader = self.reply.content.reader()?;
        let (mut sent, mut due) = (from, Instant::now());
        while sent < to {
            let n = chunk.min(to - sent);
            let out = &mut buffer[..usize::try_from(n).expect("a chunk fits")];
            let offset = self.reply.start + sent;
            reader.fill(offset, out)?;
            spoil(out, offset, &wrong);
            if let Some(rate) = throttle {
                due += Duration::from_secs_f64(n as f64 / rate as f64);
                sleep_until(due).await;
            }
            self.stream.write_all(out).await?;
            self.shared.record(self.ticket, |request| request.bytes_sent += n);
            sent += n;
        }
        Ok(())
    }

    /// Waits until stalled answers may go on; an error when the peer has gone before.
    async fn stall(&mut self, mut release: watch::Receiver<u64>) -> io::Result<()> {
        let _stalled = Stalled::new(self.shared);
        let mut byte = [0];
        tokio::select! {
            _ = release.changed() => Ok(()),
            gone = self.stream.peek(&mut byte) => Err(gone.err().unwrap_or(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// Flips a bit of each byte that stands for one of `wrong`, in bytes of the file from `offset`.
fn spoil(out: &mut [u8], offset: u64, wrong: &Range<u64>) {
    let within = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
    let (from, to) = (within(wrong.start), within(wrong.end));
    for byte in &mut out[from..to] {
        *byte ^= 0x01;
    }
}

/// Counts the answer as stalled while it lives.
struct Stalled<'a>(&'a Shared);

impl<'a> Stalled<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.change(|state| state.stalled += 1);
        Self(shared)
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.stalled -= 1);
    }
}
