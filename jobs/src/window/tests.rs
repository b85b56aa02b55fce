//! Windows against a brute-force reference: every minute of the days around clock changes.

use super::*;
use proptest::prelude::*;

/// A zone, and a day on which its clocks change (or do not).
const DAYS: &[(&str, &str)] = &[
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    // Half an hour.
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    // Midnight does not exist, or comes twice.
    ("America/Asuncion", "2023-10-01"),
    ("America/Havana", "2026-11-01"),
    // One minute after midnight.
    ("America/St_Johns", "2011-03-13"),
    // A day that does not exist.
    ("Pacific/Apia", "2011-12-30"),
    ("Asia/Kathmandu", "2026-01-01"),
    ("UTC", "2026-06-01"),
];

fn windows(text: &str) -> Windows {
    text.parse().expect(text)
}

fn at(text: &str) -> Timestamp {
    text.parse().expect(text)
}

/// What the clock on the wall shows, as text, between two texts.
fn shows(opens: &str, closes: &str, zone: &str, now: Timestamp) -> bool {
    let zone = TimeZone::get(zone).expect("a zone");
    let clock = now.to_zoned(zone).strftime("%H:%M").to_string();
    let (clock, opens, closes) = (clock.as_str(), opens, closes);
    if opens < closes { opens <= clock && clock < closes } else { clock >= opens || clock < closes }
}

fn text_of(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn a_minute() -> impl Strategy<Value = u16> {
    prop_oneof![0..DAY, (0..96_u16).prop_map(|quarter| quarter * 15), 0..240_u16]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_minute_around_a_clock_change_is_right(
        (zone, day) in prop::sample::select(DAYS),
        hours in prop::collection::vec((a_minute(), a_minute()), 1..3),
    ) {
        let hours: Vec<_> = hours.into_iter().filter(|(opens, closes)| opens != closes).collect();
        prop_assume!(!hours.is_empty());
        let hours: Vec<_> = hours.into_iter().map(|(opens, closes)| (text_of(opens), text_of(closes))).collect();
        let texts: Vec<_> = hours.iter().map(|(opens, closes)| format!("{opens}-{closes} {zone}")).collect();
        let windows = windows(&texts.join(";"));
        let start = at(&format!("{day}T00:00:00Z")).checked_sub(30.hours()).expect("a time");
        let minutes: Vec<_> = (0..72 * 60_i64).map(|n| start.checked_add(n.minutes()).expect("a time")).collect();
        let truth: Vec<bool> = minutes
            .iter()
            .map(|now| hours.iter().any(|(opens, closes)| {
                let closes = if closes == "00:00" { "24:00" } else { closes };
                shows(opens, closes, zone, *now)
            }))
            .collect();
        let mut change = None;
        for n in (0..minutes.len()).rev() {
            prop_assert_eq!(windows.contains(minutes[n]), truth[n], "{} at {}", windows, minutes[n]);
            if n + 1 < minutes.len() && truth[n] != truth[n + 1] {
                change = Some(minutes[n + 1]);
            }
            // Every seventh is enough, and those beside a change.
            let near = n + 1 < minutes.len() && truth[n] != truth[n + 1];
            if (near || n % 7 == 0) && change.is_some() {
                let phase = windows.phase(minutes[n]);
                prop_assert_eq!(phase, Phase { is_open: truth[n], until: change }, "{} at {}", windows, minutes[n]);
                let opening = if truth[n] { Some(minutes[n]) } else { change };
                prop_assert_eq!(windows.next_opening(minutes[n]), opening);
                prop_assert_eq!(windows.closes_at(minutes[n]), change.filter(|_| truth[n]));
            }
        }
        let (first, last) = (minutes[0], *minutes.last().expect("minutes"));
        let open = truth[..truth.len() - 1].iter().filter(|open| **open).count();
        #[allow(clippy::cast_precision_loss)] // minutes of three days
        let expected = open as f64 * 60.0;
        prop_assert_eq!(windows.open_seconds(first, last), expected);
    }

    #[test]
    fn what_is_printed_reads_back(opens in 0..DAY, closes in 1..=DAY, zone in prop::sample::select(DAYS)) {
        prop_assume!(opens != closes);
        let text = format!("{}-{} {}", text_of(opens), text_of(closes), zone.0);
        let read = windows(&text);
        prop_assert_eq!(read.to_string(), text);
        let json = serde_json::to_string(&read).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Windows>(&json).expect("reads"), read);
    }
}

#[test]
fn a_night_is_shorter_and_longer_with_the_clock() {
    let night = windows("22:00-06:00 Europe/Berlin");
    let hours = |from: &str, to: &str| night.open_seconds(at(from), at(to)) / 3_600.0;
    assert_eq!(hours("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"), 7.0);
    assert_eq!(hours("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"), 9.0);
    assert_eq!(hours("2026-06-01T12:00:00Z", "2026-06-02T12:00:00Z"), 8.0);
}

#[test]
fn a_time_that_is_skipped_opens_nothing_and_one_that_comes_twice_opens_twice() {
    let skipped = windows("02:15-02:45 Europe/Berlin");
    assert_eq!(skipped.next_opening(at("2026-03-28T12:00:00Z")), Some(at("2026-03-30T00:15:00Z")));
    let twice = skipped.spans(at("2026-10-25T00:00:00Z"), at("2026-10-25T03:00:00Z"));
    let spans = [("00:15", "00:45"), ("01:15", "01:45")];
    let spans =
        spans.map(|(from, to)| (at(&format!("2026-10-25T{from}:00Z")), at(&format!("2026-10-25T{to}:00Z"))));
    assert_eq!(twice, spans);
    // A window that begins in the gap opens when the clock has jumped over its beginning.
    let begun = windows("02:30-04:00 Europe/Berlin");
    assert_eq!(begun.next_opening(at("2026-03-29T00:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
}

#[test]
fn a_window_of_the_whole_day_never_closes() {
    let always = windows("00:00-24:00 UTC");
    let now = at("2026-01-01T00:00:00Z");
    assert_eq!(always.phase(now), Phase { is_open: true, until: None });
    assert_eq!(always.closes_at(now), None);
    let both = windows("00:00-12:00 UTC; 12:00-24:00 UTC");
    assert_eq!(both.phase(now), Phase { is_open: true, until: None }, "two that touch are one");
}

#[test]
fn windows_that_overlap_count_once_and_are_told() {
    let both = windows("22:00-02:00 UTC; 01:00-06:00 UTC");
    assert_eq!(both.open_seconds(at("2026-01-01T12:00:00Z"), at("2026-01-02T12:00:00Z")), 8.0 * 3_600.0);
    let summer = at("2026-07-01T12:00:00Z");
    let (one, two) = both.overlap(summer).expect("they overlap");
    assert_eq!((one.to_string(), two.to_string()), ("22:00-02:00 UTC".into(), "01:00-06:00 UTC".into()));
    assert_eq!(windows("22:00-02:00 UTC; 02:00-06:00 UTC").overlap(summer), None);
    for (text, overlap) in [
        ("22:00-06:00 Europe/Berlin; 23:00-05:00 UTC", true),
        ("22:00-06:00 Europe/Berlin; 06:00-12:00 UTC", false),
        // Only in winter, when Berlin is one hour ahead and not two, is it nine there at eight here.
        ("21:00-22:00 Europe/Berlin; 20:00-21:00 UTC", true),
        ("21:00-22:00 Europe/Berlin; 19:00-20:00 UTC", true),
        ("21:00-22:00 Europe/Berlin; 21:00-22:00 UTC", false),
        // Only in the weeks in which New York has changed its clock and Berlin has not.
        ("22:00-23:00 Europe/Berlin; 17:00-18:00 America/New_York", true),
        ("22:00-23:00 Europe/Berlin; 18:00-19:00 America/New_York", false),
    ] {
        assert_eq!(windows(text).overlap(summer).is_some(), overlap, "{text}");
    }
    assert_eq!(windows("22:00-02:00 UTC; 22:00-02:00 UTC").all().len(), 1);
}

#[test]
fn two_wishes_are_one_union_within_the_bound() {
    let of = |n: u16| windows(&format!("0{n}:00-0{}:00 UTC", n + 1));
    let mut all = of(0);
    for n in 0..9 {
        all = all.union(&of(n));
    }
    assert_eq!(all.all().len(), MAX_WINDOWS);
    assert_eq!(all.all()[7], of(7).all()[0]);
}

#[test]
fn what_is_no_window_is_refused_with_a_hint() {
    for (text, part, hint) in [
        ("22:00-06:00", "has no time zone", "22:00-06:00 Europe/Berlin"),
        ("22:00-06:00 Berlin", "`Berlin` is not a time zone", "Europe/Berlin"),
        ("22:00-06:00 Europe/Atlantis", "is not a time zone", "IANA"),
        ("22:00-06:00 +02:00", "is not a time zone", "IANA"),
        ("22:00-22:00 UTC", "is never open", "00:00-24:00"),
        ("24:00-06:00 UTC", "is never open", "00:00-24:00"),
        ("22-06 UTC", "is not a window", "22:00-06:00 Europe/Berlin"),
        ("25:00-06:00 UTC", "is not a window", ""),
        ("22:60-06:00 UTC", "is not a window", ""),
        ("22:00 UTC", "is not a window", ""),
        ("+2:00-06:00 UTC", "is not a window", ""),
        ("", "there is no window", ""),
        (" ; ", "there is no window", ""),
    ] {
        let error = text.parse::<Windows>().expect_err(text);
        assert!(error.to_string().contains(part), "{text}: {error}");
        assert!(error.hint().contains(hint), "{text}: {}", error.hint());
    }
    let nine: Vec<_> = (0..9).map(|n| format!("0{n}:00-0{n}:30 UTC")).collect();
    assert!(nine.join(";").parse::<Windows>().expect_err("nine").to_string().contains("more than 8"));
}
