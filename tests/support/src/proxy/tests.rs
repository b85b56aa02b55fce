//! What the proxy promises, each of it on a connection that was open before the switch.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long something is waited for that must not happen.
const SHORT: Duration = Duration::from_millis(200);

/// A server that says back what it hears, for as long as its clients stay.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

struct Client(TcpStream);

impl Client {
    fn new(proxy: &Proxy) -> Self {
        Self(TcpStream::connect(proxy.addr()).expect("connects"))
    }

    fn say(&mut self, what: &str) {
        self.0.write_all(what.as_bytes()).expect("the kernel takes it");
    }

    /// The next bytes; an empty text when the connection has ended.
    fn hear(&mut self, patience: Duration) -> Result<String, Error> {
        self.0.set_read_timeout(Some(patience)).expect("a timeout");
        let mut bytes = [0; 64];
        let n = self.0.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    #[track_caller]
    fn talks(&mut self, what: &str) {
        self.say(what);
        assert_eq!(self.hear(PATIENCE).expect("an answer"), what);
    }

    #[track_caller]
    fn hears_nothing(&mut self) {
        assert_eq!(self.hear(SHORT).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    }

    #[track_caller]
    fn is_closed(&mut self) {
        match self.hear(PATIENCE) {
            Ok(text) => assert_eq!(text, ""),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn it_passes_and_counts() {
    let proxy = Proxy::to(echo());
    let mut client = Client::new(&proxy);
    client.talks("hello");
    assert_eq!((proxy.connections(), proxy.bytes_passed()), (1, 10));
    let mut other = Client::new(&proxy);
    other.talks("you");
    assert_eq!((proxy.connections(), proxy.bytes_passed()), (2, 16));
    drop(client);
    assert!(proxy.wait_for_connections(1, PATIENCE));
    other.0.shutdown(std::net::Shutdown::Write).expect("half closes");
    other.is_closed();
    assert!(proxy.wait_for_connections(0, PATIENCE));
}

#[test]
fn a_cut_closes_what_is_open_and_nothing_else() {
    let proxy = Proxy::to(echo());
    let mut client = Client::new(&proxy);
    client.talks("a");
    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    client.is_closed();
    Client::new(&proxy).talks("b");
}

#[test]
fn refusing_ends_with_pass() {
    let proxy = Proxy::to(echo());
    let mut client = Client::new(&proxy);
    client.talks("a");
    proxy.refuse();
    client.is_closed();
    let refused = TcpStream::connect(proxy.addr()).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.pass();
    Client::new(&proxy).talks("b");
}

#[test]
fn a_delay_holds_each_chunk_both_ways() {
    let proxy = Proxy::to(echo());
    let mut client = Client::new(&proxy);
    client.talks("a");
    proxy.delay(SHORT);
    let start = Instant::now();
    client.talks("b");
    assert!(start.elapsed() >= 2 * SHORT, "{:?}", start.elapsed());
}

#[test]
fn held_chunks_go_on_when_the_delay_ends() {
    let proxy = Proxy::to(echo());
    let mut client = Client::new(&proxy);
    client.talks("a");
    proxy.delay(10 * PATIENCE);
    client.say("b");
    client.hears_nothing();
    assert_eq!(proxy.bytes_passed(), 2);
    proxy.pass();
    assert_eq!(client.hear(PATIENCE).expect("an answer"), "b");
}

#[test]
fn a_blackhole_swallows_and_stays_open() {
    let proxy = Proxy::to(echo());
    let mut client = Client::new(&proxy);
    client.talks("a");
    proxy.blackhole();
    client.say("lost");
    client.hears_nothing();
    let mut new = Client::new(&proxy);
    new.say("lost too");
    new.hears_nothing();
    assert_eq!((proxy.connections(), proxy.bytes_passed()), (2, 2));
    proxy.pass();
    client.talks("b");
    new.talks("c");
}

#[test]
fn nobody_learns_of_an_end_through_a_blackhole() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let proxy = Proxy::to(listener.local_addr().expect("bound"));
    let client = Client::new(&proxy);
    let mut server = Client(listener.accept().expect("the proxy connects").0);
    proxy.blackhole();
    drop(client);
    assert!(proxy.wait_for_connections(0, PATIENCE));
    server.hears_nothing();
    proxy.pass();
    server.is_closed();
}

#[test]
fn without_a_server_behind_it_clients_are_closed() {
    let port = Port::free();
    let proxy = Proxy::to(port.address());
    Client::new(&proxy).is_closed();
    proxy.blackhole();
    Client::new(&proxy).hears_nothing();
}

#[test]
fn it_ends_with_its_owner() {
    let proxy = Proxy::to(echo());
    let (address, mut client) = (proxy.addr(), Client::new(&proxy));
    client.talks("a");
    drop(proxy);
    client.is_closed();
    assert!(TcpStream::connect(address).is_err());
}
