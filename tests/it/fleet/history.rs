//! What became of each job, from the file in which Redis writes down every change: also what a look at the end does not show.

use std::collections::BTreeMap;
use std::path::Path;

/// A job at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) state: String,
    /// Which queue it is in.
    pub(super) target: String,
    /// Who runs it, or ran it last.
    pub(super) owner: String,
}

/// The moments of each job, in their order.
pub(super) fn read(redis: &Path) -> BTreeMap<String, Vec<Moment>> {
    let folder = std::fs::read_dir(redis.join("appendonlydir")).expect("Redis writes one");
    let mut files: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".incr.aof"));
    files.sort();
    let mut history = BTreeMap::<String, Vec<Moment>>::new();
    for file in files {
        let bytes = std::fs::read(&file).expect("reads");
        let mut rest = bytes.as_slice();
        while let Some(words) = command(&mut rest) {
            note(&mut history, &words);
        }
    }
    history
}

fn note(history: &mut BTreeMap<String, Vec<Moment>>, words: &[String]) {
    let [verb, key, fields @ ..] = words else { return };
    // One that ends is written anew beside its place and moved there.
    let is_job = key.contains(":job:") || key.ends_with(":ended:job");
    if !verb.eq_ignore_ascii_case("hset") || !is_job {
        return;
    }
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find(|pair| pair[0] == name).map(|pair| pair[1].clone())
    };
    let id = key.rsplit_once(":job:").map(|(_, id)| id.to_owned()).or_else(|| field("id")).expect("an id");
    let moments = history.entry(id).or_default();
    let before = moments.last().cloned().unwrap_or_default();
    let now = Moment {
        state: field("state").unwrap_or_else(|| before.state.clone()),
        target: field("target").unwrap_or_else(|| before.target.clone()),
        owner: field("owner").unwrap_or_else(|| before.owner.clone()),
    };
    if now != before {
        moments.push(now);
    }
}

/// The next command: `*2\r\n$4\r\nPING\r\n…`; none at the end, or where a crash cut one off.
fn command(rest: &mut &[u8]) -> Option<Vec<String>> {
    let count = number(rest, b'*')?;
    (0..count)
        .map(|_| {
            let length = number(rest, b'$')?;
            let word = String::from_utf8_lossy(rest.get(..length)?).into_owned();
            *rest = rest.get(length + 2..)?;
            Some(word)
        })
        .collect()
}

fn number(rest: &mut &[u8], sign: u8) -> Option<usize> {
    // Redis notes the time of some commands as a comment.
    while rest.first() == Some(&b'#') {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        *rest = &rest[end + 1..];
    }
    assert_eq!(*rest.first()?, sign, "a file of commands");
    let end = rest.iter().position(|byte| *byte == b'\r')?;
    let number = std::str::from_utf8(&rest[1..end]).ok()?.parse().ok()?;
    *rest = rest.get(end + 2..)?;
    Some(number)
}
