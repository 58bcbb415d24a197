//! Versions according to semver.org 2.0.0, compared by precedence.

use std::cmp::Ordering;

/// A version. The build metadata after `+` is not stored, because comparisons ignore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    /// Pre-release identifiers after `-`. A version without identifiers is later than a version with identifiers.
    pre: Vec<Word>,
}

/// A pre-release identifier: numbers sort before texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Number(u64),
    Text(String),
}

impl Semver {
    /// Parses a version; `None` if the text is not a version.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, build) = match text.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (text, None),
        };
        let (core, pre) = match rest.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (rest, None),
        };
        if !build.is_none_or(|build| build.split('.').all(is_word)) {
            return None;
        }
        let numbers: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
        let pre = pre.map_or(Some(Vec::new()), |pre| pre.split('.').map(word).collect())?;
        Some(Self {
            numbers: numbers.try_into().ok()?,
            pre,
        })
    }

    /// Major, minor and patch, in this order.
    pub fn numbers(&self) -> [u64; 3] {
        self.numbers
    }
}

fn is_word(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_digits(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// A number without leading zeroes.
fn number(part: &str) -> Option<u64> {
    if part.len() > 1 && part.starts_with('0') {
        cov_mark::hit!(findings_c47);
        return None;
    }
    is_digits(part).then(|| part.parse().ok())?
}

fn word(part: &str) -> Option<Word> {
    if is_digits(part) {
        return number(part).map(Word::Number);
    }
    is_word(part).then(|| Word::Text(part.to_owned()))
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        let release = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        };
        self.numbers.cmp(&other.numbers).then_with(release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings C47
    #[test]
    fn only_versions_of_semver_org_are_versions() {
        cov_mark::check!(findings_c47);
        for (text, good) in [
            ("1.0.0", true),
            ("1.0.0-0.a-b+build.01", true),
            ("1.0.0-01", false),
            ("01.0.0", false),
            ("1.0.0+", false),
            ("1.0.0-", false),
            ("v1.0.0", false),
            ("1.0", false),
            ("1.0.0.0", false),
            ("", false),
        ] {
            assert_eq!(Semver::parse(text).is_some(), good, "{text}");
        }
    }

    /// findings C47: the order of the example in the specification.
    #[test]
    fn versions_have_an_order() {
        let order = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.10.0",
        ];
        let versions: Vec<Semver> = order
            .iter()
            .filter_map(|text| Semver::parse(text))
            .collect();
        assert_eq!(versions.len(), order.len());
        assert!(versions.is_sorted_by(|one, other| one < other));
        assert_eq!(Semver::parse("1.0.0+a"), Semver::parse("1.0.0+b"));
    }
}
