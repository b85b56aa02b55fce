//! What every job store must do, as tests that know nothing of the store but [`JobStore`].
//!
//! A store runs the whole suite with `conformance!(make)`, where `make` builds a [`Rig`].

mod attempts;
mod batches;
mod ends;
mod intake;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use larder_jobs::{JobId, Kind, Progress, Reason, State};

use super::{Claim, Claimed, Config, JobStore, Record, Renewal, Settled, Settlement};

pub(super) use attempts::*;
pub(super) use batches::*;
pub(super) use ends::*;
pub(super) use intake::*;

/// A store under test and its surroundings.
pub(super) struct Rig {
    pub(super) store: Arc<dyn JobStore>,
    /// The time by the store's clock.
    pub(super) now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Lets time pass by the store's clock.
    pub(super) pass: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Puts a queued record there as another program would have.
    pub(super) plant: Box<dyn Fn(Record) -> BoxFuture<'static, ()> + Send + Sync>,
    /// What must live as long as the store.
    pub(super) _keep: Box<dyn Any + Send + Sync>,
}

/// Builds a rig with an empty store.
pub(super) type Make = fn(Config) -> BoxFuture<'static, Rig>;

/// Runs every case of the suite as a test of its own.
macro_rules! conformance {
    ($make:expr) => {
        $crate::queue::conformance::conformance!($make, if true);
    };
    ($make:expr, if $ready:expr) => {
        $crate::queue::conformance::conformance!(@ $make; $ready;
            same_want_in_flight_is_one_job
            a_join_takes_the_more_urgent_of_both
            a_join_takes_the_more_generous_limit
            a_cancelled_want_is_not_joined
            an_idempotency_key_answers_after_the_end
            a_full_queue_refuses
            high_priority_goes_first_then_the_oldest
            not_before_waits
            enqueue_wakes
            unreadable_payloads_fail_alone
            list_is_newest_first_and_stats_count
            one_job_has_one_worker
            a_stale_token_changes_nothing
            a_vanished_worker_does_not_bring_a_forgotten_job_back
            a_settlement_may_be_repeated
            renewals_keep_a_claim
            a_vanished_worker_costs_an_attempt
            a_release_gives_the_attempt_back
            transient_failures_wait_longer_each_time
            retry_after_is_respected
            permanent_failures_end_at_once
            waiting_spends_no_attempt
            a_missed_deadline_fails
            the_time_to_spare_is_less_the_work_that_is_left
            a_deadline_is_missed_though_nobody_takes_the_job
            a_retry_after_the_deadline_fails_now
            a_long_message_is_cut_before_what_larder_adds
            cancel_before_and_while_waiting
            cancel_of_a_running_job
            cancel_of_one_requester_is_not_for_all
            retry_runs_again
            redrive_runs_all_failed
            ended_jobs_are_forgotten
            ended_jobs_are_bounded
            of_jobs_that_ended_together_the_older_id_is_forgotten
            a_batch_is_summed_up
            a_batch_is_accepted_whole_or_not_at_all
            a_batch_that_is_asked_for_again_is_the_same
            the_key_of_a_batch_answers_it
            a_key_answers_nothing_else_than_what_it_was_used_for
            the_least_urgent_has_its_turn_too
        );
    };
    (@ $make:expr; $ready:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                if !$ready {
                    return;
                }
                $crate::queue::conformance::$case($make).await;
            }
        )*
    };
}
pub(super) use conformance;

const KIND: Kind = Kind::Download;

impl Rig {
    async fn pass_ms(&self, millis: u64) {
        (self.pass)(Duration::from_millis(millis)).await;
    }

    async fn enqueue(&self, repo: &str) -> JobId {
        self.store.enqueue(super::testing::job(repo)).await.expect("accepted").record.id
    }

    async fn get(&self, id: JobId) -> Record {
        self.store.get(id).await.expect("reads").expect("is known")
    }

    async fn claim(&self) -> Claim {
        match self.store.claim(KIND).await.expect("claims") {
            Claimed::Job(claim) => *claim,
            Claimed::Nothing { wait } => panic!("nothing to claim, next in {wait:?}"),
        }
    }

    /// Asserts that nothing may run; returns how long until something may.
    async fn nothing(&self) -> Option<Duration> {
        match self.store.claim(KIND).await.expect("claims") {
            Claimed::Job(claim) => panic!("claimed {:?}", claim.record),
            Claimed::Nothing { wait } => wait,
        }
    }

    /// Claims the next job as soon as its time has come.
    async fn claim_when_due(&self) -> Claim {
        loop {
            match self.store.claim(KIND).await.expect("claims") {
                Claimed::Job(claim) => return *claim,
                Claimed::Nothing { wait } => (self.pass)(wait.expect("a job waits")).await,
            }
        }
    }

    async fn settle(&self, claim: &Claim, settlement: Settlement) -> Record {
        match self.store.settle(claim.record.id, claim.token, settlement).await.expect("settles") {
            Settled::Done(record) => *record,
            Settled::Fenced => panic!("fenced"),
        }
    }

    async fn renew(&self, claim: &Claim) -> Renewal {
        let renewal =
            self.store.renew(claim.record.id, claim.token, State::Fetching, Progress::default()).await;
        renewal.expect("renews")
    }
}

fn transient() -> Settlement {
    Settlement::Retry { reason: Reason::SourceUnavailable, message: "no answer".into(), after: None }
}

fn permanent() -> Settlement {
    Settlement::Fail { reason: Reason::NotFound, message: "no such repo".into() }
}

fn done() -> Settlement {
    Settlement::Done(super::Done { path: Some("/cache/snapshot".into()), progress: Progress::default() })
}
