//! Clients that take their time, send too much, or take every connection: each is cut, and the others go on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use support::http::{Place, ask};
use support::{Hub, larder};

use super::SOON;

/// Connections over TCP at a time.
const MAX_TCP: usize = 256;

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.set_write_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// Reads until the other side ends, and says how long that took since `begun`.
fn until_cut(stream: &mut TcpStream, begun: Instant) -> (String, Duration) {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (String::from_utf8_lossy(&answer).into_owned(), begun.elapsed())
}

#[test]
fn who_says_nothing_or_little_is_cut() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let address = daemon.address();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| until_cut(&mut connect(address), begun));
        let rested = scope.spawn(|| {
            let mut stream = connect(address);
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
            until_cut(&mut stream, begun)
        });
        let head = scope.spawn(|| {
            let mut stream = connect(address);
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n").expect("written");
            // A header a second, for ever.
            while stream.write_all(b"X: y\r\n").is_ok() && begun.elapsed() < SOON {
                let mut byte = [0];
                stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                if matches!(stream.read(&mut byte), Ok(0)) {
                    break;
                }
            }
            (String::new(), begun.elapsed())
        });
        let body = scope.spawn(|| {
            let mut stream = connect(address);
            let head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
            stream.write_all(head).expect("written");
            until_cut(&mut stream, begun)
        });
        for (what, cut) in [("silent", silent), ("rested", rested), ("head", head), ("body", body)] {
            let (answer, took) = cut.join().expect("no panic");
            assert!(took < Duration::from_secs(40), "{what}: {took:?} {answer}");
            match what {
                "rested" => assert!(answer.starts_with("HTTP/1.1 200"), "{answer}"),
                "body" => assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("hint"), "{answer}"),
                _ => assert!(!answer.contains("200 OK"), "{what}: {answer}"),
            }
        }
    });
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn a_hundred_megabytes_are_refused_without_being_read() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let address = daemon.address();
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut stream = connect(address);
        let head =
            format!("POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{expect}Content-Length: 104857600\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("written");
        let (answer, _) = until_cut(&mut stream, Instant::now());
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("64 KiB"),
            "not a byte was sent: {answer}"
        );
    }
    // Without a length it is read until it is too much.
    let mut stream = connect(address);
    stream
        .write_all(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("written");
    let chunk = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
    let sent = (0..100).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 50, "{sent} MiB were taken");
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn whoever_takes_every_connection_takes_them_from_tcp_alone() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let address = daemon.address();
    let mut held: Vec<TcpStream> = (0..MAX_TCP).map(|_| connect(address)).collect();
    // Each is answered, so each is known to have its slot; and keeps it.
    for stream in &mut held {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1);
    }
    let mut next = connect(address);
    next.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("written");
    next.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    assert!(next.read(&mut [0]).is_err(), "it waits for a slot");
    assert_eq!(
        ask(&daemon.place(), "GET /healthz", &[("Host", "x")], b"").status,
        200,
        "the socket is another matter"
    );
    held.pop();
    next.set_read_timeout(Some(SOON)).expect("a timeout");
    assert!(until_cut(&mut next, Instant::now()).0.starts_with("HTTP/1.1 200"), "a free slot is given on");
    drop(held);
    assert_eq!(ask(&Place::Tcp(address), "GET /healthz", &[("Host", "localhost")], b"").status, 200);
}
