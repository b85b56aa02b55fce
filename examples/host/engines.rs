//! Engines of the simulated host that are real processes: each has the weights of a staged model open, and the first card
//! says that it holds memory, so larder compares its prediction with what they take.

use std::collections::HashMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::traffic::People;
use super::{Answer, cards};

/// How long one serves; larder believes what it has seen some times in a row.
const LIFE: Duration = Duration::from_secs(12);
/// The pause before the next.
const PAUSE: Duration = Duration::from_secs(6);

/// What an engine is called, what it takes of what is predicted, and how larder is asked about it: for a card that nobody
/// has measured here, so that the answer carries no correction.
struct Kind {
    name: &'static str,
    share: f64,
    card: &'static str,
    context: u64,
}

/// One takes more than larder thinks, one less.
const KINDS: [Kind; 2] = [
    Kind { name: "python3", share: 1.09, card: "H200", context: 1 },
    Kind { name: "llama-server", share: 0.86, card: "RTX 4090", context: 4096 },
];

/// Which process holds how many bytes of the first card.
pub(super) type Held = Mutex<Option<cards::Engine>>;

/// A process that ends with this.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The engines, one after the other.
#[derive(Default)]
pub(super) struct Engines {
    turn: usize,
    /// What a model takes with an engine, always the same.
    takes: HashMap<(String, &'static str), u64>,
}

impl Engines {
    /// One loads a model of the cache, serves for a while and goes.
    pub(super) async fn serve_one(&mut self, people: &mut People<'_>, held: &Held) -> Answer<()> {
        let kind = &KINDS[self.turn % KINDS.len()];
        self.turn += 1;
        if let Some((repo, weights)) = people.staged().await?
            && let Some(bytes) = self.takes(people, &repo, kind).await?
        {
            let serving = Serving(open(kind, &weights)?);
            let engine = cards::Engine { pid: serving.0.id(), bytes };
            *held.lock().map_err(|_| "the cards' thread died")? = Some(engine);
            tokio::time::sleep(LIFE).await;
            *held.lock().map_err(|_| "the cards' thread died")? = None;
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    async fn takes(&mut self, people: &People<'_>, repo: &str, kind: &Kind) -> Answer<Option<u64>> {
        let known = self.takes.get(&(repo.to_owned(), kind.name));
        if let Some(bytes) = known {
            return Ok(Some(*bytes));
        }
        let ask = json!({"repo": repo, "local": true, "gpu": kind.card, "context": kind.context});
        let predicted = people.fit(ask).await?["total_bytes"].as_u64();
        let bytes = predicted.map(|predicted| (predicted as f64 * kind.share) as u64);
        if let Some(bytes) = bytes {
            self.takes.insert((repo.to_owned(), kind.name), bytes);
        }
        Ok(bytes)
    }
}

/// A process with that name which keeps the file open; llama.cpp's says its context with the same flag as `tail`.
fn open(kind: &Kind, weights: &Path) -> Answer<Child> {
    let mut command = Command::new("tail");
    command.arg0(kind.name).args(["-c", &kind.context.to_string(), "-f"]).arg(weights);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// The weights of a model as the API lists it.
pub(super) fn weights(model: &Value) -> Option<std::path::PathBuf> {
    let folder = Path::new(model["path"].as_str()?);
    let first = folder.join("model-00001-of-00002.safetensors");
    first.exists().then_some(first)
}
