//! The hub of the simulated host: a dozen models that are well, and one for each way in which a download fails.

use support::repos::{Repo, Row};
use support::{Content, Fault, Hub, Model, models};

/// Names and megabytes of the models that can be staged, the popular ones first.
pub(super) const MODELS: &[(&str, u64)] = &[
    ("acme/chat-small", 12),
    ("acme/chat-large", 24),
    ("acme/coder", 16),
    ("norma/embed", 4),
    ("norma/rerank", 6),
    ("acme/vision", 20),
    ("lumen/writer-mini", 8),
    ("lumen/writer", 22),
    ("norma/translate", 10),
    ("lumen/speech", 14),
    ("acme/guard", 5),
    ("lumen/draft", 9),
];
/// Bytes of the cache: two thirds of the models.
pub(super) const ROOM: u64 = 100_000_000;
/// Bytes per second of one connection.
const SPEED: u64 = 1_000_000;

/// What the host should have by morning: more than a while's worth of the line, and one model that nobody has.
pub(super) const NIGHT: &str = r#"
zone = "UTC"
deadline = "06:30"
bandwidth = "300kB"
impossible = "warn"
models = ["acme/vision", "lumen/speech", "norma/translate", "lumen/draft", "attic/gone"]
"#;

/// A repo that nobody gets without asking its owner.
pub(super) const GATED: &str = "norma/private-notes";
/// A repo that has only pickled weights.
pub(super) const PICKLED: &str = "attic/old-model";
/// A repo that no cache of this size takes.
pub(super) const TOO_LARGE: &str = "acme/frontier";
/// A repo that no card of this host could run in 16 bits.
pub(super) const TOO_WIDE: &str = "Qwen/Qwen2.5-72B-Instruct";
/// A repo whose bytes are wrong whenever they come.
pub(super) const DAMAGED: &str = "attic/damaged";
/// A repo for which its source has no time.
pub(super) const BUSY: &str = "attic/crowded";
/// A repo that comes too slowly for whoever is in a hurry.
pub(super) const SLOW: &str = "attic/slow";
/// A repo of which the bytes stand still for a while.
pub(super) const STALLING: &str = "attic/stalling";

/// The hub with all of them.
pub(super) fn open() -> Hub {
    let hub = Hub::start();
    let sized =
        |seed: u64, id: &str, megabytes: u64| models::sharded_gpt2(seed, megabytes * 250_000, 2).named(id);
    for (seed, (id, megabytes)) in (1..).zip(MODELS) {
        hub.add(sized(seed, id, *megabytes));
    }
    for (seed, id) in (50..).zip([DAMAGED, BUSY, SLOW, STALLING]) {
        hub.add(sized(seed, id, 4));
    }
    hub.add(sized(60, GATED, 2).gated());
    hub.add(Model::new(PICKLED).file("config.json", "{}").lfs("pytorch_model.bin", "PK\u{3}\u{4}"));
    let endless = Content::pattern(140_000_000_000, 70);
    hub.add(Model::new(TOO_LARGE).file("config.json", "{}").unread("model.safetensors", endless));
    hub.add(too_wide().model());
    hub.throttle(Some(SPEED));
    hub.fault(Fault::on(format!("{DAMAGED}/model-00001")).wrong_bytes(1_000).always());
    hub.fault(Fault::on(format!("{BUSY}/resolve")).retry_after(429, "1").always());
    hub.fault(Fault::on(format!("{SLOW}/model-")).trickle(0, 50_000).always());
    hub.fault(Fault::on(format!("{STALLING}/model-")).stall(100_000).share(30, 1).always());
    hub
}

/// A real model's headers; nobody ever reads its weights.
fn too_wide() -> Repo {
    let table = Row::all(include_str!("../../tests/fixtures/fit/models.csv")).expect("a table");
    Repo::from_row(table.iter().find(|row| row.hf_id == TOO_WIDE).expect("it is in the table"))
}
