//! Everything that goes wrong at random, for ever, or all at once: the digest is right in the end or the failure has
//! its name, nothing is visible early, and what is fetched again has a bound. `LARDER_TEST_LONG` makes more of it.

mod bounds;
mod disk;
mod slow;
mod sources;
mod ways;

use std::time::Duration;

use support::cache::{Snapshot, assert_clean};
use support::{Hub, Larder, Model, larder, models};

pub(crate) use crate::faults::{assert_hit, assert_not_visible, refused, staged};

const WEIGHTS: &str = "model.safetensors";
const PATIENCE: Duration = Duration::from_secs(120);

/// The first in the short form, the second in the long one.
fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("LARDER_TEST_LONG").is_some() { long } else { short }
}

/// A hub with a model of one weight file of so many bytes, and a host that does not wait long between its attempts.
fn house(seed: u64, bytes: u64) -> (Hub, Larder, Model) {
    let (hub, model) = (Hub::start(), models::huge(seed, bytes));
    hub.add(model.clone());
    let larder =
        larder!(&hub).env("LARDER__QUEUE__BACKOFF_MIN", "100ms").env("LARDER__QUEUE__BACKOFF_MAX", "1s");
    (hub, larder, model)
}

/// The model is in the cache, whole and verified by somebody else, and nothing lies around.
#[track_caller]
fn assert_there(larder: &Larder, model: &Model) {
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    assert_clean(larder.cache());
}

/// A job's number.
#[track_caller]
fn number(job: &serde_json::Value, field: &str) -> u64 {
    job[field].as_u64().unwrap_or_else(|| panic!("no number {field}: {job}"))
}
