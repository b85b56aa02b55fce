//! The library of Redis functions through which programs in other languages ask for jobs, and how it gets there.

use redis::Value;

use super::connection::Connection;
use super::error::Result;
use super::row;

/// The text of the library, as `FUNCTION LOAD` takes it.
pub const LIBRARY: &str = include_str!("lua/function.lua");

/// What came of loading the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// It is there now, and was not before or was an older one.
    Loaded,
    /// It was there, this version or a newer one.
    Known,
    /// The server has no functions: a Redis before 7.
    Unsupported,
}

impl Connection {
    /// Loads the library unless the server has it, or a newer one.
    ///
    /// # Errors
    /// `queue_unavailable`, also if the user may not.
    pub async fn load_library(&self) -> Result<Library> {
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg("larder").arg("WITHCODE");
        let known = match self.command(&list).await {
            Ok(reply) => code(&reply).and_then(|code| version(&code)),
            Err(error) if error.what().contains("unknown command") => return Ok(Library::Unsupported),
            Err(error) => return Err(error),
        };
        if known >= version(LIBRARY) {
            return Ok(Library::Known);
        }
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(LIBRARY);
        self.command(&load).await.map(|_| Library::Loaded)
    }
}

/// The text behind `library_code` in the answer of `FUNCTION LIST`: lists of names and values, or maps.
fn code(reply: &Value) -> Option<String> {
    match reply {
        Value::Array(parts) => {
            let named = |pair: &[Value]| {
                let [name, value] = pair else { return None };
                row::text(name).filter(|name| name == "library_code").and_then(|_| row::text(value))
            };
            parts.windows(2).find_map(named).or_else(|| parts.iter().find_map(code))
        }
        Value::Map(pairs) => {
            let named = |name: &Value| row::text(name).is_some_and(|name| name == "library_code");
            pairs.iter().find(|(name, _)| named(name)).and_then(|(_, value)| row::text(value))
        }
        _ => None,
    }
}

/// The number in the first comment of the library.
fn version(code: &str) -> Option<u64> {
    let rest = code.lines().nth(1)?.split("version ").nth(1)?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_text() {
        assert_eq!(version(LIBRARY), Some(3));
        assert_eq!(version("#!lua name=larder\n-- version 12: x"), Some(12));
        assert_eq!(version("#!lua name=larder\nreturn 1"), None);
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let found = Value::Array(vec![Value::Array(vec![
            text("library_name"),
            text("larder"),
            text("library_code"),
            text(LIBRARY),
        ])]);
        assert_eq!(code(&found).as_deref(), Some(LIBRARY));
        assert_eq!(code(&Value::Array(Vec::new())), None);
    }
}
