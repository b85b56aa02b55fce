//! The comparison of the estimator with a table of measurements; also run by a test that holds the figures.
//!
//! Columns are found by their names; optional ones may be missing. Every row is predicted in the sense of its
//! `measure_kind`, and of what `engine`, `engine_opts` and `note` say about the release and the kind of pass.
//!
//! The rules, in our own words:
//! - *×1.2*: parameters × nominal bytes × 1.2 (<https://blog.eleuther.ai/transformer-math/#total-inference-memory>).
//! - *hf-mem*: bytes of the weights plus the cache of the full-attention layers for the whole context
//!   (<https://github.com/alvarobartt/hf-mem>).
//! - *GPUStack*: bytes of the weights × 1.2 plus 2 GiB for the framework
//!   (<https://github.com/gpustack/gpustack>, `gpustack/policies/utils.py`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use larder::fit::{Engine, Margin};
use serde_json::Value;

mod rows;

use rows::{DTYPE, MEASURED, MODEL, Record, Row, read};

const GIB: f64 = (1_u64 << 30) as f64;
/// Usable memory of the virtual cards, GiB.
const CARDS: [f64; 12] = [6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 40.0, 48.0, 64.0, 80.0];
/// What a table must have, each by one of these names.
const REQUIRED: [&[&str]; 3] = [MODEL, DTYPE, MEASURED];
/// The rules under comparison; ours is the first.
const RULES: [&str; 4] = ["larder", "params x bytes x 1.2", "hf-mem", "GPUStack"];

/// Prints the comparison for this file, or for the published measurements of the repository. Fails if the file is no
/// such table, or holds nothing that can be predicted.
pub(crate) fn run(file: Option<PathBuf>) -> ExitCode {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fit");
    let file = file.unwrap_or_else(|| fixtures.join("ground_truth.csv"));
    let done = records(&file).and_then(|records| {
        let text = std::fs::read_to_string(fixtures.join("configs.json"))
            .map_err(|e| format!("configs.json: {e}"))?;
        let configs = serde_json::from_str(&text).map_err(|e| format!("configs.json: {e}"))?;
        if report(&records, &configs) == 0 {
            return Err(format!("{}: none of the {} rows can be predicted", file.display(), records.len()));
        }
        Ok(())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn records(file: &Path) -> Result<Vec<Record>, String> {
    let name = file.display();
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_path(file)
        .map_err(|e| format!("cannot read {name}: {e}"))?;
    let header: Vec<String> = reader
        .headers()
        .map_err(|e| format!("{name}: {e}"))?
        .iter()
        .map(|h| h.trim().to_lowercase())
        .collect();
    for names in REQUIRED {
        if !names.iter().any(|name| header.iter().any(|column| column == name)) {
            return Err(format!("{name}: the first line names no column {}", names.join(" or ")));
        }
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| format!("{name}: {e}"))?;
        rows.push(header.iter().cloned().zip(record.iter().map(|cell| cell.trim().to_owned())).collect());
    }
    if rows.is_empty() {
        return Err(format!("{name}: there are no rows below the first line"));
    }
    Ok(rows)
}

/// Counts over the virtual cards for one rule.
#[derive(Default)]
struct Counts {
    pairs: usize,
    false_yes: usize,
    false_no: usize,
}

fn counts(rows: &[&Row], rule: usize, margin: Margin) -> Counts {
    let mut counts = Counts::default();
    for row in rows {
        let need = row.predicted[rule];
        let kept = margin.on((need * GIB) as u64) as f64 / GIB;
        if let Some(measured) = row.measured.filter(|_| !row.out_of_memory) {
            for card in CARDS {
                let (yes, truth) = (need + kept <= card, measured <= card);
                counts.pairs += 1;
                counts.false_yes += usize::from(yes && !truth);
                counts.false_no += usize::from(!yes && truth);
            }
        } else {
            // It ran out of memory on its own card: one pair, and a false yes if we say that it fits there.
            let own = row.card.or(row.measured).unwrap_or(0.0);
            let share = if rule == 0 { row.engine.share() } else { 1.0 };
            counts.pairs += 1;
            counts.false_yes += usize::from(need + kept <= own && need <= share * own);
        }
    }
    counts
}

/// The value below which that share of the sorted numbers lies, by nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Absolute errors in percent, sorted.
fn errors(rows: &[&Row], rule: usize) -> Vec<f64> {
    let mut errors: Vec<f64> = rows
        .iter()
        .filter(|row| !row.out_of_memory)
        .filter_map(|row| row.measured.map(|m| 100.0 * (row.predicted[rule] - m).abs() / m))
        .collect();
    errors.sort_by(f64::total_cmp);
    errors
}

fn line_of(name: &str, rule: usize, rows: &[&Row]) -> String {
    let errors = errors(rows, rule);
    let margin = if rule == 0 { Margin::DEFAULT } else { Margin { share: 0.0, bytes: 0 } };
    let c = counts(rows, rule, margin);
    let rate = |n: usize| 100.0 * n as f64 / c.pairs.max(1) as f64;
    format!(
        "| {name} | {} | {} | {:.2} | {:.2} | {} ({:.2} %) | {} ({:.2} %) |",
        RULES[rule],
        rows.len(),
        median(&errors),
        quantile(&errors, 0.9),
        c.false_yes,
        rate(c.false_yes),
        c.false_no,
        rate(c.false_no),
    )
}

/// Prints everything; returns how many rows are predicted.
fn report(records: &[Record], configs: &Value) -> usize {
    let mut rows = Vec::new();
    let mut unpredicted = Vec::new();
    for (index, record) in records.iter().enumerate() {
        match read(index + 2, record, configs) {
            Ok(row) => rows.push(row),
            Err(reason) => unpredicted.push((index + 2, reason)),
        }
    }
    let all: Vec<&Row> = rows.iter().collect();
    println!("| engine | rule | rows | median % | p90 % | false yes | false no |");
    println!("|---|---|---|---|---|---|---|");
    for engine in Engine::ALL {
        let of_engine: Vec<&Row> = all.iter().copied().filter(|row| row.engine == *engine).collect();
        if of_engine.is_empty() {
            println!("| {engine} (unverified) | - | 0 | - | - | - | - |");
            continue;
        }
        let name = format!("{engine}{}", if engine.verified() { "" } else { " (unverified)" });
        for rule in 0..RULES.len() {
            println!("{}", line_of(&name, rule, &of_engine));
        }
    }
    for rule in 0..RULES.len() {
        println!("{}", line_of("all", rule, &all));
    }
    let kinds: BTreeSet<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
    for kind in kinds {
        let of_kind: Vec<&Row> = all.iter().copied().filter(|row| row.kind == kind).collect();
        println!("{}", line_of(kind, 0, &of_kind));
    }
    spread(&all);
    worst(&all);
    let assumed = rows.iter().filter(|row| row.assumed).count();
    println!("\n{assumed} rows name a model without a config here; they use a dense model of that size.");
    println!("{} of {} rows are predicted; not predicted:", rows.len(), records.len());
    for (line, reason) in &unpredicted {
        println!("  line {line}: {reason}");
    }
    let (errors, c) = (errors(&all, 0), counts(&all, 0, Margin::DEFAULT));
    println!(
        "rows={} median_pct={:.2} p90_pct={:.2} false_yes={} false_no={}",
        rows.len(),
        median(&errors),
        quantile(&errors, 0.9),
        c.false_yes,
        c.false_no
    );
    rows.len()
}

/// Whether the figures hold on both halves and without any single model: constants fitted to rows would not.
fn spread(all: &[&Row]) {
    let half = |odd: usize| -> Vec<&Row> { all.iter().copied().filter(|row| row.line % 2 == odd).collect() };
    for (name, rows) in [("even lines", half(0)), ("odd lines", half(1))] {
        let errors = errors(&rows, 0);
        println!("{name}: median {:.2} %, p90 {:.2} %", median(&errors), quantile(&errors, 0.9));
    }
    let name = |row: &Row| row.model.split(' ').next().unwrap_or_default().to_owned();
    let models: BTreeSet<String> = all.iter().map(|row| name(row)).collect();
    let mut range = [f64::INFINITY, 0.0, f64::INFINITY, 0.0];
    for model in &models {
        let rest: Vec<&Row> = all.iter().copied().filter(|row| name(row) != *model).collect();
        let errors = errors(&rest, 0);
        let (middle, high) = (median(&errors), quantile(&errors, 0.9));
        range = [range[0].min(middle), range[1].max(middle), range[2].min(high), range[3].max(high)];
    }
    println!(
        "without any one of {} models: median {:.2} to {:.2} %, p90 {:.2} to {:.2} %",
        models.len(),
        range[0],
        range[1],
        range[2],
        range[3]
    );
}

/// The rows that are predicted worst.
fn worst(all: &[&Row]) {
    let mut signed: Vec<(f64, &Row)> = all
        .iter()
        .filter_map(|row| row.measured.map(|m| (100.0 * (row.predicted[0] - m) / m, *row)))
        .collect();
    signed.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    println!("\nFurthest off (per card, GiB):");
    for (error, row) in signed.iter().take(20) {
        println!(
            "  line {} {} x{}: predicted {:.2}, measured {:.2} ({error:+.1} %)",
            row.line,
            row.model,
            row.gpus,
            row.predicted[0],
            row.measured.unwrap_or(f64::NAN)
        );
    }
}
