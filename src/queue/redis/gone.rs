//! Hosts that are gone for good: what waits for them is told of, goes to the pool, or fails, as `queue.gone` says.
//!
//! Every larder of the fleet looks now and then, and what one has done the next finds done. The clock is that of Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use larder_jobs::Kind;
use larder_jobs::client::{Reply, Step, read_record, reply_text, strange};
use tokio::time::Instant;

use super::Redis;
use crate::error::Result;
use crate::queue::config::Gone;

/// How often each larder looks at most; more often where hosts are soon gone for good.
const LOOK: Duration = Duration::from_secs(180);
/// Most batches that are looked at together.
const BATCHES: usize = 16;
/// Most steps that one look takes, each of which ends some jobs.
const ROUNDS: usize = 64;

/// What was seen of the others.
#[derive(Debug, Default)]
pub(super) struct Watched {
    at: Option<Instant>,
    told: BTreeSet<String>,
}

impl Redis {
    /// Looks after hosts that are gone and batches that are over, if it is time.
    pub(super) async fn watch_fleet(&self) -> Result<()> {
        {
            let mut watched = self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let every = LOOK.min(self.config.gone_after.get() / 4);
            if watched.at.is_some_and(|at| at.elapsed() < every) {
                return Ok(());
            }
            watched.at = Some(Instant::now());
        }
        self.look_for_gone().await?;
        let connection = self.queue.connection();
        let retention = self.config.retention.get().as_micros();
        connection.run(&Step::new("reap_batches").arg(BATCHES).arg(retention)).await?;
        if let Reply::Array(names) = connection.run(&Step::new("forget_hosts").arg(retention)).await? {
            for name in names.iter().filter_map(reply_text) {
                tracing::info!(host = name, "a host that was not there for queue.retention is forgotten");
            }
        }
        Ok(())
    }

    /// Deals with the jobs of hosts that have not been there for `queue.gone_after`.
    pub(super) async fn look_for_gone(&self) -> Result<()> {
        let after = self.config.gone_after.get().as_micros();
        let reply = self.queue.connection().run(&Step::new("absent").arg(after)).await?;
        let Reply::Array(rows) = reply else { return Err(strange().into()) };
        let mut absent = BTreeSet::new();
        for row in &rows {
            let Reply::Array(parts) = row else { return Err(strange().into()) };
            let text = |n: usize| parts.get(n).and_then(reply_text).unwrap_or_default();
            let host = text(0);
            if self.is_news(&host) {
                let (queued, waiting, policy) = (text(1), text(2), self.config.gone.word());
                tracing::warn!(
                    host,
                    queued,
                    waiting,
                    policy,
                    "jobs wait for a host that is gone; queue.gone says what becomes of them"
                );
            }
            if self.config.gone != Gone::Keep {
                self.abandon(&host).await?;
            }
            absent.insert(host);
        }
        self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner).told = absent;
        Ok(())
    }

    fn is_news(&self, host: &str) -> bool {
        !self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner).told.contains(host)
    }

    async fn abandon(&self, host: &str) -> Result<()> {
        for kind in Kind::ALL {
            for _ in 0..ROUNDS {
                let step = Step::new("abandon").arg(host).arg(kind).arg(self.config.gone.word());
                let reply =
                    self.queue.connection().run(&step.arg(self.config.retention.get().as_micros())).await?;
                let Reply::Array(rows) = reply else { return Err(strange().into()) };
                for after in rows.iter().filter_map(|row| read_record(row).ok()) {
                    tracing::warn!(job = %after.id, host, state = %after.state, "the host of a job is gone");
                    self.observer.step(None, &after);
                }
                if rows.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}
