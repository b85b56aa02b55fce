//! Things that listen where one hoped for a Redis, and are none, or one from long ago.

use std::io::{BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};

use crate::listener::Listener;
use crate::redis::Reply;

/// What it does to a connection.
#[derive(Debug)]
enum Kind {
    Http,
    Silent,
    Old(String),
}

/// A server that is not the Redis one hoped for; ends with its connections when dropped.
#[derive(Debug)]
pub struct Impostor {
    listener: Listener,
}

impl Impostor {
    /// A web server: answers `400 Bad Request` to whatever comes, and hangs up.
    pub fn http() -> Self {
        Self::start(Kind::Http)
    }

    /// Accepts, and never says anything.
    pub fn silent() -> Self {
        Self::start(Kind::Silent)
    }

    /// A Redis of this version that knows no `HELLO` and hardly anything else: enough for a client to connect and to
    /// read `redis_version` in `INFO`.
    pub fn old(version: &str) -> Self {
        Self::start(Kind::Old(version.into()))
    }

    fn start(kind: Kind) -> Self {
        let serve = move |stream: &TcpStream| match &kind {
            Kind::Http => refuse(stream),
            Kind::Silent => std::io::copy(&mut &*stream, &mut std::io::sink()).map(drop),
            Kind::Old(version) => converse(stream, version),
        };
        Self { listener: Listener::start(serve) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.address()
    }

    /// `redis://127.0.0.1:PORT`, as if it were one.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }
}

fn refuse(mut stream: &TcpStream) -> Result<()> {
    let _ = stream.read(&mut [0; 4096])?;
    stream.write_all(
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nConnection: close\r\n\r\n\
          Bad Request\n",
    )
}

fn converse(mut stream: &TcpStream, version: &str) -> Result<()> {
    let mut source = BufReader::new(stream);
    loop {
        let Reply::List(words) = Reply::read(&mut source)? else { return Ok(()) };
        let words: Vec<_> =
            words.iter().map(|word| if let Reply::Text(word) = word { word } else { "" }).collect();
        stream.write_all(answer(&words, version).as_bytes())?;
    }
}

fn answer(words: &[&str], version: &str) -> String {
    let word = |n: usize| words.get(n).map(|word| word.to_uppercase()).unwrap_or_default();
    match (word(0).as_str(), word(1).as_str()) {
        ("AUTH" | "SELECT", _) | ("CLIENT", "SETINFO" | "SETNAME") => "+OK\r\n".into(),
        ("CLIENT", "ID") => ":1\r\n".into(),
        ("PING", _) => "+PONG\r\n".into(),
        ("INFO", _) => {
            let info = format!("# Server\r\nredis_version:{version}\r\n");
            format!("${}\r\n{info}\r\n", info.len())
        }
        _ => format!("-ERR unknown command '{}'\r\n", words.first().unwrap_or(&"")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, ErrorKind};
    use std::time::Duration;

    use super::*;
    use crate::redis::encoded;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn connect(impostor: &Impostor) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(impostor.addr()).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        BufReader::new(stream)
    }

    fn say(client: &mut BufReader<TcpStream>, words: &[&str]) {
        client.get_mut().write_all(encoded(words).as_bytes()).expect("the kernel takes it");
    }

    #[test]
    fn the_web_server_answers_400_and_hangs_up() {
        let impostor = Impostor::http();
        for words in [["PING"], ["HELLO"]] {
            let mut client = connect(&impostor);
            say(&mut client, &words);
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("the answer ends");
            assert!(
                answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\nBad Request\n"),
                "{answer}"
            );
        }
    }

    #[test]
    fn the_silent_one_says_nothing() {
        let impostor = Impostor::silent();
        let mut client = connect(&impostor);
        client.get_ref().set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        say(&mut client, &["PING"]);
        assert_eq!(client.fill_buf().expect_err("no answer").kind(), ErrorKind::WouldBlock);
        client.get_ref().set_read_timeout(Some(PATIENCE)).expect("a timeout");
        drop(impostor);
        assert!(client.fill_buf().is_ok_and(<[u8]>::is_empty), "the connection ends with its owner");
    }

    #[test]
    fn the_old_one_connects_tells_its_version_and_knows_nothing() {
        let impostor = Impostor::old("5.0.7");
        let mut client = connect(&impostor);
        let mut ask = |words: &[&str]| {
            say(&mut client, words);
            Reply::read(&mut client).expect("an answer")
        };
        assert_eq!(ask(&["HELLO", "3"]).error(), "ERR unknown command 'HELLO'");
        for words in [&["AUTH", "x"][..], &["SELECT", "1"], &["CLIENT", "SETINFO", "LIB-NAME", "x"]] {
            assert_eq!(ask(words).text(), "OK");
        }
        assert_eq!(ask(&["client", "setname", "x"]).text(), "OK");
        assert_eq!(ask(&["CLIENT", "ID"]).int(), 1);
        assert_eq!(ask(&["PING"]).text(), "PONG");
        assert!(ask(&["INFO", "server"]).text().contains("redis_version:5.0.7\r\n"));
        assert_eq!(ask(&["GET", "k"]).error(), "ERR unknown command 'GET'");
        let address = impostor.addr();
        drop(impostor);
        assert!(Reply::read(&mut client).is_err() && TcpStream::connect(address).is_err());
    }
}
