//! Sets of indexes, written as `0-2,5`.
//!
//! The sets are stored as ranges, in memory as in the status, because a job may have any number of indexes.

use std::collections::BTreeMap;

/// A set of completion indexes, stored as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    /// The last index of each range by its first; ranges do not touch each other.
    ranges: BTreeMap<u32, u32>,
}

impl Indexes {
    /// All indexes from 0 to `end` - 1.
    pub fn below(end: u32) -> Self {
        let mut all = Self::default();
        if let Some(last) = end.checked_sub(1) {
            all.add(0, last);
        }
        all
    }

    /// Parses the output of [`write`](Self::write); invalid parts and indexes from `end` on are ignored.
    pub fn read(text: &str, end: u32) -> Self {
        let mut all = Self::default();
        let Some(last) = end.checked_sub(1) else {
            return all;
        };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
                if to > last {
                    cov_mark::hit!(findings_s32);
                }
                all.add(from, to.min(last));
            }
        }
        all
    }

    /// Writes the indexes; three or more consecutive indexes are written as a range.
    pub fn write(&self) -> String {
        let texts: Vec<String> = self
            .ranges
            .iter()
            .map(|(from, to)| match to - from {
                0 => from.to_string(),
                1 => format!("{from},{to}"),
                _ => format!("{from}-{to}"),
            })
            .collect();
        texts.join(",")
    }

    /// Adds an index; `false` if the set has the index already.
    pub fn insert(&mut self, index: u32) -> bool {
        let before = self.ranges.range(..=index).next_back();
        let is_there = before.is_some_and(|(_, to)| *to >= index);
        if !is_there {
            self.add(index, index);
        }
        !is_there
    }

    /// The number of indexes in the set.
    pub fn len(&self) -> usize {
        let each = self.ranges.iter();
        each.map(|(from, to)| usize::try_from(to - from).map_or(usize::MAX, |more| more + 1))
            .sum()
    }

    /// Each index, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|(from, to)| *from..=*to)
    }

    /// The union of both sets.
    pub fn with(mut self, others: &Self) -> Self {
        for (from, to) in &others.ranges {
            self.add(*from, *to);
        }
        self
    }

    /// The indexes that are not in `others`.
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Self::default();
        for (from, to) in &self.ranges {
            let mut next = Some(*from);
            let begun = others.ranges.range(..=*from).next_back();
            let first = begun.map_or(*from, |(other, _)| *other);
            for (other, end) in others.ranges.range(first..=*to) {
                let Some(at) = next else { break };
                if let Some(before) = other.checked_sub(1) {
                    left.add(at, before);
                }
                next = end.checked_add(1).map(|after| after.max(at));
            }
            if let Some(at) = next {
                left.add(at, *to);
            }
        }
        left
    }

    /// Adds a range; no-op if `to` is before `from`.
    fn add(&mut self, mut from: u32, mut to: u32) {
        if from > to {
            return;
        }
        let before_end = self.ranges.range(..=to.saturating_add(1)).rev();
        let touched = before_end.take_while(|(_, end)| end.saturating_add(1) >= from);
        let touched: Vec<(u32, u32)> = touched.map(|(start, end)| (*start, *end)).collect();
        for (start, end) in touched {
            self.ranges.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.ranges.insert(from, to);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8"] {
            assert_eq!(Indexes::read(text, 100).write(), text);
        }
        assert_eq!(Indexes::read("0-99,x,3-", 2).write(), "0,1");
    }

    /// findings S32
    #[test]
    fn any_number_of_indexes_is_counted() {
        cov_mark::check!(findings_s32);
        let all = Indexes::read("0-4294967295,5-1", u32::MAX);
        assert_eq!(all.len(), u32::MAX as usize);
        assert_eq!(all, Indexes::below(u32::MAX));
        let rest = all.without(&Indexes::read("7-4294967295", u32::MAX));
        assert_eq!(rest.write(), "0-6");
    }

    fn set(indexes: &BTreeSet<u32>) -> Indexes {
        let mut set = Indexes::default();
        for index in indexes {
            assert!(set.insert(*index));
            assert!(!set.insert(*index));
        }
        set
    }

    proptest! {
        #[test]
        fn they_are_sets(
            a in proptest::collection::btree_set(0_u32..20, 0..20),
            b in proptest::collection::btree_set(0_u32..20, 0..20),
        ) {
            let (of_a, of_b) = (set(&a), set(&b));
            prop_assert_eq!(of_a.len(), a.len());
            prop_assert_eq!(of_a.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(of_a.without(&of_b), set(&(&a - &b)));
            prop_assert_eq!(of_a.with(&of_b), set(&(&a | &b)));
        }
    }
}
