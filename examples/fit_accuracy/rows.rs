//! Reads a table of measurements row by row and predicts each in the sense of its own columns.

use std::collections::BTreeMap;

use larder::fit::{
    Architecture, Attention, Capability, Engine, Estimate, Gguf, Logits, Options, Quantization, Release,
    Request, View, WeightFacts, estimate,
};
use serde_json::Value;

use super::GIB;

/// What NVML counts on a whole A100 80 GB beside the process: the driver's own, 80 minus the 79.15 GiB that CUDA
/// sees (`gpus.csv`). Consumer cards reserve 0.35 to 0.45 GiB.
const RESERVED_DATACENTER: f64 = 0.85;
const RESERVED: f64 = 0.4;

pub(crate) type Record = BTreeMap<String, String>;

/// Names of the columns without which nothing can be said.
pub(crate) const MODEL: &[&str] = &["model_id", "model"];
pub(crate) const DTYPE: &[&str] = &["dtype/quant", "dtype", "quant", "quantization"];
pub(crate) const MEASURED: &[&str] = &["measured_gib"];

/// One measurement, as far as it is understood.
pub(crate) struct Row {
    pub(crate) line: usize,
    pub(crate) model: String,
    pub(crate) engine: Engine,
    /// What was measured, and in what kind of pass.
    pub(crate) kind: String,
    /// Per card, GiB; `None` for a row that only says that it ran out of memory.
    pub(crate) measured: Option<f64>,
    /// Per card, GiB, by rule.
    pub(crate) predicted: [f64; 4],
    pub(crate) gpus: u64,
    pub(crate) out_of_memory: bool,
    /// Memory of the real card, GiB.
    pub(crate) card: Option<f64>,
    pub(crate) assumed: bool,
}

/// A cell by one of its names; empty counts as missing.
fn cell<'a>(record: &'a Record, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| record.get(*name).map(String::as_str).filter(|text| !text.is_empty()))
}

fn number(record: &Record, names: &[&str]) -> Option<f64> {
    cell(record, names)?.replace(['_', ','], "").parse().ok().filter(|n: &f64| n.is_finite())
}

/// A count; a cell that is there and holds no number is not guessed at.
fn whole(record: &Record, name: &str, default: u64) -> Result<u64, String> {
    match (cell(record, &[name]), number(record, &[name])) {
        (None, _) => Ok(default),
        (Some(_), Some(number)) => Ok(number.max(0.0) as u64),
        (Some(text), None) => Err(format!("`{text}` in the column {name} is no number")),
    }
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
    let names = [cell(record, &["arch_key"]), cell(record, MODEL)];
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

/// The release of transformers in the engine's name (`transformers-4.46(FA2)`, `4.3x`), else the current one. The first
/// LLaMA's numbers and AutoAWQ 0.1 come from times before 4.36.
fn release(words: &str) -> Release {
    if words.contains("llama-1") || words.contains("autoawq-0.1") {
        return Release(4, 35);
    }
    let Some((_, rest)) = words.split_once("transformers") else { return Release::CURRENT };
    let digits = rest.trim_start_matches(['-', ' ', '=', 'v', '(']);
    let Some((major, rest)) = digits.split_once('.') else { return Release::CURRENT };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != 'x').unwrap_or(rest.len());
    let minor = rest[..end].replace('x', "0");
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => Release(major, minor),
        _ => Release::CURRENT,
    }
}

/// What version and settings say about the engine's habits.
fn options(record: &Record, engine: Engine, words: &str) -> Options {
    let words = words.to_lowercase();
    let settings = cell(record, &["engine_opts", "options"]).unwrap_or_default().to_lowercase();
    let note = cell(record, &["note"]).unwrap_or_default().to_lowercase();
    let said = |word: &str| words.contains(word) || settings.contains(word);
    let mut o = Options::default();
    if engine == Engine::Transformers {
        let autoawq = words.contains("autoawq");
        let release = release(&words);
        o = Options::of_release(release);
        // Llama's tables went with 4.39, Qwen2's with 4.45.
        let qwen = cell(record, MODEL).is_some_and(|id| id.to_lowercase().contains("qwen"));
        let tables = if qwen { Release(4, 44) } else { Release(4, 38) };
        o.rotary_per_layer = (Release(4, 38)..=tables).contains(&release);
        o.copies_qkv = autoawq && words.contains("fused");
        o.keeps_head = autoawq;
        o.padded = settings.contains("padded");
        o.expandable_segments = settings.contains("expandable_segments");
        let fused = said("fa2") || said("sdpa") || said("flash");
        o.attention = match () {
            () if autoawq => Attention::EagerCopy,
            () if said("eager") => Attention::Eager,
            () if fused => Attention::Fused,
            () => o.attention,
        };
        let scored = ["label", "log_softmax", "loss", "logprob"].iter().any(|word| settings.contains(word));
        o.logits = match () {
            () if scored => Logits::Scored,
            () if said("full-logits") || autoawq => Logits::All,
            () => o.logits,
        };
        // A pass that measures perplexity or returns all logits, and generates nothing, keeps no cache.
        let evaluates = note.contains("ppl") || note.contains("forward") || words.contains("llama-1");
        o.cache = number(record, &["gen_tokens"]) != Some(0.0) || !evaluates;
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
    if has("reserved") {
        // All that PyTorch's allocator holds: the process without its context.
        return (e.all_cards as f64 - terms.context as f64 * n).max(0.0);
    }
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
    // A card of which a test allowed only a part.
    if let Some((_, part)) = gpu.split_once("CAPPED TO ")
        && let Some(gib) = part.split(' ').next().and_then(|n| n.parse().ok())
    {
        return Some(gib);
    }
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

/// One row of the table, predicted; or why that cannot be.
pub(crate) fn read(line: usize, record: &Record, configs: &Value) -> Result<Row, String> {
    let model = cell(record, MODEL).unwrap_or("?").to_owned();
    let words = cell(record, &["engine"]).unwrap_or("transformers");
    let engine = engine(words)?;
    let spelling = cell(record, DTYPE).ok_or("no dtype")?;
    let quantization = quantization(record, spelling)?;
    let (mut architecture, assumed) = architecture(record, configs)?;
    match spelling {
        // The row's own dtype; the file's may be another.
        "fp16" => architecture.dtype = Some("float16".to_owned()),
        "bf16" => architecture.dtype = Some("bfloat16".to_owned()),
        _ => {}
    }
    let weights = WeightFacts::from_architecture(&architecture);
    let gpu = cell(record, &["gpu"]).unwrap_or_default();
    let kind = cell(record, &["measure_kind"]).unwrap_or("process").to_lowercase();
    let gpus = whole(record, "gpus", 1)?.max(1);
    let prompt = whole(record, "context", 2048)?.max(1);
    let generated = whole(record, "gen_tokens", 0)?;
    let outcome = cell(record, &["outcome"]).unwrap_or("fit").to_lowercase();
    let out_of_memory = ["oom", "out", "fail", "no"].iter().any(|word| outcome.starts_with(word));
    let request = Request {
        options: options(record, engine, words),
        prompt,
        total: prompt.saturating_add(generated),
        decodes: generated > 1,
        batch: whole(record, "batch", 1)?.max(1),
        gpus,
        view: match kind.as_str() {
            // What ran out of memory is judged by all that the process takes.
            _ if out_of_memory => View::Process,
            "torch_end" => View::Settled,
            k if k.contains("reserved") => View::Process,
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
    let measured = number(record, MEASURED).filter(|n| *n > 0.0);
    if measured.is_none() && !(out_of_memory && card(gpu).is_some()) {
        return Err("nothing was measured, or on a card of unknown size".to_owned());
    }
    let each = |bytes: f64| bytes / GIB / gpus as f64;
    let rules = rules(&architecture, &weights, &request);
    Ok(Row {
        line,
        model: format!("{model} {spelling} batch {} context {prompt}+{generated}", request.batch),
        engine,
        kind: format!("{kind}, {}", if generated > 0 { "generation" } else { "single pass" }),
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
