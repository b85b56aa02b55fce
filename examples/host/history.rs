//! A Prometheus that scrapes the simulated host and knows the days before: `promtool` makes blocks of made-up samples, and
//! the configuration and the rules are those of `monitoring/prometheus`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Answer;
use super::page::Page;
use super::past::{Past, STEP};

/// Prometheus keeps two hours together.
const BLOCK: i64 = 7_200;
const HINT: &str = "install it (Debian: apt-get install prometheus), or leave out --prometheus";

/// The server; ends with this.
pub(super) struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the past up to `ends` into `data`, two hours at a time.
pub(super) fn backfill(past: &mut Past, (begins, ends): (i64, i64), data: &Path) -> Answer<()> {
    let file = data.join("past.txt");
    let mut at = begins;
    while at < ends {
        let mut page = Page::new(past.instance());
        let until = (at - at.rem_euclid(BLOCK) + BLOCK).min(ends);
        while at < until {
            past.step(&mut page, at);
            at += STEP;
        }
        std::fs::write(&file, page.text())?;
        let mut promtool = Command::new("promtool");
        promtool.args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"]).arg(&file).arg(data);
        let done = promtool.output().map_err(|error| format!("promtool does not start: {error}; {HINT}"))?;
        if !done.status.success() {
            return Err(format!("promtool: {}", String::from_utf8_lossy(&done.stderr).trim()).into());
        }
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

/// Starts the server on `data`, and returns when it answers; it looks for the host at `target` and calls it `instance`.
pub(super) fn start(
    folder: &Path,
    data: &Path,
    listen: SocketAddr,
    (instance, target): (&str, SocketAddr),
) -> Answer<Prometheus> {
    let config = configuration(folder, instance, target)?;
    let mut log = std::fs::File::create(folder.join("prometheus.log"))?;
    let mut server = Command::new("prometheus");
    server.arg(format!("--config.file={}", config.display()));
    server.arg(format!("--storage.tsdb.path={}", data.display()));
    server.args(["--storage.tsdb.retention.time=60d", &format!("--web.listen-address={listen}")]);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = server.spawn().map_err(|error| format!("prometheus does not start: {error}; {HINT}"))?;
    let mut server = Prometheus(started);
    let mut lines = BufReader::new(server.0.stderr.take().ok_or("prometheus has no log")?).lines();
    let mut last = String::new();
    while !last.contains("Server is ready") {
        match lines.next() {
            Some(line) => last = line?,
            None => return Err(format!("prometheus ended: {last}").into()),
        }
        writeln!(log, "{last}")?;
    }
    // The rest of its log, for as long as it runs.
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| writeln!(log, "{line}")));
    Ok(server)
}

/// The configuration that is shipped, with one other target.
fn configuration(folder: &Path, instance: &str, target: SocketAddr) -> Answer<PathBuf> {
    const TARGET: &str = r#"- targets: ["larder:7717"]"#;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring/prometheus");
    let text = std::fs::read_to_string(shipped.join("prometheus.yml"))?;
    let here = format!("- targets: [\"{target}\"]\n        labels: {{instance: {instance}}}");
    if !text.contains(TARGET) {
        return Err(format!("{} has no {TARGET}", shipped.display()).into());
    }
    let rules = shipped.join("rules").join("*.yml").display().to_string();
    let text = text.replacen(TARGET, &here, 1).replacen("rules/*.yml", &rules, 1);
    let config = folder.join("prometheus.yml");
    std::fs::write(&config, text)?;
    Ok(config)
}
