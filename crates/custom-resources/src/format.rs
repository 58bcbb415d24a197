//! The string formats that are validated, as in `pkg/validation/strfmt` of k8s.io/kube-openapi; other formats have no
//! effect.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use object_model::names;
use regex::Regex;

/// Whether a text has a format; true for an unknown format. Dashes in the name have no meaning: `date-time` and
/// `datetime` are one format.
pub(crate) fn matches(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "byte" => is_base64(text),
        "ipv4" => is_ipv4(text) || (text.contains('.') && is_ipv6(text)),
        "ipv6" => is_ipv6(text),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "hostname" => is_hostname(text),
        "email" => is_email(text),
        "uri" => is_uri(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => is_hex_color(text),
        "rgbcolor" => is_rgb_color(text),
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "k8sshortname" => names::dns_label(text).is_empty(),
        "k8slongname" => names::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// RFC 3339, which requires a time zone and the letter T. As upstream, any character may precede the fraction.
fn is_date_time(text: &str) -> bool {
    static TIME: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let pattern = r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$";
        Regex::new(pattern).ok()
    });
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else {
        return false;
    };
    let captures = TIME.as_ref().and_then(|regex| regex.captures(time));
    let is_time = captures.is_some_and(|captures| {
        let part = |index: usize| captures.get(index).map_or("", |part| part.as_str());
        part(1) <= "23" && part(2) <= "59" && part(3) <= "59"
    });
    is_date(date) && is_time
}

/// The units of durations in words, and the start of longer words.
const UNITS: [(&[&str], &str); 8] = [
    (&["ns"], "nano"),
    (&["us", "µs"], "micro"),
    (&["ms"], "milli"),
    (&["s"], "sec"),
    (&["m"], "min"),
    (&["h", "hr"], "hour"),
    (&["d"], "day"),
    (&["w", "wk"], "week"),
];

/// A duration of Go (`1h30m`), or numbers with units in words (`2 days`).
fn is_duration(text: &str) -> bool {
    static PARTS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)").ok());
    if is_go_duration(text) {
        return true;
    }
    let Some(parts) = PARTS.as_ref() else {
        return false;
    };
    cov_mark::hit!(findings_2_e12);
    let mut has_unit = false;
    for part in parts.captures_iter(text) {
        let (_, [number, unit]) = part.extract();
        if number.parse::<i64>().is_err() {
            return false;
        }
        let unit = unit.to_lowercase();
        has_unit |= UNITS
            .iter()
            .any(|(names, start)| names.contains(&unit.as_str()) || unit.starts_with(start));
    }
    has_unit
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = rest.get(..rest.len() - unit.len()).unwrap_or_default();
        let has_digit = number.bytes().any(|byte| byte.is_ascii_digit());
        if !has_digit || number.matches('.').count() > 1 {
            return false;
        }
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.');
        let (name, after) = unit.split_at(end.unwrap_or(unit.len()));
        if !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&name) {
            return false;
        }
        rest = after;
    }
    true
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body.bytes().all(digit)
}

/// Numbers with leading zeros are valid, as in upstream.
fn is_ipv4(text: &str) -> bool {
    let is_part = |part: &str| {
        let digits = part.trim_start_matches('0');
        is_number(part) && (digits.is_empty() || digits.parse::<u8>().is_ok())
    };
    text.split('.').count() == 4 && text.split('.').all(is_part)
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let bits = bits.parse::<u8>().ok().filter(|_| is_number(bits));
    let Some(bits) = bits else { return false };
    (is_ipv4(address) && bits <= 32) || (is_ipv6(address) && bits <= 128)
}

/// 6, 8 or 20 bytes: pairs of digits with colons or dashes, or groups of four with dots.
fn is_mac(text: &str) -> bool {
    let is_list = |separator: char, digits: usize| {
        let mut groups = text.split(separator);
        let count = text.split(separator).count();
        [6, 8, 20].contains(&(count * digits / 2))
            && groups.all(|group| group.len() == digits && is_hex(group))
    };
    is_list(':', 2) || is_list('-', 2) || is_list('.', 4)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut rest = text;
    let mut digits = String::with_capacity(32);
    for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some((group, after)) = rest.split_at_checked(length) else {
            return false;
        };
        digits.push_str(group);
        rest = after;
    }
    let at = |index: usize| digits.get(index..=index).unwrap_or_default();
    let has_variant = match version {
        Some('4' | '5') => "89abAB".contains(at(16)),
        _ => true,
    };
    rest.is_empty()
        && is_hex(&digits)
        && has_variant
        && version.is_none_or(|version| at(12).starts_with(version))
}

/// Whether a name may contain this character: letters, digits, and symbols of other scripts too.
fn is_of_host(c: char) -> bool {
    static LETTERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{S}\p{L}]$").ok());
    let other = || {
        LETTERS
            .as_ref()
            .map(|regex| regex.is_match(c.encode_utf8(&mut [0; 4])))
    };
    c.is_ascii_alphanumeric() || (c != '-' && c != '.' && other().unwrap_or_default())
}

/// As upstream: a single label has at most one dash, after its first character.
fn is_hostname(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    if text.len() > 255 || labels.iter().any(|label| label.len() > 63) {
        return false;
    }
    let [firsts @ .., last] = labels.as_slice() else {
        return false;
    };
    if firsts.is_empty() {
        let mut chars = last.chars();
        let starts = chars.next().is_some_and(is_of_host);
        let rest = chars.as_str();
        return starts
            && rest
                .strip_prefix('-')
                .unwrap_or(rest)
                .chars()
                .all(is_of_host);
    }
    let is_label = |label: &&str| {
        let (first, end) = (label.chars().next(), label.chars().next_back());
        first.is_some_and(is_of_host)
            && end.is_some_and(is_of_host)
            && label.chars().all(|c| c == '-' || is_of_host(c))
    };
    let is_letter = |c: char| c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_alphabetic());
    firsts.iter().all(is_label) && last.chars().count() >= 2 && last.chars().all(is_letter)
}

/// RFC 5322, with a name before the address, as `A <a@b.example>`.
fn is_email(text: &str) -> bool {
    let text = text.trim();
    let address = match text.strip_suffix('>') {
        Some(inner) => inner.split_once('<').map(|(_, address)| address),
        None => Some(text),
    };
    let Some((local, domain)) = address.and_then(|address| address.rsplit_once('@')) else {
        return false;
    };
    let is_atom = |atom: &str| {
        let is_part = |c: char| {
            c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
        };
        !atom.is_empty() && atom.chars().all(is_part)
    };
    let is_quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let is_literal = domain.starts_with('[') && domain.ends_with(']');
    (is_quoted || local.split('.').all(is_atom)) && (is_literal || domain.split('.').all(is_atom))
}

/// An absolute address, or a path from the root.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.contains(|c: char| c.is_ascii_control()) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let path = text.split('?').next().unwrap_or_default();
    let is_escaped = path.match_indices('%').all(|(at, _)| {
        let digits = path.get(at + 1..at + 3);
        digits.is_some_and(is_hex)
    });
    if text.starts_with('/') {
        return is_escaped;
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let Some(rest) = rest.strip_prefix("//") else {
        return is_scheme && (is_escaped || !rest.starts_with('/'));
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = match host.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port,
        _ => "",
    };
    let is_host = !host.contains(|c: char| " \"<>\\^`{|}".contains(c));
    is_scheme && is_escaped && is_host && (port.is_empty() || is_number(port))
}

/// The digits of a number that may have dashes and spaces.
fn compact(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = compact(text);
    let Some((digits, check)) = text.split_at_checked(9) else {
        return false;
    };
    let check = match check {
        "X" => 10,
        digit if digit.len() == 1 && is_number(digit) => u32::from(digit.as_bytes()[0] - b'0'),
        _ => return false,
    };
    let numbers = digits
        .bytes()
        .map(|byte| u32::from(byte.wrapping_sub(b'0')));
    let sum: u32 = (1..)
        .zip(numbers)
        .map(|(place, number)| place * number)
        .sum();
    is_number(digits) && (sum + 10 * check).is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = compact(text);
    let weights = [1, 3].into_iter().cycle();
    let numbers = text.bytes().map(|byte| u32::from(byte.wrapping_sub(b'0')));
    text.len() == 13
        && is_number(&text)
        && ["978", "979"].iter().any(|start| text.starts_with(start))
        && weights
            .zip(numbers)
            .map(|(weight, number)| weight * number)
            .sum::<u32>()
            .is_multiple_of(10)
}

/// A number with the checksum of payment cards.
fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let starts = |from: u32, to: u32, length: usize| {
        let start = digits.get(..length).and_then(|start| start.parse().ok());
        start.is_some_and(|start: u32| (from..=to).contains(&start))
    };
    let is_known = match digits.len() {
        13 => starts(4, 4, 1),
        14 => starts(300, 305, 3) || starts(36, 36, 2) || starts(38, 38, 2),
        15 => {
            starts(34, 34, 2) || starts(37, 37, 2) || starts(2131, 2131, 4) || starts(1800, 1800, 4)
        }
        16 => {
            starts(4, 4, 1)
                || starts(51, 55, 2)
                || starts(6011, 6011, 4)
                || starts(65, 65, 2)
                || starts(35, 35, 2)
        }
        _ => false,
    };
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, byte)| {
            let digit = u32::from(byte - b'0');
            match index.is_multiple_of(2) {
                true => digit,
                false => digit * 2 / 10 + digit * 2 % 10,
            }
        })
        .sum();
    is_known && sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let separators: Vec<(usize, char)> = text
        .char_indices()
        .filter(|(_, c)| !c.is_ascii_digit())
        .collect();
    let is_separator = |(_, c): &(usize, char)| matches!(c, '-' | ' ');
    let places: Vec<usize> = separators.iter().map(|(at, _)| *at).collect();
    digits.len() == 9
        && separators.iter().all(is_separator)
        && matches!(places.as_slice(), [] | [3] | [5] | [3, 6])
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && is_hex(digits)
}

fn is_rgb_color(text: &str) -> bool {
    let inner = text
        .strip_prefix("rgb(")
        .and_then(|text| text.strip_suffix(')'));
    let is_part = |part: &str| {
        let part = part.trim_matches(|c: char| c.is_ascii_whitespace());
        let has_zero = part.len() > 1 && part.starts_with('0');
        is_number(part) && !has_zero && part.parse::<u8>().is_ok()
    };
    inner.is_some_and(|inner| inner.split(',').count() == 3 && inner.split(',').all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 E12
    #[test]
    fn known_formats_are_told_from_other_texts() {
        cov_mark::check!(findings_2_e12);
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            (
                "date-time",
                "2026-01-02T03:04:05.5+02:00",
                "2026-01-02 03:04:05Z",
            ),
            ("datetime", "2026-01-02t03:04:05z", "2026-01-02T24:04:05Z"),
            (
                "date-time",
                "2026-01-02T03:04:05-02:00",
                "2026-01-02T03:04:05",
            ),
            ("date", "2026-01-02", "2026-13-02"),
            ("duration", "1h30m", "1x"),
            ("duration", "22 ns", "ns"),
            ("duration", "2 days", "days"),
            ("duration", "-1.5h", ""),
            ("duration", "0", "1"),
            ("duration", "3 weeks", "weeks 3"),
            ("byte", "aGVsbG8=", "aGVsbG8"),
            ("byte", "aGVs", ""),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv4", "010.0.0.01", "10.0.0"),
            ("ipv4", "::ffff:10.0.0.1", "::1"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("cidr", "fd00::/64", "fd00::/129"),
            ("mac", "00:1a:2B:3c:4d:5e", "00:1a:2b:3c:4d"),
            ("mac", "001a.2b3c.4d5e", "00:1a-2b:3c:4d:5e"),
            ("mac", "00-1a-2b-3c-4d-5e-6f-70", "00:1g:2b:3c:4d:5e"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            (
                "uuid",
                "123E4567e89b12d3a456426614174000",
                "123e4567-e89b-12d3-a456-42661417400g",
            ),
            (
                "uuid3",
                "123e4567-e89b-32d3-a456-426614174000",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-42d3-c456-426614174000",
            ),
            (
                "uuid5",
                "123e4567-e89b-52d3-B456-426614174000",
                "123e4567-e89b-42d3-a456-426614174000",
            ),
            ("hostname", "a.example", "-a"),
            ("hostname", "a-b", "ab-c"),
            ("hostname", "my-host.example.com", "my_host.example.com"),
            ("hostname", "localhost", "a.1"),
            ("email", "a@b.example", "a"),
            ("email", "A B <a.b@c>", "a b@c"),
            ("uri", "https://a.example/x", "no uri"),
            ("uri", "/path", "a.example"),
            ("uri", "urn:a:b", "https://a b/"),
            ("uri", "https://a:80/%20", "https://a:b/"),
            ("isbn", "978-0321751041", "978-0321751042"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "9780321751041", "0321751043"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("ssn", "123-45-6789", "123-456789-"),
            ("hexcolor", "#FFFFFF", "#FFFF"),
            ("rgbcolor", "rgb(255, 0,12)", "rgb(256,0,0)"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f1f77"),
            ("k8s-short-name", "my-name", "My-name"),
            ("k8s-short-name", "1", "a.b"),
            ("k8s-long-name", "a.b-c.d", "a..b"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        for format in ["of-my-own", "password", "int64"] {
            assert!(matches(format, "anything"), "{format}");
        }
    }
}
