//! What is wrong with a manifest, in words: the line, and the nearest name for a typo.

use larder_jobs::Invalid;

/// How alike two names must be for the one to be offered for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;
/// Most characters of a parser's own words.
const MAX_WORDS: usize = 300;

/// A parser's error, with its line.
pub(super) fn explain(line: Option<usize>, message: &str) -> Invalid {
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    let first: String =
        message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_WORDS).collect();
    let hint = "see config/examples/warm.toml for every key";
    let Some((unknown, known)) = unknown_field(&first) else {
        let what = plain(&first).unwrap_or(&first);
        return Invalid::new(format!("{place}the manifest cannot be read: {what}"), hint);
    };
    let scored = known.iter().map(|known| (strsim::jaro_winkler(&unknown, known), known));
    let near = scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match near {
        Some((_, near)) => format!("did you mean `{near}`? {hint}"),
        None => format!("known here: {}", known.join(", ")),
    };
    Invalid::new(format!("{place}unknown key `{}`", unknown.escape_debug()), hint)
}

/// Serde's words for a key that nobody knows: the key, and those that are known. In TOML they are quoted, in YAML not.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let rest = rest.split(" at line ").next().unwrap_or(rest);
    let (_, list) = rest.split_once("expected ").unwrap_or_default();
    let list = list.strip_prefix("one of ").unwrap_or(list).replace(" or ", ",");
    let known = list.split(',').map(|name| name.trim().trim_matches('`').to_owned());
    Some((unknown.to_owned(), known.filter(|name| !name.is_empty()).collect()))
}

/// A YAML parser's words for what stands at the wrong place.
fn plain(message: &str) -> Option<&'static str> {
    const SHAPES: [(&str, &str); 3] = [
        ("mapping start", "keys with values are expected here, `key: value`"),
        ("sequence start", "a list is expected here, `- one`"),
        ("string scalar", "a text is expected here"),
    ];
    let shape = SHAPES.iter().find(|(shape, _)| message.contains("expected") && message.contains(shape));
    shape.map(|(_, plain)| *plain)
}

/// `line 7: `, where `word` stands for the `nth` time, from 1; nothing if it does not.
pub(super) fn at_line(text: &str, word: &str, nth: usize) -> String {
    line_of(text, word, nth).map_or_else(String::new, |line| format!("line {line}: "))
}

/// The line, from 1, in which `word` stands for the `nth` time, comments aside.
pub(super) fn line_of(text: &str, word: &str, nth: usize) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || "._/-@".contains(c);
    let stands = |line: &str| {
        line.match_indices(word)
            .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.filter(|(_, line)| stands(line)).nth(nth.saturating_sub(1)).map(|(n, _)| n + 1)
}
