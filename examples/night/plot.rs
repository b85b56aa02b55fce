//! The picture of the night: a row for each host, and below what all of them take of the line.

use std::fmt::Write as _;

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::world::{DEATH, HOSTS, LINE, Night, OUTAGE, SLOTS, WINDOW};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 112.0;
const ROW: f64 = 11.0;
const FLOW_TOP: f64 = TOP + HOSTS as f64 * ROW + 44.0;
const FLOW_HEIGHT: f64 = 120.0;
const HEIGHT: f64 = FLOW_TOP + FLOW_HEIGHT + 56.0;

/// Colours that can be told apart by the colour-blind, on white and on a dark page.
const STYLE: &str = "
  svg { --page: #ffffff; --ink: #24292f; --soft: #6e7781; --grid: #d8dee4; --open: #eef4fb; --lane: #f6f8fa;
        --high: #c2410c; --middle: #2563a8; --low: #8fb4d9; --away: #b91c1c; --flow: #2563a8; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #0d1117; --ink: #e6edf3; --soft: #9198a1; --grid: #30363d; --open: #14202e; --lane: #11171f;
          --high: #f28c4e; --middle: #5aa2e6; --low: #47709a; --away: #ff7b72; --flow: #5aa2e6; }
  }
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: var(--ink); }
  .title { font-size: 20px; font-weight: 600; }
  .sub { font-size: 13px; fill: var(--soft); }
  .axis { font-size: 12px; fill: var(--soft); }
  .host { font-size: 9px; fill: var(--soft); }
  .p10 { fill: var(--high); } .p5 { fill: var(--middle); } .p0 { fill: var(--low); }
";

/// The whole picture as SVG.
pub(crate) fn render(night: &Night) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"A simulated night of 50 hosts\">\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"var(--page)\"/>\n"
    );
    head(&mut svg, night);
    lanes(&mut svg, night);
    axis(&mut svg, night);
    bars(&mut svg, night);
    flow(&mut svg, night);
    events(&mut svg, night);
    svg.push_str("</svg>\n");
    svg
}

fn x(night: &Night, seconds: f64) -> f64 {
    LEFT + seconds / night.seconds * (WIDTH - LEFT - RIGHT)
}

fn y(host: usize) -> f64 {
    TOP + host as f64 * ROW
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn rect(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
    let _ =
        writeln!(svg, "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" {fill}/>");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

fn head(svg: &mut String, night: &Night) {
    text(svg, "title", (LEFT, 34.0), "start", "A night of 50 hosts, 300 models and one line of 1 Gbit/s");
    let what = format!(
        "{} of {} models are there by the deadline, {:.1} TB came; window {WINDOW}, in the night in which the clock goes back",
        night.hits + night.present,
        night.models,
        night.bytes / 1e12
    );
    text(svg, "sub", (LEFT, 56.0), "start", &what);
    let mut left = LEFT;
    for class in &night.classes {
        rect(svg, (left, 72.0), (14.0, 10.0), &format!("class=\"p{}\" rx=\"2\"", class.priority));
        let words = format!("priority {}: {} of {}", class.priority, class.hits, class.wanted);
        text(svg, "axis", (left + 20.0, 81.0), "start", &words);
        left += 170.0;
    }
    rect(svg, (left, 72.0), (14.0, 10.0), "fill=\"var(--open)\" stroke=\"var(--grid)\" rx=\"2\"");
    text(svg, "axis", (left + 20.0, 81.0), "start", "window open");
    rect(svg, (left + 130.0, 76.0), (14.0, 2.0), "fill=\"var(--soft)\"");
    text(svg, "axis", (left + 150.0, 81.0), "start", "outside the window, at most 200 kB/s for each host");
}

fn lanes(svg: &mut String, night: &Night) {
    let width = WIDTH - LEFT - RIGHT;
    rect(svg, (LEFT, TOP), (width, HOSTS as f64 * ROW), "fill=\"var(--lane)\"");
    rect(svg, (LEFT, FLOW_TOP), (width, FLOW_HEIGHT), "fill=\"var(--lane)\"");
    for (from, to) in &night.open {
        let (left, right) = (x(night, *from), x(night, *to));
        rect(svg, (left, TOP), (right - left, HOSTS as f64 * ROW), "fill=\"var(--open)\"");
        rect(svg, (left, FLOW_TOP), (right - left, FLOW_HEIGHT), "fill=\"var(--open)\"");
    }
    for (n, host) in night.hosts.iter().enumerate() {
        text(svg, "host", (LEFT - 8.0, y(n) + ROW - 2.5), "end", host);
    }
}

/// A line for each full hour, with what the clock in Berlin shows.
fn axis(svg: &mut String, night: &Night) {
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    let minutes = (night.seconds / 60.0) as i64;
    for minute in 0..=minutes {
        let Ok(at) = night.begin.checked_add(SignedDuration::from_mins(minute)) else { continue };
        let shown = at.to_zoned(zone.clone());
        if shown.minute() != 0 {
            continue;
        }
        let x = x(night, minute as f64 * 60.0);
        line(svg, (x, TOP), (x, FLOW_TOP + FLOW_HEIGHT), "stroke=\"var(--grid)\" stroke-width=\"0.7\"");
        text(svg, "axis", (x, FLOW_TOP + FLOW_HEIGHT + 18.0), "middle", &shown.strftime("%H:%M").to_string());
        text(svg, "axis", (x, TOP - 8.0), "middle", &shown.strftime("%H:%M").to_string());
    }
}

fn bars(svg: &mut String, night: &Night) {
    for bar in &night.bars {
        let (left, right) = (x(night, bar.from), x(night, bar.to));
        let gap = if bar.ends { 0.6 } else { 0.0 };
        let width = (right - left - gap).max(0.4);
        let class = format!("class=\"p{}\"", bar.priority);
        // Each of the downloads at a time has its part of the row; outside the window little comes.
        let part = (ROW - 2.0) / SLOTS as f64;
        let height = if bar.is_open { part - 0.5 } else { 1.5 };
        let middle = y(bar.host) + 1.0 + part * (bar.slot as f64 + 0.5);
        rect(svg, (left, middle - height / 2.0), (width, height), &class);
    }
}

fn flow(svg: &mut String, night: &Night) {
    let scale = |rate: f64| FLOW_TOP + FLOW_HEIGHT - rate / (LINE * 1.12) * FLOW_HEIGHT;
    let mut path = format!("M{:.1} {:.1}", LEFT, FLOW_TOP + FLOW_HEIGHT);
    for (minute, rate) in night.flow.iter().enumerate() {
        let (left, right) = (x(night, minute as f64 * 60.0), x(night, (minute as f64 + 1.0) * 60.0));
        let _ = write!(path, "L{left:.1} {:.1}L{right:.1} {:.1}", scale(*rate), scale(*rate));
    }
    let _ = writeln!(
        svg,
        "<path d=\"{path}L{:.1} {:.1}Z\" fill=\"var(--flow)\" fill-opacity=\"0.75\"/>",
        WIDTH - RIGHT,
        FLOW_TOP + FLOW_HEIGHT
    );
    for (rate, words) in [(LINE, "1 Gbit/s"), (LINE / 2.0, "0.5"), (0.0, "0")] {
        let y = scale(rate);
        let dash = if rate == LINE {
            "stroke-dasharray=\"5 4\" stroke=\"var(--soft)\""
        } else {
            "stroke=\"var(--grid)\""
        };
        line(svg, (LEFT, y), (WIDTH - RIGHT, y), &format!("{dash} stroke-width=\"1\""));
        text(svg, "host", (LEFT - 8.0, y + 3.0), "end", words);
    }
    text(svg, "sub", (LEFT, FLOW_TOP - 10.0), "start", "what all hosts take of the line together");
}

fn events(svg: &mut String, night: &Night) {
    let (from, to) = (x(night, OUTAGE.0), x(night, OUTAGE.1));
    let away = "fill=\"var(--away)\" fill-opacity=\"0.12\"";
    rect(svg, (from, TOP), (to - from, HOSTS as f64 * ROW), away);
    rect(svg, (from, FLOW_TOP), (to - from, FLOW_HEIGHT), away);
    let middle = f64::midpoint(from, to);
    text(svg, "axis", (middle, FLOW_TOP + FLOW_HEIGHT + 36.0), "middle", "the source is away");
    let (at, row) = (x(night, DEATH.1), y(DEATH.0) + ROW / 2.0);
    line(
        svg,
        (at, row),
        (WIDTH - RIGHT, row),
        "stroke=\"var(--away)\" stroke-width=\"1\" stroke-dasharray=\"2 4\"",
    );
    let _ = writeln!(
        svg,
        "<path d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\" stroke=\"var(--away)\" stroke-width=\"2\" fill=\"none\"/>",
        at - 4.0,
        row - 4.0
    );
    text(svg, "axis", (x(night, DEATH.1), FLOW_TOP + FLOW_HEIGHT + 36.0), "middle", "gpu-18 dies");
    let deadline = WIDTH - RIGHT;
    line(
        svg,
        (deadline, TOP - 4.0),
        (deadline, FLOW_TOP + FLOW_HEIGHT),
        "stroke=\"var(--ink)\" stroke-width=\"1.5\"",
    );
    text(svg, "axis", (deadline, FLOW_TOP + FLOW_HEIGHT + 36.0), "end", "deadline 06:30");
}
