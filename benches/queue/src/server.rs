//! A private redis-server with the durability of a real deployment, and the one command that the runner
//! sends it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const START: Duration = Duration::from_secs(10);

/// A child process that is killed, by its own id, when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that also ends when the runner is killed and cannot end it.
pub(crate) fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The server and one connection to it that stays open, so that asking costs no further commands.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    connection: BufReader<TcpStream>,
    _process: Guarded,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server in a folder of its own, on a free port of the loopback interface.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("queue-bench-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let child = mortal("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server cannot be started")?;
        let process = Guarded(child);
        let begun = Instant::now();
        let connection = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(stream) => break BufReader::new(stream),
                Err(error) if begun.elapsed() > START => bail!("redis-server does not answer: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        connection.get_ref().set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut server = Self { port, connection, _process: process, _folder: folder };
        server.info()?;
        Ok(server)
    }

    /// Its address, for the programs.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Everything that `INFO` tells, in one command.
    pub(crate) fn info(&mut self) -> Result<Info> {
        self.connection.get_mut().write_all(b"INFO everything\r\n")?;
        let mut head = String::new();
        self.connection.read_line(&mut head)?;
        let length: usize =
            head.trim().strip_prefix('$').with_context(|| format!("Redis says {head}"))?.parse()?;
        let mut text = vec![0; length + 2];
        self.connection.read_exact(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        Ok(Info(text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.into(), v.into())).collect()))
    }
}

/// The fields of one `INFO`.
#[derive(Debug)]
pub(crate) struct Info(BTreeMap<String, String>);

impl Info {
    /// A field as text.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    /// A field as a number.
    pub(crate) fn number(&self, field: &str) -> Result<u64> {
        self.text(field).parse().with_context(|| format!("INFO has no number {field}"))
    }

    /// Calls by command, those of scripts included.
    pub(crate) fn calls<'a>(&'a self) -> BTreeMap<&'a str, u64> {
        let calls = |(key, value): (&'a String, &'a String)| {
            let name = key.strip_prefix("cmdstat_")?;
            Some((name, value.strip_prefix("calls=")?.split(',').next()?.parse().ok()?))
        };
        self.0.iter().filter_map(calls).collect()
    }
}
