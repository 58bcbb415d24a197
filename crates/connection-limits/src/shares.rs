//! Shares of a bounded resource. Each sender and all senders together have a bound, so that one sender cannot use up
//! the resource.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bounds of the shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareBounds {
    /// The maximum amount of one sender.
    pub per_sender_max: usize,
    /// The maximum amount of all senders together; guaranteed amounts may exceed it. A sender never has more than the
    /// amount that it leaves for all other senders.
    pub in_all_max: usize,
    /// The amount that each sender may have regardless of the other senders.
    pub guaranteed: usize,
}

/// The amounts in use, by sender.
#[derive(Clone, Debug)]
pub struct Shares<K: Ord> {
    bounds: ShareBounds,
    usage: Arc<Mutex<Usage<K>>>,
}

/// A sender without an amount has no entry.
#[derive(Debug)]
struct Usage<K> {
    by_sender: BTreeMap<K, usize>,
    in_all: usize,
}

/// An amount of a sender, which is returned on drop.
#[derive(Debug)]
pub struct Share<K: Ord> {
    shares: Shares<K>,
    sender: K,
    amount: usize,
}

impl<K: Ord + Clone> Shares<K> {
    /// Shares of at most `max` for each sender.
    pub fn new(max: usize) -> Self {
        Self::within(ShareBounds {
            per_sender_max: max,
            in_all_max: usize::MAX,
            guaranteed: 0,
        })
    }

    /// Shares with these bounds.
    pub fn within(bounds: ShareBounds) -> Self {
        let usage = Arc::new(Mutex::new(Usage {
            by_sender: BTreeMap::new(),
            in_all: 0,
        }));
        Self { bounds, usage }
    }

    /// An empty share of a sender.
    pub fn of(&self, sender: K) -> Share<K> {
        Share {
            shares: self.clone(),
            sender,
            amount: 0,
        }
    }

    /// Takes one unit; `None` if the sender has reached its bound.
    pub fn take(&self, sender: K) -> Option<Share<K>> {
        let mut share = self.of(sender);
        share.grow(1).then_some(share)
    }
}

impl<K: Ord> Shares<K> {
    /// Whether no sender has an amount.
    pub fn is_empty(&self) -> bool {
        self.lock().by_sender.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Usage<K>> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShareBounds {
    /// Whether a sender may use `used` units while all other senders use `used_by_others` units.
    fn allow(self, used: usize, used_by_others: usize) -> bool {
        let available = self
            .in_all_max
            .saturating_sub(used_by_others.saturating_add(used));
        used <= self.guaranteed || used <= self.per_sender_max.min(available)
    }
}

impl<K: Ord + Clone> Share<K> {
    /// Adds an amount to the share. Returns `false` and adds nothing if the sum would exceed a bound.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let bounds = self.shares.bounds;
        self.grow_if(more, |of_sender, others| bounds.allow(of_sender, others))
    }

    /// Adds an amount to the share even beyond the bounds. The remaining amount for other senders becomes smaller.
    pub fn grow_regardless(&mut self, more: usize) {
        self.grow_if(more, |_, _| true);
    }

    fn grow_if(&mut self, more: usize, is_allowed: impl FnOnce(usize, usize) -> bool) -> bool {
        let mut usage = self.shares.lock();
        let in_use = usage.by_sender.get(&self.sender).copied().unwrap_or(0);
        let others = usage.in_all - in_use;
        let grown = in_use
            .checked_add(more)
            .filter(|_| usage.in_all.checked_add(more).is_some());
        let Some(grown) = grown.filter(|grown| is_allowed(*grown, others)) else {
            cov_mark::hit!(findings_s14);
            return false;
        };
        if grown > 0 {
            usage.by_sender.insert(self.sender.clone(), grown);
        }
        usage.in_all += more;
        drop(usage);
        self.amount += more;
        true
    }
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let mut usage = self.shares.lock();
        usage.in_all -= self.amount;
        if let Some(amount_of_sender) = usage.by_sender.get_mut(&self.sender) {
            *amount_of_sender -= self.amount;
            if *amount_of_sender == 0 {
                usage.by_sender.remove(&self.sender);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S14: taken units count for the share of the sender until they are released.
    #[test]
    fn a_share_grows_up_to_its_bound() {
        cov_mark::check!(findings_s14);
        let shares = Shares::new(10);
        let (mut one, mut two) = (shares.of("u"), shares.of("u"));
        assert!(one.grow(6));
        assert!(!two.grow(5));
        assert!(two.grow(4));
        assert!(!two.grow(usize::MAX));
        drop(one);
        assert!(two.grow(6));
        drop(two);
        assert!(shares.is_empty());
    }

    // findings-2 S38
    #[test]
    fn a_sender_leaves_as_much_for_all_others_as_it_has() {
        let shares = Shares::within(ShareBounds {
            per_sender_max: 40,
            in_all_max: 100,
            guaranteed: 1,
        });
        let most = |sender: &'static str| {
            let mut share = shares.of(sender);
            let steps = (0..).take_while(|_| share.grow(1)).count();
            (share, steps)
        };
        let (first, of_first) = most("first");
        let (_second, of_second) = most("second");
        let (_third, of_third) = most("third");
        assert_eq!((of_first, of_second, of_third), (40, 30, 15));
        // In the end, each sender has its guaranteed amount.
        let further: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(&most).into();
        let amounts: Vec<usize> = further.iter().map(|(_, steps)| *steps).collect();
        assert_eq!(amounts, [7, 4, 2, 1, 1, 1]);
        drop(first);
        assert_eq!(most("new").1, 19);
    }

    #[test]
    fn an_amount_without_bounds_leaves_less_for_others() {
        let shares = Shares::within(ShareBounds {
            per_sender_max: 10,
            in_all_max: 20,
            guaranteed: 0,
        });
        let mut trusted = shares.of("trusted");
        trusted.grow_regardless(18);
        let mut other = shares.of("other");
        assert!(other.grow(1));
        assert!(!other.grow(1));
    }
}
