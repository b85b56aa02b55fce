//! The plot: bytes staged again in percent of LRU's, a panel for each kind of trace and the legend in the last place.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::grid::{CAPACITIES, Decider, Grid};
use crate::trace::{self, Kind};

const SIZE: (u32, u32) = (1200, 720);
const TITLE: &str = "Bytes staged again, in percent of LRU's (line): less is better";
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
/// Share of its place that a group of bars takes.
const GROUP: f64 = 0.86;

/// The bars, from left to right. The colours can be told apart by the colour-blind.
const BARS: [(Decider, RGBColor); 5] = [
    (Decider::Lfu, RGBColor(0xb3, 0xbc, 0xc6)),
    (Decider::Gdsf, RGBColor(0x56, 0x8f, 0xc4)),
    (Decider::Value, RGBColor(0xd5, 0x5e, 0x00)),
    (Decider::Forgetful, RGBColor(0xf2, 0xb1, 0x66)),
    (Decider::Clairvoyant, RGBColor(0x4a, 0x4a, 0x4a)),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The plot as SVG.
pub(crate) fn render(grid: &Grid) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let body = root.margin(10, 0, 0, 0).titled(TITLE, (FONT, 22).into_font().color(&INK))?;
        let places = body.split_evenly((2, 3));
        for (place, kind) in places.iter().zip(trace::ALL) {
            panel(place, grid, kind)?;
        }
        if let Some(place) = places.get(trace::ALL.len()) {
            legend(place)?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// The bars of one kind of trace: a group for each size of the cache.
fn panel(place: &Area<'_>, grid: &Grid, kind: Kind) -> Result<()> {
    let mut bars = Vec::new();
    for (group, percent) in CAPACITIES.into_iter().enumerate() {
        for (bar, (decider, colour)) in BARS.into_iter().enumerate() {
            let height = 100.0 * grid.over_lru(kind, percent, decider)?.mean;
            let width = GROUP / BARS.len() as f64;
            let left = group as f64 - GROUP / 2.0 + bar as f64 * width;
            bars.push((left, left + width, height, colour));
        }
    }
    let top = bars.iter().map(|bar| bar.2).fold(110.0, f64::max) * 1.08;
    let right = CAPACITIES.len() as f64 - 0.5;
    let mut chart = ChartBuilder::on(place)
        .margin(12)
        .caption(kind.name(), (FONT, 18).into_font().color(&INK))
        .x_label_area_size(44)
        .y_label_area_size(44)
        .build_cartesian_2d(-0.5..right, 0.0..top)?;
    let capacity = |x: &f64| CAPACITIES.get(x.round() as usize).map_or(String::new(), |c| format!("{c} %"));
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK.mix(0.5))
        .label_style((FONT, 13).into_font().color(&INK))
        .x_labels(CAPACITIES.len())
        .x_label_formatter(&capacity)
        .x_desc("cache, share of all models' bytes")
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    chart.draw_series([PathElement::new([(-0.5, 100.0), (right, 100.0)], INK.stroke_width(1))])?;
    chart.draw_series(bars.iter().map(|(left, right, height, colour)| {
        Rectangle::new([(*left + 0.01, 0.0), (*right - 0.01, *height)], colour.filled())
    }))?;
    let number = (FONT, 11).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Bottom));
    chart.draw_series(bars.iter().map(|(left, right, height, _)| {
        EmptyElement::at(((left + right) / 2.0, *height))
            + Rectangle::new([(-8, -11), (8, -2)], WHITE.filled())
            + Text::new(format!("{height:.0}"), (0, 0), number.clone())
    }))?;
    Ok(())
}

fn legend(place: &Area<'_>) -> Result<()> {
    let style = (FONT, 16).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    let entry = |row: usize| 70 + 36 * i32::try_from(row).unwrap_or_default();
    for (row, (decider, colour)) in BARS.into_iter().enumerate() {
        let y = entry(row);
        place.draw(&Rectangle::new([(70, y - 10), (96, y + 10)], colour.filled()))?;
        place.draw(&Text::new(decider.name(), (110, y), style.clone()))?;
    }
    let y = entry(BARS.len());
    place.draw(&PathElement::new([(70, y), (96, y)], INK.stroke_width(1)))?;
    place.draw(&Text::new(Decider::Lru.name(), (110, y), style))?;
    Ok(())
}
