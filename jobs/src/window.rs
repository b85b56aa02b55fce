//! The hours in which a job may run: `22:00-06:00 Europe/Berlin`, several with `; ` between them.
//!
//! A window is open whenever the clock on the wall of its zone shows a time within it. So a clock change makes a night
//! longer or shorter; a time that is skipped opens nothing, and one that comes twice opens twice. Several windows are one
//! union: where they overlap, they count once. The zones are those of the host's time zone database, else of the one that
//! is compiled in.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Invalid, invalid::shown};

/// Most windows of one job.
pub const MAX_WINDOWS: usize = 8;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// So many days ahead every window has opened and closed, whatever the clocks do: a zone may skip a whole day.
const AHEAD: i64 = 4;
/// Days in which every pair of clocks has shown all its differences.
const YEAR: i64 = 366;
/// Clock changes that are looked at in that time.
const MAX_TRANSITIONS: usize = 16;
/// Spans that [`Windows::spans`] tells at most: more than a year of every window.
const MAX_SPANS: usize = 400 * MAX_WINDOWS;

/// A time zone by its name in the IANA database, such as `Europe/Berlin` or `UTC`.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Zone {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Its rules.
    pub fn rules(&self) -> &TimeZone {
        &self.0
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Zone {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = TimeZone::get(text).ok().filter(|zone| zone.iana_name().is_some());
        known.map(Self).ok_or_else(|| {
            let hint = match cities(text).as_slice() {
                [] => "use a name of the IANA database, such as Europe/Berlin or UTC".to_owned(),
                cities => format!("did you mean {}?", cities.join(" or ")),
            };
            Invalid::new(format!("`{}` is not a time zone", shown(text)), hint)
        })
    }
}

/// The zones of a city that somebody named without its continent.
fn cities(text: &str) -> Vec<String> {
    let wanted = text.rsplit('/').next().unwrap_or(text).trim().replace(' ', "_");
    let is_it = |name: &str| name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&wanted));
    let mut found: Vec<_> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    found.retain(|name| name.contains('/') && is_it(name));
    found.sort();
    found.truncate(2);
    found
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// Hours of every day, in one zone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    /// Minutes after midnight, below [`DAY`].
    opens: u16,
    /// Minutes after midnight, from 1 to [`DAY`]; before `opens` if it is those of the next morning.
    closes: u16,
    zone: Zone,
}

impl Window {
    /// Reads hours, `22:00-06:00`, that are meant in `zone`; with a zone of their own they keep that.
    ///
    /// # Errors
    /// `invalid_request` for what is no window, or has no zone anywhere.
    pub fn within(text: &str, zone: Option<&Zone>) -> Result<Self, Invalid> {
        let text = text.trim();
        let (hours, own) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let hint = "write hours and a time zone, for example 22:00-06:00 Europe/Berlin";
        let wrong = || Invalid::new(format!("`{}` is not a window", shown(text)), hint);
        let (opens, closes) = hours.split_once(['-', '–']).ok_or_else(wrong)?;
        let (opens, closes) = (minute(opens).ok_or_else(wrong)?, minute(closes).ok_or_else(wrong)?);
        if opens == closes || opens == DAY {
            return Err(Invalid::new(
                format!("the window `{}` is never open", shown(text)),
                "write 00:00-24:00 for the whole day, or leave the window out",
            ));
        }
        let zone = match (own.trim(), zone) {
            ("", Some(zone)) => zone.clone(),
            ("", None) => {
                let what = format!("the window `{}` has no time zone", shown(text));
                return Err(Invalid::new(what, format!("add one: {hours} Europe/Berlin, or {hours} UTC")));
            }
            (own, _) => own.parse()?,
        };
        Ok(Self { opens, closes: if closes == 0 { DAY } else { closes }, zone })
    }

    /// The zone that its hours are in.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    fn contains(&self, now: Timestamp) -> bool {
        let time = self.zone.0.to_datetime(now).time();
        self.shows(u16::try_from(i16::from(time.hour()) * 60 + i16::from(time.minute())).unwrap_or(0))
    }

    fn shows(&self, minute: u16) -> bool {
        match self.opens < self.closes {
            true => (self.opens..self.closes).contains(&minute),
            false => minute >= self.opens || minute < self.closes,
        }
    }

    /// Whether some moment of the year from `now` on is in both; clocks of different zones change on days of their own.
    pub fn overlaps(&self, other: &Self, now: Timestamp) -> bool {
        let same = |ahead: i32| {
            let ahead = u16::try_from(ahead.rem_euclid(i32::from(DAY))).unwrap_or(0);
            (0..DAY).any(|minute| self.shows(minute) && other.shows((minute + ahead) % DAY))
        };
        if self.zone == other.zone {
            return same(0);
        }
        let ahead = |day: i64| {
            let at = now.checked_add(SignedDuration::from_hours(24 * day)).unwrap_or(now);
            let [one, two] = [self, other].map(|window| window.zone.0.to_offset(at).seconds());
            (two - one) / 60
        };
        (0..=YEAR).map(ahead).collect::<BTreeSet<_>>().into_iter().any(same)
    }

    /// When it may open or close after `now`: whenever the clock shows one of its ends, and when the clock changes.
    fn ends(&self, now: Timestamp, into: &mut Vec<Timestamp>) {
        let today = self.zone.0.to_datetime(now).date();
        for ahead in -1..=AHEAD {
            let Ok(day) = today.checked_add(ahead.days()) else { continue };
            for minute in [self.opens, self.closes] {
                self.moments(day, minute, into);
            }
        }
        let changes = self.zone.0.following(now).take(MAX_TRANSITIONS);
        into.extend(changes.map(|change| change.timestamp()));
    }

    /// When the clock shows that minute of that day: once, twice, or not at all.
    fn moments(&self, day: Date, minute: u16, into: &mut Vec<Timestamp>) {
        let (day, minute) = if minute == DAY { (day.tomorrow().unwrap_or(day), 0) } else { (day, minute) };
        let time = i8::try_from(minute / 60).ok().zip(i8::try_from(minute % 60).ok());
        let time = time.and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok()).unwrap_or_default();
        let shown = day.to_datetime(time);
        let offsets = match self.zone.0.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
            AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
            AmbiguousOffset::Gap { .. } => [None, None],
        };
        into.extend(offsets.into_iter().flatten().filter_map(|offset| offset.to_timestamp(shown).ok()));
    }
}

/// `06:30` as minutes after midnight; up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let is_number = |text: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    if !is_number(hour, 1..=2) || !is_number(minute, 2..=2) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let sum = hour * 60 + minute;
    (minute < 60 && sum <= DAY).then_some(sum)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [opens, closes] = [self.opens, self.closes].map(|at| format!("{:02}:{:02}", at / 60, at % 60));
        f.pad(&format!("{opens}-{closes} {}", self.zone))
    }
}

impl FromStr for Window {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::within(text, None)
    }
}

/// Whether windows are open, and until when that stays so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Whether one of them is open.
    pub is_open: bool,
    /// When that changes; `None` if it never does.
    pub until: Option<Timestamp>,
}

/// One to [`MAX_WINDOWS`] windows; open when one of them is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct Windows(Vec<Window>);

impl Windows {
    /// These windows; one that is there twice counts once.
    ///
    /// # Errors
    /// `invalid_request` for none, or too many.
    pub fn new(windows: Vec<Window>) -> Result<Self, Invalid> {
        let mut once: Vec<Window> = Vec::with_capacity(windows.len().min(MAX_WINDOWS));
        for window in windows {
            if !once.contains(&window) {
                once.push(window);
            }
            if once.len() > MAX_WINDOWS {
                return Err(Invalid::new(
                    format!("there are more than {MAX_WINDOWS} windows"),
                    "use fewer, longer ones",
                ));
            }
        }
        match once.is_empty() {
            true => Err(Invalid::new("there is no window", "write for example 22:00-06:00 Europe/Berlin")),
            false => Ok(Self(once)),
        }
    }

    /// The windows, in the order in which they were written.
    pub fn all(&self) -> &[Window] {
        &self.0
    }

    /// The windows of both, as far as [`MAX_WINDOWS`] allows; those of `self` come first.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let new = other.0.iter().filter(|window| !self.0.contains(window));
        Self(self.0.iter().chain(new).take(MAX_WINDOWS).cloned().collect())
    }

    /// Two windows that overlap within the year from `now` on, if there are such; they count as one.
    pub fn overlap(&self, now: Timestamp) -> Option<(&Window, &Window)> {
        let pairs =
            self.0.iter().enumerate().flat_map(|(n, one)| self.0[n + 1..].iter().map(move |two| (one, two)));
        pairs.into_iter().find(|(one, two)| one.overlaps(two, now))
    }

    /// Whether one of them is open at `now`.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.0.iter().any(|window| window.contains(now))
    }

    /// Whether one is open at `now`, and until when that stays so.
    pub fn phase(&self, now: Timestamp) -> Phase {
        let is_open = self.contains(now);
        let mut ends = Vec::new();
        self.0.iter().for_each(|window| window.ends(now, &mut ends));
        ends.retain(|end| *end > now);
        ends.sort_unstable();
        Phase { is_open, until: ends.into_iter().find(|end| self.contains(*end) != is_open) }
    }

    /// When one of them is open next; `now` itself if one is.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        match self.phase(now) {
            Phase { is_open: true, .. } => Some(now),
            Phase { is_open: false, until } => until,
        }
    }

    /// When none of them is open any more; `None` if none is open at `now`, or one always is.
    pub fn closes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let Phase { is_open, until } = self.phase(now);
        until.filter(|_| is_open)
    }

    /// The times between two moments in which one is open, in their order; at most 3,200 of them.
    pub fn spans(&self, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let (mut spans, mut now) = (Vec::new(), from);
        while now < to && spans.len() < MAX_SPANS {
            let phase = self.phase(now);
            let until = phase.until.unwrap_or(to).min(to);
            if phase.is_open {
                spans.push((now, until));
            }
            now = until;
        }
        spans
    }

    /// Seconds between two moments in which one is open.
    pub fn open_seconds(&self, from: Timestamp, to: Timestamp) -> f64 {
        self.spans(from, to).into_iter().map(|(from, to)| to.duration_since(from).as_secs_f64()).sum()
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.pad(&texts.join("; "))
    }
}

impl FromStr for Windows {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Beyond the bound nothing is read, however long it is.
        let parts = text.split(';').take(MAX_WINDOWS + 1).map(str::trim);
        Self::new(parts.filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl Serialize for Windows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Windows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = Invalid>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|e: Invalid| de::Error::custom(format!("{e}: {}", e.hint())))
}

#[cfg(test)]
mod tests;
