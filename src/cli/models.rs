//! `larder models`: what the registry knows by name, and which of it fits on a card.

use serde::Serialize;

use super::OK;
use super::output::{Output, table};
use crate::catalogue::{Card, Cards, Category, Model, Registry};
use crate::config::Settings;
use crate::error::{Error, Result};
use larder_jobs::Reason;

/// A model with how it fits on the card that was named.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    model: &'a Model,
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<crate::fit::Fit>,
}

pub(super) fn run(
    settings: &Settings,
    name: Option<&str>,
    category: Option<Category>,
    card: Option<&str>,
    lists_cards: bool,
    output: &Output,
) -> Result<u8> {
    let (registry, cards) = (settings.config.models.registry()?, Cards::builtin());
    if lists_cards {
        output.print(&cards.cards(), || human_cards(cards.cards()))?;
        return Ok(OK);
    }
    let card = card.map(|name| cards.get(name)).transpose().map_err(|unknown| {
        Error::new(Reason::InvalidRequest, unknown.to_string(), unknown.hint())
            .or("list them with larder models --cards")
    })?;
    if let Some(name) = name {
        let entry = registry
            .find(name)
            .map_err(|unknown| Error::new(Reason::NotFound, unknown.to_string(), unknown.hint()))?;
        output.print(entry, || one(entry))?;
        return Ok(OK);
    }
    let rows = rows(&registry, category, card);
    output.print(&rows, || human(&rows, card))?;
    Ok(OK)
}

fn rows<'a>(registry: &'a Registry, category: Option<Category>, card: Option<&Card>) -> Vec<Row<'a>> {
    let chosen = registry.models().iter().filter(|model| category.is_none_or(|one| model.category == one));
    match card {
        None => chosen.map(|model| Row { model, fits: None }).collect(),
        Some(card) => chosen
            .filter_map(|model| Some(Row { model, fits: Some(model.fit_on(card)?) }))
            .filter(|row| row.fits.as_ref().is_some_and(|fit| fit.verdict == crate::fit::Verdict::Fits))
            .collect(),
    }
}

fn human(rows: &[Row<'_>], card: Option<&Card>) -> String {
    let lines = rows.iter().map(|Row { model, fits }| {
        let mut line = vec![
            model.name.clone(),
            model.category.to_string(),
            model.id.to_string(),
            model.parameters.map_or_else(|| "-".into(), parameters),
            model.context.map_or_else(|| "-".into(), |context| context.to_string()),
            model.access.licence.clone().unwrap_or_default(),
            notes(model),
        ];
        if let Some(needed) = fits.as_ref().and_then(|fit| fit.estimate) {
            line.insert(5, crate::fit::gib(needed.total));
        }
        line
    });
    let mut header = vec!["NAME", "CATEGORY", "MODEL", "PARAMETERS", "CONTEXT", "LICENCE", ""];
    if card.is_some() {
        header.insert(5, "VRAM");
    }
    table(&header, lines.collect(), &[3, 4])
}

fn notes(model: &Model) -> String {
    use crate::catalogue::Gated;
    let alias = model.alias_of.as_ref().map(|id| format!("alias of {id}"));
    let gated = matches!(model.access.gated, Some(Gated::Auto | Gated::Manual)).then(|| "gated".to_owned());
    let pickle = model.pickle_only().then(|| "pickle only".to_owned());
    let code = (model.access.remote_code == Some(true)).then(|| "runs the repo's code".to_owned());
    [alias, gated, pickle, code].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn one(model: &Model) -> String {
    serde_json::to_string_pretty(model).unwrap_or_default()
}

/// `124M`, `7.2B`.
fn parameters(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // two digits are shown
    let count = count as f64;
    match count {
        n if n < 1e9 => format!("{:.0}M", n / 1e6),
        n => format!("{:.1}B", n / 1e9),
    }
}

fn human_cards(cards: &[Card]) -> String {
    let rows = cards.iter().map(|card| {
        let capability = card.compute_capability;
        vec![
            card.name.clone(),
            format!("{}.{}", capability.major, capability.minor),
            card.usable_bytes().map_or_else(|| "-".into(), crate::fit::gib),
            card.bandwidth_gb_s.map_or_else(|| "-".into(), |speed| format!("{speed:.0} GB/s")),
        ]
    });
    table(&["CARD", "COMPUTE", "USABLE", "BANDWIDTH"], rows.collect(), &[1, 2, 3])
}
