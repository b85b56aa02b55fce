//! GGUF headers, true and hostile: nothing panics, nothing grows, and what is missing is asked for.

use proptest::prelude::*;
use support::gguf::{Entry, F16, F32, Gguf, Kind, Q4_K, Q6_K, Q8_0};

use super::*;

fn model() -> Gguf {
    Gguf::new("llama")
        .with("general.file_type", Entry::U32(15))
        .with("llama.block_count", Entry::U32(2))
        .with("llama.rope.freq_base", Entry::F32(10_000.0))
        .with("llama.attention.head_count_kv", Entry::Counts(vec![8, 4]))
        .with("tokenizer.ggml.tokens", Entry::Texts((0..5000).map(|n| format!("t{n}")).collect()))
        .with("tokenizer.chat_template", Entry::Text("é".repeat(3000)))
        .with("tokenizer.ggml.add_bos_token", Entry::Bool(true))
        .with("a.signed", Entry::I32(-3))
        .tensor("token_embd.weight", &[256, 5000], Q6_K)
        .tensor("blk.0.attn_q.weight", &[256, 256], Q4_K)
        .tensor("blk.0.attn_norm.weight", &[256], F32)
        .tensor("odd", &[33, 3], F16)
        .tensor("output.weight", &[256, 5000], Q8_0)
}

fn read(file: &Gguf) -> Result<Header, GgufError> {
    read_bytes(&file.header(), Some(file.size()))
}

fn read_bytes(bytes: &[u8], size: Option<u64>) -> Result<Header, GgufError> {
    match parse(bytes, size)? {
        Read::Done(header) => Ok(header),
        Read::More { bytes: more } => panic!("{} bytes are there, {more} are wanted", bytes.len()),
    }
}

fn refused(file: &Gguf) -> String {
    let error = read(file).expect_err("refused");
    assert!(!error.hint().is_empty());
    error.to_string()
}

#[test]
fn a_header_tells_what_the_file_holds() {
    let file = model();
    let header = read(&file).expect("a header");
    assert_eq!(header.architecture.as_deref(), Some("llama"));
    assert_eq!(header.quant.as_deref(), Some("Q4_K_M"));
    assert_eq!(header.tokens, Some(5000));
    assert_eq!(header.metadata["llama.block_count"].unsigned(), Some(2));
    assert_eq!(header.metadata["a.signed"], Value::Signed(-3));
    let kv = Value::List(vec![Value::Unsigned(8), Value::Unsigned(4)]);
    assert_eq!(header.metadata["llama.attention.head_count_kv"], kv);
    assert_eq!(header.metadata["tokenizer.chat_template"].text().map(str::len), Some(1024));
    assert_eq!(header.metadata["llama.rope.freq_base"], Value::Float(10_000.0));
    assert_eq!(header.parameters, 2 * 256 * 5000 + 256 * 256 + 256 + 99);
    let bytes = 5000 * 210 + 256 * 144 + 1024 + 198 + 5000 * 8 * 34;
    assert_eq!(header.bytes, bytes);
    // Behind the first tensor lie 16 bytes of padding, behind the one of 198 bytes 26.
    assert_eq!(header.header_bytes + bytes + 16 + 26, file.size());
    assert_eq!(header.header_bytes, file.header().len() as u64);
    let json = serde_json::to_value(&header).expect("JSON");
    assert_eq!(json["metadata"]["llama.attention.head_count_kv"], serde_json::json!([8, 4]));
}

#[test]
fn without_a_known_file_type_the_bytes_tell_the_quantization() {
    for number in [None, Some(4), Some(9999)] {
        let mut file = Gguf::new("x").tensor("a", &[256, 9], Q4_K).tensor("b", &[256], F32);
        if let Some(number) = number {
            file = file.with("general.file_type", Entry::U32(number));
        }
        assert_eq!(read(&file).expect("a header").quant.as_deref(), Some("Q4_K"));
    }
    let guessed = Gguf::new("x").with("general.file_type", Entry::U32(1024 + 7));
    assert_eq!(read(&guessed).expect("a header").quant.as_deref(), Some("Q8_0"));
}

#[test]
fn versions_alignments_and_parts_are_understood() {
    let mut file = model()
        .with("split.no", Entry::U16(1))
        .with("split.count", Entry::U16(3))
        .with("split.tensors.count", Entry::I32(40));
    file.version = 2;
    file.alignment = 256;
    let header = read(&file).expect("a header");
    assert_eq!(header.version, 2);
    assert_eq!(header.header_bytes % 256, 0);
    assert_eq!(header.split, Some(Split { part: 1, parts: 3, tensors: Some(40) }));
    let bare = Gguf::new("clip");
    assert_eq!(read_bytes(&bare.header(), Some(bare.size())).expect("no tensors").tensors, []);
}

#[test]
fn what_is_no_gguf_is_named() {
    let mut other = b"GGUF".to_vec();
    for (version, want) in [
        (1_u32, "GGUF version 1 is not supported"),
        (4, "GGUF version 4"),
        (0, "GGUF version 0"),
        (3_u32.swap_bytes(), "big-endian"),
    ] {
        other.truncate(4);
        other.extend(version.to_le_bytes());
        let error = parse(&other, None).expect_err("refused").to_string();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(parse(b"version https://git-lfs", None), Err(GgufError::NotGguf));
    assert_eq!(parse(b"", Some(0)), Err(GgufError::HeaderBeyondFile { needed: 4, size: 0 }));
}

#[test]
fn lying_counts_and_lengths_are_refused_at_once() {
    let start = |tensors: u64, entries: u64, rest: &[u8]| {
        let counts = [tensors.to_le_bytes(), entries.to_le_bytes()].concat();
        [&b"GGUF\x03\0\0\0"[..], &counts, rest].concat()
    };
    let key = |kind: u32, rest: &[u8]| [&1_u64.to_le_bytes()[..], b"k", &kind.to_le_bytes(), rest].concat();
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let max = u64::MAX.to_le_bytes();
    for (bytes, want) in [
        (start(u64::MAX, 0, &[]), "claims 18446744073709551615 tensors"),
        (start(0, u64::MAX, &[]), "metadata entries, the limit is 4096"),
        (start(0, 1, &max), "bytes of a key, the limit is 65535"),
        (start(0, 1, &key(8, &max)), "the limit is 67108864 altogether"),
        (start(0, 1, &key(9, &array(8, u64::MAX))), "the limit is 67108864 altogether"),
        (start(0, 1, &key(9, &array(8, 9_000_000))), "claims 72000000 more bytes"),
        (start(0, 1, &key(9, &array(4, u64::MAX / 2))), "altogether"),
        (start(0, 1, &key(9, &array(99, 1))), "unknown type 99"),
        (start(0, 1, &key(77, &[0; 16])), "unknown type 77"),
        (start(0, 1, &key(9, &array(9, 1).repeat(100_000))), "nested more than 4 deep"),
        (start(1, 0, &max), "bytes of a tensor's name"),
        (start(1, 0, &[&1_u64.to_le_bytes()[..], b"\xff", &[0; 40]].concat()), "is not UTF-8"),
        (start(1, 0, &[&1_u64.to_le_bytes()[..], b"a", &9_u32.to_le_bytes()].concat()), "9 dimensions"),
    ] {
        let error = parse(&bytes, None).expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let of = |shape: &[u64], kind| refused(&Gguf::new("x").tensor("t", shape, kind));
    assert!(of(&[100, 2], Q4_K).contains("type Q4_K has the impossible shape [100, 2]"));
    // A writer could not store these, so the sizes are written by a type that is larger than it says.
    let lie = Kind { number: 0, weights: u64::MAX, bytes: 0 };
    let mut file = Gguf::new("x");
    file.tensors.push(("t".into(), vec![u64::MAX / 2], lie));
    assert!(refused(&file).contains("impossible shape"));
    let short = Kind { number: 0, weights: 1, bytes: 2 };
    let one = Gguf::new("x").tensor("t", &[64], short);
    assert!(refused(&one).contains("tensor \"t\" ends at byte"));
    assert!(read_bytes(&one.header(), None).is_ok());
    assert!(refused(&one.tensor("u", &[64], F32)).contains("tensor \"t\" begins at byte 0"));
    let twice = Gguf::new("x").tensor("t", &[8], F32).tensor("t", &[8], F32);
    assert_eq!(refused(&twice), "the header lists \"t\" twice");
    let twice = Gguf::new("x").with("k", Entry::U32(1)).with("k", Entry::U32(1));
    assert_eq!(refused(&twice), "the header lists \"k\" twice");
    for entry in [Entry::U32(0), Entry::U32(24), Entry::Text("32".into()), Entry::U32(1 << 21)] {
        let error = refused(&Gguf::new("x").with("general.alignment", entry));
        assert!(error.contains("no power of two"), "{error}");
    }
    let mut off = Gguf::new("x").tensor("t", &[3], F32).tensor("u", &[8], F32).header();
    let place = off.windows(8).rposition(|bytes| bytes == 32_u64.to_le_bytes()).expect("the offset of u");
    off[place] = 16;
    assert!(matches!(parse(&off, None), Err(GgufError::Misplaced { .. })));
}

#[test]
fn a_file_that_lacks_its_last_byte_is_cut() {
    let file = model().tensor("last", &[8], F32);
    let (bytes, size) = (file.header(), file.size());
    assert!(read_bytes(&bytes, Some(size)).is_ok());
    let name = "last".to_owned();
    let cut = GgufError::BeyondFile { name, end: size, size: size - 1 };
    assert_eq!(read_bytes(&bytes, Some(size - 1)), Err(cut));
}

#[test]
fn arrays_nest_four_deep_and_headers_end_at_their_limit() {
    let nested = |depth: usize| {
        let outer = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(depth - 1);
        let inner = [&4_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &7_u32.to_le_bytes()].concat();
        Gguf::new("x").with("deep", Entry::Raw(9, [outer, inner].concat()))
    };
    let header = read(&nested(4)).expect("four deep");
    assert_eq!(header.metadata["deep"], Value::Skipped { elements: 1 });
    assert!(refused(&nested(5)).contains("nested more than 4 deep"));

    // Even where all of the file is at hand.
    let mut mapped = Gguf::new("x").with("long", Entry::Text(String::new())).header();
    let place = mapped.windows(4).position(|bytes| bytes == b"long").expect("the key") + 8;
    mapped[place..place + 8].copy_from_slice(&HEADER_LIMIT.to_le_bytes());
    mapped.resize(HEADER_LIMIT as usize + 4096, 0);
    assert!(matches!(parse(&mapped, None), Err(GgufError::TooLong { .. })));
}

#[test]
fn a_tensor_type_of_the_future_reaches_to_the_next_tensor() {
    let new = Kind { number: 200, weights: 1, bytes: 1 };
    let file = Gguf::new("x").tensor("a", &[90], new).tensor("b", &[8], F32);
    let header = read(&file).expect("a header");
    assert_eq!((header.tensors[0].dtype.as_ref(), header.tensors[0].bytes), ("ggml_type_200", 96));
    let last = Gguf::new("x").tensor("a", &[90], new);
    assert_eq!(read(&last).expect("a header").tensors[0].bytes, 96);
    let unknown = Err(GgufError::UnknownTensor { name: "a".into(), kind: 200 });
    assert_eq!(parse(&last.header(), None).map(|_| ()), unknown);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut file = Gguf::new("x").with("long", Entry::Counts(vec![1; 1025]));
    for n in 0..4000 {
        file = file.with(&format!("k{n}"), Entry::Text("v".repeat(1000)));
    }
    let header = read(&file.with(&"k".repeat(300), Entry::U32(1))).expect("a header");
    assert_eq!(header.metadata["long"], Value::Skipped { elements: 1025 });
    let kept: usize = header.metadata.values().filter_map(Value::text).map(str::len).sum();
    assert!((900_000..KEPT_LIMIT as usize).contains(&kept), "{kept}");
    assert!(header.metadata.keys().all(|key| key.len() <= KEY_KEPT));
}

#[test]
fn a_large_tokenizer_takes_few_reads() {
    let tokens = (0..262_144).map(|n| format!("token{n}")).collect();
    let file = Gguf::new("gemma").with("tokenizer.ggml.tokens", Entry::Texts(tokens));
    let (bytes, size) = (file.header(), Some(file.size()));
    let mut reads = 1;
    let mut have = crate::weights::FIRST_READ;
    let header = loop {
        match parse(&bytes[..have as usize], size).expect("a header") {
            Read::Done(header) => break header,
            Read::More { bytes } => (have, reads) = (bytes, reads + 1),
        }
    };
    assert_eq!(header.tokens, Some(262_144));
    assert!(reads <= 4, "{reads} reads for {} bytes", bytes.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_cut_header_says_how_much_more_is_needed(at in any::<prop::sample::Index>()) {
        let file = model();
        let bytes = file.header();
        let whole = read(&file).expect("a header");
        // The padding behind the last entry is not needed.
        let mut have = at.index(bytes.len() - 31);
        let mut reads = 0;
        let header = loop {
            reads += 1;
            prop_assert!(reads < 40, "it never ends");
            match parse(&bytes[..have], Some(file.size())) {
                Ok(Read::Done(header)) => break header,
                Ok(Read::More { bytes: more }) => {
                    prop_assert!(more > have as u64 && more <= file.size());
                    have = bytes.len().min(more as usize);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        };
        prop_assert_eq!(header, whole);
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(
        place in any::<prop::sample::Index>(),
        change in prop::collection::vec(any::<u8>(), 1..12),
        cut in any::<prop::sample::Index>(),
        size in prop::option::of(0_u64..3_000_000),
    ) {
        // A true header with a few wrong bytes goes deeper than noise does.
        let small = Gguf::new("llama")
            .with("a", Entry::Counts(vec![1, 2]))
            .with("tokenizer.ggml.tokens", Entry::Texts(vec!["x".into(); 9]))
            .tensor("t", &[256, 2], Q4_K)
            .tensor("u", &[4, 2, 1, 1], F32);
        let mut bytes = small.header();
        let at = place.index(bytes.len());
        let end = bytes.len().min(at + change.len());
        bytes[at..end].copy_from_slice(&change[..end - at]);
        bytes.truncate(cut.index(bytes.len()) + 1);
        match parse(&bytes, size) {
            Ok(Read::More { bytes: more }) => {
                prop_assert!(more > bytes.len() as u64 && more <= HEADER_LIMIT);
            }
            Ok(Read::Done(header)) => prop_assert!(header.tensors.len() <= 2 && header.metadata.len() <= 3),
            Err(error) => prop_assert!(error.to_string().len() < 1000),
        }
    }
}
