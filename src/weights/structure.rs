//! The structure check: do the weight files of one snapshot belong together, and is each of them whole?
//!
//! It reads headers only. A shard that is missing, cut or swapped with another revision's is found before an engine
//! spends minutes on loading the rest.

mod parts;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::gguf::{self, GgufError};
use super::safetensors::{self, HeaderError};
use super::{Index, Tensor, shown};

/// The most findings that are reported one by one; a last one counts the rest.
pub const FINDING_LIMIT: usize = 200;
/// Names that a finding gives as examples.
const EXAMPLES: usize = 3;

/// One weight file of a snapshot and what could be read of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileFacts {
    /// Path in the repo, with `/`.
    pub path: String,
    /// Size in bytes, if known.
    pub size: Option<u64>,
    /// Its header.
    pub contents: Contents,
}

/// What could be read of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// A safetensors header or why there is none.
    Safetensors(Result<safetensors::Header, HeaderError>),
    /// A GGUF header or why there is none.
    Gguf(Result<gguf::Header, GgufError>),
    /// Nobody has read it.
    NotRead,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Engines will not load the model, or load something else.
    Error,
    /// Odd, and it may still load.
    Warning,
}

/// What kind of finding it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// A shard of the index, or a numbered part, is not there.
    MissingShard,
    /// A file that belongs to the set was not read.
    NotRead,
    /// The header does not parse or contradicts itself.
    BadHeader,
    /// File and header disagree about where the file ends.
    BadEnd,
    /// The index lists a tensor that no shard holds.
    MissingTensor,
    /// A tensor lies in another shard than the index says.
    MisplacedTensor,
    /// A tensor lies in two files.
    DuplicateTensor,
    /// A shard holds a tensor that the index does not list.
    ExtraTensor,
    /// A numbered shard that the index does not list.
    ExtraShard,
    /// A dtype that is not known here.
    UnknownDtype,
    /// Parts of a model that disagree about how many they are.
    PartsDisagree,
    /// `total_size` of the index is not the shards' sum.
    WrongTotal,
    /// There is nothing to check.
    NoWeights,
    /// More findings than are reported.
    More,
}

/// One thing that is wrong, what it means, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its kind.
    pub word: Word,
    /// The file that it is about.
    pub path: Option<String>,
    /// One sentence about what is wrong.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
}

const FETCH: &str = "fetch the file again; if it is missing on the hub as well, choose another revision";
const MIXED: &str = "the shards are of different revisions or conversions; fetch them all at one commit";
const READ: &str = "read the file's header, or fetch the file first";
const UNKNOWN: &str = "check that the engine knows this dtype, or choose another variant";
const TOTAL: &str = "nothing to do: larder counts the bytes of the headers, not the index's total";

/// Checks the weight files of one snapshot against each other and against the index. Errors come first.
///
/// ```
/// use larder::weights::{Contents, FileFacts, structure};
///
/// let first = FileFacts { path: "m-00001-of-00002.gguf".into(), size: None, contents: Contents::NotRead };
/// let findings = structure::check(&[first], None);
/// assert_eq!(findings[0].what, "part 2 of 2 is missing: m-00002-of-00002.gguf");
/// ```
pub fn check(files: &[FileFacts], index: Option<&Index>) -> Vec<Finding> {
    let mut report = Report::default();
    if files.is_empty() && index.is_none() {
        report.error(
            Word::NoWeights,
            None,
            "there is no weight file".into(),
            "choose another repo or format",
        );
    }
    for file in files {
        one(file, &mut report);
    }
    parts::complete(files, index, &mut report);
    if let Some(index) = index {
        against_index(files, index, &mut report);
    }
    parts::agree(files, &mut report);
    report.finish()
}

/// Findings so far; beyond the bound they are only counted.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    more: usize,
}

impl Report {
    fn add(&mut self, severity: Severity, word: Word, path: Option<&str>, what: String, hint: &'static str) {
        // A later error is worth more than an earlier warning, so warnings may only fill half of the report.
        let limit = if severity == Severity::Error { FINDING_LIMIT } else { FINDING_LIMIT / 2 };
        if self.findings.len() < limit {
            self.findings.push(Finding { severity, word, path: path.map(shown), what, hint });
        } else {
            self.more += 1;
        }
    }

    fn error(&mut self, word: Word, path: Option<&str>, what: String, hint: &'static str) {
        self.add(Severity::Error, word, path, what, hint);
    }

    fn warning(&mut self, word: Word, path: Option<&str>, what: String, hint: &'static str) {
        self.add(Severity::Warning, word, path, what, hint);
    }

    fn finish(self) -> Vec<Finding> {
        let mut findings = self.findings;
        findings.sort_by_key(|finding| finding.severity);
        if self.more > 0 {
            findings.push(Finding {
                severity: Severity::Warning,
                word: Word::More,
                path: None,
                what: format!("{} more findings are not listed", self.more),
                hint: "mend the listed ones first, then check again",
            });
        }
        findings
    }
}

/// Names in a sentence: a few of them, and how many there are.
fn some(names: &[&str]) -> String {
    let quoted: Vec<String> =
        names.iter().take(EXAMPLES).map(|name| format!("\"{}\"", shown(name))).collect();
    match names.len().saturating_sub(EXAMPLES) {
        0 => quoted.join(", "),
        rest => format!("{} and {rest} more", quoted.join(", ")),
    }
}

/// What a file's own header tells.
fn one(file: &FileFacts, report: &mut Report) {
    let path = Some(file.path.as_str());
    let word = |end: bool| if end { Word::BadEnd } else { Word::BadHeader };
    let tensors = match &file.contents {
        Contents::Safetensors(Ok(header)) => &header.tensors,
        Contents::Gguf(Ok(header)) => &header.tensors,
        Contents::Safetensors(Err(error)) => {
            return report.error(word(error.is_about_the_end()), path, error.to_string(), error.hint());
        }
        Contents::Gguf(Err(error)) => {
            return report.error(word(error.is_about_the_end()), path, error.to_string(), error.hint());
        }
        Contents::NotRead => {
            return report.warning(Word::NotRead, path, "its header was not read".into(), READ);
        }
    };
    let known = |tensor: &Tensor| match &file.contents {
        Contents::Gguf(_) => !tensor.dtype.starts_with("ggml_type_"),
        _ => safetensors::bits(&tensor.dtype).is_some(),
    };
    let unknown: BTreeSet<&str> =
        tensors.iter().filter(|tensor| !known(tensor)).map(|tensor| tensor.dtype.as_ref()).collect();
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.into_iter().collect();
        report.warning(
            Word::UnknownDtype,
            path,
            format!("dtypes that are not known: {}", some(&names)),
            UNKNOWN,
        );
    }
}

fn is_shard(index: &Index, path: &str) -> bool {
    index.shards.binary_search_by(|shard| shard.as_str().cmp(path)).is_ok()
}

/// Every tensor of the index lies in its shard, and nothing else does.
fn against_index(files: &[FileFacts], index: &Index, report: &mut Report) {
    let by_path: HashMap<&str, &FileFacts> = files.iter().map(|file| (file.path.as_str(), file)).collect();
    // For each shard of the index its header, if there is one.
    let mut headers: Vec<Option<&safetensors::Header>> = Vec::new();
    for shard in &index.shards {
        headers.push(match by_path.get(shard.as_str()) {
            None => {
                let what = format!("the index needs this shard and it is missing: {}", shown(shard));
                report.error(Word::MissingShard, Some(shard), what, FETCH);
                None
            }
            Some(FileFacts { contents: Contents::Safetensors(Ok(header)), .. }) => Some(header),
            // Reported with the file itself.
            Some(_) => None,
        });
    }
    let mut found: HashMap<&str, usize> = HashMap::new();
    let mut twice = Vec::new();
    for (place, header) in headers.iter().enumerate() {
        for tensor in header.iter().flat_map(|header| &header.tensors) {
            let listed = index.tensors.get(&tensor.name) == Some(&place);
            match found.get_mut(tensor.name.as_str()) {
                None => drop(found.insert(&tensor.name, place)),
                Some(first) => {
                    twice.push(tensor.name.as_str());
                    if listed {
                        *first = place;
                    }
                }
            }
        }
    }
    if !twice.is_empty() {
        let what = format!("tensors lie in more than one shard: {}", some(&twice));
        report.warning(Word::DuplicateTensor, Some(&index.path), what, MIXED);
    }
    tensors_in_place(index, &headers, &found, report);
    total(index, &headers, report);
}

/// Compares the index's tensors with those found, shard by shard.
fn tensors_in_place(
    index: &Index,
    headers: &[Option<&safetensors::Header>],
    found: &HashMap<&str, usize>,
    report: &mut Report,
) {
    let all_read = headers.iter().all(Option::is_some);
    let mut missing: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut elsewhere: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for (name, place) in &index.tensors {
        match found.get(name.as_str()) {
            Some(at) if at == place => {}
            Some(at) => elsewhere.entry((*place, *at)).or_default().push(name),
            None if headers.get(*place).is_some_and(Option::is_some) => {
                missing.entry(*place).or_default().push(name);
            }
            None => {}
        }
    }
    let path = |place: usize| index.shards.get(place).map_or("", String::as_str);
    for (place, names) in missing {
        let rest = if all_read { "and no other shard has them" } else { "and some shards could not be read" };
        let what = format!("tensors that the index places here are missing, {rest}: {}", some(&names));
        report.error(Word::MissingTensor, Some(path(place)), what, MIXED);
    }
    for ((place, at), names) in elsewhere {
        let what = format!("tensors that the index places here lie in {}: {}", shown(path(at)), some(&names));
        report.error(Word::MisplacedTensor, Some(path(place)), what, MIXED);
    }
    for (place, header) in headers.iter().enumerate() {
        let extra: Vec<&str> = header
            .iter()
            .flat_map(|header| &header.tensors)
            .map(|tensor| tensor.name.as_str())
            .filter(|name| !index.tensors.contains_key(*name))
            .collect();
        if !extra.is_empty() {
            let what = format!("tensors that the index does not list: {}", some(&extra));
            report.warning(Word::ExtraTensor, Some(path(place)), what, MIXED);
        }
    }
}

/// The index's total against the sum of the shards' data, where every shard is known.
fn total(index: &Index, headers: &[Option<&safetensors::Header>], report: &mut Report) {
    let sum: Option<u64> = headers.iter().map(|header| header.map(|header| header.data_bytes)).sum();
    if let (Some(total), Some(sum)) = (index.total_size, sum)
        && total != sum
    {
        let what = format!("the index's total_size is {total} bytes, its shards hold {sum}");
        report.warning(Word::WrongTotal, Some(&index.path), what, TOTAL);
    }
}

#[cfg(test)]
mod tests;
