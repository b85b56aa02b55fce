//! What must hold whatever the figures are.

use std::fs;

use crate::cache::{Evictor, Outcome, replay};
use crate::grid::{self, Decider, Grid};
use crate::table;
use crate::trace::{self, Kind, Trace};

/// A trace of `kind` with all models of the same size, played by `decider`.
fn uniform(kind: Kind, seed: u64, percent: u64, decider: Decider) -> Outcome {
    let mut trace = kind.draw(seed).unwrap();
    trace.models.fill(10_000_000_000);
    play(&trace, percent, decider)
}

fn play(trace: &Trace, percent: u64, decider: Decider) -> Outcome {
    replay(trace, trace.bytes() / 100 * percent, &mut *decider.evictor(trace).unwrap()).unwrap()
}

#[test]
fn the_same_seed_draws_the_same_trace() {
    for kind in trace::ALL {
        let (one, other, third) = (kind.draw(3).unwrap(), kind.draw(3).unwrap(), kind.draw(4).unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        assert_ne!(one.models, third.models);
        assert!(one.uses.is_sorted_by_key(|one| one.at));
        assert!(one.models.iter().all(|bytes| (300_000_000..=150_000_000_000).contains(bytes)));
    }
}

#[test]
fn nobody_beats_the_clairvoyant_where_all_sizes_are_the_same() {
    for kind in trace::ALL {
        for seed in 0..2 {
            let best = uniform(kind, seed, 10, Decider::Clairvoyant);
            for decider in grid::ALL {
                let outcome = uniform(kind, seed, 10, decider);
                assert_eq!(outcome.used, best.used);
                assert!(outcome.hit <= best.hit, "{} on {}", decider.name(), kind.name());
            }
        }
    }
}

#[test]
fn an_endless_cache_stages_nothing_again() {
    for decider in grid::ALL {
        let trace = Kind::Scan.draw(0).unwrap();
        let outcome = play(&trace, 101, decider);
        assert_eq!((outcome.again, outcome.seconds), (0, 0.0), "{}", decider.name());
    }
}

/// Evicts nothing, or what is not there.
struct Wrong(Vec<usize>);

impl Evictor for Wrong {
    fn used(&mut self, _step: usize) {}

    fn make_room(&mut self, _bytes: u64, _step: usize) -> Vec<usize> {
        self.0.clone()
    }
}

#[test]
fn a_policy_that_breaks_the_rules_is_found_out() {
    let trace = Kind::Drift.draw(0).unwrap();
    for wrong in [vec![], vec![usize::MAX]] {
        assert!(replay(&trace, trace.bytes() / 10, &mut Wrong(wrong)).is_err());
    }
    assert!(replay(&trace, 1_000_000, &mut Wrong(vec![])).is_err());
}

#[test]
fn the_table_stands_between_the_markers_or_nowhere() {
    let text = table::render(&Grid::run(1).unwrap()).unwrap();
    let file = std::env::temp_dir().join(format!("eviction-bench-{}.md", std::process::id()));
    fs::write(&file, "before\n<!-- eviction:begin -->\nold\n<!-- eviction:end -->\nafter\n").unwrap();
    table::write(&file, &text).unwrap();
    let written = fs::read_to_string(&file).unwrap();
    fs::write(&file, "no markers").unwrap();
    let error = table::write(&file, &text).unwrap_err();
    fs::remove_file(&file).unwrap();
    assert_eq!(written, format!("before\n<!-- eviction:begin -->\n{text}<!-- eviction:end -->\nafter\n"));
    assert!(error.to_string().contains("<!-- eviction:begin -->"), "{error}");
}
