//! The shares of each user, and of all accounts of a namespace together: the watches and streams at once, and the cost of request bodies. Priority levels
//! do not limit them: a watch holds its seat only until it has started, and the time to read a body depends
//! on the client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_model::Status;
use reconcile::refusals::{self, Budget};

use super::too_many;
use crate::http::user::UserInfo;
use crate::http::work::BodyAllowance;

/// Those who run the cluster must be able to do so whatever else happens.
const EXEMPT: &str = "system:masters";

/// Whether a user has no bounds.
pub(super) fn is_exempt(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == EXEMPT)
}

/// A resource of which each user may take a bounded amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LimitedResource {
    /// Watches and streams.
    LongRunning,
    /// The cost of bodies.
    BodyBytes,
}

impl LimitedResource {
    fn budget(self) -> Budget {
        match self {
            Self::LongRunning => Budget::LongRunningRequests,
            Self::BodyBytes => Budget::RequestBodies,
        }
    }
}

type Key = (String, LimitedResource);

/// The permits of all users. Entries with zero permits are removed, so that the map has no more entries than
/// users with requests.
#[derive(Default)]
pub(crate) struct PermitsByUser(Arc<Mutex<BTreeMap<Key, usize>>>);

/// Permits of a user; released on drop.
pub(crate) struct UserPermits {
    taken: Arc<Mutex<BTreeMap<Key, usize>>>,
    key: Key,
    amount: usize,
    max: usize,
}

impl PermitsByUser {
    /// No permits yet, of at most `max`; `None` for a user without bounds.
    pub(crate) fn of(
        &self,
        user: &UserInfo,
        resource: LimitedResource,
        max: usize,
    ) -> Option<UserPermits> {
        if is_exempt(user) {
            return None;
        }
        Some(UserPermits {
            taken: self.0.clone(),
            key: (user.sender().to_owned(), resource),
            amount: 0,
            max,
        })
    }
}

impl UserPermits {
    /// Takes more, as long as all permits of the user stay within the bound.
    ///
    /// *Errors.* 429 if they would not; nothing is taken then.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Status> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let now = taken.get(&self.key).copied().unwrap_or(0);
        let grown = now.checked_add(more).filter(|grown| *grown <= self.max);
        let Some(grown) = grown else {
            refusals::count(self.key.1.budget());
            return Err(too_many(1));
        };
        if grown > 0 {
            taken.insert(self.key.clone(), grown);
        }
        self.amount += more;
        Ok(())
    }
}

impl BodyAllowance for UserPermits {
    fn pay(&mut self, cost: usize) -> Result<(), Status> {
        self.grow(cost)
    }
}

impl Drop for UserPermits {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= self.amount;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_takes_no_more_than_a_share() {
        let shares = PermitsByUser::default();
        let take = |name: &str, group: &str, resource: LimitedResource| {
            let mut share = shares.of(&UserInfo::new(name, [group]), resource, 1)?;
            Some(share.grow(1).map(|()| share))
        };
        let watch = LimitedResource::LongRunning;
        let first = take("greedy", "a", watch).unwrap().unwrap();
        let refused = take("greedy", "a", watch).unwrap().err().unwrap();
        assert_eq!(refused.code, 429);
        assert!(take("other", "a", watch).unwrap().is_ok());
        assert!(take("greedy", "system:masters", watch).is_none());
        // Bodies take no places of watches.
        assert!(
            take("greedy", "a", LimitedResource::BodyBytes)
                .unwrap()
                .is_ok()
        );
        drop(first);
        assert!(take("greedy", "a", watch).unwrap().is_ok());
        assert!(shares.0.lock().unwrap().is_empty());
    }

    /// findings S14: bytes count into the sender's share, and are given back.
    #[test]
    fn a_share_grows_up_to_its_bound() {
        let shares = PermitsByUser::default();
        let user = UserInfo::new("u", ["a"]);
        let mut one = shares.of(&user, LimitedResource::BodyBytes, 10).unwrap();
        let mut two = shares.of(&user, LimitedResource::BodyBytes, 10).unwrap();
        assert!(one.grow(6).is_ok());
        assert_eq!(two.grow(5).unwrap_err().code, 429);
        assert!(two.grow(4).is_ok());
        assert!(two.grow(usize::MAX).is_err());
        drop(one);
        assert!(two.grow(6).is_ok());
        drop(two);
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
