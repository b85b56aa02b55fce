//! The figures of the estimator against published measurements, held as a gate: `examples/fit_accuracy.rs`, run as a
//! process of its own over the repository's table and over tables that are no good.

use std::path::Path;
use std::process::Command;

use support::process::{Output, run};

#[path = "../../../examples/fit_accuracy/mod.rs"]
mod fit_accuracy;

/// Set in the process that is the example: the file, or nothing for the default one.
const FILE: &str = "LARDER_TEST_FIT_ACCURACY";
/// Cards that every row which fitted is set against, as docs/fit.md says.
const CARDS: f64 = 12.0;

/// The example's answer to that table; the repository's own without one.
fn compared(test: &str, table: Option<&Path>) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args([&format!("fit::accuracy::{test}"), "--exact", "--nocapture"]);
    command.env(FILE, table.map_or_else(Default::default, |path| path.as_os_str().to_owned()));
    run(&mut command, std::time::Duration::from_secs(120))
}

/// In the process that is the example, ends as it ends.
fn example() {
    if let Some(file) = std::env::var_os(FILE) {
        let code = fit_accuracy::run(Some(file).filter(|file| !file.is_empty()).map(Into::into));
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

/// The numbers of the last line, which must be in the form that other programs read.
fn figures(output: &Output) -> [f64; 5] {
    let line = output.stdout.lines().last().expect("a last line");
    let words: Vec<_> = line.split(' ').collect();
    let names = ["rows", "median_pct", "p90_pct", "false_yes", "false_no"];
    assert_eq!(words.len(), names.len(), "{line}");
    let number = |n: usize| {
        let value = words[n].strip_prefix(names[n]).and_then(|rest| rest.strip_prefix('='));
        value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{} in {line}", names[n]))
    };
    std::array::from_fn(number)
}

/// Rows of the repository's table, as text, its first line before them.
fn table() -> (&'static str, Vec<&'static str>) {
    let mut lines = include_str!("../../fixtures/fit/ground_truth.csv").lines();
    (lines.next().expect("a header"), lines.collect())
}

/// A file with these lines.
fn file(folder: &tempfile::TempDir, name: &str, lines: &[&str]) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, format!("{}\n", lines.join("\n"))).expect("written");
    path
}

#[test]
fn the_estimate_is_as_good_as_promised() {
    example();
    let done = compared("the_estimate_is_as_good_as_promised", None).expect_code(0);
    let [rows, median, p90, false_yes, false_no] = figures(&done);
    let all = table().1.len() as f64;
    assert!(rows >= 0.95 * all, "{rows} of {all} rows are predicted");
    assert!(median <= 3.0 && p90 <= 9.0, "median {median} %, p90 {p90} %");
    let pairs = rows * CARDS;
    assert!(false_yes <= 0.005 * pairs, "{false_yes} false yeses of {pairs}");
    assert!(false_no <= 0.06 * pairs, "{false_no} false noes of {pairs}");
    // The example counts over as many cards as are counted here, and the rules of thumb do worse on them.
    let line = |rule: &str| {
        let found = done.stdout.lines().find(|line| line.starts_with(&format!("| all | {rule} |")));
        let cells: Vec<_> = found.unwrap_or_else(|| panic!("{}", done.stdout)).split('|').collect();
        let number = |n: usize| cells[n].trim().split(' ').next().and_then(|text| text.parse::<f64>().ok());
        [4, 5, 6].map(|n| number(n).expect("a number"))
    };
    let ours = line("larder");
    assert_eq!(ours, [median, p90, false_yes], "the table and the last line agree");
    let share = done.stdout.lines().find(|line| line.starts_with("| all | larder |")).expect("a line");
    assert!(share.contains(&format!("{false_no} ({:.2} %)", 100.0 * false_no / pairs)), "{share}");
    for rule in ["params x bytes x 1.2", "hf-mem", "GPUStack"] {
        let other = line(rule);
        assert!(other.iter().zip(ours).all(|(other, ours)| *other > ours), "{rule}: {other:?}");
    }
}

#[test]
fn a_row_that_ran_out_of_memory_is_a_false_yes_if_we_say_that_it_fits() {
    example();
    let test = "a_row_that_ran_out_of_memory_is_a_false_yes_if_we_say_that_it_fits";
    let (header, rows) = table();
    let small = *rows.iter().find(|row| row.starts_with("Qwen/Qwen2.5-0.5B-Instruct,")).expect("a small one");
    assert!(small.contains(",A100-80GB,") && small.contains(",fit,"), "{small}");
    let folder = tempfile::tempdir().expect("a folder");
    let failed = small.replace(",fit,", ",oom,");
    let said_yes = file(&folder, "yes.csv", &[header, small, &failed]);
    let [rows, _, _, false_yes, _] = figures(&compared(test, Some(&said_yes)).expect_code(0));
    assert_eq!((rows, false_yes), (2.0, 1.0), "it fits, we say, and it did not");
    // 32 billion parameters in 16 bits do not go into 24 GB, as we say.
    let large = "Qwen/Qwen2.5-32B-Instruct,32763876352,bf16,transformers-4.46,1,1,RTX 4090,,somebody,1,process,1,oom,\
                 Qwen/Qwen2.5-32B-Instruct,,,";
    let said_no = file(&folder, "no.csv", &[header, small, large]);
    let [rows, _, _, false_yes, _] = figures(&compared(test, Some(&said_no)).expect_code(0));
    assert_eq!((rows, false_yes), (2.0, 0.0), "neither a false yes nor a measurement");
}

#[test]
fn a_table_that_is_none_is_refused_and_a_bad_row_is_named() {
    example();
    let test = "a_table_that_is_none_is_refused_and_a_bad_row_is_named";
    let folder = tempfile::tempdir().expect("a folder");
    let (header, rows) = table();
    let nothing = header.replace("measured_gib", "measured_gb");
    let not_utf8 = folder.path().join("binary.csv");
    std::fs::write(&not_utf8, [header.as_bytes(), b"\n\xff\xfe,1\n"].concat()).expect("written");
    for (path, wanted) in [
        (folder.path().join("none.csv"), "cannot read"),
        (file(&folder, "empty.csv", &[""]), "no column model_id or model"),
        (file(&folder, "html.csv", &["<html>", "<body>"]), "no column model_id or model"),
        (file(&folder, "header.csv", &[header]), "there are no rows"),
        (file(&folder, "nothing.csv", &[&nothing, rows[0]]), "no column measured_gib"),
        (file(&folder, "cut.csv", &[header, "\"x"]), "none of the 1 rows can be predicted"),
        (not_utf8, "invalid"),
    ] {
        let refused = compared(test, Some(&path)).expect_code(1);
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).expect("UTF-8");
        assert!(refused.stderr.contains(name) && refused.stderr.contains(wanted), "{name}: {refused:?}");
    }
    // A row that says nothing is left out with its line and the reason, and the others count.
    let odd = rows[0].replace(",1,1,A100-80GB,", ",many,1,A100-80GB,");
    let quant = rows[0].replace(",bf16,", ",q2.5,");
    let mixed = file(&folder, "mixed.csv", &[header, &odd, rows[0], &quant]);
    let done = compared(test, Some(&mixed)).expect_code(0);
    assert_eq!(figures(&done)[0], 1.0, "{}", done.stdout);
    let told = |line: &str, what: &str| {
        done.stdout.lines().any(|told| told.trim_start().starts_with(line) && told.contains(what))
    };
    assert!(told("line 2:", "`many` in the column batch is no number"), "{}", done.stdout);
    assert!(told("line 4:", "q2.5"), "{}", done.stdout);
}
