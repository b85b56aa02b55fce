//! Calibration without a laboratory: when a process on this host has read a staged model and holds memory of a GPU, that
//! memory is compared with what was predicted, and later predictions carry the host's own correction.
//!
//! Compared is the moment after loading, when a process has had the same amount for a while and its context is still
//! empty. vLLM takes most of the card whatever the model is, so nothing follows from what it holds.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use jiff::Timestamp;
use larder_jobs::{CommitId, RepoId};
use procfs::process::{FDTarget, MMapPath, Process};
use tokio_util::sync::CancellationToken;

use super::Scout;
use crate::error::{Result, blocking};
use crate::fit::{Capability, Engine, Margin, Request, estimate};
use crate::gpu::{Gpu, Gpus};
use crate::ledger::{Calibration, CalibrationKey, Key, Ledger};

/// So often in a row a process must hold the same memory before it counts as loaded.
const STEADY: u32 = 3;
/// Memory that comes and goes by less than this is the same.
const SAME: u64 = 64 << 20;
/// Most processes that are watched.
const MAX_WATCHED: usize = 256;
/// A ratio outside of this says that something else was compared.
const BELIEVABLE: std::ops::RangeInclusive<f64> = 0.75..=1.6;
/// Servers that take a share of the card whatever the model is, so that nothing follows from what they hold.
const TAKE_A_SHARE: &[&str] = &["vllm", "sglang", "text-generation", "lmdeploy", "trtllm", "tensorrt", "tgi"];
/// The context of an engine that has loaded and not been asked anything.
const IDLE_CONTEXT: u64 = 1;

/// Processes that have read a staged model.
#[derive(Debug, Default)]
pub struct Watch {
    processes: HashMap<u32, Watched>,
}

#[derive(Debug, Clone)]
struct Watched {
    started: u64,
    model: Key,
    repo: RepoId,
    commit: CommitId,
    engine: Engine,
    context: u64,
    held: u64,
    steady: u32,
    done: bool,
}

/// What a process has open or mapped.
#[derive(Debug, Clone)]
struct Reader {
    started: u64,
    command: Vec<String>,
    models: Vec<(RepoId, CommitId)>,
}

/// A process that has loaded a model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loaded {
    pid: u32,
    repo: RepoId,
    commit: CommitId,
    engine: Engine,
    context: u64,
    bytes: u64,
}

impl Watch {
    /// Takes in what the processes of a GPU hold now, and tells which have just finished loading. `look` says what a process
    /// has open; it is asked again while nothing is known of one, since engines close the files of a loaded model.
    fn take(&mut self, held: &BTreeMap<u32, u64>, look: impl Fn(u32) -> Option<Reader>) -> Vec<Loaded> {
        self.processes.retain(|pid, _| held.contains_key(pid));
        let mut loaded = Vec::new();
        for (pid, bytes) in held {
            let known = self.processes.get(pid).is_some_and(|watched| watched.done);
            if known {
                continue;
            }
            if let Some(reader) = look(*pid) {
                self.met(*pid, &reader);
            }
            let Some(watched) = self.processes.get_mut(pid) else { continue };
            let is_same = bytes.abs_diff(watched.held) <= SAME;
            watched.steady = if is_same { watched.steady + 1 } else { 0 };
            watched.held = *bytes;
            if watched.steady >= STEADY {
                watched.done = true;
                loaded.push(Loaded {
                    pid: *pid,
                    repo: watched.repo.clone(),
                    commit: watched.commit.clone(),
                    engine: watched.engine,
                    context: watched.context,
                    bytes: *bytes,
                });
            }
        }
        loaded
    }

    /// A process has a model open.
    fn met(&mut self, pid: u32, reader: &Reader) {
        let known = self.processes.get(&pid).filter(|watched| watched.started == reader.started);
        // Who reads two models at once serves both, and nobody can tell which takes what.
        let [(repo, commit)] = reader.models.as_slice() else {
            if reader.models.len() > 1 || known.is_none() {
                self.processes.remove(&pid);
            }
            return;
        };
        let model = Key::new(repo, commit);
        if known.is_some_and(|watched| watched.model == model) || self.processes.len() >= MAX_WATCHED {
            return;
        }
        let (engine, context) = engine(&reader.command);
        let watched = Watched {
            started: reader.started,
            model,
            repo: repo.clone(),
            commit: commit.clone(),
            engine,
            context,
            held: 0,
            steady: 0,
            done: engine == Engine::Vllm,
        };
        self.processes.insert(pid, watched);
    }
}

/// Which engine a command line is, and the context that it was started with; every server that takes a share of the card
/// counts as vLLM.
fn engine(command: &[String]) -> (Engine, u64) {
    let name = |word: &str| command.iter().take(4).any(|part| part.to_ascii_lowercase().contains(word));
    if TAKE_A_SHARE.iter().any(|word| name(word)) {
        return (Engine::Vllm, IDLE_CONTEXT);
    }
    if ["llama", "ollama", "koboldcpp"].iter().any(|word| name(word)) && !name("python") {
        // Its cache is there from the start, as long as it was told.
        let after = |flags: &[&str]| {
            let at = command.iter().position(|part| flags.contains(&part.as_str()))?;
            command.get(at + 1)?.parse().ok()
        };
        let context = after(&["-c", "--ctx-size", "--ctx_size"]).filter(|context| *context > 0);
        return (Engine::LlamaCpp, context.unwrap_or(4096));
    }
    (Engine::Transformers, IDLE_CONTEXT)
}

impl Scout {
    /// Looks once at what processes hold, and learns from those that have just loaded a model. Without GPUs that are watched
    /// and records that are open there is nothing to learn.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub async fn learn(&self, watch: &mut Watch, stop: &CancellationToken) -> Result<()> {
        let (Some(handle), Some(ledger)) = (&self.watched, self.ledger.clone()) else { return Ok(()) };
        let gpus = handle.latest();
        let held = held(&gpus);
        let cached = Self::cached(&ledger);
        let root = self.cache.root().to_owned();
        let mut mine = std::mem::take(watch);
        let (mine, loaded) = blocking(move || {
            // In here, since a disk that hangs holds whoever asks it.
            let root = root.canonicalize().unwrap_or(root);
            let loaded = mine.take(&held, |pid| reader(pid, &root, &cached));
            Ok((mine, loaded))
        })
        .await?;
        *watch = mine;
        for loaded in loaded {
            let staged = match self.staged(&loaded.repo, &loaded.commit, stop).await {
                Ok(staged) => staged.looked,
                Err(error) => {
                    tracing::debug!(%error, "a loaded model cannot be compared with its prediction");
                    continue;
                }
            };
            let (Ok(shape), Ok(weights)) = (&staged.architecture, &staged.weights) else { continue };
            let Some((gpu, capability)) = card(&gpus, loaded.pid) else { continue };
            let request = Request::new(loaded.engine, staged.quantization(), loaded.context);
            let request = Request { capability, ..request };
            let Ok(predicted) = estimate(shape, weights, &request, None) else { continue };
            #[allow(clippy::cast_precision_loss)] // a ratio needs no sixteen digits
            let ratio = loaded.bytes as f64 / predicted.total.max(1) as f64;
            if !BELIEVABLE.contains(&ratio) {
                tracing::debug!(model = %loaded.repo, ratio, "what a process holds is not only this model");
                continue;
            }
            let key = CalibrationKey {
                architecture: shape.model_type.clone(),
                engine: loaded.engine.word().into(),
                quantization: staged.quantization().to_string(),
                gpu,
            };
            let earlier = ledger.calibration(&key);
            let is_false_yes =
                loaded.bytes > predicted.total.saturating_add(Margin::DEFAULT.on(predicted.total));
            let mut next = Calibration::observed(key, earlier.as_ref(), ratio, Timestamp::now());
            next.commit = Some(loaded.commit.clone());
            next.false_yes += u64::from(is_false_yes);
            crate::metrics::fit_observed(is_false_yes);
            tracing::info!(
                model = %loaded.repo, engine = %loaded.engine, held = loaded.bytes, predicted = predicted.total, ratio,
                "a prediction of VRAM was compared with what an engine holds"
            );
            ledger.calibrate(&next)?;
        }
        Ok(())
    }
}

impl Scout {
    /// The revision of each model in the cache that was used last.
    fn cached(ledger: &Ledger) -> BTreeMap<RepoId, CommitId> {
        let mut views = ledger.shelf().views(Timestamp::now());
        views.sort_by_key(|view| view.last_used_at);
        views.into_iter().map(|view| (view.repo, view.commit)).collect()
    }
}

/// The card that a process is on.
fn card(gpus: &Gpus, pid: u32) -> Option<(String, Option<Capability>)> {
    let holds = |gpu: &&Gpu| gpu.processes.iter().flatten().any(|process| process.pid == pid);
    let gpu = gpus.devices.iter().find(holds)?;
    let capability = gpu.compute_capability.map(|of| Capability(of.major, of.minor));
    Some((gpu.name.clone()?, capability))
}

/// Bytes that each process holds, over all GPUs; of one on several GPUs nothing is compared.
fn held(gpus: &Gpus) -> BTreeMap<u32, u64> {
    let mut held = BTreeMap::new();
    let mut several = Vec::new();
    for process in gpus.devices.iter().filter_map(|gpu| gpu.processes.as_ref()).flatten() {
        let Some(bytes) = process.used_memory else { continue };
        if held.insert(process.pid, bytes).is_some() {
            several.push(process.pid);
        }
    }
    held.retain(|pid, _| !several.contains(pid));
    held
}

/// Which staged models a process was started with, or else has open or mapped; `None` if it may not be looked at. A small
/// model is loaded and its files are closed before anybody looks, so what the command line names counts first.
fn reader(pid: u32, root: &Path, cached: &BTreeMap<RepoId, CommitId>) -> Option<Reader> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let started = process.stat().ok()?.starttime;
    let mut models: Vec<(RepoId, CommitId)> = Vec::new();
    let mut seen = |path: &Path| {
        if let Some(one) = crate::layout::revision_of(root, path)
            && !models.contains(&one)
        {
            models.push(one);
        }
    };
    let command = process.cmdline().unwrap_or_default();
    let named = command.iter().filter_map(|part| {
        let commit = |repo: RepoId| cached.get(&repo).map(|commit| (repo.clone(), commit.clone()));
        // As a path, or as `owner/name`, also behind a `=`.
        let word = part.rsplit_once('=').map_or(part.as_str(), |(_, value)| value);
        let file = Path::new(word).canonicalize().ok();
        crate::layout::revision_of(root, Path::new(word))
            .or_else(|| crate::layout::revision_of(root, &file?))
            .or_else(|| commit(word.parse().ok()?))
    });
    let mut named: Vec<(RepoId, CommitId)> = named.collect();
    named.dedup();
    if !named.is_empty() {
        return Some(Reader { started, command, models: named });
    }
    for map in process.maps().ok()?.iter() {
        if let MMapPath::Path(path) = &map.pathname
            && path.as_os_str().as_bytes().starts_with(root.as_os_str().as_bytes())
        {
            seen(path);
        }
    }
    for fd in process.fd().ok()?.flatten() {
        if let FDTarget::Path(path) = &fd.target
            && path.starts_with(root)
        {
            seen(path);
        }
    }
    Some(Reader { started, command, models })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn reader(name: &str, models: &[&str]) -> Reader {
        let commit: CommitId = "c".repeat(40).parse().expect("commit");
        let model = |name: &&str| (name.parse().expect("repo"), commit.clone());
        Reader {
            started: 7,
            command: name.split(' ').map(str::to_owned).collect(),
            models: models.iter().map(model).collect(),
        }
    }

    fn feed(watch: &mut Watch, bytes: u64, look: Option<&Reader>) -> Vec<Loaded> {
        watch.take(&BTreeMap::from([(42, bytes)]), |_| look.cloned())
    }

    #[test]
    fn a_process_that_has_loaded_is_told_once_also_after_it_closed_its_files() {
        let mut watch = Watch::default();
        let (open, closed) = (reader("python serve.py", &["a/b"]), reader("python serve.py", &[]));
        assert!(feed(&mut watch, GIB, Some(&open)).is_empty());
        let mut told = Vec::new();
        for bytes in [5 * GIB, 9 * GIB, 9 * GIB, 9 * GIB, 9 * GIB, 9 * GIB, 9 * GIB] {
            told.extend(feed(&mut watch, bytes, Some(&closed)));
        }
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].bytes, told[0].engine), (9 * GIB, Engine::Transformers));
        // Another process with the same number begins anew.
        watch.take(&BTreeMap::new(), |_| None);
        assert!(watch.processes.is_empty());
    }

    #[test]
    fn nothing_follows_from_two_models_or_from_a_server_that_takes_a_share() {
        for one in [
            reader("python x", &["a/b", "c/d"]),
            reader("python -m vllm.entrypoints", &["a/b"]),
            reader("python -m sglang.launch_server", &["a/b"]),
        ] {
            let mut watch = Watch::default();
            let told: Vec<_> = (0..9).flat_map(|_| feed(&mut watch, GIB, Some(&one))).collect();
            assert!(told.is_empty(), "{one:?}");
        }
    }

    #[test]
    fn engines_are_told_by_their_command_lines() {
        let of = |line: &str| engine(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("/usr/bin/llama-server -m x.gguf -c 8192"), (Engine::LlamaCpp, 8192));
        assert_eq!(of("ollama runner"), (Engine::LlamaCpp, 4096));
        assert_eq!(of("python3 generate.py"), (Engine::Transformers, IDLE_CONTEXT));
        assert_eq!(of("/opt/venv/bin/vllm serve a/b").0, Engine::Vllm);
    }
}
