//! Limits of each sender, which is a user, or all accounts of a namespace: the concurrent watches and streams, and
//! the cost of request bodies. Priority levels do not limit these: a watch releases its seat after it has started,
//! and the time to read a body depends on the client.

use connection_limits::{Share, ShareBounds, Shares};
use object_model::Status;
use process_telemetry::refusals::{self, Budget};

use super::too_many;
use crate::http::limits::Limits;
use crate::http::user::UserInfo;
use crate::http::work::BodyAllowance;

/// Members of this group have no limits, because administrators must always be able to work.
const EXEMPT: &str = "system:masters";

/// Whether a user has no limits.
pub(super) fn is_exempt(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == EXEMPT)
}

pub(super) struct SenderShares {
    watches: Shares<String>,
    bodies: Shares<String>,
}

/// The permit of a watch or stream; released on drop.
pub(crate) struct WatchPermit(
    #[expect(dead_code, reason = "held until it is dropped")] Share<String>,
);

/// The cost of the bodies of one request, which counts against the quota of the sender.
struct Bodies(Share<String>);

impl SenderShares {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            watches: Shares::within(ShareBounds {
                per_sender_max: limits.long_running_per_user_max,
                in_all_max: limits.long_running_max,
                guaranteed: 1,
            }),
            bodies: Shares::within(ShareBounds {
                per_sender_max: limits.body_bytes_per_user_max,
                in_all_max: limits.body_bytes_in_all_max,
                guaranteed: limits.body_bytes_guaranteed,
            }),
        }
    }

    /// Acquires a permit for a watch or stream. Watches of a user without limits count, too.
    ///
    /// *Errors.* 429 if the sender has too many.
    pub(super) fn watch_of(&self, user: &UserInfo) -> Result<WatchPermit, Status> {
        let mut share = self.watches.of(user.sender().to_owned());
        match is_exempt(user) {
            true => share.grow_regardless(1),
            false => charge(&mut share, 1, Budget::LongRunningRequests)?,
        }
        Ok(WatchPermit(share))
    }

    /// The quota that the bodies of a request count against; `None` for a user without limits.
    pub(super) fn bodies_of(&self, user: &UserInfo) -> Option<Box<dyn BodyAllowance>> {
        let share = || Bodies(self.bodies.of(user.sender().to_owned()));
        (!is_exempt(user)).then(|| Box::new(share()) as _)
    }
}

impl BodyAllowance for Bodies {
    fn pay(&mut self, cost: usize) -> Result<(), Status> {
        charge(&mut self.0, cost, Budget::RequestBodies)
    }
}

/// *Errors.* 429 if a limit would be exceeded; nothing is counted then.
fn charge(share: &mut Share<String>, more: usize, budget: Budget) -> Result<(), Status> {
    if share.grow(more) {
        return Ok(());
    }
    refusals::count(budget);
    Err(too_many(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_takes_no_more_than_a_share() {
        let shares = SenderShares::new(&Limits {
            long_running_per_user_max: 1,
            long_running_max: 4,
            ..Limits::default()
        });
        let watch = |name: &str, group: &str| shares.watch_of(&UserInfo::new(name, [group]));
        let first = watch("greedy", "a").unwrap();
        assert_eq!(watch("greedy", "a").err().unwrap().code, 429);
        let _other = watch("other", "a").unwrap();
        let administrator = watch("greedy", "system:masters").unwrap();
        drop(first);
        drop(administrator);
        watch("greedy", "a").unwrap();
    }

    // findings-2 S38
    #[test]
    fn bodies_of_many_users_have_a_bound_and_small_ones_are_always_taken() {
        let limits = Limits::default();
        let shares = SenderShares::new(&limits);
        let user = |name: &str| UserInfo::new(name, ["a"]);
        let mut greedy = Vec::new();
        let mut paid = 0;
        for number in 0..100 {
            let mut bodies = shares.bodies_of(&user(&format!("u{number}"))).unwrap();
            while bodies.pay(64 * 1024).is_ok() {
                paid += 64 * 1024;
            }
            greedy.push(bodies);
        }
        let guaranteed = 100 * limits.body_bytes_guaranteed;
        assert!(paid <= limits.body_bytes_in_all_max + guaranteed, "{paid}");
        let mut modest = shares.bodies_of(&user("modest")).unwrap();
        modest.pay(limits.body_bytes_guaranteed).unwrap();
        assert_eq!(modest.pay(limits.body_bytes_max).unwrap_err().code, 429);
        // Requests of administrators are not counted.
        assert!(
            shares
                .bodies_of(&UserInfo::new("admin", ["system:masters"]))
                .is_none()
        );
        drop(greedy);
        modest.pay(limits.body_bytes_max).unwrap();
    }
}
