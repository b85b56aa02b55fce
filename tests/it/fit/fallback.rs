//! A model that does not fit this host's GPU, and a quantization of it that does: staged in its place, and every place
//! that speaks of the job says so. What is not to be trusted is not staged, and no byte of it fetched.

use std::time::Duration;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu, Memory};
use serde_json::{Value, json};
use support::repos::{Quant, Repo, Row, quantised, tensors};
use support::{Content, Hub, Larder, Model};

use super::places::{GIB, SOON, calmly_on};
use super::scraped;

const BASE: &str = "acme/small";
const AWQ: &str = "acme/small-AWQ";
const TAG: &str = "base_model:quantized:acme/small";
const OPEN: &str = "license:apache-2.0";

/// A model of some megabytes whose layers can be quantised in groups of 128.
fn shape() -> Row {
    let table = "hf_id,model_type,torch_dtype,safetensors,tie_word_embeddings,hidden,layers,heads,kv_heads,head_dim,vocab,\
                 intermediate,max_position\n\
                 acme/small,qwen2,bfloat16,yes,False,512,4,8,4,64,2048,1024,2048\n";
    Row::all(table).expect("a table").swap_remove(0)
}

/// The repo with weights that can be fetched whole.
fn stageable(repo: &Repo) -> Model {
    let model = Model::new(&repo.id).file("config.json", repo.config.to_string());
    repo.files.iter().zip(1..).fold(model, |model, (file, seed)| {
        let body = file.size - file.header.len() as u64;
        model.lfs(&file.path, Content::WithHead(file.header.clone().into(), body, seed))
    })
}

fn base() -> Model {
    stageable(&Repo::from_row(&shape())).tags(&[OPEN])
}

/// A four-bit version of it, as somebody publishes it.
fn awq(id: &str, licence: &str) -> Model {
    let mut config = Repo::from_row(&shape()).config;
    config["quantization_config"] = json!({"quant_method": "awq", "bits": 4, "group_size": 128});
    let repo = Repo::from_tensors(id, config, &quantised(&tensors(&shape()), Quant::Awq));
    stageable(&repo).tags(&["awq", TAG, licence])
}

/// A host whose GPU has so much free.
fn host(hub: &Hub, free: u64) -> (Larder, Fake) {
    let memory = Memory { total: 24 * GIB, reserved: 0, used: 24 * GIB - free, ..Memory::default() };
    let gpu =
        Gpu { name: "NVIDIA L4".into(), compute_capability: (8, 9), memory: Some(memory), ..Gpu::default() };
    let fake = Fake::new(&Config { gpus: vec![gpu], ..Config::default() }).expect("the library");
    (calmly_on(hub, &fake), fake)
}

fn variant<'a>(fit: &'a Value, word: &str) -> &'a Value {
    let mut all = fit["variants"].as_array().expect("a table").iter();
    all.find(|one| one["variant"] == word).unwrap_or_else(|| panic!("{word} is in {fit}"))
}

/// Bytes that the four-bit version and the 16-bit one need, with their margins and without.
struct Needs {
    four: u64,
    sixteen: u64,
}

impl Needs {
    fn of(hub: &Hub) -> Self {
        let fit =
            support::larder!(hub).run(&["fit", BASE, "--vram", "24GiB", "--json"]).expect_code(0).json();
        let needs = |word: &str| variant(&fit, word)["vram_bytes"].as_u64().expect("known");
        let needs = Self { four: needs("awq"), sixteen: needs("16bit") };
        assert!(needs.four + (4 << 20) < needs.sixteen, "{fit}");
        needs
    }

    /// A GPU that has room for the one and is tight for the other.
    fn between(&self) -> u64 {
        let with_margin = |bytes: u64| bytes + bytes / 10 + GIB / 2;
        with_margin(self.four).midpoint(with_margin(self.sixteen))
    }

    /// A GPU into which only the one goes at all.
    fn small(&self) -> u64 {
        self.four.midpoint(self.sixteen)
    }
}

#[test]
fn what_fits_this_hosts_gpu_is_staged_in_place_of_what_does_not_and_everything_says_so() {
    let hub = Hub::start();
    let four = awq(AWQ, OPEN);
    hub.add(base());
    hub.add(four.clone());
    let (larder, _fake) = host(&hub, Needs::of(&hub).between());
    let daemon = larder.serve();
    daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["source"] == "nvml");
    let count = |metrics: &[String], count: u32| {
        let line = format!("larder_variant_fallbacks_total{{variant=\"awq\"}} {count}");
        assert!(metrics.contains(&line), "{line} is in {metrics:#?}");
    };
    count(&scraped(&daemon), 0);
    // First what would happen.
    let plan = larder.run(&["plan", BASE, "--variant", "auto", "--json"]).expect_code(0).json();
    assert_eq!(
        (plan["repo"].as_str(), plan["chosen"]["is_fallback"].as_bool()),
        (Some(AWQ), Some(true)),
        "{plan}"
    );
    count(&scraped(&daemon), 0);
    let job = larder.run(&["stage", BASE, "--variant", "auto", "--json"]).expect_code(0).json();
    let chosen = &job["chosen"];
    assert_eq!((job["state"].as_str(), job["repo"].as_str()), (Some("ready"), Some(BASE)), "{job}");
    assert_eq!((chosen["repo"].as_str(), chosen["variant"].as_str()), (Some(AWQ), Some("awq")), "{job}");
    assert_eq!(chosen["is_fallback"], true, "{job}");
    let why = chosen["why"].as_str().expect("told");
    assert!(why.contains("NVIDIA L4") && why.contains("GiB"), "it is the GPU: {why}");
    assert_eq!(
        (job["commit"].as_str(), job["bytes_total"].as_u64()),
        (Some(&*four.commit()), Some(four.bytes()))
    );
    let shown =
        larder.run(&["jobs", "show", job["id"].as_str().expect("an id"), "--json"]).expect_code(0).json();
    assert_eq!(shown["chosen"], *chosen, "{shown}");
    count(&scraped(&daemon), 1);
    let listed = larder.run(&["ls", "--json"]).expect_code(0).json();
    let repos: Vec<_> = listed.as_array().expect("a list").iter().map(|model| &model["repo"]).collect();
    assert_eq!(repos, [AWQ], "the 16-bit files were not fetched too");
    assert!(hub.bytes_of("acme/small/") < 1 << 20, "only their headers were looked at");
    // A person reads it.
    let told = larder.run(&["stage", BASE, "--variant", "auto"]).expect_code(0).stderr;
    assert!(told.contains(&format!("instead of {BASE}@main as it is published: awq of {AWQ}")), "{told}");
    let log = daemon.wait_line(
        |line| line.contains(AWQ) && line.contains("another variant than was named"),
        Duration::from_secs(5),
    );
    assert!(log.is_some(), "{:#?}", daemon.logs());
    // The model as it was named is what whoever asks for it gets.
    let exact = larder.run(&["stage", BASE, "--json"]).expect_code(0).json();
    assert_eq!((&exact["chosen"], &exact["commit"]), (&Value::Null, &json!(base().commit())), "{exact}");
}

#[test]
fn a_fallback_of_a_stranger_or_under_another_licence_is_not_staged() {
    let hub = Hub::start();
    hub.add(base());
    hub.add(awq(AWQ, OPEN));
    let free = Needs::of(&hub).small();
    let stranger = "stranger/small-AWQ";
    let hub = Hub::start();
    hub.add(base());
    hub.add(awq(stranger, OPEN).downloads(9_000_000));
    hub.add(awq("casperhansen/small-awq", "license:cc-by-nc-4.0").downloads(800));
    hub.add(awq("acme/small-gated-AWQ", OPEN).gated().downloads(700));
    let (larder, _fake) = host(&hub, free);
    // Nor what an engine would make of the 16-bit files, whose download it would not save.
    let stage = |larder: &Larder| larder.run(&["stage", BASE, "--variant", "16bit,int4", "--json"]);
    let fit = larder.run(&["fit", BASE, "--json"]).json();
    let refused = |repo: &str| {
        let all = fit["variants"].as_array().expect("a table").iter();
        let one = all.clone().find(|one| one["repo"] == repo);
        one.and_then(|one| one["why_not"].as_str()).map(str::to_owned)
    };
    let licence = refused("casperhansen/small-awq").unwrap_or_default();
    assert!(licence.contains("its licence is cc-by-nc-4.0, that of the model is apache-2.0"), "{fit}");
    assert!(fit["notes"].to_string().contains("1 published quantizations are left out"), "{fit}");
    assert!(!fit.to_string().contains(stranger), "{fit}");
    let failed = stage(&larder);
    let job = failed.json();
    assert_eq!((failed.code, job["reason"].as_str()), (4, Some("insufficient_vram")), "{job}");
    assert_eq!((&job["chosen"], &job["bytes_fetched"]), (&Value::Null, &json!(0)), "{job}");
    assert_eq!(larder.run(&["ls", "--json"]).expect_code(0).json(), json!([]));
    assert_eq!(hub.bytes_of(stranger), 0, "a stranger's files are not even looked at");
    // Whoever trusts that publisher says so, and gets it.
    let trusting = larder.env("LARDER__MODELS__PUBLISHERS", "stranger");
    let done = stage(&trusting);
    let job = done.json();
    assert_eq!((done.code, job["chosen"]["repo"].as_str()), (0, Some(stranger)), "{job}");
}
