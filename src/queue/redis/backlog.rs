//! A backlog of a hundred thousand jobs costs memory, and nothing else.

use std::collections::BTreeMap;

use super::tests::{KIND, address, claim, store};
use super::*;
use crate::queue::testing::{config, job};
use crate::queue::{Done, Settlement};

/// Copies the queued job ARGV[2], of the place ARGV[3], as often as ARGV[1] says, under ids and wants of their own.
const COPY: &str = "
local P, n, like, place = '{test}:', tonumber(ARGV[1]), ARGV[2], ARGV[3]
local flat = redis.call('HGETALL', P .. 'job:' .. like)
local job = {}
for i = 1, #flat, 2 do job[flat[i]] = i + 1 end
local function set(field, value) flat[job[field]] = value end
local first = tonumber(redis.call('GET', P .. 'seq'))
for i = 0, n - 1 do
  local id, want, seq = string.format('01JDFP0000%016.0f', i), 'copy ' .. i, string.format('%.0f', first + i)
  set('id', id) set('want', want) set('seq', seq)
  redis.call('HSET', P .. 'job:' .. id, unpack(flat))
  redis.call('HSET', P .. 'wants', place .. ' ' .. want, id)
  redis.call('ZADD', P .. 'jobs:download:queued', flat[job['created_at']], id)
  redis.call('ZADD', P .. 'ready:download:' .. place, 0, string.format('%016.0f', seq) .. id)
end
redis.call('SET', P .. 'seq', first + n)
return redis.call('ZCARD', P .. 'jobs:download:queued')";

/// Calls of all commands so far, those of the steps included; and the microseconds that the steps took.
fn spent(server: &support::Redis) -> (u64, u64) {
    let text = server.command(&["INFO", "commandstats"]).text();
    let stats: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':')).collect();
    let number = |stats: &str, field: &str| -> u64 {
        let found = stats.split(',').find_map(|part| part.strip_prefix(field)?.strip_prefix('='));
        found.expect("a field").parse().expect("a number")
    };
    // Asking is not counted.
    let calls = stats.iter().filter(|(name, _)| **name != "info").map(|(_, stats)| number(stats, "calls"));
    (calls.sum(), number(stats["evalsha"], "usec"))
}

/// Takes and ends so many jobs; what that cost.
async fn work_off(server: &support::Redis, store: &Redis, jobs: usize) -> (u64, u64) {
    let before = spent(server);
    for _ in 0..jobs {
        let held = claim(store).await.expect("a job");
        let done = Settlement::Done(Done::default());
        store.settle(held.record.id, held.token, done).await.expect("settles");
    }
    let after = spent(server);
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test]
async fn a_long_backlog_makes_no_step_longer() {
    const ROUNDS: usize = 200;
    let cost_of = async |backlog: usize| {
        let server = support::Redis::start();
        let store = store(Connection::new(address(&server)), config(), "gpu-1");
        let first = store.enqueue(job("a/b")).await.expect("accepted").record;
        let (place, copies) = (first.target.to_string(), (backlog - 1).to_string());
        let there = server.command(&["EVAL", COPY, "0", &copies, &first.id.to_string(), &place]);
        assert_eq!(there, support::Reply::Int(i64::try_from(backlog).expect("fits")));
        let cost = work_off(&server, &store, ROUNDS).await;
        let stats = store.stats().await.expect("counts");
        assert_eq!(stats.jobs[&(KIND, State::Queued)], backlog - ROUNDS);
        assert_eq!(stats.jobs[&(KIND, State::Ready)], ROUNDS);
        cost
    };
    let (calls, micros) = cost_of(ROUNDS + 1).await;
    let (many_calls, many_micros) = cost_of(100_000).await;
    assert_eq!(many_calls, calls, "commands for {ROUNDS} jobs");
    assert!(many_micros <= 3 * micros, "{ROUNDS} jobs took {many_micros} µs, without a backlog {micros} µs");
}
