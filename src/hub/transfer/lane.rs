//! The threads that bytes pass through: a runtime of their own, so that what they wait for holds up nobody else.
//!
//! Whichever of them has a connection's bytes writes and hashes them too: at a gigabyte a second the handing over of
//! every write to a thread that may block cost some 7 % of the processor's time. So these threads may block, for as long as the page cache takes bytes or a name is looked at; whoever waits for the disk itself (a flush, a
//! comparison) still does that elsewhere. The queue, the API and the timers of the jobs are on other threads.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

/// Threads: as many as the host has processors, within these.
const THREADS: (usize, usize) = (2, 16);

/// The threads, from the first transfer on.
#[derive(Default)]
pub(crate) struct Lane {
    runtime: Mutex<Option<Runtime>>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// Where a transfer spawns its tasks.
    ///
    /// # Errors
    /// `internal` if the system has no more threads.
    pub(super) fn enter(&self) -> Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let threads =
            available_parallelism().map_or(THREADS.0, |cores| cores.get().clamp(THREADS.0, THREADS.1));
        let started =
            Builder::new_multi_thread().worker_threads(threads).thread_name("bytes").enable_all().build();
        let started =
            started.map_err(|error| Error::internal(format!("no threads for a transfer: {error}")))?;
        let handle = started.handle().clone();
        *runtime = Some(started);
        Ok(handle)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Whoever drops it may itself be on a thread that must not wait.
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}
