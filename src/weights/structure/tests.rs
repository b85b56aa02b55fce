//! The structure check over snapshots that are whole, cut, mixed and contradictory.

use super::*;
use crate::weights::Read;

/// A shard with U8 tensors of one byte.
fn shard(path: &str, names: &[&str]) -> FileFacts {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{}]}}"#, at + 1)
        })
        .collect();
    let json = format!("{{{}}}", entries.join(","));
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    facts(path, &bytes, bytes.len() as u64 + names.len() as u64)
}

fn facts(path: &str, bytes: &[u8], size: u64) -> FileFacts {
    let header = match safetensors::parse(bytes, Some(size)) {
        Ok(Read::Done(header)) => Ok(header),
        Ok(Read::More { bytes }) => panic!("{bytes} bytes are wanted"),
        Err(error) => Err(error),
    };
    FileFacts { path: path.into(), size: Some(size), contents: Contents::Safetensors(header) }
}

fn index(map: &[(&str, &str)], total: u64) -> Index {
    let map: serde_json::Map<_, _> =
        map.iter().map(|(name, shard)| ((*name).into(), (*shard).into())).collect();
    let text = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
    Index::parse("model.safetensors.index.json", &text.to_string()).expect("an index")
}

fn words(findings: &[Finding]) -> Vec<(Severity, Word, &str)> {
    findings.iter().map(|f| (f.severity, f.word, f.path.as_deref().unwrap_or_default())).collect()
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn gguf(path: &str, part: u16, parts: u16, tensors: i32, names: &[&str]) -> FileFacts {
    use support::gguf::{Entry, F32, Gguf};
    let mut file = Gguf::new("llama");
    if parts > 1 {
        file = file
            .with("split.no", Entry::U16(part))
            .with("split.count", Entry::U16(parts))
            .with("split.tensors.count", Entry::I32(tensors));
    }
    for name in names {
        file = file.tensor(name, &[8], F32);
    }
    let header = match gguf::parse(&file.header(), Some(file.size())) {
        Ok(Read::Done(header)) => header,
        other => panic!("{other:?}"),
    };
    FileFacts { path: path.into(), size: Some(file.size()), contents: Contents::Gguf(Ok(header)) }
}

#[test]
fn a_whole_model_has_no_findings() {
    let index = index(&[("a", ONE), ("b", TWO)], 2);
    assert_eq!(check(&[shard(ONE, &["a"]), shard(TWO, &["b"])], Some(&index)), []);
    assert_eq!(check(&[shard("model.safetensors", &["a"])], None), []);
    let parts =
        [gguf("m-00001-of-00002.gguf", 0, 2, 2, &["a"]), gguf("m-00002-of-00002.gguf", 1, 2, 2, &["b"])];
    assert_eq!(check(&parts, None), []);
    assert_eq!(check(&[gguf("m.gguf", 0, 1, 0, &["a"])], None), []);
}

#[test]
fn missing_shards_are_named_with_and_without_an_index() {
    let index = index(&[("a", ONE), ("b", TWO)], 2);
    let findings = check(&[shard(ONE, &["a"])], Some(&index));
    assert_eq!(words(&findings), [(Severity::Error, Word::MissingShard, TWO)]);
    assert!(findings[0].what.contains(TWO));
    let findings = check(&[shard(TWO, &["b"])], None);
    assert_eq!(words(&findings), [(Severity::Error, Word::MissingShard, ONE)]);
    assert_eq!(words(&check(&[], None)), [(Severity::Error, Word::NoWeights, "")]);
    let findings = check(&[gguf("q/m-00003-of-00003.gguf", 2, 3, 5, &["a"])], None);
    let missing: Vec<_> = findings.iter().map(|f| f.path.as_deref().unwrap_or_default()).collect();
    assert_eq!(missing, ["q/m-00001-of-00003.gguf", "q/m-00002-of-00003.gguf"]);
}

#[test]
fn tensors_that_are_elsewhere_missing_extra_or_doubled_are_told_apart() {
    let index = index(&[("a", ONE), ("b", TWO), ("c", TWO)], 3);
    let swapped = check(&[shard(ONE, &["b", "c"]), shard(TWO, &["a"])], Some(&index));
    assert_eq!(
        words(&swapped),
        [(Severity::Error, Word::MisplacedTensor, ONE), (Severity::Error, Word::MisplacedTensor, TWO)]
    );
    assert!(swapped[1].what.ends_with(&format!("lie in {ONE}: \"b\", \"c\"")), "{}", swapped[1].what);

    let lost = check(&[shard(ONE, &["a"]), shard(TWO, &["b", "x"])], Some(&index));
    assert_eq!(
        words(&lost),
        [(Severity::Error, Word::MissingTensor, TWO), (Severity::Warning, Word::ExtraTensor, TWO)]
    );
    assert!(lost[0].what.contains("no other shard has them: \"c\""));

    let doubled = check(&[shard(ONE, &["a", "b"]), shard(TWO, &["b", "c"])], Some(&index));
    let path = "model.safetensors.index.json";
    assert_eq!(
        words(&doubled),
        [(Severity::Warning, Word::DuplicateTensor, path), (Severity::Warning, Word::WrongTotal, path)]
    );
}

#[test]
fn a_cut_or_broken_shard_is_one_finding_and_not_a_hundred() {
    let index = index(&[("a", ONE), ("b", TWO), ("c", TWO)], 3);
    let FileFacts { contents: Contents::Safetensors(Ok(header)), .. } = shard(TWO, &["b", "c"]) else {
        panic!("a header")
    };
    let cut = Err(HeaderError::WrongEnd { end: header.header_bytes + 2, size: 3 });
    let cut = FileFacts { path: TWO.into(), size: Some(3), contents: Contents::Safetensors(cut) };
    assert_eq!(
        words(&check(&[shard(ONE, &["a"]), cut], Some(&index))),
        [(Severity::Error, Word::BadEnd, TWO)]
    );
    let broken = facts(TWO, b"\x02\0\0\0\0\0\0\0[]", 10);
    assert_eq!(
        words(&check(&[shard(ONE, &["a"]), broken], Some(&index))),
        [(Severity::Error, Word::BadHeader, TWO)]
    );
    let unread = FileFacts { path: TWO.into(), size: None, contents: Contents::NotRead };
    assert_eq!(
        words(&check(&[shard(ONE, &["a"]), unread], Some(&index))),
        [(Severity::Warning, Word::NotRead, TWO)]
    );
}

#[test]
fn a_shard_beside_the_index_and_a_new_dtype_are_warnings() {
    let index = index(&[("a", ONE)], 1);
    let extra = check(&[shard(ONE, &["a"]), shard(TWO, &["b"])], Some(&index));
    assert_eq!(words(&extra), [(Severity::Warning, Word::ExtraShard, TWO)]);
    let json = br#"{"a":{"dtype":"F3_NEW","shape":[1],"data_offsets":[0,1]}}"#;
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json].concat();
    let findings = check(&[facts("m.safetensors", &bytes, bytes.len() as u64 + 1)], None);
    assert_eq!(words(&findings), [(Severity::Warning, Word::UnknownDtype, "m.safetensors")]);
    assert!(findings[0].what.contains("F3_NEW"));
}

#[test]
fn gguf_parts_agree_with_their_names_and_each_other() {
    let renamed = check(&[gguf("m.gguf", 1, 2, 4, &["a"])], None);
    assert_eq!(words(&renamed), [(Severity::Error, Word::PartsDisagree, "m.gguf")]);
    assert_eq!(renamed[0].what, "named part 1 of 1, its header says part 2 of 2");
    let (one, two) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let swapped = check(&[gguf(one, 1, 2, 2, &["a"]), gguf(two, 0, 2, 2, &["b"])], None);
    assert_eq!(
        words(&swapped),
        [(Severity::Error, Word::PartsDisagree, one), (Severity::Error, Word::PartsDisagree, two)]
    );
    let doubled = check(&[gguf(one, 0, 2, 2, &["a"]), gguf(two, 1, 2, 2, &["a"])], None);
    assert_eq!(words(&doubled), [(Severity::Error, Word::DuplicateTensor, one)]);
    let counted = check(&[gguf(one, 0, 2, 9, &["a"]), gguf(two, 1, 2, 9, &["b"])], None);
    assert_eq!(counted[0].what, "the 2 parts hold 2 tensors and claim 9");
    let beyond = gguf("m-00003-of-00002.gguf", 2, 2, 2, &["c"]);
    let beyond = check(&[gguf(one, 0, 2, 2, &["a"]), gguf(two, 1, 2, 2, &["b"]), beyond], None);
    assert!(beyond.iter().any(|f| f.what == "it calls itself part 3 of 2"), "{beyond:?}");
}

#[test]
fn the_report_is_bounded_and_keeps_the_errors() {
    let names: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
    let map: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let unread = |n: usize| FileFacts { path: format!("u{n}"), size: None, contents: Contents::NotRead };
    let files: Vec<FileFacts> = (0..500).map(unread).collect();
    let findings = check(&files, Some(&index(&map, 0)));
    assert_eq!(findings.len(), FINDING_LIMIT + 1);
    assert_eq!(findings[0].severity, Severity::Error);
    assert_eq!(findings[FINDING_LIMIT].what, "800 more findings are not listed");
    let part = FileFacts { path: "m-1-of-2.gguf".into(), size: None, contents: Contents::NotRead };
    assert_eq!(words(&check(&[part], None)), [(Severity::Warning, Word::NotRead, "m-1-of-2.gguf")]);
    let many = FileFacts { path: "m-00001-of-999999.gguf".into(), size: None, contents: Contents::NotRead };
    assert!(
        check(&[many], None).iter().any(|f| f.what == "its name speaks of 999999 parts, the limit is 10000")
    );
}
