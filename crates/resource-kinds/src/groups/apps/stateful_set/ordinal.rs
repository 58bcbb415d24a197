//! The ordinal in the name of a pod.

/// The ordinal of a pod, if the pod's name is a name of the set's pods.
///
/// `web-3` of the set `web` is 3; `web-03`, `web-x` and `web-99999999999` are no names of the set.
pub fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    // Only the canonical spelling is accepted: `web-03`, `web-+3` and `web--0` are other names.
    let canonical = digits == "0" || digits.starts_with(|first| ('1'..='9').contains(&first));
    canonical.then_some(i64::from(ordinal))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// statefulset.md 1.1, 1.2: only a canonical name has an ordinal.
    #[test]
    fn only_canonical_names_have_an_ordinal() {
        assert_eq!(ordinal("web", "web-0"), Some(0));
        assert_eq!(ordinal("web", "web-12"), Some(12));
        assert_eq!(ordinal("web-1", "web-1-2"), Some(2));
        for name in [
            "web", "web-", "web-01", "web-+1", "web-x", "web-1-2", "db-0", "web--1",
        ] {
            assert_eq!(ordinal("web", name), None, "{name}");
        }
        assert_eq!(ordinal("web", "web-2147483647"), Some(2_147_483_647));
        assert_eq!(ordinal("web", "web-2147483648"), None);
    }
}
