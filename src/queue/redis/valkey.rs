//! The suite of every store on a Valkey, where `LARDER_TEST_VALKEY` names its program.

use futures_util::future::BoxFuture;
use support::redis::{RedisOptions, valkey};

use super::tests::rig;
use crate::queue::Config;
use crate::queue::conformance::{Rig, conformance};

fn make(config: Config) -> BoxFuture<'static, Rig> {
    let program = valkey().expect("asked before");
    rig(support::Redis::with(RedisOptions::default().binary(&program)), config)
}

conformance!(make, if valkey().is_some());
