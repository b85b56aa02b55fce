//! Parameters and bytes by part, of plain and of packed weights.

use std::borrow::Cow;

use super::*;

/// Name, dtype and shape.
type Spec<'a> = (&'a str, &'static str, &'a [u64]);

/// A header with these tensors; offsets do not matter here.
fn header(tensors: &[Spec<'_>]) -> safetensors::Header {
    let tensor = |(name, dtype, shape): &Spec<'_>| {
        let elements = shape.iter().product();
        let bytes = elements * safetensors::bits(dtype).unwrap_or(8) / 8;
        let (name, dtype) = ((*name).to_owned(), Cow::Borrowed(*dtype));
        Tensor { name, dtype, shape: shape.to_vec(), elements, bytes, offset: 0 }
    };
    let tensors: Vec<Tensor> = tensors.iter().map(tensor).collect();
    let data_bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
    safetensors::Header {
        tensors,
        metadata: BTreeMap::new(),
        metadata_cut: false,
        header_bytes: 8,
        data_bytes,
    }
}

fn summary(tensors: &[Spec<'_>]) -> Summary {
    Summary::of([&header(tensors)], Known::default())
}

/// A layer of 4096 inputs and 1024 outputs.
const WEIGHTS: u64 = 4096 * 1024;

#[test]
fn packed_layers_count_as_the_weights_that_they_hold() {
    let cases: [(&str, Packing, &[Spec<'_>]); 11] = [
        (
            "awq",
            Packing::Awq,
            &[
                ("l.qweight", "I32", &[4096, 128]),
                ("l.qzeros", "I32", &[32, 128]),
                ("l.scales", "F16", &[32, 1024]),
            ],
        ),
        (
            "gptq 4",
            Packing::Gptq,
            &[
                ("l.qweight", "I32", &[512, 1024]),
                ("l.qzeros", "I32", &[32, 128]),
                ("l.scales", "F16", &[32, 1024]),
                ("l.g_idx", "I32", &[4096]),
            ],
        ),
        (
            "gptq 8 without g_idx",
            Packing::Gptq,
            &[
                ("l.qweight", "I32", &[1024, 1024]),
                ("l.qzeros", "I32", &[32, 256]),
                ("l.scales", "F16", &[32, 1024]),
            ],
        ),
        (
            "gptq 3",
            Packing::Gptq,
            &[
                ("l.qweight", "I32", &[384, 1024]),
                ("l.qzeros", "I32", &[32, 96]),
                ("l.scales", "F16", &[32, 1024]),
            ],
        ),
        (
            "nf4",
            Packing::BnbNf4,
            &[
                ("l.weight", "U8", &[WEIGHTS / 2, 1]),
                ("l.weight.absmax", "U8", &[WEIGHTS / 64]),
                ("l.weight.quant_map", "F32", &[16]),
                ("l.weight.nested_absmax", "F32", &[256]),
                ("l.weight.nested_quant_map", "F32", &[256]),
                ("l.weight.quant_state.bitsandbytes__nf4", "U8", &[92]),
            ],
        ),
        (
            "int8",
            Packing::BnbInt8,
            &[("l.weight", "I8", &[1024, 4096]), ("l.SCB", "F32", &[1024]), ("l.weight_format", "U8", &[])],
        ),
        (
            "fp8",
            Packing::Fp8,
            &[
                ("l.weight", "F8_E4M3", &[1024, 4096]),
                ("l.weight_scale_inv", "F32", &[8, 32]),
                ("a.k_scale", "F32", &[1]),
                ("l.input_scale", "F32", &[]),
            ],
        ),
        (
            "mxfp4",
            Packing::Mxfp4,
            &[("e.up_blocks", "U8", &[4, 256, 128, 16]), ("e.up_scales", "U8", &[4, 256, 128])],
        ),
        (
            "nvfp4",
            Packing::Nvfp4,
            &[
                ("l.weight", "U8", &[1024, 2048]),
                ("l.weight_scale", "F8_E4M3", &[1024, 256]),
                ("l.weight_scale_2", "F32", &[]),
                ("l.input_scale", "F32", &[]),
            ],
        ),
        (
            "compressed",
            Packing::CompressedInt,
            &[
                ("l.weight_packed", "I32", &[1024, 512]),
                ("l.weight_scale", "BF16", &[1024, 32]),
                ("l.weight_shape", "I64", &[2]),
            ],
        ),
        (
            "mlx",
            Packing::Mlx,
            &[
                ("l.weight", "U32", &[1024, 512]),
                ("l.scales", "BF16", &[1024, 64]),
                ("l.biases", "BF16", &[1024, 64]),
            ],
        ),
    ];
    for (name, packing, tensors) in cases {
        let summary = summary(tensors);
        assert_eq!((summary.parameters, summary.packing), (WEIGHTS, Some(packing)), "{name}");
        assert_eq!(summary.part(Part::Scales).tensors, tensors.len() as u64 - 1, "{name}");
        assert_eq!(summary.bytes, header(tensors).data_bytes, "{name}");
    }
}

#[test]
fn the_config_tells_the_bits_that_shapes_do_not() {
    let eight = header(&[("l.weight_packed", "I32", &[1024, 1024]), ("l.weight_scale", "BF16", &[1024, 32])]);
    let known = Known { bits: Some(8), ..Known::default() };
    assert_eq!(Summary::of([&eight], known).parameters, WEIGHTS);
    for bits in [0, 1, u64::MAX] {
        Summary::of([&eight], Known { bits: Some(bits), ..Known::default() });
    }
}

#[test]
fn plain_tensors_with_names_like_scales_stay_parameters() {
    let summary = summary(&[
        ("l.weight", "BF16", &[8, 8]),
        ("l.weight_scale", "BF16", &[8]),
        ("l.scales", "F32", &[8]),
        ("r.per_expert_scale", "F32", &[8]),
    ]);
    assert_eq!((summary.parameters, summary.packing), (64 + 24, None));
}

#[test]
fn scales_are_found_in_another_shard() {
    let one = header(&[("l.qweight", "I32", &[4096, 128]), ("n.weight", "F16", &[4096])]);
    let two = header(&[("l.scales", "F16", &[32, 1024]), ("l.qzeros", "I32", &[32, 128])]);
    let summary = Summary::of([&one, &two], Known::default());
    assert_eq!(summary.parameters, WEIGHTS + 4096);
    let sum = DtypeSum { dtype: "I32".into(), tensors: 2, elements: 4096 * 128 + 32 * 128, bytes: 2_113_536 };
    assert_eq!(summary.by_dtype[0], sum);
}

#[test]
fn what_is_stored_and_not_a_parameter_is_counted_apart() {
    let tensors: &[Spec<'_>] = &[
        ("model.embed_tokens.weight", "BF16", &[100, 8]),
        ("lm_head.weight", "BF16", &[100, 8]),
        ("model.layers.0.w.weight", "BF16", &[8, 8]),
        ("model.layers.1.w.weight", "BF16", &[8, 8]),
        ("model.layers.0.attn.bias", "F32", &[1, 1, 16, 16]),
        ("model.layers.0.dense.attn.bias", "F32", &[16]),
        ("model.layers.0.rotary_emb.inv_freq", "F32", &[4]),
        ("model.visual.blocks.0.w.weight", "BF16", &[4, 4]),
        ("mtp.fc.weight", "BF16", &[8, 16]),
    ];
    let header = header(tensors);
    let all = Summary::of([&header], Known::default());
    let parameters = |summary: &Summary, part| summary.part(part).parameters;
    assert_eq!(parameters(&all, Part::Embedding), 800);
    assert_eq!(parameters(&all, Part::Head), 800);
    assert_eq!(parameters(&all, Part::Body), 64 + 64 + 16);
    assert_eq!(parameters(&all, Part::Tower), 16);
    assert_eq!(parameters(&all, Part::Draft), 128);
    assert_eq!(parameters(&all, Part::Buffer), 260);
    assert_eq!((all.parameters, all.text_parameters()), (800 + 800 + 144 + 16, 800 + 800 + 144));
    assert_eq!(all.by_part.values().map(|sum| sum.bytes).sum::<u64>(), header.data_bytes);

    let known = Known { tied_head: Some(true), layers: Some(1), bits: None };
    let told = Summary::of([&header], known);
    assert_eq!((parameters(&told, Part::Copy), parameters(&told, Part::Head)), (800, 0));
    assert_eq!(parameters(&told, Part::Draft), 128 + 64);
    let json = serde_json::to_value(&told).expect("JSON");
    assert_eq!(json["by_part"]["copy"]["bytes"], 1600);
}

#[test]
fn gguf_files_are_summed_over_their_parts() {
    use support::gguf::{F32, Gguf, Q4_K, Q6_K};
    let read = |file: &Gguf| match gguf::parse(&file.header(), Some(file.size())) {
        Ok(crate::weights::Read::Done(header)) => header,
        other => panic!("{other:?}"),
    };
    let one = read(&Gguf::new("llama").tensor("token_embd.weight", &[256, 10], Q6_K).tensor(
        "rope_freqs.weight",
        &[8],
        F32,
    ));
    let two = read(&Gguf::new("llama").tensor("blk.0.ffn_up.weight", &[256, 4], Q4_K).tensor(
        "output.weight",
        &[256, 10],
        Q6_K,
    ));
    let summary = Summary::of_gguf([&one, &two]);
    assert_eq!(summary.parameters, 2560 + 1024 + 2560);
    assert_eq!(summary.bytes, one.bytes + two.bytes);
    assert_eq!(summary.part(Part::Buffer).parameters, 8);
    assert_eq!(summary.by_dtype[0].dtype, "Q6_K");
}
