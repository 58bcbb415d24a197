//! The versions of etcd that are accepted.

use thiserror::Error;

/// The first version of each minor version without the faults in the changelogs of etcd: duplicate events, progress
/// marks before their events, lost deletions, and old events on new watches.
const FLOORS: [([u32; 2], u32); 2] = [([3, 4], 38), ([3, 5], 22)];

/// The reason why a version of etcd is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum VersionError {
    #[error("etcd has the version {0:?}, which is not understood")]
    Malformed(String),
    #[error(
        "etcd {0} loses or repeats events of watches; use 3.4.38, 3.5.22 or newer (see the changelogs of 3.4 and 3.5)"
    )]
    Faulty(String),
}

/// Checks a member's version.
pub(crate) fn check(version: &str) -> Result<(), VersionError> {
    let unknown = || VersionError::Malformed(version.to_owned());
    let mut numbers = version.split('.').map(|number| {
        let digits = number.split(['-', '+']).next().unwrap_or_default();
        digits.parse::<u32>()
    });
    let mut next = || numbers.next().and_then(Result::ok).ok_or_else(unknown);
    let (minor, patch) = ([next()?, next()?], next()?);
    let floor = FLOORS.iter().find(|(supported, _)| *supported == minor);
    let is_good = match floor {
        Some((_, floor)) => patch >= *floor,
        None => minor > FLOORS[1].0,
    };
    if is_good {
        return Ok(());
    }
    Err(VersionError::Faulty(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_refused() {
        for good in ["3.4.38", "3.5.22", "3.5.30", "3.6.0", "3.6.0-rc.1", "4.0.0"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["3.4.23", "3.4.37", "3.5.21", "3.3.99", "2.9.9"] {
            let refused = check(bad).unwrap_err();
            assert_eq!(refused, VersionError::Faulty(bad.to_owned()));
            assert!(refused.to_string().contains("3.5.22"), "{refused}");
        }
        for strange in ["", "3", "3.5", "three.five.one", "3.5.x"] {
            let refused = check(strange).unwrap_err();
            assert_eq!(refused, VersionError::Malformed(strange.to_owned()));
        }
    }
}
