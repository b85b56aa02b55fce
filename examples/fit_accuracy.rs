//! Compares the estimator with published measurements, beside three rules of thumb.
//!
//! `cargo run --release --example fit_accuracy -- FILE.csv` reads a table with the columns of
//! `tests/fixtures/fit/ground_truth.csv` (the default) by their names; optional columns may be missing. Every row is
//! predicted in the sense of its `measure_kind`. The last line is for machines.
//!
//! The rules, in our own words:
//! - *×1.2*: parameters × nominal bytes × 1.2 (<https://blog.eleuther.ai/transformer-math/#total-inference-memory>).
//! - *hf-mem*: bytes of the weights plus the cache of the full-attention layers for the whole context
//!   (<https://github.com/alvarobartt/hf-mem>).
//! - *GPUStack*: bytes of the weights × 1.2 plus 2 GiB for the framework
//!   (<https://github.com/gpustack/gpustack>, `gpustack/policies/utils.py`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use larder::fit::{
    Architecture, Attention, Capability, Engine, Estimate, Gguf, Margin, Options, Quantization, Request,
    View, WeightFacts, estimate,
};
use serde_json::Value;

const GIB: f64 = (1_u64 << 30) as f64;
/// Usable memory of the virtual cards, GiB.
const CARDS: [f64; 12] = [6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 40.0, 48.0, 64.0, 80.0];
/// The rules under comparison; ours is the first.
const RULES: [&str; 4] = ["larder", "params x bytes x 1.2", "hf-mem", "GPUStack"];
/// What NVML counts on a whole A100 80 GB beside the process: the driver's own, 80 minus the 79.15 GiB that CUDA
/// sees (`gpus.csv`). Consumer cards reserve 0.35 to 0.45 GiB.
const RESERVED_DATACENTER: f64 = 0.85;
const RESERVED: f64 = 0.4;

type Record = BTreeMap<String, String>;

/// One measurement, as far as it is understood.
struct Row {
    line: usize,
    model: String,
    engine: Engine,
    /// Per card, GiB; `None` for a row that only says that it ran out of memory.
    measured: Option<f64>,
    /// Per card, GiB, by rule.
    predicted: [f64; 4],
    gpus: u64,
    out_of_memory: bool,
    /// Memory of the real card, GiB.
    card: Option<f64>,
    assumed: bool,
}

fn main() -> ExitCode {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fit");
    let file = std::env::args_os().nth(1).map_or_else(|| fixtures.join("ground_truth.csv"), PathBuf::from);
    let loaded = records(&file).and_then(|rows| {
        let text = std::fs::read_to_string(fixtures.join("configs.json"))
            .map_err(|e| format!("configs.json: {e}"))?;
        let configs = serde_json::from_str(&text).map_err(|e| format!("configs.json: {e}"))?;
        Ok((rows, configs))
    });
    match loaded {
        Ok((records, configs)) => {
            report(&records, &configs);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn records(file: &PathBuf) -> Result<Vec<Record>, String> {
    let name = file.display();
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_path(file)
        .map_err(|e| format!("cannot read {name}: {e}"))?;
    let header: Vec<String> = reader
        .headers()
        .map_err(|e| format!("{name}: {e}"))?
        .iter()
        .map(|h| h.trim().to_lowercase())
        .collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| format!("{name}: {e}"))?;
        rows.push(header.iter().cloned().zip(record.iter().map(|cell| cell.trim().to_owned())).collect());
    }
    Ok(rows)
}

/// A cell by one of its names; empty counts as missing.
fn cell<'a>(record: &'a Record, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| record.get(*name).map(String::as_str).filter(|text| !text.is_empty()))
}

fn number(record: &Record, names: &[&str]) -> Option<f64> {
    cell(record, names)?.replace(['_', ','], "").parse().ok().filter(|n: &f64| n.is_finite())
}

/// The number behind `key=` in the engine's options.
fn option(record: &Record, keys: &[&str]) -> Option<f64> {
    let text = cell(record, &["engine_opts", "options"])?.to_lowercase();
    keys.iter().find_map(|key| {
        let rest = text.split_once(&format!("{key}="))?.1;
        rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?.parse().ok()
    })
}

/// Shape of the row's model: from the table of configs, else a dense model of its size.
fn architecture(record: &Record, configs: &Value) -> Result<(Architecture, bool), String> {
    let names = [cell(record, &["arch_key"]), cell(record, &["model_id", "model"])];
    let config = names.iter().flatten().find_map(|name| {
        configs.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    });
    if let Some(config) = config {
        return Architecture::from_config(config).map(|a| (a, false)).map_err(|e| e.to_string());
    }
    let params =
        number(record, &["params", "params_exact"]).ok_or("no such model in configs.json, and no params")?;
    Architecture::generic(params as u64).map(|a| (a, true)).map_err(|e| e.to_string())
}

fn engine(words: &str) -> Result<Engine, String> {
    let words = words.to_lowercase();
    let known = [
        (Engine::LlamaCpp, &["llama.cpp", "llama-cpp", "llamacpp", "ollama", "gguf"][..]),
        (Engine::Vllm, &["vllm"][..]),
        (Engine::Transformers, &["transformers", "autoawq", "autogptq", "hf", "pytorch", "torch"][..]),
    ];
    let found = known.iter().find(|(_, names)| names.iter().any(|name| words.contains(name)));
    found.map(|(engine, _)| *engine).ok_or_else(|| format!("engine `{words}` is not known"))
}

/// How the weights are stored. A GGUF with a name of its own (`UD-Q4_K_XL`) is known by its bits per weight.
fn quantization(record: &Record, spelling: &str) -> Result<Quantization, String> {
    let first = spelling.split([' ', '(', ',']).next().unwrap_or_default();
    let parsed =
        spelling.parse::<Quantization>().or_else(|error| first.parse().map_err(|_| error.to_string()));
    let gguf = spelling.to_uppercase().replace("UD-", "").replace("_XL", "_M");
    parsed.or_else(|error| gguf.parse().map_err(|_| error)).or_else(|error| {
        let bits = option(record, &["bpw"]).ok_or(error)?;
        let near =
            Gguf::ALL.iter().min_by(|a, b| (a.bits() - bits).abs().total_cmp(&(b.bits() - bits).abs()));
        near.map(|quant| Quantization::Gguf(*quant)).ok_or_else(String::new)
    })
}

/// The compute capability, where it changes a workspace.
fn capability(gpu: &str) -> Option<Capability> {
    let gpu = gpu.to_uppercase();
    let hopper = ["H20", "H100", "H200", "H800", "GH200"].iter().any(|name| gpu.contains(name));
    hopper.then_some(Capability(9, 0))
}

/// What version and settings say about the engine's habits.
fn options(record: &Record, engine: Engine, words: &str) -> Options {
    let words = words.to_lowercase();
    let settings = cell(record, &["engine_opts", "options"]).unwrap_or_default().to_lowercase();
    let note = cell(record, &["note"]).unwrap_or_default().to_lowercase();
    let mut o = Options::default();
    if engine == Engine::Transformers {
        let autoawq = words.contains("autoawq");
        let old = words.contains("4.3") || words.contains("llama-1");
        let fused = words.contains("fa2") || words.contains("sdpa") || settings.contains("flash");
        o.full_logits = autoawq || old || words.contains("full-logits");
        o.rotary_per_layer = words.contains("4.38");
        o.copies_qkv = autoawq && words.contains("fused");
        o.keeps_head = autoawq;
        // SDPA came with 4.36; before, and with AutoAWQ's modules, scores are written out.
        o.attention = match () {
            () if autoawq => Attention::EagerCopy,
            () if settings.contains("eager") || (old && !fused) => Attention::Eager,
            () => Attention::Fused,
        };
        // A pass without generation that measures perplexity keeps no cache.
        o.cache = number(record, &["gen_tokens"]) != Some(0.0)
            || !note.contains("ppl") && !words.contains("llama-1");
    }
    let whole = |n: f64| n.max(1.0) as u64;
    if let Some(bits) = option(record, &["kvbits", "kv_bits"]) {
        o.kv_bits = bits;
    }
    if let Some(n) = option(record, &["ubatch", "n_ubatch"]) {
        o.micro_batch = whole(n);
    }
    if let Some(n) = option(record, &["max_num_seqs", "max-num-seqs", "seqs"]) {
        o.max_sequences = whole(n);
    }
    if let Some(n) = option(record, &["max_num_batched_tokens", "max-num-batched-tokens", "batched_tokens"]) {
        o.max_batched_tokens = whole(n);
    }
    o
}

/// The number that the row's `measure_kind` is about, in bytes over all cards.
fn in_the_sense_of(kind: &str, e: &Estimate, record: &Record, gpu: &str, gpus: u64) -> f64 {
    let terms = e.terms;
    let n = gpus as f64;
    let has = |word: &str| kind.contains(word);
    let device = has("nvml") || has("smi") || has("device");
    if has("weight") || has("load") {
        return terms.weights as f64 * n;
    }
    if has("activation") {
        return (terms.activations + terms.logits) as f64;
    }
    if e.engine == Engine::Vllm && (has("log") || has("profile") || has("non_kv")) {
        // What its start-up log adds up before it hands the rest to the cache.
        return (e.total - terms.kv_cache) as f64 * n;
    }
    if has("kv") || has("cache") {
        return terms.kv_cache as f64 * n;
    }
    if e.engine == Engine::Vllm && device {
        // vLLM fills what it may take, whatever the model needs.
        let share = option(record, &["gpu_memory_utilization", "gpu-memory-utilization", "util", "gmu"]);
        if let Some(card) = card(gpu) {
            return (card * GIB * share.unwrap_or(e.engine.share())).max(e.total as f64) * n;
        }
    }
    let reserved = match () {
        () if !device || has("process") => 0.0,
        () if ["A100", "H100", "H200", "H20"].iter().any(|name| gpu.contains(name)) => RESERVED_DATACENTER,
        () => RESERVED,
    };
    e.all_cards as f64 + reserved * GIB * n
}

/// Memory of a card by its name, GiB.
fn card(gpu: &str) -> Option<f64> {
    let gpu = gpu.to_uppercase();
    let named = gpu.split(|c: char| !c.is_ascii_alphanumeric()).find_map(|word| {
        word.strip_suffix("GIB").or_else(|| word.strip_suffix("GB")).and_then(|n| n.parse::<f64>().ok())
    });
    let known = [
        ("4090", 23.6),
        ("3090", 23.6),
        ("5090", 31.84),
        ("3060", 12.0),
        ("4060", 8.0),
        ("4070", 12.0),
        ("4080", 16.0),
        ("A10", 22.07),
        ("L40", 44.4),
        ("L4", 22.05),
        ("T4", 14.56),
        ("H100", 79.14),
        ("H20", 95.0),
    ];
    named.or_else(|| known.iter().find(|(name, _)| gpu.contains(name)).map(|(_, gib)| *gib))
}

fn read(line: usize, record: &Record, configs: &Value) -> Result<Row, String> {
    let model = cell(record, &["model_id", "model"]).unwrap_or("?").to_owned();
    let words = cell(record, &["engine"]).unwrap_or("transformers");
    let engine = engine(words)?;
    let spelling = cell(record, &["dtype/quant", "dtype", "quant", "quantization"]).ok_or("no dtype")?;
    let quantization = quantization(record, spelling)?;
    let (architecture, assumed) = architecture(record, configs)?;
    let weights = WeightFacts::from_architecture(&architecture);
    let gpu = cell(record, &["gpu"]).unwrap_or_default();
    let kind = cell(record, &["measure_kind"]).unwrap_or("process").to_lowercase();
    let whole = |names: &[&str], default: f64| number(record, names).unwrap_or(default).max(0.0) as u64;
    let gpus = whole(&["gpus"], 1.0).max(1);
    let prompt = whole(&["context"], 2048.0).max(1);
    let generated = whole(&["gen_tokens"], 0.0);
    let outcome = cell(record, &["outcome"]).unwrap_or("fit").to_lowercase();
    let out_of_memory = ["oom", "out", "fail", "no"].iter().any(|word| outcome.starts_with(word));
    let request = Request {
        options: options(record, engine, words),
        prompt,
        total: prompt.saturating_add(generated),
        decodes: generated > 1,
        batch: whole(&["batch"], 1.0).max(1),
        gpus,
        view: match kind.as_str() {
            // What ran out of memory is judged by all that the process takes.
            _ if out_of_memory => View::Process,
            "torch_end" => View::Settled,
            k if k.contains("torch") || k.contains("log") || k.contains("alloc") => View::Allocated,
            _ => View::Process,
        },
        capability: capability(gpu),
        ..Request::new(engine, quantization, prompt)
    };
    let e = estimate(&architecture, &weights, &request, None).map_err(|e| e.to_string())?;
    // The file's own bits per weight, where the row knows them.
    let scale = option(record, &["bpw"])
        .filter(|_| matches!(quantization, Quantization::Gguf(_)))
        .map_or(1.0, |bits| bits / 8.0 / quantization.bytes_per_linear());
    let kind = if out_of_memory { "process" } else { kind.as_str() };
    let ours = in_the_sense_of(kind, &e, record, gpu, gpus) + (scale - 1.0) * e.terms.weights as f64;
    let measured = number(record, &["measured_gib"]).filter(|n| *n > 0.0);
    if measured.is_none() && !(out_of_memory && card(gpu).is_some()) {
        return Err("nothing was measured, or on a card of unknown size".to_owned());
    }
    let each = |bytes: f64| bytes / GIB / gpus as f64;
    let rules = rules(&architecture, &weights, &request);
    Ok(Row {
        line,
        model: format!("{model} {spelling} batch {} context {prompt}+{generated}", request.batch),
        engine,
        measured: measured.map(|n| n / gpus as f64),
        predicted: [each(ours), each(rules[0]), each(rules[1]), each(rules[2])],
        gpus,
        out_of_memory,
        card: card(gpu),
        assumed,
    })
}

/// The three rules of thumb, bytes over all cards.
fn rules(a: &Architecture, w: &WeightFacts, r: &Request) -> [f64; 3] {
    let p = a.parameters();
    let nominal = match r.quantization {
        Quantization::Fp32 => 4.0,
        Quantization::Bits16 => 2.0,
        Quantization::Fp8 | Quantization::Int8 | Quantization::GptqInt8 { .. } => 1.0,
        Quantization::Gguf(quant) => quant.bits() / 8.0,
        _ => 0.5,
    };
    let q = r.quantization;
    let bytes = p.linear as f64 * q.bytes_per_linear()
        + (p.embedding + p.head + p.other) as f64 * q.bytes_per_other()
        + w.vision.file_bytes as f64;
    let windowed = a.sliding.as_ref().map_or(0, |s| s.layers);
    let layers = a.attention_layers().saturating_sub(windowed);
    // Its formula does not know latent attention: keys and values of every head.
    let cache = 2 * layers * a.kv_heads * a.head_dim * 2 * r.total * r.batch;
    [p.total() as f64 * nominal * 1.2, bytes + cache as f64, bytes * 1.2 + 2.0 * GIB]
}

/// Counts over the virtual cards for one rule.
#[derive(Default)]
struct Counts {
    pairs: usize,
    false_yes: usize,
    false_no: usize,
}

fn counts(rows: &[&Row], rule: usize, margin: Margin) -> Counts {
    let mut counts = Counts::default();
    for row in rows {
        let need = row.predicted[rule];
        let kept = margin.on((need * GIB) as u64) as f64 / GIB;
        if let Some(measured) = row.measured.filter(|_| !row.out_of_memory) {
            for card in CARDS {
                let (yes, truth) = (need + kept <= card, measured <= card);
                counts.pairs += 1;
                counts.false_yes += usize::from(yes && !truth);
                counts.false_no += usize::from(!yes && truth);
            }
        } else {
            // It ran out of memory on its own card: one pair, and a false yes if we say that it fits there.
            let own = row.card.or(row.measured).unwrap_or(0.0);
            let share = if rule == 0 { row.engine.share() } else { 1.0 };
            counts.pairs += 1;
            counts.false_yes += usize::from(need + kept <= own && need <= share * own);
        }
    }
    counts
}

/// The value below which that share of the sorted numbers lies, by nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Absolute errors in percent, sorted.
fn errors(rows: &[&Row], rule: usize) -> Vec<f64> {
    let mut errors: Vec<f64> = rows
        .iter()
        .filter(|row| !row.out_of_memory)
        .filter_map(|row| row.measured.map(|m| 100.0 * (row.predicted[rule] - m).abs() / m))
        .collect();
    errors.sort_by(f64::total_cmp);
    errors
}

fn line_of(name: &str, rule: usize, rows: &[&Row]) -> String {
    let errors = errors(rows, rule);
    let margin = if rule == 0 { Margin::DEFAULT } else { Margin { share: 0.0, bytes: 0 } };
    let c = counts(rows, rule, margin);
    let rate = |n: usize| 100.0 * n as f64 / c.pairs.max(1) as f64;
    format!(
        "| {name} | {} | {} | {:.2} | {:.2} | {} ({:.2} %) | {} ({:.2} %) |",
        RULES[rule],
        rows.len(),
        median(&errors),
        quantile(&errors, 0.9),
        c.false_yes,
        rate(c.false_yes),
        c.false_no,
        rate(c.false_no),
    )
}

fn report(records: &[Record], configs: &Value) {
    let mut rows = Vec::new();
    let mut unpredicted = Vec::new();
    for (index, record) in records.iter().enumerate() {
        match read(index + 2, record, configs) {
            Ok(row) => rows.push(row),
            Err(reason) => unpredicted.push((index + 2, reason)),
        }
    }
    let all: Vec<&Row> = rows.iter().collect();
    println!("| engine | rule | rows | median % | p90 % | false yes | false no |");
    println!("|---|---|---|---|---|---|---|");
    for engine in Engine::ALL {
        let of_engine: Vec<&Row> = all.iter().copied().filter(|row| row.engine == *engine).collect();
        if of_engine.is_empty() {
            println!("| {engine} (unverified) | - | 0 | - | - | - | - |");
            continue;
        }
        let name = format!("{engine}{}", if engine.verified() { "" } else { " (unverified)" });
        for rule in 0..RULES.len() {
            println!("{}", line_of(&name, rule, &of_engine));
        }
    }
    for rule in 0..RULES.len() {
        println!("{}", line_of("all", rule, &all));
    }
    spread(&all);
    worst(&all);
    let assumed = rows.iter().filter(|row| row.assumed).count();
    println!("\n{assumed} rows name a model without a config here; they use a dense model of that size.");
    println!("{} of {} rows are predicted; not predicted:", rows.len(), records.len());
    for (line, reason) in &unpredicted {
        println!("  line {line}: {reason}");
    }
    let (errors, c) = (errors(&all, 0), counts(&all, 0, Margin::DEFAULT));
    println!(
        "rows={} median_pct={:.2} p90_pct={:.2} false_yes={} false_no={}",
        rows.len(),
        median(&errors),
        quantile(&errors, 0.9),
        c.false_yes,
        c.false_no
    );
}

/// Whether the figures hold on both halves and without any single model: constants fitted to rows would not.
fn spread(all: &[&Row]) {
    let half = |odd: usize| -> Vec<&Row> { all.iter().copied().filter(|row| row.line % 2 == odd).collect() };
    for (name, rows) in [("even lines", half(0)), ("odd lines", half(1))] {
        let errors = errors(&rows, 0);
        println!("{name}: median {:.2} %, p90 {:.2} %", median(&errors), quantile(&errors, 0.9));
    }
    let name = |row: &Row| row.model.split(' ').next().unwrap_or_default().to_owned();
    let models: std::collections::BTreeSet<String> = all.iter().map(|row| name(row)).collect();
    let mut range = [f64::INFINITY, 0.0, f64::INFINITY, 0.0];
    for model in &models {
        let rest: Vec<&Row> = all.iter().copied().filter(|row| name(row) != *model).collect();
        let errors = errors(&rest, 0);
        let (middle, high) = (median(&errors), quantile(&errors, 0.9));
        range = [range[0].min(middle), range[1].max(middle), range[2].min(high), range[3].max(high)];
    }
    println!(
        "without any one of {} models: median {:.2} to {:.2} %, p90 {:.2} to {:.2} %",
        models.len(),
        range[0],
        range[1],
        range[2],
        range[3]
    );
}

/// The rows that are predicted worst.
fn worst(all: &[&Row]) {
    let mut signed: Vec<(f64, &Row)> = all
        .iter()
        .filter_map(|row| row.measured.map(|m| (100.0 * (row.predicted[0] - m) / m, *row)))
        .collect();
    signed.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    println!("\nFurthest off (per card, GiB):");
    for (error, row) in signed.iter().take(20) {
        println!(
            "  line {} {} x{}: predicted {:.2}, measured {:.2} ({error:+.1} %)",
            row.line,
            row.model,
            row.gpus,
            row.predicted[0],
            row.measured.unwrap_or(f64::NAN)
        );
    }
}
