//! A search for the parts of a table that the kernel refuses.

use std::collections::BTreeSet;

use crate::routes::ServiceName;

/// The object that a part of a table is for. Without its part, a Service is not served, and a policy allows no
/// connection to the pods that it selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableOwner {
    Service(ServiceName),
    /// A NetworkPolicy, by its UID.
    Policy(String),
}

/// Returns the smallest set of suspects without whose parts the kernel accepts the table; `None` if the table is
/// refused without all of them. `accepts` tries the table without the given suspects.
///
/// The number of tries for each refused part grows with the logarithm of the number of suspects.
///
/// # Errors
///
/// The errors of `accepts`.
pub fn isolate<E>(
    suspects: &BTreeSet<TableOwner>,
    mut accepts: impl FnMut(&BTreeSet<TableOwner>) -> Result<bool, E>,
) -> Result<Option<BTreeSet<TableOwner>>, E> {
    let mut left_out = suspects.clone();
    if !accepts(&left_out)? {
        return Ok(None);
    }
    let mut groups: Vec<Vec<TableOwner>> = vec![suspects.iter().cloned().collect()];
    while let Some(mut group) = groups.pop() {
        let without: BTreeSet<TableOwner> = left_out
            .iter()
            .filter(|owner| group.binary_search(owner).is_err())
            .cloned()
            .collect();
        if accepts(&without)? {
            left_out = without;
        } else if group.len() > 1 {
            cov_mark::hit!(findings_2_s36);
            let later = group.split_off(group.len() / 2);
            groups.extend([later, group]);
        }
    }
    Ok(Some(left_out))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn policies(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<TableOwner> {
        let owner = |number: usize| TableOwner::Policy(format!("{number:05}"));
        numbers.into_iter().map(owner).collect()
    }

    /// The refused owners among a thousand, and the number of tries.
    fn isolated(bad: &BTreeSet<TableOwner>) -> (Option<BTreeSet<TableOwner>>, usize) {
        let mut tries = 0;
        let accepts = |left_out: &BTreeSet<TableOwner>| {
            tries += 1;
            Ok::<_, Infallible>(bad.is_subset(left_out))
        };
        let Ok(refused) = isolate(&policies(0..1000), accepts);
        (refused, tries)
    }

    // findings-2 S36
    #[test]
    fn the_refused_ones_alone_are_found_with_few_tries() {
        cov_mark::check!(findings_2_s36);
        for bad in [
            policies([]),
            policies([0]),
            policies([999]),
            policies([3, 4, 700]),
        ] {
            let (left_out, tries) = isolated(&bad);
            assert_eq!(left_out.as_ref(), Some(&bad));
            assert!(
                tries <= 2 + 21 * bad.len(),
                "{tries} tries for {}",
                bad.len()
            );
        }
        let bad_base = |_: &BTreeSet<TableOwner>| Ok::<_, Infallible>(false);
        assert_eq!(isolate(&policies(0..9), bad_base), Ok(None));
    }

    /// The kernel may refuse parts only because of their number: then some of the parts are left out.
    #[test]
    fn a_limit_of_all_is_used_up_to_the_limit() {
        let suspects = policies(0..100);
        let accepts = |left_out: &BTreeSet<TableOwner>| {
            Ok::<_, Infallible>(suspects.difference(left_out).count() <= 70)
        };
        let Ok(left_out) = isolate(&suspects, accepts);
        assert_eq!(left_out.map(|owners| owners.len()), Some(30));
    }
}
