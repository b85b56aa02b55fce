//! Who asks the simulated host for what: somebody every second, by the API, as an orchestrator would.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use support::cache::walk;
use support::{Dice, Hub};

use super::engines::{Engines, Held, weights};
use super::{Answer, shelf};

/// How often somebody asks.
const BEAT: Duration = Duration::from_secs(1);
/// As many jobs wait at most; whoever comes then goes again.
const MAX_WAITING: usize = 12;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const PEOPLE: &[&str] = &["nightly-evals", "alice", "bob", "pod-chat-7f9c", "pod-coder-2b1d"];

/// Asks until `stop` is set.
pub(super) fn flow_until(address: SocketAddr, hub: &Hub, cache: &Path, held: &Held, stop: &AtomicBool) {
    let flowed = tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| {
        runtime.block_on(async {
            // Nobody's proxy leads to this process.
            let http = Client::builder().no_proxy().timeout(PATIENCE).build()?;
            let people = |seed| People {
                http: http.clone(),
                base: format!("http://{address}"),
                hub,
                cache,
                dice: Dice::new(seed),
            };
            let (mut askers, mut operators) = (people(7), people(11));
            tokio::select! {
                () = askers.flow(stop) => {}
                () = operators.serve(held) => {}
            }
            Answer::Ok(())
        })
    });
    if let Err(error) = flowed.map_err(Into::into).flatten() {
        eprintln!("nobody asks for anything: {error}");
    }
}

pub(super) struct People<'a> {
    http: Client,
    base: String,
    hub: &'a Hub,
    cache: &'a Path,
    dice: Dice,
}

impl People<'_> {
    async fn flow(&mut self, stop: &AtomicBool) {
        let mut beat = 0;
        while !stop.load(Ordering::Relaxed) {
            // What larder refuses belongs to the picture. While it ends nobody answers, and before it serves.
            let asked = self.beat(beat).await;
            beat += u64::from(beat > 0 || asked.is_ok());
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Starts engines on what is staged, for good.
    async fn serve(&mut self, held: &Held) {
        let mut engines = Engines::default();
        loop {
            if engines.serve_one(self, held).await.is_err() {
                tokio::time::sleep(BEAT).await;
            }
        }
    }

    async fn beat(&mut self, beat: u64) -> Answer<()> {
        let waiting = self.jobs("queued").await?.len() + self.jobs("waiting").await?.len();
        if waiting < MAX_WAITING {
            self.want_a_model().await?;
            self.want_trouble(beat).await?;
        }
        match beat % 12 {
            1 => self.measure().await?,
            2 => self.keep("pin", beat).await?,
            3 => self.of_cached(json!({"kind": "verify", "max_bytes_per_second": 5_000_000})).await?,
            4 => self.of_cached(json!({"kind": "preload", "force": true})).await?,
            5 => self.keep("lease", beat).await?,
            6 => self.cancel_one().await?,
            7 => self.post(json!({"kind": "evict", "free_bytes": 5_000_000})).await?,
            8 => self.of_cached(json!({"kind": "profile"})).await?,
            9 => self.of_cached(json!({"kind": "evict"})).await?,
            10 => self.later().await?,
            11 if beat % 48 == 47 => self.rot().await?,
            _ => {}
        }
        // The hub remembers every request, and nobody asks it here.
        self.hub.clear_requests();
        if beat % 10 == 9 {
            // What larder has given up by now.
            self.hub.release();
        }
        Ok(())
    }

    /// The popular ones are wanted often, the others now and then.
    async fn want_a_model(&mut self) -> Answer<()> {
        let number = shelf::MODELS.len() as u64;
        let index = self.dice.below(number).min(self.dice.below(number));
        let (repo, _) = shelf::MODELS[usize::try_from(index)?];
        let mut job = json!({"kind": "download", "repo": repo, "priority": self.dice.below(3)});
        if self.dice.below(6) == 0 {
            job["lease_ttl"] = "20s".into();
        }
        self.post(job).await
    }

    /// Now and then something that cannot be done, of each kind in turn.
    async fn want_trouble(&mut self, beat: u64) -> Answer<()> {
        if !beat.is_multiple_of(2) {
            return Ok(());
        }
        let repo = match beat / 2 % 10 {
            0 => "acme/chat-smal",
            1 => shelf::GATED,
            2 => shelf::PICKLED,
            3 => shelf::TOO_LARGE,
            4 => shelf::DAMAGED,
            5 => shelf::BUSY,
            6 => shelf::STALLING,
            7 => {
                return self
                    .post(json!({"kind": "download", "repo": shelf::SLOW, "deadline": soon(4)?}))
                    .await;
            }
            8 => {
                let exactly = json!(["16bit"]);
                return self
                    .post(json!({"kind": "download", "repo": shelf::TOO_WIDE, "variant": exactly}))
                    .await;
            }
            _ => return Ok(()),
        };
        self.post(json!({"kind": "download", "repo": repo})).await
    }

    /// How fast disk and memory are, with a small file.
    async fn measure(&mut self) -> Answer<()> {
        let tests = ["disk", "memory"];
        self.post(json!({"kind": "profile", "tests": tests, "disk_bytes": 16 << 20})).await
    }

    /// A model for later.
    async fn later(&mut self) -> Answer<()> {
        let (repo, _) = shelf::MODELS[usize::try_from(self.dice.below(shelf::MODELS.len() as u64))?];
        self.post(json!({"kind": "download", "repo": repo, "not_before": soon(20)?})).await
    }

    async fn keep(&mut self, how: &str, beat: u64) -> Answer<()> {
        // Whatever is pinned is let go again, or nothing could be evicted in the end.
        let lets_go = how == "pin" && beat % 24 >= 12;
        let found =
            if lets_go { self.any_that(|model| model["pinned"] == true).await? } else { self.any().await? };
        let Some(repo) = found["repo"].as_str() else { return Ok(()) };
        let path = format!("/v1/models/{repo}/{how}");
        match how {
            "pin" if lets_go => self.send(Method::DELETE, &path, None).await?,
            "pin" => self.send(Method::PUT, &path, None).await?,
            _ => {
                let lease = json!({"holder": self.somebody(), "ttl": "20s"});
                self.send(Method::PUT, &path, Some(lease)).await?
            }
        };
        Ok(())
    }

    async fn of_cached(&mut self, mut job: Value) -> Answer<()> {
        let Some(repo) = self.cached().await? else { return Ok(()) };
        job["repo"] = repo.into();
        self.post(job).await
    }

    async fn cancel_one(&mut self) -> Answer<()> {
        let jobs = self.jobs("queued").await?;
        let Some(id) = jobs.first().and_then(|job| job["id"].as_str()) else { return Ok(()) };
        self.send(Method::DELETE, &format!("/v1/jobs/{id}"), None).await.map(drop)
    }

    /// A byte of a weight file turns on the disk, and somebody verifies everything.
    async fn rot(&mut self) -> Answer<()> {
        let weights =
            walk(self.cache).into_iter().filter(|path| path.ends_with("model-00001-of-00002.safetensors"));
        let Some(link) = weights.min() else { return Ok(()) };
        let blob = link.canonicalize()?;
        let mut bytes = std::fs::read(&blob)?;
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        std::fs::write(&blob, bytes)?;
        self.post(json!({"kind": "verify"})).await
    }

    fn somebody(&mut self) -> &'static str {
        PEOPLE[usize::try_from(self.dice.below(PEOPLE.len() as u64)).unwrap_or_default()]
    }

    /// A model of the cache, any one.
    async fn any(&mut self) -> Answer<Value> {
        self.any_that(|_| true).await
    }

    async fn any_that(&mut self, fits: impl Fn(&Value) -> bool) -> Answer<Value> {
        let answer = self.send(Method::GET, "/v1/models", None).await?;
        let mut models = answer["models"].as_array().cloned().unwrap_or_default();
        models.retain(fits);
        let index = usize::try_from(self.dice.below(models.len() as u64))?;
        Ok(models.get(index).cloned().unwrap_or_default())
    }

    async fn cached(&mut self) -> Answer<Option<String>> {
        Ok(self.any().await?["repo"].as_str().map(str::to_owned))
    }

    /// The same with its weights, if it has any that an engine could read.
    pub(super) async fn staged(&mut self) -> Answer<Option<(String, PathBuf)>> {
        let model = self.any().await?;
        Ok(model["repo"].as_str().map(str::to_owned).zip(weights(&model)))
    }

    /// What larder predicts.
    pub(super) async fn fit(&self, ask: Value) -> Answer<Value> {
        self.send(Method::POST, "/v1/fit", Some(ask)).await
    }

    async fn jobs(&self, state: &str) -> Answer<Vec<Value>> {
        let answer = self.send(Method::GET, &format!("/v1/jobs?state={state}&limit=100"), None).await?;
        Ok(answer["jobs"].as_array().cloned().unwrap_or_default())
    }

    async fn post(&mut self, mut job: Value) -> Answer<()> {
        job["requested_by"] = self.somebody().into();
        self.send(Method::POST, "/v1/jobs", Some(job)).await.map(drop)
    }

    /// The answer's JSON, be it a problem.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Ok(request.send().await?.json().await?)
    }
}

/// That many seconds from now.
fn soon(seconds: u64) -> Answer<String> {
    let then = SystemTime::now() + Duration::from_secs(seconds);
    Ok(jiff::Timestamp::try_from(then)?.to_string())
}
