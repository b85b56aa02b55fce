//! Tests of the whole room: counts against the table, and answers for known cases.

use serde_json::{Value, json};

use super::*;

pub(super) const CONFIGS: &str = include_str!("../../tests/fixtures/fit/configs.json");
const MODELS: &str = include_str!("../../tests/fixtures/fit/models.csv");
pub(super) const GIB: u64 = 1 << 30;

fn model(id: &str) -> Architecture {
    let configs: Value = serde_json::from_str(CONFIGS).expect("the fixture is JSON");
    Architecture::from_config(&configs[id]).expect(id)
}

pub(super) fn total(architecture: &Architecture, request: &Request) -> u64 {
    let weights = WeightFacts::from_architecture(architecture);
    estimate(architecture, &weights, request, None).expect("a valid request").total
}

#[test]
fn parameter_counts_equal_the_table() {
    let mut checked = 0;
    for line in MODELS.lines().skip(1) {
        let cells: Vec<&str> = line.splitn(5, ',').collect();
        let Ok(params) = cells[3].parse::<u64>() else { continue };
        let counted = model(cells[0]).parameters();
        assert_eq!((counted.total(), counted.exact), (params, true), "{}", cells[0]);
        checked += 1;
    }
    assert_eq!(checked, 66);
}

#[test]
fn models_beyond_the_table_count_exactly() {
    for (id, params) in [
        ("openai-community/gpt2-xl", 1_557_611_200),
        ("allenai/OLMoE-1B-7B-0924", 6_919_161_856),
        ("Qwen/Qwen1.5-MoE-A2.7B", 14_315_784_192),
    ] {
        let counted = model(id).parameters();
        assert_eq!((counted.total(), counted.exact), (params, true), "{id}");
    }
}

#[test]
fn cache_per_token_equals_the_table() {
    let mut reader = csv::Reader::from_reader(MODELS.as_bytes());
    let column = reader
        .headers()
        .expect("a header")
        .iter()
        .position(|name| name == "kv_bytes_per_token_fp16")
        .expect("the column");
    let mut checked = 0;
    for record in reader.records() {
        let record = record.expect("a record");
        let Ok(bytes) = record[column].parse::<u64>() else { continue };
        let a = model(&record[0]);
        assert_eq!(a.attention_layers() * a.cache_elements(true) * 2, bytes, "{}", &record[0]);
        checked += 1;
    }
    assert_eq!(checked, 66);
}

#[test]
fn head_dim_is_not_guessed() {
    assert_eq!(model("Qwen/Qwen3-4B").head_dim, 128);
    assert_eq!(model("tiiuae/falcon-7b").kv_heads, 1);
    assert_eq!(model("zai-org/GLM-4.7-Flash").cache_elements(true), 576);
    let odd = json!({"model_type": "llama", "hidden_size": 100, "num_attention_heads": 7, "num_hidden_layers": 2,
        "intermediate_size": 10, "vocab_size": 10});
    let error = Architecture::from_config(&odd).expect_err("cannot be split");
    assert!(error.what.contains("head_dim"), "{error}");
}

#[test]
fn a_multimodal_config_is_read_through_its_text_part() {
    let configs: Value = serde_json::from_str(CONFIGS).expect("the fixture is JSON");
    let whole = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": configs["google/gemma-3-4b-it"], "vision_config": {"hidden_size": 1152}});
    let a = Architecture::from_config(&whole).expect("gemma 3");
    assert!(a.multimodal);
    assert_eq!(a.hidden, 2560);
    assert_eq!(a.class.as_deref(), Some("Gemma3ForConditionalGeneration"));
    assert_eq!(a.sliding, Some(Sliding { window: 1024, layers: 29 }));
}

#[test]
fn absurd_values_are_unknown() {
    let configs: Value = serde_json::from_str(CONFIGS).expect("the fixture is JSON");
    let llama = &configs["meta-llama/Llama-2-7b-hf"];
    let keys = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"];
    for key in keys {
        for bad in
            [json!(0), json!(-1), json!(1.5), json!(u64::MAX), json!("many"), json!([[[]]]), json!(1e300)]
        {
            let mut config = llama.clone();
            config[key] = bad.clone();
            let error = Architecture::from_config(&config).expect_err(key);
            assert!(error.what.contains(key) && !error.hint.is_empty(), "{key} = {bad}: {error}");
        }
    }
    let more = json!({"num_key_value_heads": 64});
    let mut config = llama.clone();
    config["num_key_value_heads"] = more["num_key_value_heads"].clone();
    assert!(Architecture::from_config(&config).is_err());
    for nothing in [json!(null), json!([]), json!({}), json!({"model_type": "llama"})] {
        assert!(Architecture::from_config(&nothing).is_err(), "{nothing}");
    }
}

#[test]
fn a_gguf_header_gives_the_same_shape() {
    let get = |key: &str| {
        Some(match key {
            "general.architecture" => Meta::Text("llama"),
            "llama.block_count" | "llama.attention.head_count" => Meta::Number(32),
            "llama.embedding_length" => Meta::Number(4096),
            "llama.feed_forward_length" => Meta::Number(14336),
            "llama.attention.head_count_kv" => Meta::Number(8),
            "llama.attention.key_length" => Meta::Number(128),
            "llama.context_length" => Meta::Number(131_072),
            "tokenizer.ggml.tokens" => Meta::Number(128_256),
            _ => return None,
        })
    };
    let file = Architecture::from_gguf(get).expect("a llama");
    assert_eq!(file.parameters().total(), model("meta-llama/Llama-3.1-8B-Instruct").parameters().total());
    let without = |key: &str| if key == "llama.block_count" { None } else { get(key) };
    assert!(Architecture::from_gguf(without).expect_err("no layers").what.contains("block_count"));
    let zero = |key: &str| if key == "llama.block_count" { Some(Meta::Number(0)) } else { get(key) };
    assert!(Architecture::from_gguf(zero).is_err());
}

#[test]
fn words_come_back() {
    let mut all = vec![
        Quantization::Fp32,
        Quantization::Bits16,
        Quantization::Fp8,
        Quantization::Int8,
        Quantization::Nf4,
        Quantization::Nf4Dq,
        Quantization::AwqInt4 { group: 128 },
        Quantization::AwqInt4 { group: 64 },
        Quantization::GptqInt4 { group: 0 },
        Quantization::GptqInt8 { group: 32 },
        Quantization::Mxfp4,
    ];
    all.extend(Gguf::ALL.iter().map(|quant| Quantization::Gguf(*quant)));
    for quantization in all {
        let word = quantization.to_string();
        assert_eq!(word.parse(), Ok(quantization), "{word}");
        assert_eq!(serde_json::from_value::<Quantization>(json!(word)).expect("a word"), quantization);
    }
    for (spelling, word) in [
        ("bf16", "16bit"),
        ("Q4_K_M", "gguf:Q4_K_M"),
        ("bnb-nf4", "nf4"),
        ("fp8-block128", "fp8"),
        ("awq-int4-g128", "awq-int4"),
        ("gptq-int4-nogroup", "gptq-int4-nogroup"),
    ] {
        assert_eq!(spelling.parse::<Quantization>().expect(spelling).to_string(), word);
    }
    assert!("3.5bpw".parse::<Quantization>().is_err());
}

#[test]
fn bytes_per_parameter_are_those_of_the_formats() {
    let close = |q: Quantization, bytes: f64| {
        assert!((q.bytes_per_linear() - bytes).abs() < 1e-4, "{q}: {}", q.bytes_per_linear());
    };
    close(Quantization::Nf4, 0.5625);
    close(Quantization::Nf4Dq, 0.51587);
    close(Quantization::AwqInt4 { group: 128 }, 0.51953);
    close(Quantization::GptqInt8 { group: 128 }, 1.0234);
    close(Quantization::Fp8, 1.00024);
    close(Quantization::Mxfp4, 0.53125);
}

#[test]
fn quantization_configs_are_recognised() {
    let read = |config: Value| Quantization::from_config(&config).map(|q| q.to_string());
    let some = |word: &str| Some(word.to_owned());
    assert_eq!(read(json!({"quant_method": "awq", "bits": 4, "group_size": 64})), some("awq-int4-g64"));
    assert_eq!(read(json!({"quant_method": "gptq", "bits": 8, "group_size": -1})), some("gptq-int8-nogroup"));
    assert_eq!(read(json!({"quant_method": "fp8"})), some("fp8"));
    assert_eq!(read(json!({"quant_method": "mxfp4"})), some("mxfp4"));
    let double =
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_use_double_quant": true});
    assert_eq!(read(double), some("nf4-dq"));
    let weights = json!({"num_bits": 4, "type": "int", "group_size": 128});
    let groups =
        json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}});
    assert_eq!(read(groups), some("gptq-int4"));
    assert_eq!(read(json!({"quant_method": "gptq", "bits": 3})), None);
    assert_eq!(read(json!({})), None);
}

fn tensor<'a>(name: &'a str, dtype: &'a str, elements: u64, width: u64) -> Tensor<'a> {
    Tensor { name, dtype, elements, bytes: elements * width }
}

#[test]
fn file_bytes_are_corrected() {
    // gpt2: masks are in the file and not in memory; fp32 in the file runs in 16 bits.
    let gpt2 = model("openai-community/gpt2");
    let tensors = [
        tensor("wte.weight", "F32", 50_257 * 768, 4),
        tensor("h.0.attn.bias", "F32", 1024 * 1024, 4),
        tensor("h.0.attn.c_attn.weight", "F32", 768 * 2304, 4),
        tensor("h.0.attn.c_attn.bias", "F32", 2304, 4),
    ];
    let facts = WeightFacts::from_tensors(&gpt2, tensors, Source::SafetensorsHeaders);
    assert_eq!(facts.buffers.elements, 1024 * 1024);
    assert_eq!(facts.elements(), 50_257 * 768 + 768 * 2304 + 2304);
    let request = Request::new(Engine::Transformers, Quantization::Bits16, 16);
    let weights = estimate(&gpt2, &facts, &request, None).expect("a valid request").terms.weights;
    assert_eq!(weights, facts.elements() * 2);
    // Qwen3-0.6B: the tied head is stored twice; a vision tower counts, a prediction layer does not.
    let qwen = model("Qwen/Qwen3-0.6B");
    let tensors = [
        tensor("model.embed_tokens.weight", "BF16", 1000, 2),
        tensor("lm_head.weight", "BF16", 1000, 2),
        tensor("visual.patch_embed.weight", "BF16", 50, 2),
        tensor("model.layers.28.mlp.up_proj.weight", "BF16", 70, 2),
    ];
    let facts = WeightFacts::from_tensors(&qwen, tensors, Source::SafetensorsHeaders);
    assert_eq!((facts.tied_copy.elements, facts.head.elements), (1000, 0));
    let weights = estimate(&qwen, &facts, &request, None).expect("a valid request").terms.weights;
    assert_eq!(weights, 2100);
    assert_eq!(facts.dtypes["BF16"], 4240);
}

#[test]
fn packed_tensors_stay_as_they_are() {
    let mut llama = model("meta-llama/Llama-2-7b-hf");
    llama.quantized = Some(Quantization::AwqInt4 { group: 128 });
    let tensors = [
        tensor("model.layers.0.mlp.up_proj.qweight", "I32", 1000, 4),
        tensor("model.layers.0.mlp.up_proj.scales", "F16", 60, 2),
        tensor("model.norm.weight", "F16", 10, 2),
    ];
    let facts = WeightFacts::from_tensors(&llama, tensors, Source::SafetensorsHeaders);
    let weights = |quantization| {
        let request = Request::new(Engine::Vllm, quantization, 16);
        estimate(&llama, &facts, &request, None).expect("a valid request").terms.weights
    };
    assert_eq!(weights(Quantization::AwqInt4 { group: 128 }), 4140);
    assert!(weights(Quantization::Bits16) > 15_000);
}

#[test]
fn a_file_of_another_quantization_is_scaled() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let tensors = [
        tensor("blk.0.ffn_up.weight", "Q8_0", 3200, 1),
        tensor("output.weight", "Q8_0", 320, 1),
        tensor("blk.0.attn_norm.weight", "F32", 10, 4),
    ];
    let facts = WeightFacts::from_tensors(&llama, tensors, Source::GgufHeader);
    let half = facts.scaled(1000, 500);
    assert_eq!(half.file_bytes(), facts.file_bytes() / 2);
    assert_eq!((half.linear.packed_bytes, half.head.packed_bytes), (1600, 160));
    assert_eq!(half.elements(), facts.elements());
    assert_eq!(facts.scaled(7, 7), facts);
    // Nonsense stays bounded.
    assert_eq!(facts.scaled(0, u64::MAX).linear.file_bytes, u64::MAX);
    assert_eq!(facts.scaled(u64::MAX, 0).file_bytes(), 0);
}

fn activations(id: &str, change: impl Fn(&mut Request)) -> u64 {
    let a = model(id);
    let mut request = Request::new(Engine::Transformers, Quantization::Bits16, 1024);
    request.view = View::Allocated;
    change(&mut request);
    let weights = WeightFacts::from_architecture(&a);
    estimate(&a, &weights, &request, None).expect("a valid request").terms.activations
}

#[test]
fn the_widest_moment_follows_the_structure() {
    // Elements per token at 1024 tokens of 2 bytes.
    let width = |id: &str| activations(id, |_| ()) / 2048;
    assert_eq!(width("meta-llama/Llama-2-7b-hf"), 3 * 11_008 + 4 * 4096);
    assert_eq!(width("EleutherAI/pythia-410m"), 2 * 4096 + 4 * 1024);
    assert_eq!(width("microsoft/phi-2"), 4 * 10_240 + 4 * 2560);
    assert_eq!(width("openai-community/gpt2-xl"), 4 * 6400 + 5 * 1600);
    assert_eq!(width("microsoft/Phi-3-mini-4k-instruct"), 4 * 8192 + 4 * 3072);
    assert_eq!(width("allenai/OLMoE-1B-7B-0924"), (4 * 8 + 4) * 2048);
    assert_eq!(width("deepseek-ai/DeepSeek-V2-Lite"), (6 * 6 + 4) * 2048);
    let older = |r: &mut Request| r.options = Options::of_release(Release(4, 46));
    assert_eq!(activations("meta-llama/Llama-2-7b-hf", older) / 1024, 6 * 11_008 + 9 * 4096);
}

#[test]
fn attention_and_logits_follow_the_release_and_the_use() {
    let scores = |id: &str| activations(id, |r| r.options.attention = Attention::Eager);
    let square = |bytes: u64, heads: u64, hidden: u64| bytes * heads * 1024 * 1024 + 14 * hidden * 1024;
    assert_eq!(scores("meta-llama/Llama-2-7b-hf"), square(8, 32, 4096), "fp16 goes to fp32 in the kernel");
    assert_eq!(scores("meta-llama/Llama-3.1-8B-Instruct"), square(10, 32, 4096), "bf16 is copied");
    let falcon = activations("tiiuae/falcon-7b", |_| ());
    assert!(falcon > 8 * 71 * 1024 * 1024, "no fused kernel takes one key head for many");
    let a = model("meta-llama/Llama-3.2-1B-Instruct");
    let weights = WeightFacts::from_architecture(&a);
    let logits = |release, logits| {
        let options = Options { logits, ..Options::of_release(release) };
        let request = Request::new(Engine::Transformers, Quantization::Bits16, 2048);
        let request = Request { options, view: View::Allocated, ..request };
        let hidden = 4 * 2048 * a.hidden;
        let found = estimate(&a, &weights, &request, None).expect("a valid request").terms.logits;
        found.saturating_sub(hidden) / 2048 / a.vocab
    };
    assert_eq!(logits(Release::CURRENT, Logits::Last), 0, "the MLP is wider");
    assert_eq!(logits(Release::CURRENT, Logits::All), 2);
    assert_eq!(logits(Release::CURRENT, Logits::Scored), 10);
    assert_eq!(Options::of_release(Release(4, 44)).logits, Logits::All);
    assert_eq!(logits(Release(4, 44), Logits::All), 6);
}

#[test]
fn a_batch_that_ran_out_of_memory_is_not_promised() {
    // Largest batches at 2048 tokens on an H100 whose PyTorch was capped (`measured_h100.csv`), with the least
    // margin that a host gets.
    for (id, cap, ran) in [
        ("meta-llama/Llama-2-7b-hf", 23.1, 5),
        ("meta-llama/Llama-3.1-8B-Instruct", 23.1, 13),
        ("Qwen/Qwen2.5-1.5B-Instruct", 7.1, 18),
    ] {
        let a = model(id);
        let weights = WeightFacts::from_architecture(&a);
        let margin = Margin::CALIBRATED;
        let budget = Budget::gib(cap + 0.69);
        let setting = Setting { architecture: &a, weights: &weights, budget, margin, correction: None };
        let request = Request {
            capability: Some(Capability(9, 0)),
            ..Request::new(Engine::Transformers, Quantization::Bits16, 2048)
        };
        let batch = setting.largest_batch(&request).expect("a known card").value;
        assert!((ran - 2..=ran).contains(&batch), "{id}: {batch}, of which {ran} ran");
    }
}

#[test]
fn bitsandbytes_leaves_grouped_experts_alone() {
    let olmoe = model("allenai/OLMoE-1B-7B-0924");
    let weights = WeightFacts::from_architecture(&olmoe);
    let bytes = |quantization| {
        let request = Request::new(Engine::Transformers, quantization, 16);
        estimate(&olmoe, &weights, &request, None).expect("a valid request").terms.weights
    };
    let (full, nf4) = (bytes(Quantization::Bits16) as f64, bytes(Quantization::Nf4) as f64);
    // 12.53 of 12.89 GiB were measured.
    assert!((nf4 / full - 12.53 / 12.89).abs() < 0.002, "{}", nf4 / full);
}

#[test]
fn windows_and_latent_attention_count_only_where_the_engine_uses_them() {
    let gemma = model("google/gemma-3-27b-it");
    let cache = |engine, architecture: &Architecture, quantization| {
        let weights = WeightFacts::from_architecture(architecture);
        let request = Request { view: View::Settled, ..Request::new(engine, quantization, 32_768) };
        estimate(architecture, &weights, &request, None).expect("a valid request").terms.kv_cache
    };
    let q4 = Quantization::Gguf(Gguf::Q4_K_M);
    let settled = |architecture: &Architecture, release| {
        let weights = WeightFacts::from_architecture(architecture);
        let options = Options::of_release(release);
        let request = Request::new(Engine::Transformers, Quantization::Bits16, 32_768);
        let request = Request { options, view: View::Settled, ..request };
        estimate(architecture, &weights, &request, None).expect("a valid request").terms.kv_cache
    };
    assert_eq!(settled(&gemma, Release(4, 51)), 507_904 * 32_768);
    assert_eq!(settled(&gemma, Release::CURRENT), 8192 * (10 * 32_768 + 52 * 1024));
    assert_eq!(cache(Engine::LlamaCpp, &gemma, q4), 8192 * (10 * 32_768 + 52 * 1536));
    let deepseek = model("deepseek-ai/DeepSeek-V2-Lite");
    assert_eq!(cache(Engine::Vllm, &deepseek, Quantization::Bits16), 31_104 * 32_768);
    assert_eq!(settled(&deepseek, Release::CURRENT), 31_104 * 32_768);
    assert!(settled(&deepseek, Release(4, 51)) > 8 * 31_104 * 32_768);
}

#[test]
fn verdicts_have_reasons() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let request = Request::new(Engine::Transformers, Quantization::Bits16, 2048);
    let need = total(&llama, &request);
    let verdict = |bytes| can_fit(&llama, &request, Budget::bytes(bytes)).verdict;
    assert_eq!(verdict(need - 1), Verdict::No);
    assert_eq!(verdict(need), Verdict::Tight);
    let kept = Margin::DEFAULT.on(need);
    assert_eq!(verdict(need + kept - 1), Verdict::Tight);
    assert_eq!(verdict(need + kept), Verdict::Fits);
    assert_eq!(can_fit(&llama, &request, Budget::unknown()).verdict, Verdict::Unknown);
    assert_eq!(Budget::gib(f64::NAN), Budget::unknown());
    let long = can_fit(&llama, &request.with_context(5000), Budget::gib(80.0));
    assert_eq!(long.verdict, Verdict::No);
    assert!(long.reason.contains("longer than the model is made for"), "{}", long.reason);
    let zero = can_fit(&llama, &request.with_batch(0), Budget::gib(80.0));
    assert_eq!((zero.verdict, zero.estimate), (Verdict::Unknown, None));
    // vLLM may take nine tenths of a card only.
    let vllm = Request { engine: Engine::Vllm, ..request };
    let need = total(&llama, &vllm);
    assert_eq!(can_fit(&llama, &vllm, Budget::bytes(need + need / 20)).verdict, Verdict::No);
}

#[test]
fn provenance_says_what_is_unverified_until_calibrated() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let weights = WeightFacts::from_architecture(&llama);
    let request = Request::new(Engine::Vllm, Quantization::Bits16, 2048);
    let plain = estimate(&llama, &weights, &request, None).expect("a valid request");
    assert!(plain.provenance.unverified);
    let correction = Correction { ratio: 1.25, error: 0.02 };
    let own = estimate(&llama, &weights, &request, Some(&correction)).expect("a valid request");
    assert!(!own.provenance.unverified);
    assert_eq!(own.provenance.overhead, Source::Calibrated);
    assert!((own.total as f64 / plain.total as f64 - 1.25).abs() < 1e-6);
    assert!(own.high - own.low < plain.high - plain.low);
    assert_eq!(Margin::of(Some(&correction)), Margin::CALIBRATED);
    for ratio in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(estimate(&llama, &weights, &request, Some(&Correction { ratio, error: 0.1 })).is_err());
    }
    let shown = serde_json::to_value(own).expect("it serialises");
    assert_eq!(shown["provenance"]["weights"], "config.json");
    assert_eq!(shown["engine"], "vllm");
}

#[test]
fn contexts_stop_at_the_model() {
    let llama = model("meta-llama/Llama-2-7b-hf");
    let weights = WeightFacts::from_architecture(&llama);
    let setting = Setting {
        architecture: &llama,
        weights: &weights,
        budget: Budget::gib(80.0),
        margin: Margin::DEFAULT,
        correction: None,
    };
    let request = Request::new(Engine::Transformers, Quantization::Bits16, 2048);
    let limit = setting.largest_context(&request).expect("a known card");
    assert_eq!((limit.value, limit.bound), (4096, Bound::ModelContext));
    let error = setting.largest_batch(&request.with_context(5000)).expect_err("too long");
    assert!(error.what.contains("4096"), "{error}");
    let small = Setting { budget: Budget::gib(6.0), ..setting };
    assert_eq!(small.largest_batch(&request).expect("a known card").value, 0);
}

#[test]
fn variants_are_chosen_in_order_and_refused_with_reasons() {
    let llama = model("meta-llama/Llama-3.1-8B-Instruct");
    let request = Request::new(Engine::Transformers, Quantization::Bits16, 2048);
    let recommend = |gib, capability| {
        recommend_quantization(&llama, &request, Budget::gib(gib), Some(capability))
            .recommended
            .map(|q| q.to_string())
    };
    let some = |word: &str| Some(word.to_owned());
    assert_eq!(recommend(24.0, Capability(8, 9)), some("16bit"));
    assert_eq!(recommend(14.0, Capability(8, 9)), some("fp8"));
    assert_eq!(recommend(14.0, Capability(7, 5)), some("gptq-int8"));
    assert_eq!(recommend(9.0, Capability(7, 5)), some("awq-int4"));
    assert_eq!(recommend(9.0, Capability(7, 0)), some("gptq-int4"));
    assert_eq!(recommend(2.0, Capability(8, 9)), None);
    // Between them stand cards that store FP8 and do not compute in it: one engine unpacks it as it goes, one before.
    assert_eq!(recommend(14.0, Capability(8, 6)), some("gptq-int8"));
    let vllm = Request { engine: Engine::Vllm, ..request };
    let table = recommend_quantization(&llama, &vllm, Budget::gib(16.0), Some(Capability(8, 6)));
    let fp8 = table.rows.iter().find(|r| r.label == "fp8").expect("a row");
    assert_eq!(fp8.lacks, None, "{fp8:?}");
    let table = recommend_quantization(&llama, &request, Budget::gib(9.0), Some(Capability(7, 0)));
    let row = |word: &str| table.rows.iter().find(|r| r.label == word).expect(word);
    assert!(row("awq-int4").rejected.as_deref().expect("a reason").contains("7.5"));
    assert_eq!((row("awq-int4").lacks, row("16bit").lacks), (Some(Capability(7, 5)), None));
    assert!(row("16bit").rejected.as_deref().expect("a reason").contains("needs"));
    assert_eq!(table.rows.iter().filter(|r| r.recommended).count(), 1);
    assert!(table.rows.iter().all(|r| r.recommended == r.rejected.is_none()));
}

#[test]
fn the_policy_binds_the_choice() {
    let llama = model("meta-llama/Llama-3.1-8B-Instruct");
    let weights = WeightFacts::from_architecture(&llama);
    let setting = Setting {
        architecture: &llama,
        weights: &weights,
        budget: Budget::gib(8.0),
        margin: Margin::DEFAULT,
        correction: None,
    };
    let request = Request::new(Engine::LlamaCpp, Quantization::Bits16, 2048);
    let low = Quantization::Gguf(Gguf::Q3_K_M);
    let variants = [Quantization::Bits16, low, Quantization::Nf4].map(Variant::of);
    let choice = |policy| choose(&setting, &request, &variants, None, &policy).recommended;
    assert_eq!(choice(Policy::Exact), None);
    assert_eq!(choice(Policy::BestFit), Some(Quantization::Nf4));
    assert_eq!(choice(Policy::Allow(vec![low])), Some(low));
    assert_eq!(choose(&setting, &request, &[], None, &Policy::BestFit).recommended, None);
    let moe = model("Qwen/Qwen3-30B-A3B");
    let setting = Setting { architecture: &moe, budget: Budget::gib(80.0), ..setting };
    let only = [Variant::of(Quantization::Nf4)];
    let refused = choose(&setting, &request, &only, None, &Policy::BestFit);
    assert!(refused.rows[0].rejected.as_deref().expect("a reason").contains("experts"));
}

#[test]
fn a_variant_brings_its_own_correction() {
    let llama = model("meta-llama/Llama-3.1-8B-Instruct");
    let weights = WeightFacts::from_architecture(&llama);
    let of_the_host = Correction { ratio: 2.0, error: 0.1 };
    let setting = Setting {
        architecture: &llama,
        weights: &weights,
        budget: Budget::gib(80.0),
        margin: Margin::DEFAULT,
        correction: Some(&of_the_host),
    };
    let request = Request::new(Engine::Transformers, Quantization::Bits16, 2048);
    let plain = total(&llama, &request);
    let own = Correction { ratio: 1.1, error: 0.02 };
    let variants = [
        Variant { correction: Some(own), ..Variant::of(Quantization::Bits16) },
        Variant::of(Quantization::Fp32),
    ];
    let table = choose(&setting, &request, &variants, None, &Policy::BestFit);
    let [row, other] = &table.rows[..] else { panic!("two rows") };
    let need = row.vram_bytes.expect("an estimate");
    assert!((need as f64 / plain as f64 - 1.1).abs() < 1e-6, "its own and not the host's");
    assert_eq!(row.fit.margin_bytes, Some(Margin::CALIBRATED.on(need)));
    let need = other.vram_bytes.expect("an estimate");
    let fp32 = total(&llama, &Request { quantization: Quantization::Fp32, ..request });
    assert!((need as f64 / fp32 as f64 - 2.0).abs() < 1e-6, "the host's");
    assert_eq!(other.fit.margin_bytes, Some(Margin::DEFAULT.on(need)));
}

#[test]
fn a_generic_model_has_the_size_that_was_asked_for() {
    for params in [100_000_000, 1_500_000_000, 7_000_000_000, 34_000_000_000, 70_000_000_000_u64] {
        let counted = Architecture::generic(params).expect("a usual size").parameters();
        let off = counted.total() as f64 / params as f64 - 1.0;
        assert!(off.abs() < 0.02 && !counted.exact, "{params}: {off}");
    }
    assert!(Architecture::generic(0).is_err());
    assert!(Architecture::generic(u64::MAX).is_err());
}
