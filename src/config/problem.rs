//! Configuration errors in words: the key, the source, and the nearest name for a typo.

use figment::error::{Actual, Kind};
use larder_jobs::Reason;

use crate::error::Error;

/// How alike two names must be for the one to be offered for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

pub(super) fn explain(error: &figment::Error) -> Error {
    let source = error.metadata.as_ref().map_or_else(
        || "the configuration".to_owned(),
        |metadata| {
            let place = metadata.source.as_ref().map(|source| format!(" {source}")).unwrap_or_default();
            let keys: Vec<_> = error.path.iter().map(String::as_str).collect();
            match &*metadata.name {
                "environment" => {
                    format!("the variable {}", metadata.interpolate(&figment::Profile::Default, &keys))
                }
                "command line" => "a flag".to_owned(),
                _ if place.is_empty() => "the configuration".to_owned(),
                _ => format!("the file{place}"),
            }
        },
    );
    let key = error.path.join(".");
    let (what, hint) = match &error.kind {
        Kind::UnknownField(name, known) => {
            let sections =
                &error.path[..error.path.len().saturating_sub(usize::from(error.path.last() == Some(name)))];
            let full =
                |name: &str| sections.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".");
            let hint = match nearest(name, known) {
                Some(near) => {
                    format!("did you mean `{}`? All keys are in `larder config show --default`", full(near))
                }
                None => format!("known here: {}", known.join(", ")),
            };
            (format!("unknown key `{}` in {source}", full(name)), hint)
        }
        Kind::Message(text) if key.is_empty() => {
            (format!("{source} cannot be read: {}", first_lines(text)), SEE.to_owned())
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let wanted = in_words(expected.to_string());
            // Somebody may have put the secret where its file belongs.
            let is_secret = key.contains("token") && matches!(found, Actual::Str(_) | Actual::Bytes(_));
            let found = if is_secret { "a text".to_owned() } else { found.to_string() };
            (format!("the value of `{key}` in {source} is {found}, but {wanted} is needed"), SEE.to_owned())
        }
        kind => (format!("the value of `{key}` in {source} is not valid: {kind}"), SEE.to_owned()),
    };
    Error::new(Reason::InvalidRequest, what, hint)
}

/// What serde expects, without the names of Rust types.
fn in_words(expected: String) -> String {
    match expected.as_str() {
        "usize" | "u64" | "u32" | "u16" | "i64" | "i32" => "a whole number that is not negative".to_owned(),
        text if text.starts_with("struct ") => "a section with keys".to_owned(),
        _ => expected,
    }
}

const SEE: &str = "see the key's comment in `larder config show --default`";

fn first_lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect::<Vec<_>>().join(" ")
}

/// The name in `known` that is most like `name`, if one is alike at all.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|known| (strsim::jaro_winkler(name, known), *known));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}
