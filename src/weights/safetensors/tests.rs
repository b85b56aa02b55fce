//! Safetensors headers, true and hostile, beside the format's own crate as the witness.

use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::*;

/// A file's first bytes with that JSON.
fn file(json: &str) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

fn read(json: &str, data: u64) -> Result<Header, HeaderError> {
    let file = file(json);
    match parse(&file, Some(file.len() as u64 + data))? {
        Read::Done(header) => Ok(header),
        Read::More { bytes } => panic!("the whole header is there, {bytes} are wanted"),
    }
}

fn refused(json: &str, data: u64) -> String {
    let error = read(json, data).expect_err("refused");
    assert!(!error.hint().is_empty());
    let what = error.to_string();
    assert!(what.len() < 800, "{} bytes of message", what.len());
    what
}

#[test]
fn a_header_is_read_in_the_order_of_its_bytes() {
    let json = r#"{"b":{"dtype":"F4","shape":[2,3],"data_offsets":[4,7]},
        "__metadata__":{"format":"pt"},
        "a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},
        "empty":{"dtype":"F32","shape":[0,9],"data_offsets":[7,7]},
        "scalar":{"dtype":"F64","shape":[],"data_offsets":[7,15]}}   "#;
    let header = read(json, 15).expect("a header");
    let names: Vec<_> = header.tensors.iter().map(|t| (t.name.as_str(), t.elements, t.bytes)).collect();
    assert_eq!(names, [("a", 2, 4), ("b", 6, 3), ("empty", 0, 0), ("scalar", 1, 8)]);
    assert_eq!((header.data_bytes, header.header_bytes), (15, 8 + json.len() as u64));
    assert_eq!(header.metadata["format"], "pt");
    assert!(!header.metadata_cut);
}

#[test]
fn a_dtype_of_the_future_keeps_its_word_and_its_bytes() {
    let json = r#"{"a":{"dtype":"F3_NEW","shape":[10],"data_offsets":[0,4]}}"#;
    let header = read(json, 4).expect("a header");
    assert_eq!((header.tensors[0].dtype.as_ref(), header.tensors[0].bytes), ("F3_NEW", 4));
    assert_eq!(bits("F3_NEW"), None);
}

#[test]
fn lies_about_the_length_are_refused_before_anything_is_read() {
    let long = |length: u64, size: Option<u64>| needed(&length.to_le_bytes(), size);
    assert_eq!(long(100_000_000, None), Err(HeaderError::TooLong { length: 100_000_000 }));
    assert_eq!(long(u64::MAX, Some(u64::MAX)), Err(HeaderError::TooLong { length: u64::MAX }));
    assert_eq!(long(1000, Some(1007)), Err(HeaderError::HeaderBeyondFile { length: 1000, size: 1007 }));
    assert_eq!(long(1000, Some(1008)), Ok(1008));
    assert_eq!(long(1000, None), Ok(1008));
    assert_eq!(needed(b"", Some(7)), Err(HeaderError::TooShort { size: 7 }));
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    let error = parse(pointer, Some(130)).expect_err("a git-lfs pointer");
    assert!(error.hint().contains("git-lfs"));
}

#[test]
fn contradictions_are_named() {
    let one = |entry: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{entry}}}}}"#);
    let two = |begin: u64, end: u64| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"b":{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{end}]}}}}"#
        )
    };
    for (json, data, want) in [
        (two(2, 6), 6, "tensor \"b\" begins at byte 2 of the data, expected 4"),
        (two(6, 10), 10, "tensor \"b\" begins at byte 6 of the data, expected 4"),
        (two(4, 8), 7, "the tensors end at byte"),
        (two(4, 8), 9, "the tensors end at byte"),
        (one("[0,3]"), 3, "takes 3 bytes, its shape and dtype make 4"),
        (one("[4,0]"), 4, "takes none bytes"),
        (one("[-1,3]"), 4, "tensor \"a\": invalid value: integer `-1`"),
        (one("[0,NaN]"), 4, "expected value"),
        (one("[0,4.0]"), 4, "invalid type: floating point `4.0`"),
        (one("[0,1e400]"), 4, "number out of range"),
        (one("[0,4,8]"), 4, "trailing characters"),
        (one("[0]"), 4, "invalid length 1"),
        (one("[0,99999999999999999999]"), 4, "invalid type: floating point"),
        ("{\"a\":{}}".into(), 0, "missing field `dtype`"),
        ("[]".into(), 0, "invalid type: sequence"),
        (String::new(), 0, "EOF"),
        ("{} {}".into(), 0, "trailing characters"),
        (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#.into(), 1, "make a broken byte"),
    ] {
        let error = refused(&json, data);
        assert!(error.contains(want), "{json}: {error}");
    }
}

#[test]
fn sizes_that_overflow_are_refused() {
    let of = |shape: &str| {
        refused(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#), 0)
    };
    assert!(of("[4294967296,4294967296]").contains("make too many"));
    assert!(of("[18446744073709551615]").contains("make too many"));
    assert!(of(&format!("[{}]", vec!["1"; 33].join(","))).contains("more than 32 dimensions"));
    let end = u64::MAX;
    let json = format!(r#"{{"a":{{"dtype":"NEW","shape":[1],"data_offsets":[0,{end}]}}}}"#);
    assert!(refused(&json, 5).contains("the tensors end at byte 18446744073709551615"));
}

#[test]
fn no_name_comes_twice() {
    let entry = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    assert_eq!(refused(&format!("{{{entry},{entry}}}"), 1), "the header lists \"a\" twice");
    let escaped = entry.replace("\"a\"", "\"\\u0061\"");
    assert_eq!(refused(&format!("{{{entry},{escaped}}}"), 1), "the header lists \"a\" twice");
    let notes = r#""__metadata__":{}"#;
    assert!(refused(&format!("{{{notes},{notes}}}"), 0).contains("duplicate field `__metadata__`"));
    let field = r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    assert!(refused(field, 1).contains("duplicate field `dtype`"));
}

#[test]
fn deep_json_costs_nothing() {
    let deep = "[".repeat(100_000);
    for json in [
        deep.clone(),
        format!("{{\"a\":{deep}"),
        format!("{{\"a\":{{\"dtype\":\"U8\",\"x\":{deep}"),
        format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":{deep}"),
        format!("{{\"__metadata__\":{deep}"),
        format!("{{\"__metadata__\":{{\"x\":{deep}"),
    ] {
        assert!(refused(&json, 0).starts_with("the header is not readable"));
    }
}

#[test]
fn notes_and_messages_are_bounded() {
    let notes: Vec<String> = (0..200).map(|n| format!(r#""k{n:03}":"{}""#, "é".repeat(2000))).collect();
    let json = format!(r#"{{"__metadata__":{{{}}}}}"#, notes.join(","));
    let header = read(&json, 0).expect("a header");
    assert!(header.metadata_cut);
    assert_eq!(header.metadata.len(), METADATA_ENTRIES);
    assert!(header.metadata.values().all(|value| value.len() <= METADATA_BYTES));

    let name = "\u{1b}[31m".repeat(10_000);
    let json = serde_json::json!({ name: { "dtype": "U8", "shape": [2], "data_offsets": [0, 1] } });
    assert!(!refused(&json.to_string(), 1).contains('\u{1b}'));
    let json = serde_json::json!({ "x".repeat(100_000): "y".repeat(100_000) });
    refused(&json.to_string(), 0);
}

#[test]
fn more_tensors_than_the_bound_are_refused() {
    let entry = |n: usize| format!(r#""{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let json = |count: usize| format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
    assert_eq!(read(&json(TENSOR_LIMIT), 0).expect("at the bound").tensors.len(), TENSOR_LIMIT);
    assert!(refused(&json(TENSOR_LIMIT + 1), 0).contains("more than 262144 tensors"));
}

#[test]
fn the_formats_own_crate_agrees_about_dtypes() {
    for dtype in [
        Dtype::BOOL,
        Dtype::F4,
        Dtype::F6_E2M3,
        Dtype::F6_E3M2,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8_E5M2,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
        Dtype::F8_E4M3FNUZ,
        Dtype::F8_E5M2FNUZ,
        Dtype::I16,
        Dtype::U16,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I32,
        Dtype::U32,
        Dtype::F32,
        Dtype::C64,
        Dtype::F64,
        Dtype::I64,
        Dtype::U64,
    ] {
        let word = serde_json::to_value(dtype).expect("a word");
        let word = word.as_str().expect("a word");
        assert_eq!(bits(word), Some(dtype.bitsize() as u64), "{word}");
    }
}

/// A tensor list as a writer gets it: names, dtypes, shapes.
fn tensors() -> impl Strategy<Value = HashMap<String, (Dtype, Vec<usize>)>> {
    let dtype = prop_oneof![
        Just(Dtype::F32),
        Just(Dtype::BF16),
        Just(Dtype::F8_E4M3),
        Just(Dtype::U8),
        Just(Dtype::I64),
        Just(Dtype::BOOL)
    ];
    prop::collection::hash_map(".{0,12}", (dtype, prop::collection::vec(0_usize..5, 0..4)), 0..8)
}

/// The file that the format's own crate writes.
fn written(tensors: &HashMap<String, (Dtype, Vec<usize>)>) -> Vec<u8> {
    let zeros = vec![0; 4 * 4 * 4 * 8];
    let views = tensors.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, (dtype, shape))| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorView::new(*dtype, shape.clone(), &zeros[..bytes]).expect("a tensor"))
    });
    safetensors::serialize(views, None).expect("a file")
}

/// JSON that is nearly a header: names, shapes and offsets from a small space, so that every contradiction comes.
fn nearly() -> impl Strategy<Value = (String, u64)> {
    let number = prop_oneof![
        4 => (0_i64..9).prop_map(|n| n.to_string()),
        1 => Just("-1".to_owned()),
        1 => Just("1.5".to_owned()),
        1 => Just("18446744073709551615".to_owned()),
        1 => Just("null".to_owned()),
    ];
    let small = (0_u64..9).prop_map(|n| n.to_string());
    let dtype = prop::sample::select(vec!["U8", "F16", "F4", "I64"]);
    let tensor = (
        prop::sample::select(vec!["a", "b", "c", "d"]),
        dtype,
        prop::collection::vec(prop_oneof![9 => small.clone(), 1 => number.clone()], 0..3),
        prop_oneof![9 => small.clone(), 1 => number.clone()],
        prop_oneof![9 => small, 1 => number],
    );
    (prop::collection::vec(tensor, 0..3), 0_u64..9).prop_map(|(tensors, data)| {
        let entries: Vec<String> = tensors
            .iter()
            .map(|(name, dtype, shape, begin, end)| {
                let shape = shape.join(",");
                format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}"#)
            })
            .collect();
        (format!("{{{}}}", entries.join(",")), data)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn what_the_formats_own_crate_writes_is_read_back(tensors in tensors()) {
        let file = written(&tensors);
        let Ok(Read::Done(header)) = parse(&file, Some(file.len() as u64)) else {
            panic!("{:?}", parse(&file, Some(file.len() as u64)));
        };
        let theirs = SafeTensors::deserialize(&file).expect("its own file");
        prop_assert_eq!(header.tensors.len(), theirs.len());
        let data = file.len() as u64 - header.header_bytes;
        prop_assert_eq!(header.data_bytes, data);
        for tensor in &header.tensors {
            let view = theirs.tensor(&tensor.name).expect("the same name");
            let shape: Vec<u64> = view.shape().iter().map(|n| *n as u64).collect();
            prop_assert_eq!(&tensor.shape, &shape);
            prop_assert_eq!(tensor.bytes, view.data().len() as u64);
        }
    }

    #[test]
    fn a_cut_header_says_how_much_more_is_needed(tensors in tensors(), at in any::<prop::sample::Index>()) {
        let file = written(&tensors);
        let size = Some(file.len() as u64);
        let Ok(Read::Done(header)) = parse(&file, size) else { panic!("whole") };
        let end = at.index(header.header_bytes as usize);
        let expected = if end < 8 { 8 } else { header.header_bytes };
        prop_assert_eq!(parse(&file[..end], size), Ok(Read::More { bytes: expected }));
        prop_assert_eq!(parse(&file[..end], None), Ok(Read::More { bytes: expected }));
    }

    #[test]
    fn the_formats_own_crate_accepts_what_is_accepted_here((json, data) in nearly()) {
        let mut bytes = file(&json);
        bytes.resize(bytes.len() + data as usize, 0);
        let ours = parse(&bytes, Some(bytes.len() as u64));
        let theirs = SafeTensors::deserialize(&bytes);
        match (&ours, &theirs) {
            // It takes the last of two tensors with one name.
            (Err(HeaderError::Duplicate { .. }), _) => {}
            _ => prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}: {:?} {:?}", json, ours, theirs.err()),
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(
        start in prop::option::of(0_u64..400),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        size in prop::option::of(0_u64..1000),
    ) {
        let field = start.map_or_else(Vec::new, |length| length.to_le_bytes().to_vec());
        let file = [field, bytes].concat();
        match parse(&file, size) {
            Ok(Read::More { bytes }) => {
                prop_assert!(bytes > file.len() as u64 && bytes <= HEADER_LIMIT + 8);
            }
            Ok(Read::Done(header)) => {
                // A tensor takes at least 40 bytes of JSON.
                prop_assert!(header.tensors.len() * 40 <= file.len());
            }
            Err(error) => prop_assert!(error.to_string().len() < 800),
        }
    }
}
