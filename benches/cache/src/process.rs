//! One program from its start to its end: how long it took, what memory it had at most, and what it said.
//!
//! A child's peak memory begins with that of the process that starts it, so the runner keeps no list of files.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use wait4::Wait4 as _;

/// How a program went.
#[derive(Debug)]
pub(crate) struct Run {
    /// Seconds from before its start until it has ended.
    pub(crate) seconds: f64,
    /// Its peak resident memory, bytes.
    pub(crate) peak: u64,
    /// What it wrote to stdout.
    pub(crate) said: String,
    /// Seconds from before its start until the line of stderr that was waited for.
    pub(crate) marked: Option<f64>,
}

/// A child that ends with this value, unless it was taken out because it has ended.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `command`, which must end well. `mark` is a part of a line of stderr whose time is wanted.
pub(crate) fn run(mut command: Command, mark: Option<&str>) -> Result<Run> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut guard = Guard(Some(command.spawn().with_context(|| format!("{name} cannot be started"))?));
    let child = guard.0.as_mut().context("it was just put there")?;
    let mut out = child.stdout.take().context("its output is read")?;
    let errors = BufReader::new(child.stderr.take().context("its errors are read")?);
    let reader = thread::spawn(move || {
        let mut said = String::new();
        out.read_to_string(&mut said).map(|_| said)
    });
    let (mut marked, mut last) = (None, String::new());
    for line in errors.lines() {
        last = line?;
        if marked.is_none() && mark.is_some_and(|mark| last.contains(mark)) {
            marked = Some(begun.elapsed().as_secs_f64());
        }
    }
    // It has closed its output; once it was waited for, its number may be another's and must not be signalled.
    let used = guard.0.take().context("it is still there")?.wait4()?;
    let seconds = begun.elapsed().as_secs_f64();
    if !used.status.success() {
        bail!("{name}: {}: {last}", used.status);
    }
    let Ok(said) = reader.join() else { bail!("the reader of {name} died") };
    Ok(Run { seconds, peak: used.rusage.maxrss, said: said?, marked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_says_is_kept_and_a_line_is_timed() {
        let run = run(shell("echo out; echo ready >&2; sleep 0.1"), Some("ready")).unwrap();
        assert_eq!(run.said, "out\n");
        assert!(run.marked.unwrap() + 0.1 <= run.seconds);
        assert!(run.peak > 0);
    }

    #[test]
    fn a_failure_is_told_with_its_last_line() {
        let error = run(shell("echo why >&2; exit 3"), None).unwrap_err().to_string();
        assert!(error.contains("sh: exit status: 3: why"), "{error}");
    }
}
