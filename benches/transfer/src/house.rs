//! The hub as a child of the runner.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::hub::{Addresses, Counts, parse};
use crate::model::Model;

/// A hub that serves one model; it ends with this value.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) addresses: Addresses,
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl House {
    /// Starts one; `cdn` caps the connections of its second origin.
    pub(crate) fn start(model: &Model, cdn: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hub").arg("--folder").arg(&model.folder);
        command.args(["--id", &model.id, "--commit", &model.commit]);
        if cdn {
            command.arg("--cdn");
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().context("the hub has an output")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        Ok(Self { addresses: parse(&line)?, process, questions, answers })
    }

    /// What it has counted so far.
    pub(crate) fn counts(&mut self) -> Result<Counts> {
        let questions = self.questions.as_mut().context("the hub is asked while it runs")?;
        questions.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        parse(&line)
    }

    /// CPU seconds that it has used so far, all threads; the kernel counts them in hundredths.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        // proc_pid_stat(5): utime and stime are the 14th and the 15th field, and the name was the second.
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.questions.take());
        if self.process.wait().is_err() {
            eprintln!("the hub has gone before its time");
        }
    }
}
