//! Numbered files (`model-00001-of-00005.…`): all there, and of one mind about how many they are.

use std::collections::{BTreeMap, BTreeSet};

use super::{Contents, FETCH, FileFacts, MIXED, Report, Word, is_shard, some};
use crate::weights::{Index, gguf, shown};

/// The most parts that a file name may speak of.
const PART_LIMIT: u64 = 10_000;

/// A numbered file name: what stands in front of the number, part and parts, and the ending.
fn numbered(path: &str) -> Option<(&str, u64, u64, &str)> {
    let (stem, ending) = path.rsplit_once('.')?;
    let (stem, parts) = stem.rsplit_once("-of-")?;
    let (stem, part) = stem.rsplit_once('-')?;
    let number = |text: &str| {
        let digits = (4..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u64>().ok() } else { None }
    };
    Some((stem, number(part)?, number(parts)?, ending))
}

/// Numbered files are complete, and no others than those of the index.
pub(super) fn complete(files: &[FileFacts], index: Option<&Index>, report: &mut Report) {
    let mut sets: BTreeMap<(&str, u64, &str), BTreeMap<u64, &str>> = BTreeMap::new();
    for file in files {
        if let Some((stem, part, parts, ending)) = numbered(&file.path) {
            sets.entry((stem, parts, ending)).or_default().insert(part, &file.path);
        }
    }
    for ((stem, parts, ending), found) in sets {
        // The index is the better witness for its own shards.
        let listed = |path: &str| index.is_some_and(|index| is_shard(index, path));
        if found.values().any(|path| listed(path)) {
            for path in found.values().filter(|path| !listed(path)) {
                let what = "the index does not list this shard".into();
                report.warning(Word::ExtraShard, Some(path), what, MIXED);
            }
            continue;
        }
        if parts > PART_LIMIT {
            let what = format!("its name speaks of {parts} parts, the limit is {PART_LIMIT}");
            report.error(Word::PartsDisagree, found.values().next().copied(), what, MIXED);
            continue;
        }
        // Numbers keep the width that the files at hand have.
        let width = found.values().next().and_then(|path| numbered_width(path)).unwrap_or(5);
        for part in (1..=parts).filter(|part| !found.contains_key(part)) {
            let path = format!("{stem}-{part:0width$}-of-{parts:0width$}.{ending}");
            let what = format!("part {part} of {parts} is missing: {}", shown(&path));
            report.error(Word::MissingShard, Some(&path), what, FETCH);
        }
        for (part, path) in found.iter().filter(|(part, _)| **part == 0 || **part > parts) {
            let what = format!("it calls itself part {part} of {parts}");
            report.error(Word::PartsDisagree, Some(path), what, MIXED);
        }
    }
}

fn numbered_width(path: &str) -> Option<usize> {
    Some(path.rsplit_once('.')?.0.rsplit_once("-of-")?.1.len())
}

/// The parts of split GGUF models agree with each other and with their names.
pub(super) fn agree(files: &[FileFacts], report: &mut Report) {
    let mut models: BTreeMap<(&str, u64), Vec<(&str, &gguf::Header)>> = BTreeMap::new();
    for file in files {
        let Contents::Gguf(Ok(header)) = &file.contents else { continue };
        let name = numbered(&file.path);
        let (part, parts) = name.map_or((1, 1), |(_, part, parts, _)| (part, parts));
        let (own_part, own_parts) =
            header.split.map_or((1, 1), |split| (split.part.saturating_add(1), split.parts));
        if (part, parts) != (own_part, own_parts) {
            let what =
                format!("named part {part} of {parts}, its header says part {own_part} of {own_parts}");
            report.error(Word::PartsDisagree, Some(&file.path), what, MIXED);
        } else if let Some((stem, _, parts, _)) = name {
            models.entry((stem, parts)).or_default().push((&file.path, header));
        }
    }
    for ((_, parts), found) in models.into_iter().filter(|((_, parts), found)| found.len() as u64 == *parts) {
        let mut names = BTreeSet::new();
        let tensors = found.iter().flat_map(|(_, header)| &header.tensors);
        let twice: Vec<&str> =
            tensors.map(|tensor| tensor.name.as_str()).filter(|name| !names.insert(*name)).collect();
        if !twice.is_empty() {
            let what = format!("tensors lie in more than one part: {}", some(&twice));
            report.error(Word::DuplicateTensor, Some(found[0].0), what, MIXED);
        }
        let claimed: BTreeSet<u64> = found.iter().filter_map(|(_, header)| header.split?.tensors).collect();
        let held: usize = found.iter().map(|(_, header)| header.tensors.len()).sum();
        if claimed.iter().any(|claimed| *claimed != held as u64) {
            let claimed: Vec<String> = claimed.iter().map(u64::to_string).collect();
            let what = format!("the {parts} parts hold {held} tensors and claim {}", claimed.join(" or "));
            report.error(Word::PartsDisagree, Some(found[0].0), what, MIXED);
        }
    }
}
