//! What the library remembers between calls: the file as last read, and what was counted and delivered.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings as nvml;

use crate::config::{Config, Xid};

/// How often a call that stands still looks at the file.
const LOOK: Duration = Duration::from_millis(50);
/// And one that waits for an event: the real library waits without looking, and costs nothing meanwhile.
const WAIT_LOOK: Duration = Duration::from_millis(250);

/// One loaded library.
#[derive(Debug)]
pub struct State {
    path: Option<PathBuf>,
    loaded: Instant,
    file: Mutex<File>,
    users: AtomicI64,
    /// Questions for memory so far.
    memory_calls: AtomicUsize,
    /// Xids that were delivered or that nobody waited for.
    delivered: AtomicUsize,
    sets: Mutex<Vec<Set>>,
}

/// The file as last read.
#[derive(Debug, Default)]
struct File {
    /// When it was changed, in seconds and nanoseconds, its size and its number.
    seen: Option<(i64, i64, u64, u64)>,
    config: Option<Arc<Config>>,
}

/// GPUs whose Xids somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    id: usize,
    gpus: Vec<usize>,
}

/// What NVML answers, or its error code.
pub type Answer<T> = Result<T, u32>;

impl State {
    /// With the file at `path`.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            loaded: Instant::now(),
            file: Mutex::default(),
            users: AtomicI64::new(0),
            memory_calls: AtomicUsize::new(0),
            delivered: AtomicUsize::new(0),
            sets: Mutex::default(),
        }
    }

    /// The file as it is now.
    ///
    /// # Errors
    /// `UNKNOWN` if there is none or it does not say what it should; the reason goes to stderr.
    pub fn config(&self) -> Answer<Arc<Config>> {
        let unknown = nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN;
        let path = self.path.as_deref().ok_or(unknown)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = path.metadata().ok().map(|m| (m.mtime(), m.mtime_nsec(), m.size(), m.ino()));
        // A file that is gone leaves what it said.
        if seen != file.seen && (seen.is_some() || file.config.is_none()) {
            *file = File { seen, config: read(path).map(Arc::new) };
        }
        file.config.clone().ok_or(unknown)
    }

    /// Begins the C function `name`: stands still, takes its time or fails, as the file says.
    ///
    /// # Errors
    /// What the file says, and `UNINITIALIZED` before `nvmlInit`.
    pub fn enter(&self, name: &str) -> Answer<Arc<Config>> {
        let named = |list: &[String]| list.iter().any(|entry| entry == name || entry == "*");
        let mut config = self.config()?;
        while named(&config.hang) {
            sleep(LOOK);
            config = self.config()?;
        }
        let slow = config.slow_ms.get(name).or_else(|| config.slow_ms.get("*"));
        if let Some(milliseconds) = slow {
            sleep(Duration::from_millis(*milliseconds));
        }
        if let Some(code) = config.errors.get(name) {
            return Err(code.number());
        }
        if self.users.load(SeqCst) <= 0 && !name.starts_with("nvmlInit") {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
        }
        Ok(config)
    }

    /// `nvmlInit` and `nvmlShutdown` come in pairs.
    pub fn count_user(&self, by: i64) {
        if self.users.fetch_add(by, SeqCst) + by == 0 {
            self.sets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// How many questions for memory there were before this one, and how long the library is loaded.
    pub fn memory_call(&self) -> (u64, Duration) {
        (self.memory_calls.fetch_add(1, SeqCst) as u64, self.loaded.elapsed())
    }

    /// A set for events; its number is never zero.
    pub fn create_set(&self) -> usize {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let id = sets.iter().map(|set| set.id).max().unwrap_or(0) + 1;
        sets.push(Set { id, gpus: Vec::new() });
        id
    }

    /// Whether there was such a set.
    pub fn free_set(&self, id: usize) -> bool {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sets.len();
        sets.retain(|set| set.id != id);
        sets.len() < before
    }

    /// Xids of that GPU shall come to that set. Whether there is such a set.
    pub fn register(&self, id: usize, gpu: usize) -> bool {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter_mut().find(|set| set.id == id).map(|set| set.gpus.push(gpu)).is_some()
    }

    /// Waits for an Xid of the set's GPUs.
    ///
    /// # Errors
    /// `TIMEOUT`, and what [`State::enter`] says.
    pub fn wait(&self, id: usize, timeout: Duration) -> Answer<Xid> {
        let begun = Instant::now();
        loop {
            if let Some(xid) = self.next_xid(id)? {
                return Ok(xid);
            }
            if begun.elapsed() >= timeout {
                return Err(nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT);
            }
            sleep(WAIT_LOOK);
        }
    }

    fn next_xid(&self, id: usize) -> Answer<Option<Xid>> {
        let config = self.config()?;
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set =
            sets.iter().find(|set| set.id == id).ok_or(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        while let Some(xid) = config.xids.get(self.delivered.load(SeqCst)) {
            self.delivered.fetch_add(1, SeqCst);
            if set.gpus.contains(&xid.gpu) {
                return Ok(Some(*xid));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Option<Config> {
    let said = |error: &dyn std::fmt::Display| eprintln!("fake-nvml: {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| said(&error)).ok()?;
    serde_json::from_str(&text).map_err(|error| said(&error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_comes_once_and_to_whoever_asked_for_that_gpu() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("fake.json");
        std::fs::write(&path, r#"{"xids": [{"gpu": 1, "code": 13}, {"gpu": 0, "code": 79}]}"#)
            .expect("writes");
        let state = State::new(Some(path));
        let set = state.create_set();
        assert!(state.register(set, 0) && !state.register(set + 1, 0));
        assert_eq!(state.wait(set, Duration::ZERO), Ok(Xid { gpu: 0, code: 79 }));
        assert_eq!(state.wait(set, Duration::ZERO), Err(10), "time-out");
        assert!(state.free_set(set) && !state.free_set(set));
    }

    #[test]
    fn a_call_that_hangs_returns_when_the_file_lets_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("fake.json");
        std::fs::write(&path, r#"{"hang": ["nvmlDeviceGetName"]}"#).expect("writes");
        let state = State::new(Some(path.clone()));
        state.count_user(1);
        assert!(state.enter("nvmlDeviceGetCount_v2").is_ok());
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| state.enter("nvmlDeviceGetName").is_ok());
            sleep(10 * LOOK);
            assert!(!hung.is_finished());
            std::fs::write(&path, "{}").expect("writes");
            assert!(hung.join().expect("returns"));
        });
    }
}
