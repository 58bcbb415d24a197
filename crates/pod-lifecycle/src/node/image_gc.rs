//! Image garbage collection: the images to remove when their disk is nearly full, or when they have been
//! unused for long (statefulset.md §12.16).
//!
//! As kubelet's image garbage collection: if the disk usage is above the high threshold, images are removed
//! until it is at the low threshold, the longest unused image first. Images in use, pinned images and new
//! images stay.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use crate::monotonic::Instant;

/// The policy of image garbage collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Percentage of disk usage that starts the collection; 100 disables it.
    pub high_percent: u8,
    /// Percentage of disk usage that ends the collection.
    pub low_percent: u8,
    /// Minimum time after the first observation of an image before it may be removed.
    pub minimum_age: SignedDuration,
    /// Maximum time without use, independent of the disk usage; `None` for no limit.
    pub maximum_age: Option<SignedDuration>,
}

impl Default for Policy {
    /// The defaults are kubelet's.
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            minimum_age: SignedDuration::from_mins(2),
            maximum_age: None,
        }
    }
}

impl Policy {
    /// Whether images are collected without disk pressure.
    pub fn collects(&self) -> bool {
        self.high_percent < 100 || self.maximum_age.is_some()
    }

    /// The number of bytes to free on a disk; `None` if usage is below the high threshold.
    pub fn to_free(&self, capacity: u64, available: u64) -> Option<u64> {
        if self.high_percent >= 100 || capacity == 0 {
            return None;
        }
        let available = available.min(capacity);
        let share = |percent: u128| u128::from(capacity) * percent / 100;
        let used_percent = 100 - u128::from(available) * 100 / u128::from(capacity);
        if used_percent < u128::from(self.high_percent) {
            return None;
        }
        let target = share(100 - u128::from(self.low_percent.min(100)));
        let lacking = target.saturating_sub(u128::from(available));
        u64::try_from(lacking).ok().filter(|bytes| *bytes > 0)
    }
}

/// An image that is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub digest: String,
    /// Whether the image is pinned, because no registry has it.
    pub pinned: bool,
    pub in_use: bool,
}

/// The observed past of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Past {
    /// The time of the first observation; `None` for an image that existed when the history began.
    first_seen: Option<Instant>,
    last_used: Option<Instant>,
}

/// The times at which images were first observed and last used.
#[derive(Clone, Debug, Default)]
pub struct ImageHistory {
    /// The time of the first observation.
    began: Option<Instant>,
    images: BTreeMap<String, Past>,
}

impl ImageHistory {
    pub fn note(&mut self, present: &[Present], now: Instant) {
        let first_seen = self.began.map(|_| now);
        self.began.get_or_insert(now);
        for image in present {
            let past = self.images.entry(image.digest.clone()).or_insert(Past {
                first_seen,
                last_used: None,
            });
            if image.in_use {
                past.last_used = Some(now);
            }
        }
        let digests: BTreeSet<&str> = present.iter().map(|image| image.digest.as_str()).collect();
        self.images
            .retain(|digest, _| digests.contains(digest.as_str()));
    }

    fn past(&self, digest: &str) -> Past {
        self.images.get(digest).copied().unwrap_or_default()
    }

    /// The images of the last observation that may be removed, in the order of removal.
    pub fn collectable<'p>(
        &self,
        present: &'p [Present],
        policy: &Policy,
        now: Instant,
    ) -> Vec<&'p str> {
        let mut free: Vec<(Past, &str)> = present
            .iter()
            .filter(|image| !image.in_use && !image.pinned)
            .map(|image| (self.past(&image.digest), image.digest.as_str()))
            .filter(|(past, _)| {
                past.first_seen
                    .is_none_or(|first_seen| now.since(first_seen) >= policy.minimum_age)
            })
            .collect();
        free.sort_unstable_by_key(|(past, digest)| (past.last_used, past.first_seen, *digest));
        free.into_iter().map(|(_, digest)| digest).collect()
    }

    /// The images that were unused for longer than the policy allows. The time before the first
    /// observation counts as use.
    pub fn outdated<'p>(
        &self,
        present: &'p [Present],
        policy: &Policy,
        now: Instant,
    ) -> Vec<&'p str> {
        let (Some(age), Some(began)) = (policy.maximum_age, self.began) else {
            return Vec::new();
        };
        let mut old = self.collectable(present, policy, now);
        old.retain(|digest| {
            let past = self.past(digest);
            let since = past.last_used.max(past.first_seen).unwrap_or(began);
            now.since(since) > age
        });
        old
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GI: u64 = 1 << 30;

    fn at(second: i64) -> Instant {
        Instant::reading(jiff::Timestamp::from_second(second).unwrap())
    }

    fn image(digest: &str, in_use: bool) -> Present {
        Present {
            digest: digest.to_owned(),
            pinned: false,
            in_use,
        }
    }

    #[test]
    fn a_disk_that_is_too_full_is_brought_down_to_the_low_threshold() {
        // statefulset.md 12.16
        let policy = Policy::default();
        assert_eq!(policy.to_free(100 * GI, 16 * GI), None);
        assert_eq!(policy.to_free(100 * GI, 15 * GI), Some(5 * GI));
        assert_eq!(policy.to_free(100 * GI, 0), Some(20 * GI));
        assert_eq!(policy.to_free(100 * GI, 200 * GI), None);
        assert_eq!(policy.to_free(0, 0), None);
        let never = Policy {
            high_percent: 100,
            ..policy
        };
        assert_eq!(never.to_free(100 * GI, 0), None);
        assert!(policy.collects() && !never.collects());
    }

    #[test]
    fn who_was_not_used_for_longest_goes_first() {
        // statefulset.md 12.16
        let policy = Policy::default();
        let mut history = ImageHistory::default();
        let (a, b) = (image("a", true), image("b", false));
        history.note(&[a.clone(), b.clone()], at(1000));
        let now = [
            image("a", false),
            b.clone(),
            image("c", true),
            image("d", false),
        ];
        history.note(&now, at(2000));
        // A new image is not collectable for a while, and an image in use is never collectable.
        assert_eq!(history.collectable(&now, &policy, at(2000)), ["b", "a"]);
        assert_eq!(
            history.collectable(&now, &policy, at(2120)),
            ["b", "d", "a"]
        );
        let pinned = Present {
            pinned: true,
            ..b.clone()
        };
        assert_eq!(
            history.collectable(&[a, pinned], &policy, at(9000)),
            [""; 0]
        );
        // The history of a removed image is deleted: when the image returns, it is new.
        history.note(&[], at(3000));
        history.note(std::slice::from_ref(&b), at(3300));
        assert_eq!(history.collectable(&[b], &policy, at(3300)), [""; 0]);
    }

    #[test]
    fn what_nobody_used_for_long_goes_without_need() {
        // statefulset.md 12.16
        let policy = Policy {
            maximum_age: Some(SignedDuration::from_hours(1)),
            ..Policy::default()
        };
        let mut history = ImageHistory::default();
        let all = [image("a", false), image("b", true)];
        assert_eq!(history.outdated(&all, &policy, at(0)), [""; 0]);
        history.note(&all, at(1000));
        assert_eq!(history.outdated(&all, &policy, at(4600)), [""; 0]);
        assert_eq!(history.outdated(&all, &policy, at(4601)), ["a"]);
        let unused = ["a", "b", "c"].map(|digest| image(digest, false));
        let later = [image("a", false), image("b", true), image("c", false)];
        history.note(&later, at(2000));
        assert_eq!(history.outdated(&unused, &policy, at(4700)), ["a"]);
        assert_eq!(
            history.outdated(&unused, &policy, at(5601)),
            ["a", "c", "b"]
        );
        let for_ever = Policy::default();
        assert_eq!(history.outdated(&unused, &for_ever, at(99_999)), [""; 0]);
    }

    proptest! {
        /// statefulset.md 12.16: images that are used, pinned or new are never removed. Of two other
        /// images, the image whose last use is older is removed first.
        #[test]
        fn only_old_unused_images_go_in_the_order_of_their_use(
            observations in proptest::collection::vec(
                proptest::collection::btree_map(0..6_u8, (any::<bool>(), any::<bool>()), 0..6),
                1..12,
            ),
        ) {
            let policy = Policy::default();
            let mut history = ImageHistory::default();
            let mut came: BTreeMap<String, Option<i64>> = BTreeMap::new();
            let mut used: BTreeMap<String, i64> = BTreeMap::new();
            for (round, observation) in observations.iter().enumerate() {
                let second = i64::try_from(round).unwrap() * 60;
                let present: Vec<Present> = observation
                    .iter()
                    .map(|(name, (in_use, pinned))| Present {
                        digest: name.to_string(),
                        pinned: *pinned,
                        in_use: *in_use,
                    })
                    .collect();
                came.retain(|name, _| present.iter().any(|image| image.digest == *name));
                used.retain(|name, _| present.iter().any(|image| image.digest == *name));
                for image in &present {
                    came.entry(image.digest.clone()).or_insert((round > 0).then_some(second));
                    if image.in_use {
                        used.insert(image.digest.clone(), second);
                    }
                }
                history.note(&present, at(second));
                let collected = history.collectable(&present, &policy, at(second));
                let may = |image: &&Present| {
                    let old = came[&image.digest].is_none_or(|came| second - came >= 120);
                    !image.in_use && !image.pinned && old
                };
                let expected: BTreeSet<&str> =
                    present.iter().filter(may).map(|image| image.digest.as_str()).collect();
                prop_assert_eq!(collected.iter().copied().collect::<BTreeSet<_>>(), expected);
                let order: Vec<Option<i64>> =
                    collected.iter().map(|digest| used.get(*digest).copied()).collect();
                prop_assert!(order.is_sorted(), "{:?}", order);
            }
        }
    }
}
