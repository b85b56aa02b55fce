//! Random histories of the embedded queue against what must hold after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder_jobs::{JobId, Progress, Reason, State};
use proptest::prelude::*;

use super::tests::claim;
use super::{Embedded, Scope};
use crate::queue::testing::{Hands, config, folder, job, open};
use crate::queue::{Claim, Config, Done, JobStore, Outcome, Record, Renewal, Settled, Settlement};

#[derive(Debug, Clone)]
enum Event {
    Enqueue(u8, i16),
    Claim,
    Renew(usize),
    Settle(usize, u8),
    Cancel(usize),
    Retry(usize),
    Reap,
    Pass(u16),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..8_u8, -1..2_i16).prop_map(|(repo, priority)| Event::Enqueue(repo, priority)),
        8 => Just(Event::Claim),
        3 => any::<usize>().prop_map(Event::Renew),
        6 => (any::<usize>(), 0..6_u8).prop_map(|(n, how)| Event::Settle(n, how)),
        1 => any::<usize>().prop_map(Event::Cancel),
        1 => any::<usize>().prop_map(Event::Retry),
        2 => Just(Event::Reap),
        3 => (1..1_500_u16).prop_map(Event::Pass),
        1 => Just(Event::Restart),
    ]
}

fn settlement(how: u8) -> Settlement {
    let message = String::from("it broke");
    match how {
        0 => Settlement::Done(Done::default()),
        1 => Settlement::Fail { reason: Reason::NotFound, message },
        2 => Settlement::Retry { reason: Reason::Stalled, message, after: None },
        3 => Settlement::Wait { reason: Reason::HostDrained, message, wait: Duration::from_millis(200) },
        4 => Settlement::Cancelled,
        _ => Settlement::Release,
    }
}

/// What the outside knows: every claim ever answered, and which of them may still be valid.
#[derive(Default)]
struct Model {
    known: BTreeSet<JobId>,
    claims: Vec<Claim>,
    /// The newest token of each job.
    tokens: BTreeMap<JobId, u64>,
}

impl Model {
    /// What must hold whatever happened.
    fn check(&self, records: &[Record], config: &Config) {
        let there: BTreeSet<_> = records.iter().map(|record| record.id).collect();
        assert_eq!(there, self.known, "no job is lost and none appears by itself");
        for record in records {
            assert!(record.attempts <= config.max_attempts, "{record:?}");
            assert!(record.token >= self.tokens.get(&record.id).copied().unwrap_or(0));
            assert_eq!(record.state.is_running(), record.lease_until.is_some(), "{record:?}");
            assert_eq!(record.state.is_terminal(), record.finished_at.is_some(), "{record:?}");
        }
        let joinable: Vec<_> = records.iter().filter(|r| r.is_joinable()).map(|r| &r.want).collect();
        assert_eq!(
            joinable.len(),
            joinable.iter().collect::<BTreeSet<_>>().len(),
            "one job per want in flight"
        );
        let valid =
            |claim: &&Claim| records.iter().any(|r| r.id == claim.record.id && r.is_held_by(claim.token));
        let running = records.iter().filter(|record| record.state.is_running()).count();
        assert_eq!(self.claims.iter().filter(valid).count(), running, "one valid token per running job");
    }
}

async fn apply(queue: &Embedded, model: &mut Model, event: Event) {
    match event {
        Event::Enqueue(repo, priority) => {
            let mut job = job(&format!("a/{repo}"));
            job.common.priority = priority;
            let enqueued = queue.enqueue(job).await.expect("accepted");
            assert_eq!(enqueued.created, model.known.insert(enqueued.record.id));
        }
        Event::Claim => {
            if let Some(claim) = claim(queue).await {
                let last = model.tokens.insert(claim.record.id, claim.token);
                assert!(last.is_none_or(|last| last < claim.token), "tokens grow");
                model.claims.push(claim);
            }
        }
        Event::Renew(n) => {
            let Some(claim) = pick(&model.claims, n) else { return };
            let id = claim.record.id;
            let before = queue.get(id).await.expect("reads").expect("is there");
            let renewal = queue.renew(id, claim.token, State::Fetching, Progress::default()).await;
            let held = matches!(renewal, Ok(Renewal::Held { .. }));
            assert_eq!(held, before.is_held_by(claim.token));
        }
        Event::Settle(n, how) => {
            let Some(claim) = pick(&model.claims, n) else { return };
            let id = claim.record.id;
            let before = queue.get(id).await.expect("reads").expect("is there");
            let settled = queue.settle(id, claim.token, settlement(how)).await.expect("settles");
            let after = queue.get(id).await.expect("reads").expect("is there");
            assert_eq!(settled == Settled::Fenced, before.token != claim.token);
            assert_eq!(
                before == after,
                !before.is_held_by(claim.token),
                "only the valid token has an effect"
            );
        }
        Event::Cancel(n) => {
            let Some(id) = nth(&model.known, n) else { return };
            let before = queue.get(id).await.expect("reads").expect("is there");
            let outcome = queue.cancel(id, None).await.expect("cancels").outcome;
            assert_eq!(outcome == Outcome::Over, before.state.is_terminal());
        }
        Event::Retry(n) => {
            let Some(id) = nth(&model.known, n) else { return };
            // Refused for a job that has not failed, or whose want is in flight.
            let _ = queue.retry(id).await;
        }
        Event::Reap => {
            queue.reap().await.expect("reaps");
        }
        Event::Pass(_) | Event::Restart => {}
    }
}

fn pick(claims: &[Claim], n: usize) -> Option<&Claim> {
    (!claims.is_empty()).then(|| &claims[n % claims.len()])
}

fn nth(known: &BTreeSet<JobId>, n: usize) -> Option<JobId> {
    known.iter().nth(n % known.len().max(1)).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_every_history(events in prop::collection::vec(event(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (dir, hands) = (folder(), Hands::new());
            // Nothing is forgotten, so that a lost job would show.
            let config = Config { retention: crate::queue::testing::span(86_400_000), max_finished: 10_000, ..config() };
            let mut queue = open(&dir, config.clone(), Scope::All, &hands);
            let mut model = Model::default();
            for event in events {
                match event {
                    Event::Pass(millis) => hands.pass(Duration::from_millis(millis.into())),
                    Event::Restart => {
                        drop(queue);
                        queue = open(&dir, config.clone(), Scope::All, &hands);
                    }
                    event => apply(&queue, &mut model, event).await,
                }
                model.check(&queue.checked_records(), &config);
            }
        });
    }
}
