//! Who is compared, and how each program is started.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::hub::Addresses;
use crate::model::{Model, entries};

/// One client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Larder,
    HfHub,
    Hf,
    Aria2,
    Curl,
    Cp,
    Sha256,
}

/// All of them, in the order of the tables.
pub(crate) const ALL: [Client; 7] =
    [Client::Larder, Client::HfHub, Client::Hf, Client::Aria2, Client::Curl, Client::Cp, Client::Sha256];

/// What a program is told to fetch, and where to.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) model: &'a Model,
    pub(crate) hub: &'a Addresses,
    /// A folder of this run's own, which is there and empty.
    pub(crate) folder: &'a Path,
}

/// The folder of this package.
pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Client {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Larder => "larder",
            Self::HfHub => "hf-hub",
            Self::Hf => "hf",
            Self::Aria2 => "aria2c",
            Self::Curl => "curl",
            Self::Cp => "cp",
            Self::Sha256 => "sha256",
        }
    }

    /// How it is started, for the notes below the tables.
    pub(crate) fn setup(self) -> &'static str {
        match self {
            Self::Larder => {
                "`larder stage MODEL` with its defaults (no daemon, verified, resumable), \
                 `LARDER__CACHE__KEEP_FREE=0`; its state lies beside the cache"
            }
            Self::HfHub => {
                "`snapshot_download` of the crate with its defaults (eight files at once); verifies nothing"
            }
            Self::Hf => {
                "`hf download MODEL` with its defaults (eight files at once), `HF_HUB_DISABLE_XET=1`, no progress \
                 bars; checks sizes only"
            }
            Self::Aria2 => "`-x16 -s16 -j4 -i LIST`; knows no digests",
            Self::Curl => {
                "one process, `-L -K LIST`, file after file over connections that are kept; knows no digests"
            }
            Self::Cp => "`cp -r` from the folder that the hub serves from: the floor",
            Self::Sha256 => "`openssl sha256` of the same files, one core; writes nothing",
        }
    }

    /// Whether it fetches over HTTP.
    pub(crate) fn is_download(self) -> bool {
        !matches!(self, Self::Cp | Self::Sha256)
    }

    /// Where the files are afterwards; nowhere for one that only reads.
    pub(crate) fn root(self, order: &Order) -> Option<PathBuf> {
        match self {
            Self::Larder | Self::HfHub | Self::Hf => {
                let cache = format!("hub/models--{}", order.model.id.replace('/', "--"));
                Some(order.folder.join(cache).join("snapshots").join(&order.model.commit))
            }
            Self::Aria2 | Self::Curl | Self::Cp => Some(order.folder.join("files")),
            Self::Sha256 => None,
        }
    }

    /// Its program with all that it is told.
    pub(crate) fn command(self, order: &Order, larder: &Path) -> Result<Command> {
        let files = order.folder.join("files");
        let list = order.folder.join("list");
        let mut command = match self {
            Self::Larder => {
                let mut command = Command::new(larder);
                command.args(["stage", &order.model.id]);
                command.env("LARDER__STATE__PATH", order.folder.join("state"));
                command.env("LARDER__CACHE__KEEP_FREE", "0");
                command
            }
            Self::HfHub => {
                let program = home().join("target/cargo/release/transfer-bench-hf-hub");
                let mut command = Command::new(program);
                command.arg(&order.model.id);
                command
            }
            Self::Hf => {
                let mut command = Command::new(home().join("target/venv/bin/hf"));
                command.args(["download", &order.model.id]);
                let off = ["XET", "PROGRESS_BARS", "TELEMETRY", "UPDATE_CHECK"];
                command.envs(off.map(|what| (format!("HF_HUB_DISABLE_{what}"), "1")));
                command
            }
            Self::Aria2 => {
                write_list(&list, order, |url, path| format!("{url}\n  out={path}\n"))?;
                let mut command = Command::new("aria2c");
                command.args(["--no-conf", "--console-log-level=error", "--summary-interval=0"]);
                command.args(["-x16", "-s16", "-j4"]);
                command.arg("-d").arg(&files).arg("-i").arg(&list);
                command
            }
            Self::Curl => {
                let root = files.display();
                write_list(&list, order, |url, path| format!("url={url}\noutput={root}/{path}\n"))?;
                let mut command = Command::new("curl");
                command.args(["-q", "-sSfL", "--create-dirs", "-K"]).arg(&list);
                command
            }
            Self::Cp => {
                let mut command = Command::new("cp");
                command.arg("-r").arg(&order.model.folder).arg(&files);
                command
            }
            Self::Sha256 => {
                let mut command = Command::new("openssl");
                command.args(["dgst", "-sha256"]);
                for entry in entries(&order.model.folder)? {
                    command.arg(order.model.folder.join(entry?.path));
                }
                command
            }
        };
        self.surround(&mut command, order);
        Ok(command)
    }

    /// An environment that has nothing of the caller's.
    fn surround(self, command: &mut Command, order: &Order) {
        let own: Vec<_> =
            command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        command.env_clear().envs(own);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", order.folder).env("LANG", "C.UTF-8").env("NO_PROXY", "*");
        command.env("HF_ENDPOINT", &order.hub.hub).env("HF_HUB_CACHE", order.folder.join("hub"));
        command.current_dir(order.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    }

    /// The name and version of what is compared.
    pub(crate) fn version(self) -> Result<String> {
        Ok(match self {
            Self::Larder => "larder (this commit)".into(),
            Self::HfHub => {
                let lock = read(&home().join("peers/hf-hub/Cargo.lock"))?;
                let mut lines = lock.lines().skip_while(|line| *line != "name = \"hf-hub\"");
                let version = lines.nth(1).and_then(|line| line.split('"').nth(1)).unwrap_or("?");
                format!("hf-hub {version} (crate)")
            }
            Self::Hf => {
                let pins = read(&home().join("requirements.txt"))?;
                let pin = pins.lines().find_map(|line| line.strip_prefix("huggingface_hub=="));
                format!("hf download {}", pin.unwrap_or("?"))
            }
            Self::Aria2 => format!("aria2c {}", said("aria2c", "--version", 2)),
            Self::Curl => format!("curl {}", said("curl", "--version", 1)),
            Self::Cp => "cp".into(),
            Self::Sha256 => format!("openssl sha256 ({})", said("openssl", "version", 1)),
        })
    }
}

fn write_list(list: &Path, order: &Order, line: impl Fn(&str, &str) -> String) -> Result<()> {
    let mut out = BufWriter::new(File::create(list)?);
    for entry in entries(&order.model.folder)? {
        let path = entry?.path;
        let url = format!("{}/{}/resolve/{}/{path}", order.hub.hub, order.model.id, order.model.commit);
        out.write_all(line(&url, &path).as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// A word of the first line that a program says about its version.
fn said(program: &str, flag: &str, word: usize) -> String {
    let said = Command::new(program).arg(flag).output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.split_whitespace().nth(word).unwrap_or("?").to_owned()
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
