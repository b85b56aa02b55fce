//! Where the bytes of one file come from: the sources in their order, the one in use, and the address that it
//! redirected to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use url::Url;

use crate::error::Error;
use crate::hub::source::{Source, telling};

/// The way to one file.
#[derive(Debug)]
pub(super) struct Route {
    sources: Vec<Arc<Source>>,
    /// Held by the one that asks where the bytes are.
    pub(super) gate: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    at: usize,
    target: Option<Url>,
    told: Option<Error>,
}

impl Route {
    /// A way that tries `sources` one after the other; there is at least one.
    pub(super) fn new(sources: Vec<Arc<Source>>) -> Self {
        Self { sources, gate: tokio::sync::Mutex::new(()), state: Mutex::default() }
    }

    /// The same way with the source in use at its end, so that others are asked about its bytes.
    pub(super) fn by_others(&self) -> Self {
        let mut sources = self.sources.clone();
        let at = self.state().at;
        sources.rotate_left((at + 1) % self.sources.len());
        Self::new(sources)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source in use.
    pub(super) fn source(&self) -> Arc<Source> {
        Arc::clone(&self.sources[self.state().at])
    }

    /// Whether there is no other source to ask after the one in use.
    pub(super) fn is_last(&self) -> bool {
        self.state().at + 1 == self.sources.len()
    }

    /// The source in use, and where it has the bytes if that is known.
    pub(super) fn place(&self) -> (Arc<Source>, Option<Url>) {
        let state = self.state();
        (Arc::clone(&self.sources[state.at]), state.target.clone())
    }

    /// `source` has the bytes at `url`.
    pub(super) fn found(&self, source: &Arc<Source>, url: Url) {
        let mut state = self.state();
        if Arc::ptr_eq(&self.sources[state.at], source) {
            state.target = Some(url);
        }
    }

    /// `url` is good for nothing any more; one that somebody found meanwhile stays.
    pub(super) fn forget(&self, url: &Url) {
        self.state().target.take_if(|known| known == url);
    }

    /// `source` failed: the next one is used from here on, unless somebody moved on already.
    ///
    /// # Errors
    /// The failure that says most, if there is no next one.
    pub(super) fn leave(&self, source: &Arc<Source>, error: Error) -> Result<(), Error> {
        let mut state = self.state();
        if !Arc::ptr_eq(&self.sources[state.at], source) {
            return Ok(());
        }
        if self.sources.len() > 1 {
            source.rest(&error);
        }
        let told = telling(state.told.take(), error);
        if state.at + 1 == self.sources.len() {
            state.told = Some(told.clone());
            return Err(told);
        }
        tracing::info!(from = %source.name, error = %told, "the next source is asked");
        state.told = Some(told);
        state.at += 1;
        state.target = None;
        Ok(())
    }
}
