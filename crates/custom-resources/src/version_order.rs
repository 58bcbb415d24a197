//! The order in which the versions of a group are preferred.

use std::cmp::Reverse;

/// The stability of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stability {
    Alpha,
    Beta,
    Stable,
}

/// The rank of a version in a group; the preferred version has the greatest rank. Stable versions are before unstable
/// versions, newer before older, then other names alphabetically (the documentation of CustomResourceDefinitions,
/// "Version priority").
pub fn rank(name: &str) -> Rank<'_> {
    Rank(parts(name), Reverse(name))
}

/// The sort key of a version, from [`rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank<'a>(Option<(Stability, u64, u64)>, Reverse<&'a str>);

/// The parts of a name such as `v2beta1`.
fn parts(name: &str) -> Option<(Stability, u64, u64)> {
    let (major, rest) = number(name.strip_prefix('v')?)?;
    let (stability, minor) = match rest {
        "" => return Some((Stability::Stable, major, 0)),
        rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(minor), _) => (Stability::Beta, minor),
            (None, Some(minor)) => (Stability::Alpha, minor),
            (None, None) => return None,
        },
    };
    match number(minor)? {
        (minor, "") => Some((stability, major, minor)),
        _ => None,
    }
}

/// The number at the start of a text, and the rest of the text.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        // The order in the documentation of CustomResourceDefinitions.
        let order = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
        ];
        assert!(order.is_sorted_by(|one, other| rank(one) > rank(other)));
    }
}
