//! Properties of the whole room over any input: more never needs less, limits are edges, nonsense is unknown.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{CONFIGS, GIB, total};
use super::*;

fn any_engine() -> impl Strategy<Value = (Engine, Quantization)> {
    prop_oneof![
        Just((Engine::Transformers, Quantization::Bits16)),
        Just((Engine::Transformers, Quantization::AwqInt4 { group: 128 })),
        Just((Engine::Transformers, Quantization::Fp8)),
        Just((Engine::Vllm, Quantization::GptqInt4 { group: 128 })),
        Just((Engine::Vllm, Quantization::Bits16)),
        Just((Engine::LlamaCpp, Quantization::Gguf(Gguf::Q4_K_M))),
    ]
}

fn any_model() -> impl Strategy<Value = Architecture> {
    let configs: Value = serde_json::from_str(CONFIGS).expect("the fixture is JSON");
    let all: Vec<Value> = configs.as_object().expect("a map").values().cloned().collect();
    prop::sample::select(all).prop_map(|config| Architecture::from_config(&config).expect("a good config"))
}

fn any_options() -> impl Strategy<Value = Options> {
    let releases = [Release(4, 35), Release(4, 46), Release(4, 57), Release::CURRENT];
    let logits = [Logits::Last, Logits::All, Logits::Scored];
    let attention = [Attention::Fused, Attention::Eager, Attention::EagerCopy];
    let choices = (
        prop::sample::select(releases.to_vec()),
        prop::sample::select(logits.to_vec()),
        prop::sample::select(attention.to_vec()),
    );
    (choices, any::<[bool; 4]>()).prop_map(
        |((release, logits, attention), [old, keeps, padded, expandable])| Options {
            release,
            logits,
            attention,
            rotary_per_layer: old,
            copies_qkv: old,
            keeps_head: keeps,
            padded,
            expandable_segments: expandable,
            ..Options::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn more_never_needs_less(
        a in any_model(),
        (engine, quantization) in any_engine(),
        options in any_options(),
        context in 1_u64..200_000,
        batch in 1_u64..200,
        more in 1_u64..1000,
    ) {
        let base = Request { options, ..Request::new(engine, quantization, context).with_batch(batch) };
        let need = total(&a, &base);
        prop_assert!(total(&a, &base.with_context(context + more)) >= need);
        prop_assert!(total(&a, &base.with_batch(batch + more)) >= need);
        let grown = [
            Architecture { layers: a.layers + more, ..a.clone() },
            Architecture { intermediate: a.intermediate + more, ..a.clone() },
            Architecture { vocab: a.vocab + more, ..a.clone() },
        ];
        for larger in grown {
            prop_assert!(total(&larger, &base) >= need);
        }
    }

    #[test]
    fn the_process_holds_all_that_is_allocated(
        a in any_model(),
        options in any_options(),
        context in 1_u64..100_000,
        batch in 1_u64..50,
    ) {
        let process = Request { options, ..Request::new(Engine::Transformers, Quantization::Bits16, context) };
        let process = process.with_batch(batch);
        let allocated = total(&a, &Request { view: View::Allocated, ..process });
        let settled = total(&a, &Request { view: View::Settled, ..process });
        prop_assert!(total(&a, &process) >= allocated && allocated >= settled);
    }

    #[test]
    fn one_of_several_cards_never_needs_more(
        a in any_model(),
        (engine, quantization) in any_engine(),
        options in any_options(),
        context in 1_u64..100_000,
        batch in 1_u64..50,
        gpus in 2_u64..17,
    ) {
        let one = Request { options, ..Request::new(engine, quantization, context).with_batch(batch) };
        let several = one.with_gpus(gpus);
        prop_assert!(total(&a, &several) <= total(&a, &one));
        let weights = WeightFacts::from_architecture(&a);
        let all = estimate(&a, &weights, &several, None).expect("a valid request");
        prop_assert!(all.all_cards >= all.total);
    }

    #[test]
    fn the_largest_batch_fits_and_one_more_does_not(
        a in any_model(),
        (engine, quantization) in any_engine(),
        context in 1_u64..8192,
        gib in 1_u64..200,
    ) {
        prop_assume!(a.max_position.is_none_or(|most| context <= most));
        let weights = WeightFacts::from_architecture(&a);
        let budget = Budget::bytes(gib * GIB);
        let setting = Setting {
            architecture: &a, weights: &weights, budget, margin: Margin::DEFAULT, correction: None,
        };
        let request = Request::new(engine, quantization, context);
        let fits = |request: &Request| can_fit(&a, request, budget).verdict == Verdict::Fits;
        let batch = setting.largest_batch(&request).expect("a known card").value;
        prop_assert!(batch == 0 || fits(&request.with_batch(batch)));
        prop_assert!(batch == MAX_BATCH || !fits(&request.with_batch(batch + 1)));
        let longest = setting.largest_context(&request).expect("a known card");
        prop_assert!(longest.value == 0 || fits(&request.with_context(longest.value)));
        if longest.bound == Bound::Memory {
            prop_assert!(!fits(&request.with_context(longest.value + 1)));
        }
    }

    #[test]
    fn any_numbers_give_a_sum_or_unknown(
        mut a in any_model(),
        (engine, quantization) in any_engine(),
        options in any_options(),
        numbers in prop::array::uniform12(prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()]),
    ) {
        let [hidden, layers, heads, kv_heads, head_dim, vocab, intermediate, prompt, total, batch, gpus, position] =
            numbers;
        a = Architecture {
            hidden, layers, heads, kv_heads, head_dim, vocab, intermediate, max_position: Some(position), ..a
        };
        let base = Request::new(engine, quantization, 1);
        let request = Request { options, prompt, total, batch, gpus, ..base };
        let weights = WeightFacts::from_architecture(&a);
        let budget = Budget::bytes(position);
        if let Ok(e) = estimate(&a, &weights, &request, None) {
            prop_assert_eq!(e.terms.total(), e.total);
            prop_assert!(e.low <= e.total && e.total <= e.high);
        }
        let setting = Setting {
            architecture: &a, weights: &weights, budget, margin: Margin::DEFAULT, correction: None,
        };
        let _ = setting.largest_batch(&request);
        let _ = setting.largest_context(&request);
        let _ = recommend_quantization(&a, &request, budget, None);
    }

    #[test]
    fn any_json_gives_a_shape_or_unknown(key in "[a-z_]{1,12}", number in any::<i64>(), float in any::<f64>()) {
        let configs: Value = serde_json::from_str(CONFIGS).expect("the fixture is JSON");
        for id in ["meta-llama/Llama-2-7b-hf", "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3.6-27B"] {
            let mut config = configs[id].clone();
            let keys: Vec<String> = config.as_object().expect("an object").keys().cloned().collect();
            let index = number.unsigned_abs() as usize % keys.len();
            config[&keys[index]] = if number % 2 == 0 { json!(number) } else { json!(float) };
            config[&key] = json!({ "x": float });
            if let Ok(a) = Architecture::from_config(&config) {
                prop_assert!(a.hidden > 0 && a.layers > 0 && a.vocab > 0);
                let _ = a.parameters().total();
            }
        }
    }
}
