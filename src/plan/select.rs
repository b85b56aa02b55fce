//! Which files of a repo to fetch: one weight format, once.
//!
//! A repo often carries the same weights four times over (41.4 GB instead of 13.8 GB in one field report).
//! So larder takes one format: safetensors where there are any, else one GGUF quantization with all of its
//! parts, else pickled weights if the caller accepts that loading them runs code. `include` patterns
//! override the choice of format, never the check for pickle.

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use larder_jobs::{Download, FilePath, Format, Glob, Reason, RepoFile};
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Result};

/// Without a budget for the GPU's memory, the quantization that the field takes by default comes first
/// (llama.cpp's `-hf` and Ollama both mean Q4_K_M), then its neighbours from better to larger.
const GGUF_ORDER: &[&str] = &[
    "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "Q4_K_S", "Q5_K_S", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "BF16", "F16",
    "F32",
];
/// Folders with the same weights for other runtimes.
const OTHER_FOLDERS: &[&str] = &["onnx", "openvino", "coreml", "original", "metal", "flax", "tf"];
const OTHER_ENDINGS: &[&str] =
    &["msgpack", "h5", "ot", "onnx", "onnx_data", "tflite", "mlmodel", "mlpackage", "pb", "engine", "xml"];
const PICKLE_ENDINGS: &[&str] = &["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

/// Why a file is not fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// No `include` pattern matches, or an `exclude` pattern does.
    Pattern,
    /// The same weights in a format that was not chosen.
    OtherFormat,
    /// Weights for another runtime (ONNX, TensorFlow, Flax, Core ML, …).
    OtherRuntime,
    /// Another quantization, precision or sharding of the chosen format.
    OtherVariant,
    /// Pickled data, and `allow_unsafe` is not set.
    Unsafe,
    /// Python code of the repo, and `allow_unsafe` is not set.
    RemoteCode,
}

/// The weight format that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Safetensors.
    Safetensors,
    /// GGUF, with the quantization's name if the file names tell it.
    Gguf(Option<String>),
    /// Pickled PyTorch weights.
    Pickle,
    /// Chosen by patterns, or there was nothing to choose between.
    AsListed,
}

/// What to fetch, what not, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The files to fetch, in the order of their paths.
    pub files: Vec<RepoFile>,
    /// The files that are left out.
    pub skipped: Vec<(FilePath, Skip)>,
    /// The weight format.
    pub weights: Weights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Safetensors,
    Gguf,
    Pickle,
    OtherRuntime,
    Code,
    Plain,
}

/// Chooses among `files` as `want` says. The order of `files` does not matter.
///
/// # Errors
/// `unsafe_format` if only pickled weights are there and they are not allowed, `not_found` if the format
/// or the patterns match nothing.
pub fn select(files: &[RepoFile], want: &Download) -> Result<Selection> {
    let mut files: Vec<_> = files.to_vec();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let (include, exclude) = (globs(&want.include)?, globs(&want.exclude)?);
    let mut skipped = Vec::new();
    files.retain(|file| {
        let keep = (want.include.is_empty() || include.is_match(file.path.as_str()))
            && !exclude.is_match(file.path.as_str());
        if !keep {
            skipped.push((file.path.clone(), Skip::Pattern));
        }
        keep
    });
    if files.is_empty() {
        return Err(Error::new(
            Reason::NotFound,
            format!("no file of {} is left by the patterns", want.model()),
            "look at the repo's files on the hub, then widen --include or narrow --exclude",
        ));
    }
    let weights = if want.include.is_empty() || want.format != Format::Auto {
        choose_format(&files, want)?
    } else {
        Weights::AsListed
    };
    let variants = chosen_variants(&files, &weights);
    let keep_code = want.allow_unsafe || !want.include.is_empty();
    files.retain(|file| match skip(file, &weights, &variants, want.allow_unsafe, keep_code) {
        Some(why) => {
            skipped.push((file.path.clone(), why));
            false
        }
        None => true,
    });
    if files.is_empty() {
        return Err(unsafe_only(want));
    }
    skipped.sort();
    Ok(Selection { files, skipped, weights })
}

fn skip(
    file: &RepoFile,
    weights: &Weights,
    variants: &BTreeSet<FilePath>,
    allow_unsafe: bool,
    keep_code: bool,
) -> Option<Skip> {
    let role = role(&file.path);
    match (role, weights) {
        (Role::Code, _) if !keep_code => Some(Skip::RemoteCode),
        (Role::Code | Role::Plain, _) => None,
        (Role::Pickle, Weights::Pickle) => (!allow_unsafe).then_some(Skip::Unsafe),
        (_, Weights::AsListed) => (is_pickle(&file.path) && !allow_unsafe).then_some(Skip::Unsafe),
        (Role::OtherRuntime, _) => Some(Skip::OtherRuntime),
        (Role::Safetensors, Weights::Safetensors) | (Role::Gguf, Weights::Gguf(_)) => {
            (!variants.contains(&file.path)).then_some(Skip::OtherVariant)
        }
        _ => Some(Skip::OtherFormat),
    }
}

fn choose_format(files: &[RepoFile], want: &Download) -> Result<Weights> {
    let has = |wanted: Role| files.iter().any(|file| role(&file.path) == wanted);
    let missing = |format: Format| {
        let there: Vec<_> =
            [(Role::Safetensors, "safetensors"), (Role::Gguf, "gguf"), (Role::Pickle, "pickle")]
                .into_iter()
                .filter_map(|(role, word)| has(role).then_some(word))
                .collect();
        let there =
            if there.is_empty() { "no weights that larder knows".to_owned() } else { there.join(", ") };
        Error::new(
            Reason::NotFound,
            format!("{} has no {} weights", want.model(), format.word()),
            format!("choose another --format; the repo has: {there}"),
        )
    };
    match want.format {
        Format::Auto if has(Role::Safetensors) => Ok(Weights::Safetensors),
        Format::Auto if has(Role::Gguf) => Ok(Weights::Gguf(best_quant(files))),
        Format::Auto if has(Role::Pickle) && has_pickled_weights(files) => {
            if want.allow_unsafe {
                Ok(Weights::Pickle)
            } else {
                Err(unsafe_only(want))
            }
        }
        Format::Auto => Ok(Weights::AsListed),
        Format::Safetensors if has(Role::Safetensors) => Ok(Weights::Safetensors),
        Format::Gguf if has(Role::Gguf) => Ok(Weights::Gguf(best_quant(files))),
        Format::Pickle if has(Role::Pickle) => Ok(Weights::Pickle),
        format => Err(missing(format)),
    }
}

fn unsafe_only(want: &Download) -> Error {
    Error::new(
        Reason::UnsafeFormat,
        format!("{} has only pickled weights, and loading those runs code from the repo", want.model()),
        "look for a safetensors conversion (often at @refs/pr/1), or set --allow-unsafe if you trust the repo",
    )
}

/// Loose pickles such as `training_args.bin` are not weights.
fn has_pickled_weights(files: &[RepoFile]) -> bool {
    let aside = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"];
    files.iter().any(|file| role(&file.path) == Role::Pickle && !aside.contains(&file.path.name()))
}

/// The weight format and the quantization, as far as file names tell.
pub fn describe<'a>(paths: impl Iterator<Item = &'a str>) -> (Option<&'static str>, Option<String>) {
    let mut found: BTreeMap<&'static str, Option<String>> = BTreeMap::new();
    for path in paths.filter_map(|path| path.parse::<FilePath>().ok()) {
        match role(&path) {
            Role::Gguf if !is_projector(&path) => found.insert("gguf", quant_of(&path)),
            Role::Safetensors => found.insert("safetensors", None),
            Role::Pickle => found.insert("pickle", None),
            _ => None,
        };
    }
    let order = ["safetensors", "gguf", "pickle"];
    order.into_iter().find_map(|word| Some((Some(word), found.remove(word)?))).unwrap_or((None, None))
}

/// The GGUF files of a repo by quantization, each a complete set of weights; what no name tells is left out.
pub fn gguf_sets(files: &[RepoFile]) -> BTreeMap<String, Vec<RepoFile>> {
    let mut sets: BTreeMap<String, Vec<RepoFile>> = BTreeMap::new();
    let weights = files.iter().filter(|file| role(&file.path) == Role::Gguf && !is_projector(&file.path));
    for (quant, file) in weights.filter_map(|file| Some((quant_of(&file.path)?, file))) {
        sets.entry(quant).or_default().push(file.clone());
    }
    for (quant, set) in &mut sets {
        let one = one_gguf_set(set, Some(quant));
        set.retain(|file| one.contains(&file.path));
    }
    sets
}

/// Whether loading the file runs code, wherever in the repo it lies. OpenVINO's and ONNX's `.bin` are plain data.
fn is_pickle(path: &FilePath) -> bool {
    let lower = path.as_str().to_ascii_lowercase();
    let data = lower.starts_with("onnx/") || lower.starts_with("openvino/");
    let ending = lower.rsplit_once('.').map_or("", |(_, ending)| ending);
    PICKLE_ENDINGS.contains(&ending) && !(data && ending == "bin")
}

fn role(path: &FilePath) -> Role {
    let name = path.name().to_ascii_lowercase();
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let folder = path.as_str().split('/').next().filter(|_| path.depth() > 0).unwrap_or("");
    if OTHER_FOLDERS.contains(&folder.to_ascii_lowercase().as_str()) || OTHER_ENDINGS.contains(&ending) {
        return Role::OtherRuntime;
    }
    match ending {
        "safetensors" => Role::Safetensors,
        "gguf" => Role::Gguf,
        "py" => Role::Code,
        _ if name.ends_with(".safetensors.index.json") => Role::Safetensors,
        _ if name.ends_with(".bin.index.json") => Role::Pickle,
        _ if PICKLE_ENDINGS.contains(&ending) => Role::Pickle,
        _ => Role::Plain,
    }
}

/// The files of the chosen format that are one complete set of weights.
fn chosen_variants(files: &[RepoFile], weights: &Weights) -> BTreeSet<FilePath> {
    match weights {
        Weights::Safetensors => one_safetensors_set(files),
        Weights::Gguf(quant) => one_gguf_set(files, quant.as_deref()),
        Weights::Pickle | Weights::AsListed => BTreeSet::new(),
    }
}

/// Per folder: the plain set before precision variants (`model.fp16.safetensors`), a single file before its
/// shards (as transformers looks them up), and `consolidated*` only where there is nothing else.
fn one_safetensors_set(files: &[RepoFile]) -> BTreeSet<FilePath> {
    let paths: Vec<_> = files.iter().map(|f| &f.path).filter(|p| role(p) == Role::Safetensors).collect();
    let mut folders: BTreeMap<&str, Vec<&FilePath>> = BTreeMap::new();
    for path in paths {
        folders
            .entry(path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder))
            .or_default()
            .push(path);
    }
    let mut chosen = BTreeSet::new();
    for group in folders.values() {
        let names: BTreeSet<_> = group.iter().map(|path| path.name()).collect();
        let has_others = names.iter().any(|name| !name.starts_with("consolidated"));
        for path in group {
            let name = path.name();
            let aside = name.starts_with("consolidated") && has_others
                || plain_name(name).is_some_and(|plain| set_exists(&names, &plain))
                || unsharded_name(name).is_some_and(|single| names.contains(single.as_str()));
            if !aside {
                chosen.insert((*path).clone());
            }
        }
    }
    chosen
}

fn set_exists(names: &BTreeSet<&str>, plain: &str) -> bool {
    names.contains(plain) || names.iter().any(|name| unsharded_name(name).as_deref() == Some(plain))
}

/// `model.fp16.safetensors` and `model.fp16-00001-of-00002.safetensors` are `model.safetensors` in half precision.
fn plain_name(name: &str) -> Option<String> {
    const PRECISIONS: &[&str] = &["fp16", "bf16", "fp32", "fp8", "non_ema", "ema"];
    let name = name.strip_suffix(".index.json").unwrap_or(name);
    let stem = name.strip_suffix(".safetensors")?;
    let stem = unshard(stem).unwrap_or(stem);
    let (base, precision) = stem.rsplit_once('.')?;
    PRECISIONS.contains(&precision).then(|| format!("{base}.safetensors"))
}

/// `model-00001-of-00002.safetensors` and `model.safetensors.index.json` are shards of `model.safetensors`.
fn unsharded_name(name: &str) -> Option<String> {
    if let Some(single) = name.strip_suffix(".index.json") {
        return Some(single.to_owned());
    }
    let (stem, ending) = name.rsplit_once('.')?;
    unshard(stem).map(|base| format!("{base}.{ending}"))
}

/// The part before `-00001-of-00002`.
fn unshard(stem: &str) -> Option<&str> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (base, part) = rest.rsplit_once('-')?;
    let number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    (number(total) && number(part)).then_some(base)
}

/// The quantization in a GGUF's file name, as llama.cpp names them.
fn quant_of(path: &FilePath) -> Option<String> {
    let upper = path.as_str().strip_suffix(".gguf").unwrap_or(path.as_str()).to_ascii_uppercase();
    let is_quant = |token: &&str| {
        let body = token.strip_prefix('I').unwrap_or(token);
        matches!(*token, "BF16" | "F16" | "F32")
            || body.strip_prefix('Q').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            || token.starts_with("TQ")
            || *token == "MXFP4"
    };
    upper.rsplit(['-', '.', '/', ' ']).find(is_quant).map(str::to_owned)
}

fn is_projector(path: &FilePath) -> bool {
    path.name().to_ascii_lowercase().contains("mmproj")
}

fn best_quant(files: &[RepoFile]) -> Option<String> {
    let quants: BTreeSet<_> = files
        .iter()
        .filter(|file| role(&file.path) == Role::Gguf && !is_projector(&file.path))
        .filter_map(|file| quant_of(&file.path))
        .collect();
    let rank =
        |quant: &String| GGUF_ORDER.iter().position(|known| known == quant).unwrap_or(GGUF_ORDER.len());
    quants.into_iter().min_by_key(rank)
}

/// All parts of one quantization, and one vision projector if there are any.
fn one_gguf_set(files: &[RepoFile], quant: Option<&str>) -> BTreeSet<FilePath> {
    let all: Vec<_> = files.iter().map(|f| &f.path).filter(|p| role(p) == Role::Gguf).collect();
    let (projectors, models): (Vec<&FilePath>, Vec<&FilePath>) =
        all.into_iter().partition(|p| is_projector(p));
    let group = |path: &FilePath| {
        let stem = path.as_str().strip_suffix(".gguf").unwrap_or(path.as_str());
        unshard(stem).unwrap_or(stem).to_owned()
    };
    // Several files of one quantization (say, of two model sizes) are several models: the first in order is taken.
    let first = models.iter().filter(|path| quant_of(path).as_deref() == quant).map(|path| group(path)).min();
    let mut chosen: BTreeSet<FilePath> =
        models.into_iter().filter(|path| Some(group(path)) == first).cloned().collect();
    let precise = |path: &&&FilePath| quant_of(path).as_deref() == Some("F16");
    chosen.extend(projectors.iter().find(precise).or(projectors.first()).map(|path| (*path).clone()));
    chosen
}

/// The hub's patterns are Python's `fnmatch`: `*` crosses `/`, braces mean themselves, `x/` means all below.
fn globs(patterns: &[Glob]) -> Result<GlobSet> {
    let wrong = |pattern: &Glob, error: &globset::Error| {
        Error::new(
            Reason::InvalidRequest,
            format!("`{pattern}` is not a file pattern: {}", error.kind()),
            "use *, ? and [abc] as in the shell",
        )
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let mut text = pattern.as_str().replace('{', "[{]").replace('}', "[}]");
        if text.ends_with('/') {
            text.push('*');
        }
        let glob = GlobBuilder::new(&text).literal_separator(false).backslash_escape(false).build();
        set.add(glob.map_err(|error| wrong(pattern, &error))?);
    }
    set.build().map_err(|error| Error::internal(format!("the patterns cannot be combined: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::Digest;
    use proptest::prelude::*;

    fn file(path: &str) -> RepoFile {
        RepoFile {
            path: path.parse().expect("path"),
            size: 1,
            digest: Digest::git_sha1(&"0".repeat(40)).expect("digest"),
        }
    }

    fn want() -> Download {
        Download::new("owner/name".parse().expect("model"))
    }

    fn chosen(paths: &[&str], want: &Download) -> Vec<String> {
        let files: Vec<_> = paths.iter().map(|path| file(path)).collect();
        select(&files, want).expect("selects").files.iter().map(|f| f.path.to_string()).collect()
    }

    fn patterns(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| text.parse().expect("glob")).collect()
    }

    #[test]
    fn one_format_and_what_loads_it() {
        let gpt2 = [
            "64.tflite",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "merges.txt",
            "model.safetensors",
            "onnx/config.json",
            "onnx/decoder_model.onnx",
            "pytorch_model.bin",
            "rust_model.ot",
            "tf_model.h5",
            "tokenizer.json",
            "vocab.json",
            "modeling_x.py",
        ];
        let taken =
            ["README.md", "config.json", "merges.txt", "model.safetensors", "tokenizer.json", "vocab.json"];
        assert_eq!(chosen(&gpt2, &want()), taken);
    }

    #[test]
    fn shards_variants_and_originals() {
        let paths = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/consolidated.00.pth",
            "unet/diffusion.fp16.safetensors",
            "unet/diffusion.safetensors",
        ];
        let taken = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "unet/diffusion.safetensors",
        ];
        assert_eq!(chosen(&paths, &want()), taken);
        let both = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(chosen(&both, &want()), ["model.safetensors"]);
        assert_eq!(chosen(&["x.fp16.safetensors", "y.json"], &want()), ["x.fp16.safetensors", "y.json"]);
    }

    #[test]
    fn one_quantization_with_all_its_parts() {
        let paths = [
            "m-Q8_0.gguf",
            "m-Q4_K_M-00001-of-00002.gguf",
            "m-Q4_K_M-00002-of-00002.gguf",
            "m-IQ2_XS.gguf",
            "mmproj-F16.gguf",
            "mmproj-F32.gguf",
            "README.md",
        ];
        let taken =
            ["README.md", "m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "mmproj-F16.gguf"];
        assert_eq!(chosen(&paths, &want()), taken);
        let mut other = want();
        other.include = patterns(&["*Q8_0*"]);
        assert_eq!(chosen(&paths, &other), ["m-Q8_0.gguf"]);
    }

    #[test]
    fn pickle_only_is_refused_unless_allowed() {
        let files = [file("config.json"), file("pytorch_model.bin")];
        let error = select(&files, &want()).expect_err("refused");
        assert_eq!(error.reason(), Reason::UnsafeFormat);
        let mut trusting = want();
        trusting.allow_unsafe = true;
        assert_eq!(
            chosen(&["config.json", "pytorch_model.bin", "m.py"], &trusting),
            ["config.json", "m.py", "pytorch_model.bin"]
        );
        let mut named = want();
        named.include = patterns(&["pytorch_model.bin"]);
        assert_eq!(select(&files, &named).expect_err("refused").reason(), Reason::UnsafeFormat);
    }

    #[test]
    fn a_format_that_is_not_there_is_not_found() {
        let mut gguf = want();
        gguf.format = Format::Gguf;
        let error = select(&[file("model.safetensors")], &gguf).expect_err("refused");
        assert_eq!(error.reason(), Reason::NotFound);
        assert!(error.hint().contains("safetensors"), "{error:?}");
    }

    #[test]
    fn patterns_mean_what_fnmatch_means() {
        let paths = ["1_Pooling/config.json", "config.json", "a{b}.json", "onnx/model.onnx"];
        let mut some = want();
        some.include = patterns(&["1_Pooling/", "a{b}*"]);
        assert_eq!(chosen(&paths, &some), ["1_Pooling/config.json", "a{b}.json"]);
        some.include = patterns(&["*.json"]);
        some.exclude = patterns(&["1_*"]);
        assert_eq!(chosen(&paths, &some), ["a{b}.json", "config.json"]);
        some.include = patterns(&["onnx/*"]);
        assert_eq!(chosen(&paths, &some), ["onnx/model.onnx"]);
        some.include = patterns(&["nothing*"]);
        let files: Vec<_> = paths.iter().map(|path| file(path)).collect();
        assert_eq!(select(&files, &some).expect_err("nothing").reason(), Reason::NotFound);
    }

    proptest! {
        /// Every file is either taken or skipped with a reason, and the order of the listing does not matter.
        #[test]
        fn nothing_is_forgotten(names in prop::collection::btree_set("(onnx/|a/)?(model|x)(-00001-of-00002)?(\\.fp16|-Q4_K_M|-Q8_0)?\\.(safetensors|gguf|bin|json|py|h5)", 1..20), seed in any::<u64>()) {
            let mut files: Vec<_> = names.iter().map(|name| file(name)).collect();
            let first = select(&files, &want());
            let rotate = usize::try_from(seed % files.len() as u64).expect("small");
            files.rotate_left(rotate);
            let second = select(&files, &want());
            prop_assert_eq!(&first, &second);
            if let Ok(selection) = first {
                prop_assert_eq!(selection.files.len() + selection.skipped.len(), files.len());
                prop_assert!(!selection.files.iter().any(|f| is_pickle(&f.path)));
            }
        }
    }
}
