//! Names that are alike: how they are folded, compared and offered.

/// Characters of a name that are looked at; longer ones are cut.
const LONGEST: usize = 200;
/// How alike two names must be for the one to be offered for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.7;

/// Letters and digits only, in lower case, so that `mistral7b` and `Mistral-7B` are the same.
pub(super) fn folded(text: &str) -> String {
    text.chars().take(LONGEST).filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// A name as it may stand in a message: short, and nothing in it that could spoil a terminal.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| if c == '\'' { vec![c] } else { c.escape_debug().collect() })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// The `n` things whose names are most like `asked`, the most alike first. A thing is what is offered, with the names
/// that are compared.
pub(super) fn nearest<'a, N>(asked: &str, things: impl Iterator<Item = (&'a str, N)>, n: usize) -> Vec<String>
where
    N: Iterator<Item = &'a str>,
{
    let asked = folded(asked);
    let likeness = |name: &str| strsim::jaro_winkler(&asked, &folded(name));
    let mut scored: Vec<(f64, &str)> = things
        .map(|(offer, names)| (names.map(likeness).fold(0.0, f64::max), offer))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    // Stable, so that of equally good ones the first in the file wins.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(n).map(|(_, offer)| offer.to_owned()).collect()
}

/// The one of `known` that is most like `asked`, if one is alike at all.
pub(super) fn best<'a>(asked: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = nearest(asked, known.iter().map(|name| (*name, std::iter::once(*name))), 1).pop()?;
    known.iter().find(|known| **known == name).copied()
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn either(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
