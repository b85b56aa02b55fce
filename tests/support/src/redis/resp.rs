//! The Redis protocol (RESP2), as much of it as assertions need. No Redis client: a bug there cannot hide itself here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What Redis says to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There is no such thing.
    Nil,
    /// A number.
    Int(i64),
    /// A status or a value; bytes that are no UTF-8 are replaced.
    Text(String),
    /// A refusal, with its code (`NOPERM …`).
    Error(String),
    /// Several, for a command without an answer of its own kind.
    List(Vec<Reply>),
}

impl Reply {
    /// Reads one; requests have the form of a list and are read as well.
    pub(crate) fn read(source: &mut impl BufRead) -> Result<Self> {
        let line = line(source)?;
        let invalid = || Error::new(ErrorKind::InvalidData, format!("no RESP: {line:?}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(invalid)?;
        let number = || rest.parse::<i64>().map_err(|_| invalid());
        Ok(match kind {
            "+" => Self::Text(rest.into()),
            "-" => Self::Error(rest.into()),
            ":" => Self::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => Self::Text(bulk(source, length)?),
                Err(_) => Self::Nil,
            },
            "*" => match usize::try_from(number()?) {
                Ok(length) => Self::List((0..length).map(|_| Self::read(source)).collect::<Result<_>>()?),
                Err(_) => Self::Nil,
            },
            _ => return Err(invalid()),
        })
    }

    /// The text; panics when it is none.
    #[track_caller]
    pub fn text(&self) -> String {
        let Self::Text(text) = self else { panic!("no text: {self:?}") };
        text.clone()
    }

    /// The number, also of a text that is one; panics when it is none.
    #[track_caller]
    pub fn int(&self) -> i64 {
        let number = match self {
            Self::Int(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        };
        number.unwrap_or_else(|| panic!("no number: {self:?}"))
    }

    /// The texts of a list, numbers printed; panics when it is no flat list.
    #[track_caller]
    pub fn list(&self) -> Vec<String> {
        let Self::List(items) = self else { panic!("no list: {self:?}") };
        let mut texts = Vec::new();
        for item in items {
            texts.push(match item {
                Self::Int(number) => number.to_string(),
                _ => item.text(),
            });
        }
        texts
    }

    /// A list that alternates between names and values, as `HGETALL` gives it.
    #[track_caller]
    pub fn pairs(&self) -> BTreeMap<String, String> {
        let list = self.list();
        list.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect()
    }

    /// The refusal; panics when it was none.
    #[track_caller]
    pub fn error(&self) -> String {
        let Self::Error(error) = self else { panic!("no error: {self:?}") };
        error.clone()
    }

    /// Whether there was no such thing.
    pub fn is_nil(&self) -> bool {
        *self == Self::Nil
    }
}

fn line(source: &mut impl BufRead) -> Result<String> {
    let mut bytes = Vec::new();
    source.read_until(b'\n', &mut bytes)?;
    match bytes.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None if bytes.ends_with(b"\n") => {
            Err(Error::new(ErrorKind::InvalidData, "no RESP: a bare line feed"))
        }
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn bulk(source: &mut impl BufRead, length: usize) -> Result<String> {
    let mut bytes = vec![0; length + 2];
    source.read_exact(&mut bytes)?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A command as it goes over the wire.
pub(crate) fn encoded(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

/// Runs the commands on a connection of its own, and returns the last answer, or the first refusal. Each answer may
/// take `patience`.
pub(crate) fn ask(socket: &Path, commands: &[&[&str]], patience: Duration) -> Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut source = BufReader::new(stream.try_clone()?);
    let mut last = Reply::Nil;
    for command in commands {
        stream.write_all(encoded(command).as_bytes())?;
        last = Reply::read(&mut source)?;
        if matches!(last, Reply::Error(_)) {
            break;
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<Reply> {
        Reply::read(&mut bytes)
    }

    #[test]
    fn every_kind_is_read() {
        let nested = read(b"*4\r\n:-7\r\n$4\r\na\r\nb\r\n*-1\r\n*1\r\n$-1\r\n").expect("RESP");
        let inner = Reply::List(vec![Reply::Nil]);
        assert_eq!(
            nested,
            Reply::List(vec![Reply::Int(-7), Reply::Text("a\r\nb".into()), Reply::Nil, inner])
        );
        assert_eq!(read(b"-NOPERM no\r\n").expect("RESP").error(), "NOPERM no");
        assert_eq!(read(b"$2\r\n12\r\n").expect("RESP").int(), 12);
        assert_eq!(read(encoded(&["GET", "é"]).as_bytes()).expect("RESP").list(), ["GET", "é"]);
        assert_eq!(read(encoded(&["a", "1", "b", "2"]).as_bytes()).expect("RESP").pairs()["b"], "2");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert_eq!(read(b"HTTP/1.1 400\r\n").expect_err("no RESP").kind(), ErrorKind::InvalidData);
        for cut in [&b""[..], b"+O", b"$5\r\nabc", b"*2\r\n:1\r\n"] {
            assert_eq!(read(cut).expect_err("too short").kind(), ErrorKind::UnexpectedEof);
        }
    }
}
