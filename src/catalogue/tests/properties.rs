//! What holds for every name and every text.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::super::*;

static BUILTIN: LazyLock<(Registry, Cards)> = LazyLock::new(|| (Registry::builtin(), Cards::builtin()));

/// The text with the case of each letter as the bits say.
fn cased(text: &str, bits: u64) -> String {
    let upper = |n: usize| bits >> (n % 64) & 1 == 1;
    text.chars()
        .enumerate()
        .map(|(n, c)| if upper(n) { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect()
}

proptest! {
    #[test]
    fn looking_up_never_panics(asked in ".{0,300}") {
        let (registry, cards) = &*BUILTIN;
        prop_assert!(registry.nearest(&asked, 3).len() <= 3);
        if let Err(unknown) = registry.find(&asked) {
            prop_assert!(unknown.asked.len() <= 4000);
        }
        let found = cards.get(&asked).map(|card| card.name.clone());
        if let Err(unknown) = found {
            prop_assert!(unknown.nearest.len() <= 3);
        }
    }

    #[test]
    fn overlays_never_panic(text in "(\\[\\[model\\]\\]\n)?(name|id|config|files) = .{0,60}") {
        let _ = BUILTIN.0.clone().with_overlay(&text, "mine.toml");
    }
}

#[test]
fn every_name_finds_its_entry_in_any_case() {
    let (registry, cards) = &*BUILTIN;
    proptest!(ProptestConfig::with_cases(512), |(pick in any::<prop::sample::Index>(), bits in any::<u64>())| {
        let all: Vec<(usize, &str)> =
            registry.models().iter().enumerate().flat_map(|(n, m)| m.names().map(move |name| (n, name))).collect();
        let (place, name) = all[pick.index(all.len())];
        prop_assert_eq!(registry.get(&cased(name, bits)), registry.models().get(place));
        let card = &cards.cards()[pick.index(cards.cards().len())];
        prop_assert_eq!(cards.get(&cased(&card.name, bits)).map(|found| found.memory_gb <= card.memory_gb), Ok(true));
        prop_assert_eq!(cards.get(&format!("{} {}GB", cased(&card.name, bits), card.memory_gb)), Ok(card));
        // Any configuration that differs in one number drifts in that number only.
        let model = &registry.models()[place];
        let mut repo = model.config.clone().expect("a config");
        if repo.get("hidden_size").is_some() {
            repo["hidden_size"] = json!(bits);
            let keys: Vec<String> = config_drift(model.config.as_ref().expect("a config"), &repo).into_iter().map(|d| d.key).collect();
            prop_assert_eq!(keys, vec!["hidden_size".to_owned()]);
        }
    });
}
