//! Flow control per user: the number of requests and of watches at once, and the cost of request bodies.
//!
//! The bounds on all requests together (`pipeline.rs`) keep the server alive; these keep one
//! client from taking all places that there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_model::{Status, StatusDetails, StatusReason};

use crate::http::user::UserInfo;

/// Those who run the cluster must be able to do so whatever else goes on.
const EXEMPT: &str = "system:masters";

/// What there are shares of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Good {
    /// Requests that are answered at once.
    Requests,
    /// Watches and streams.
    LongRunning,
    /// The cost of bodies.
    BodyBytes,
}

type Key = (String, Good);

/// Who has how much of what. Entries without any are removed, so that names cost nothing.
#[derive(Default)]
pub(crate) struct Shares(Arc<Mutex<BTreeMap<Key, usize>>>);

/// What a user has taken; given back when dropped.
pub(crate) struct Share {
    shares: Arc<Mutex<BTreeMap<Key, usize>>>,
    key: Key,
    amount: usize,
}

impl Shares {
    /// An empty share of the user's; `None` for those who have no bounds.
    pub(crate) fn of(&self, user: &UserInfo, good: Good) -> Option<Share> {
        if user.groups.iter().any(|group| group == EXEMPT) {
            return None;
        }
        Some(Share {
            shares: self.0.clone(),
            key: (user.name.clone(), good),
            amount: 0,
        })
    }

    /// Takes a place for the user.
    ///
    /// *Errors.* 429 when all that are the user's are taken.
    pub(crate) fn take(
        &self,
        user: &UserInfo,
        good: Good,
        max: usize,
    ) -> Result<Option<Share>, Status> {
        let mut share = self.of(user, good);
        if let Some(share) = &mut share {
            share.grow(1, max)?;
        }
        Ok(share)
    }
}

impl Share {
    /// Takes more, as long as all shares of the user's together stay within the bound.
    ///
    /// *Errors.* 429 if they would not; nothing is taken then.
    pub(crate) fn grow(&mut self, more: usize, max: usize) -> Result<(), Status> {
        let mut taken = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let now = taken.get(&self.key).copied().unwrap_or(0);
        let grown = now.checked_add(more).filter(|grown| *grown <= max);
        let grown = grown.ok_or_else(too_many)?;
        if grown > 0 {
            taken.insert(self.key.clone(), grown);
        }
        self.amount += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= self.amount;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// 429, with the advice to come back soon.
pub(crate) fn too_many() -> Status {
    let text = "Too many requests, please try again later.";
    let mut status = Status::new(StatusReason::TooManyRequests, text);
    status.details = Some(Box::new(StatusDetails {
        retry_after_seconds: 1,
        ..StatusDetails::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_takes_no_more_than_a_share() {
        let shares = Shares::default();
        let user = |name: &str, group: &str| UserInfo::new(name, [group]);
        let greedy = user("greedy", "a");
        let one = Good::Requests;
        let first = shares.take(&greedy, one, 1).unwrap();
        assert_eq!(shares.take(&greedy, one, 1).err().unwrap().code, 429);
        assert!(shares.take(&user("other", "a"), one, 1).is_ok());
        let master = user("greedy", "system:masters");
        assert!(shares.take(&master, one, 1).unwrap().is_none());
        // Watches take no places of other requests.
        assert!(shares.take(&greedy, Good::LongRunning, 1).is_ok());
        drop(first);
        assert!(shares.take(&greedy, one, 1).is_ok());
        assert!(shares.0.lock().unwrap().is_empty());
    }

    /// findings S14: bytes count into the sender's share, and are given back.
    #[test]
    fn a_share_grows_up_to_its_bound() {
        let shares = Shares::default();
        let user = UserInfo::new("u", ["a"]);
        let mut one = shares.of(&user, Good::BodyBytes).unwrap();
        let mut two = shares.of(&user, Good::BodyBytes).unwrap();
        assert!(one.grow(6, 10).is_ok());
        assert_eq!(two.grow(5, 10).unwrap_err().code, 429);
        assert!(two.grow(4, 10).is_ok());
        assert!(two.grow(usize::MAX, 10).is_err());
        drop(one);
        assert!(two.grow(6, 10).is_ok());
        drop(two);
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
