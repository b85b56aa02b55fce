//! Tests of the whole room: the files that are compiled in, names, overlays, drift.

mod cards;
mod drift;
mod models;
mod overlay;
mod properties;

use super::*;

fn model(name: &str) -> Model {
    Registry::builtin().get(name).unwrap_or_else(|| panic!("{name}")).clone()
}
