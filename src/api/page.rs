//! Long lists in pieces: `limit` and `cursor` of a request, `next` of its answer.

use larder_jobs::Invalid;

/// Most entries of one answer.
pub(super) const MAX_LIMIT: usize = 1_000;

/// The number of entries that is asked for.
///
/// # Errors
/// For what is no number from 1 to 1000.
pub(super) fn limit(text: Option<&str>) -> Result<Option<usize>, Invalid> {
    let Some(text) = text else { return Ok(None) };
    let number = text.parse().ok().filter(|n| (1..=MAX_LIMIT).contains(n));
    number.map(Some).ok_or_else(|| {
        Invalid::new("`limit` is not a number from 1 to 1000", "leave it out for as many as are usual")
    })
}

/// Takes away what is beyond the page; what is left ends with the entry that `next` tells of, if more follow.
pub(super) fn cut<T>(entries: &mut Vec<T>, limit: usize, next: impl Fn(&T) -> String) -> Option<String> {
    if entries.len() <= limit {
        return None;
    }
    entries.truncate(limit);
    entries.last().map(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_whether_more_follow() {
        let mut all = vec![1, 2, 3];
        assert_eq!(cut(&mut all, 3, ToString::to_string), None);
        assert_eq!(cut(&mut all, 2, ToString::to_string), Some("2".to_owned()));
        assert_eq!(all, [1, 2]);
        assert_eq!(limit(None), Ok(None));
        assert_eq!(limit(Some("1000")), Ok(Some(1_000)));
        for bad in ["0", "1001", "x", "-1", ""] {
            assert!(limit(Some(bad)).is_err(), "{bad}");
        }
    }
}
