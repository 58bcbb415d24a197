//! Ages in kubectl's format, and durations in Go's format.

use jiff::{SignedDuration, Timestamp};

/// A duration in kubectl's short format (`kubectl.md` 1.10).
pub fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let pair = |big: i64, big_name: &str, small: i64, small_name: &str| {
        let rest = seconds % big / small;
        if rest == 0 {
            format!("{}{big_name}", seconds / big)
        } else {
            format!("{}{big_name}{rest}{small_name}", seconds / big)
        }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => pair(HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => pair(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => pair(YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// The time from `then` (RFC 3339) to `now`; `<unknown>` if it cannot be parsed.
pub fn age(then: Option<&str>, now: Timestamp) -> String {
    match then.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in Go's format: `1m15.06s`. A negative duration counts as zero.
pub fn go(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let mut text = String::new();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    let fraction = format!("{:09}", duration.subsec_nanos().max(0));
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    text.push_str(&format!("{}{point}{fraction}s", seconds % 60));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, text) in [
            (-5, "0s"),
            (0, "0s"),
            (10_000, "10s"),
            (15_060, "15.06s"),
            (75_001, "1m15.001s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go(SignedDuration::from_millis(millis)), text);
        }
    }

    /// `kubectl.md` 1.10
    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (300, "5m"),
            (599, "9m59s"),
            (10_799, "179m"),
            (10_800, "3h"),
            (28_799, "7h59m"),
            (172_799, "47h"),
            (691_199, "7d23h"),
            (729 * 86_400, "729d"),
            (730 * 86_400, "2y"),
            (365 * 86_400 * 7 + 3 * 86_400, "7y3d"),
            (365 * 86_400 * 8, "8y"),
        ] {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn an_age_needs_a_time() {
        let now: Timestamp = "2024-01-01T00:01:40Z".parse().unwrap();
        assert_eq!(age(Some("2024-01-01T00:00:00Z"), now), "100s");
        assert_eq!(age(None, now), "<unknown>");
        assert_eq!(age(Some("x"), now), "<unknown>");
    }
}
