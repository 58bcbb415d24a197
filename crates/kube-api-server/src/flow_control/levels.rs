//! Priority levels as data, and the number of requests of each that may run at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use json_tree::Value;
use resource_kinds::flowcontrol;

use crate::objects::metadata;

/// The maximum number of seats of one request at any level (upstream's value).
pub(super) const WIDTH_MAX: usize = 10;
/// The maximum percentage of a level's seats for one request (upstream's value).
const WIDTH_PERCENT_MAX: usize = 15;

/// A PriorityLevelConfiguration with its shares, from which its seats are computed.
#[derive(Clone, Debug)]
pub(crate) struct PriorityLevel {
    pub(crate) name: String,
    pub(crate) uid: String,
    shares: u64,
    lendable_percent: u64,
    pub(crate) limit: Limit,
}

#[derive(Clone, Debug)]
pub(crate) enum Limit {
    Exempt,
    Limited {
        /// Percentage of the nominal seats that the level may borrow; `None` for no limit.
        borrowing_percent: Option<u64>,
        /// `None` for a level that rejects requests instead of queueing them.
        queues: Option<Queues>,
    },
}

/// The queues of a priority level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) count: u32,
    /// The number of queues that one flow may use.
    pub(crate) hand: u32,
    /// Maximum number of requests that wait in one queue.
    pub(crate) length: usize,
}

/// The seats of a priority level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatLimits {
    /// The nominal seats of the level (`nominalConcurrencyLimit`).
    pub(crate) nominal: usize,
    /// The nominal seats that other levels may borrow while the seats are free.
    pub(crate) lendable: usize,
    /// Maximum number of seats that the level may borrow.
    pub(crate) borrowable: usize,
    /// Maximum number of seats of one request.
    pub(crate) width_max: usize,
    pub(crate) queues: Option<Queues>,
}

impl PriorityLevel {
    /// Reads a stored object; `None` for an invalid one.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let name = metadata::text(object, "name").to_owned();
        let spec = &object["spec"];
        let (figures, limit) = match spec["type"].as_str()? {
            "Exempt" if name == flowcontrol::EXEMPT => (&spec["exempt"], Limit::Exempt),
            "Limited" if name != flowcontrol::EXEMPT => {
                let limited = &spec["limited"];
                let response = &limited["limitResponse"];
                let queues = match response["type"].as_str()? {
                    "Reject" => None,
                    "Queue" => Some(Queues::read(&response["queuing"])?),
                    _ => return None,
                };
                let limit = Limit::Limited {
                    borrowing_percent: limited["borrowingLimitPercent"].as_u64(),
                    queues,
                };
                (limited, limit)
            }
            _ => return None,
        };
        Some(Self {
            name,
            uid: metadata::text(object, "uid").to_owned(),
            shares: figures["nominalConcurrencyShares"].as_u64().unwrap_or(0),
            lendable_percent: figures["lendablePercent"].as_u64().unwrap_or(0).min(100),
            limit,
        })
    }
}

impl Queues {
    fn read(queuing: &Value) -> Option<Self> {
        let number = |field: &str| {
            let number = queuing[field].as_u64().filter(|number| *number > 0)?;
            u32::try_from(number).ok()
        };
        let (count, hand) = (number("queues")?, number("handSize")?);
        let length = usize::try_from(number("queueLengthLimit")?).ok()?;
        (hand <= count).then_some(Self {
            count,
            hand,
            length,
        })
    }
}

/// Divides the seats of the server among the levels by their shares.
pub(crate) fn bounds(levels: &[PriorityLevel], total: usize) -> BTreeMap<Arc<str>, SeatLimits> {
    let sum: u64 = levels.iter().map(|level| level.shares).sum();
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let of = |level: &PriorityLevel| {
        let nominal = (total as u64)
            .saturating_mul(level.shares)
            .div_ceil(sum.max(1));
        let percent = |percent: u64| (nominal.saturating_mul(percent) + 50) / 100;
        let (borrowable, queues) = match level.limit {
            Limit::Exempt => (0, None),
            Limit::Limited {
                borrowing_percent,
                queues,
            } => (borrowing_percent.map_or(total as u64, percent), queues),
        };
        SeatLimits {
            width_max: width_max(size(nominal), queues),
            nominal: size(nominal),
            lendable: size(percent(level.lendable_percent)),
            borrowable: size(borrowable),
            queues,
        }
    };
    levels
        .iter()
        .map(|level| (level.name.as_str().into(), of(level)))
        .collect()
}

/// The maximum number of seats of one request. In a level with queues, all flows of a hand can run a request of this
/// width at once.
fn width_max(nominal: usize, queues: Option<Queues>) -> usize {
    let Some(queues) = queues else {
        return WIDTH_MAX;
    };
    let part = nominal.saturating_mul(WIDTH_PERCENT_MAX).div_ceil(100);
    let each = nominal / queues.hand as usize;
    part.min(each).clamp(1, WIDTH_MAX)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C54: the default levels of a server with 600 seats.
    #[test]
    fn seats_are_divided_by_shares() {
        let all = flowcontrol::mandatory().into_iter();
        let all = all.chain(flowcontrol::suggested());
        let levels: Vec<PriorityLevel> = all
            .filter_map(|object| PriorityLevel::read(&object))
            .collect();
        assert_eq!(levels.len(), 8);
        let bounds = bounds(&levels, 600);
        let of = |name: &str| {
            let bounds = bounds[name];
            (bounds.nominal, bounds.lendable, bounds.borrowable)
        };
        assert_eq!(of("exempt"), (0, 0, 0));
        assert_eq!(of("catch-all"), (13, 0, 600));
        assert_eq!(of("workload-low"), (245, 221, 600));
        assert_eq!(of("system"), (74, 24, 600));
        assert_eq!(bounds["catch-all"].queues, None);
        let queues = bounds["leader-election"].queues.unwrap();
        assert_eq!((queues.count, queues.hand, queues.length), (16, 4, 50));
    }

    /// findings C54
    #[test]
    fn a_level_that_cannot_be_used_is_none() {
        let level = |name: &str, spec: Value| {
            PriorityLevel::read(&json!({"metadata": {"name": name}, "spec": spec}))
        };
        let reject = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}});
        assert!(level("a", reject.clone()).is_some());
        assert!(level("exempt", reject).is_none());
        assert!(level("a", json!({"type": "Exempt"})).is_none());
        let queue = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue",
            "queuing": {"queues": 2, "handSize": 3, "queueLengthLimit": 1}}}});
        assert!(level("a", queue).is_none());
        let none = [level("exempt", json!({"type": "Exempt"})).unwrap()];
        assert_eq!(bounds(&none, 10)["exempt"].nominal, 0);
    }

    /// findings C54
    #[test]
    fn a_limit_on_borrowing_is_part_of_the_own_seats() {
        let spec = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 1,
            "borrowingLimitPercent": 50, "limitResponse": {"type": "Reject"}}});
        let level = PriorityLevel::read(&json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        let bounds = bounds(&[level], 10);
        assert_eq!((bounds["a"].nominal, bounds["a"].borrowable), (10, 5));
    }
}
