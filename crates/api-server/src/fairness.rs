//! A share for everybody: how many requests of one user run at once.
//!
//! The bounds on all requests together (`pipeline.rs`) keep the server alive; these keep one
//! client from taking all places that there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_model::{Status, StatusDetails, StatusReason};

use crate::identity::UserInfo;

/// Those who run the cluster must be able to do so whatever else goes on.
const EXEMPT: &str = "system:masters";

/// Who has how many places. Entries without any are removed, so that names cost nothing.
#[derive(Default)]
pub(crate) struct Shares(Arc<Mutex<BTreeMap<String, usize>>>);

/// A user's place; given back when dropped.
pub(crate) struct Share {
    shares: Arc<Mutex<BTreeMap<String, usize>>>,
    user: String,
}

impl Shares {
    /// Takes a place for the user.
    ///
    /// *Errors.* 429 when all that are the user's are taken.
    pub(crate) fn take(&self, user: &UserInfo, max: usize) -> Result<Option<Share>, Status> {
        if user.groups.iter().any(|group| group == EXEMPT) {
            return Ok(None);
        }
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(user.name.clone()).or_default();
        if *count >= max {
            return Err(too_many());
        }
        *count += 1;
        Ok(Some(Share {
            shares: self.0.clone(),
            user: user.name.clone(),
        }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.user);
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
        let first = shares.take(&greedy, 1).unwrap();
        assert_eq!(shares.take(&greedy, 1).err().unwrap().code, 429);
        assert!(shares.take(&user("other", "a"), 1).is_ok());
        assert!(
            shares
                .take(&user("greedy", "system:masters"), 1)
                .unwrap()
                .is_none()
        );
        drop(first);
        assert!(shares.take(&greedy, 1).is_ok());
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
