//! What a PromQL query is about: the metrics that it names, the parts of it that must have an answer, and the quantity
//! that comes out, by the suffixes of the metrics and the rules of arithmetic.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::parser::{self, Expr};

/// Recorded names and their queries.
pub(super) type Recorded = BTreeMap<String, String>;

pub(super) fn parse(query: &str) -> Result<Expr, String> {
    parser::parse(query).map_err(|error| format!("{query}: {error}"))
}

fn children(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Aggregate(of) => of.param.as_deref().into_iter().chain([&*of.expr]).collect(),
        Expr::Binary(of) => vec![&of.lhs, &of.rhs],
        Expr::Call(of) => of.args.args.iter().map(|arg| &**arg).collect(),
        Expr::Paren(of) => vec![&of.expr],
        Expr::Subquery(of) => vec![&of.expr],
        Expr::Unary(of) => vec![&of.expr],
        _ => Vec::new(),
    }
}

/// The metrics that a query names.
pub(super) fn metrics(expr: &Expr) -> BTreeSet<String> {
    let own = match expr {
        Expr::VectorSelector(of) => of.name.clone(),
        Expr::MatrixSelector(of) => of.vs.name.clone(),
        _ => None,
    };
    own.into_iter().chain(children(expr).into_iter().flat_map(metrics)).collect()
}

/// The parts of a query that must have an answer on a host where everything is there: what is compared, joined or counted
/// when it is bad counts by itself, since that nothing is bad is an answer, too.
pub(super) fn parts(expr: &Expr) -> Vec<String> {
    if metrics(expr).is_empty() {
        return Vec::new();
    }
    if chooses(expr) {
        return children(expr).into_iter().flat_map(parts).collect();
    }
    vec![expr.to_string()]
}

/// Whether a query may have no answer although all its metrics do.
fn chooses(expr: &Expr) -> bool {
    let here = match expr {
        Expr::Binary(of) => of.op.is_comparison_operator() || of.op.is_set_operator(),
        Expr::Call(of) => of.func.name == "absent",
        _ => false,
    };
    here || children(expr).into_iter().any(chooses)
}

/// A quantity: powers of units, and what else a unit in Grafana depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quantity {
    bytes: i8,
    seconds: i8,
    celsius: i8,
    watts: i8,
    /// A share of something: 1 is all of it.
    is_share: bool,
    /// A point in time, not a time; `is_millis` as Grafana wants it.
    is_moment: bool,
    is_millis: bool,
}

const PLAIN: Quantity = Quantity {
    bytes: 0,
    seconds: 0,
    celsius: 0,
    watts: 0,
    is_share: false,
    is_moment: false,
    is_millis: false,
};
const SECONDS: Quantity = Quantity { seconds: 1, ..PLAIN };
const BYTES: Quantity = Quantity { bytes: 1, ..PLAIN };
const MOMENT: Quantity = Quantity { is_moment: true, ..PLAIN };
const SHARE: Quantity = Quantity { is_share: true, ..PLAIN };

impl Quantity {
    /// Grafana's units for it.
    pub(super) fn units(self) -> &'static [&'static str] {
        match self {
            Self { is_moment: true, is_millis: true, .. } => &["dateTimeFromNow", "dateTimeAsIso"],
            Self { is_moment: true, .. } => &[],
            SHARE => &["percentunit"],
            PLAIN => &["none", "short"],
            BYTES => &["bytes"],
            SECONDS => &["s"],
            Self { bytes: 1, seconds: -1, .. } => &["Bps", "binBps"],
            Self { bytes: 0, seconds: -1, celsius: 0, watts: 0, .. } => &["reqps", "ops", "cps"],
            Self { celsius: 1, .. } => &["celsius"],
            Self { watts: 1, .. } => &["watt"],
            _ => &[],
        }
    }

    fn per_second(self) -> Self {
        Self { seconds: self.seconds - 1, is_share: false, is_moment: false, ..self }
    }

    fn times(self, other: Self, sign: i8) -> Self {
        Self {
            bytes: self.bytes + sign * other.bytes,
            seconds: self.seconds + sign * other.seconds,
            celsius: self.celsius + sign * other.celsius,
            watts: self.watts + sign * other.watts,
            is_share: self.is_share || other.is_share,
            ..self
        }
    }
}

/// By the suffix, as Prometheus asks for it.
fn of_metric(name: &str, recorded: &Recorded) -> Result<Option<Quantity>, String> {
    if let Some(query) = recorded.get(name) {
        return quantity(&parse(query)?, recorded);
    }
    if name.ends_with("_bucket") || name.ends_with("_count") {
        return Ok(Some(PLAIN));
    }
    let name = name.trim_end_matches("_sum").trim_end_matches("_total");
    let suffixes = [
        ("_bytes_per_second", BYTES.per_second()),
        ("_timestamp_seconds", MOMENT),
        ("_seconds", SECONDS),
        ("_bytes", BYTES),
        ("_ratio", SHARE),
        ("_celsius", Quantity { celsius: 1, ..PLAIN }),
        ("_watts", Quantity { watts: 1, ..PLAIN }),
    ];
    let known = suffixes.iter().find(|(suffix, _)| name.ends_with(suffix));
    Ok(Some(known.map_or(PLAIN, |(_, quantity)| *quantity)))
}

/// The quantity of a query's answer; `None` if it is a bare number, which suits any.
///
/// An error says what does not go together.
pub(super) fn quantity(expr: &Expr, recorded: &Recorded) -> Result<Option<Quantity>, String> {
    match expr {
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Ok(None),
        Expr::VectorSelector(of) => of_metric(of.name.as_deref().unwrap_or_default(), recorded),
        Expr::MatrixSelector(of) => of_metric(of.vs.name.as_deref().unwrap_or_default(), recorded),
        Expr::Paren(of) => quantity(&of.expr, recorded),
        Expr::Unary(of) => quantity(&of.expr, recorded),
        Expr::Subquery(of) => quantity(&of.expr, recorded),
        Expr::Aggregate(of) => {
            let inner = quantity(&of.expr, recorded)?;
            Ok(if of.op.to_string() == "count" { Some(PLAIN) } else { inner })
        }
        Expr::Call(of) => of_call(of, recorded),
        Expr::Binary(of) => of_binary(of, recorded),
    }
}

fn of_call(call: &parser::Call, recorded: &Recorded) -> Result<Option<Quantity>, String> {
    let argument = |n: usize| call.args.args.get(n).map_or(Ok(None), |arg| quantity(arg, recorded));
    match call.func.name {
        "time" => Ok(Some(MOMENT)),
        "vector" => Ok(None),
        "absent" | "count_over_time" => Ok(Some(PLAIN)),
        "rate" | "irate" | "deriv" => Ok(argument(0)?.map(Quantity::per_second)),
        "histogram_quantile" => {
            let buckets = call.args.args.get(1).map(|arg| metrics(arg)).unwrap_or_default();
            let bucket = buckets.iter().find_map(|name| name.strip_suffix("_bucket"));
            of_metric(bucket.ok_or_else(|| format!("{buckets:?} are no buckets"))?, recorded)
        }
        _ => argument(0),
    }
}

fn of_binary(of: &parser::BinaryExpr, recorded: &Recorded) -> Result<Option<Quantity>, String> {
    let (left, right) = (quantity(&of.lhs, recorded)?, quantity(&of.rhs, recorded)?);
    let operator = of.op.to_string();
    let same = || match (left, right) {
        (Some(left), Some(right)) if left != right => {
            Err(format!("`{of}` takes {left:?} {operator} {right:?}"))
        }
        _ => Ok(left.or(right)),
    };
    match (operator.as_str(), left, right) {
        ("and" | "unless", ..) => Ok(left),
        ("-", Some(MOMENT), Some(MOMENT)) => Ok(Some(SECONDS)),
        ("*", Some(MOMENT), None) => {
            let millis = of.rhs.to_string() == "1000";
            Ok(Some(Quantity { is_millis: millis, ..MOMENT }))
        }
        ("*", Some(left), Some(right)) => Ok(Some(left.times(right, 1))),
        ("/", Some(left), Some(right)) if left == right => Ok(Some(SHARE)),
        ("/", Some(left), Some(right)) => Ok(Some(left.times(right, -1))),
        ("*" | "/", ..) => Ok(left.or(right)),
        // Comparisons filter; sums and alternatives are of one kind.
        _ => same(),
    }
}

#[test]
fn quantities_follow_from_suffixes_and_arithmetic() {
    let recorded = Recorded::from([("host:x_bytes:rate5m".to_owned(), "rate(x_bytes_total[5m])".to_owned())]);
    for (query, unit) in [
        ("sum(x_bytes)", "bytes"),
        ("rate(x_bytes_total[5m])", "Bps"),
        ("host:x_bytes:rate5m", "Bps"),
        ("increase(x_bytes_total[1h])", "bytes"),
        ("x_bytes / y_bytes", "percentunit"),
        ("x_bytes * on (uuid) group_left (index) x_info", "bytes"),
        ("x_bytes / rate(x_bytes_total[5m])", "s"),
        ("sum(x_jobs) / (sum(rate(x_seconds_count[1h])) > 0)", "s"),
        ("histogram_quantile(0.9, sum by (le) (rate(x_seconds_bucket[5m])))", "s"),
        ("rate(x_seconds_sum[5m]) / rate(x_seconds_count[5m])", "s"),
        ("time() - x_timestamp_seconds", "s"),
        ("max(x_timestamp_seconds) * 1000", "dateTimeFromNow"),
        ("count(x_bytes > 0) or vector(0)", "none"),
        ("clamp_min(x_bytes - y_bytes, 0)", "bytes"),
        ("rate(x_total[5m])", "reqps"),
        ("x_temperature_celsius", "celsius"),
        ("x_power_watts", "watt"),
        ("x_ratio", "percentunit"),
        ("x_profile_bytes_per_second", "Bps"),
    ] {
        let found =
            quantity(&parse(query).expect("parses"), &recorded).expect("a quantity").expect("not bare");
        assert!(found.units().contains(&unit), "{query} is {found:?}");
    }
    for wrong in ["x_bytes + x_seconds", "x_bytes > x_seconds"] {
        quantity(&parse(wrong).expect("parses"), &recorded).expect_err(wrong);
    }
    let seconds = quantity(&parse("x_timestamp_seconds").expect("parses"), &recorded).expect("a quantity");
    assert_eq!(seconds.expect("not bare").units(), [""; 0], "Grafana wants milliseconds");
}

#[test]
fn what_must_have_an_answer_is_what_is_compared_and_joined() {
    for (query, expected) in [
        ("sum(x)", &["sum(x)"][..]),
        ("count(x == 0) or vector(0)", &["x"]),
        ("a > 1 and on (instance) b", &["a", "b"]),
        ("absent(up{job=\"x\"})", &["up{job=\"x\"}"]),
        ("time() - x < 3600", &["time() - x"]),
    ] {
        assert_eq!(parts(&parse(query).expect("parses")), expected, "{query}");
    }
}
