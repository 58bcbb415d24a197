//! Seats and queues of all priority levels: a pure state machine. The caller notifies the waiting requests.
//!
//! The width of a request (`width.rs`) is its number of seats. A wide request at the head of the next queue stops its
//! level until enough seats are free, so that narrow requests cannot starve the wide request.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::levels::{Queues, SeatLimits};

/// The seats of the server. `W` is the handle that notifies a waiting request.
pub(crate) struct Seats<W> {
    levels: BTreeMap<Arc<str>, Seating<W>>,
    tickets: u64,
}

/// The seats and queues of a level.
struct Seating<W> {
    bounds: SeatLimits,
    /// Whether the level was deleted. Its requests still finish.
    is_deleted: bool,
    used: usize,
    waiting: usize,
    /// The nonempty queues.
    queues: BTreeMap<u32, VecDeque<Waiting<W>>>,
    /// The queue that is served next. The number does not change while the first request of the queue waits for
    /// seats.
    next_queue: u32,
}

struct Waiting<W> {
    ticket: u64,
    width: usize,
    waiter: W,
}

/// The result for a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeatDecision {
    Seated,
    /// The request waits; the number is its ticket.
    Waiting(u64),
    /// The level has no queues, and all seats are occupied.
    NoSeat,
    /// All queues of the flow are full.
    QueuesFull,
    /// No priority level of this name exists.
    NoLevel,
}

impl<W> Default for Seats<W> {
    fn default() -> Self {
        Self {
            levels: BTreeMap::new(),
            tickets: 0,
        }
    }
}

impl<W> Seating<W> {
    fn is_idle(&self) -> bool {
        self.used == 0 && self.waiting == 0
    }

    /// The request that is served next.
    fn first(&self) -> Option<&Waiting<W>> {
        self.queues.get(&self.next_queue)?.front()
    }

    fn push(&mut self, queue: u32, waiting: Waiting<W>) {
        if self.waiting == 0 {
            self.next_queue = queue;
        }
        self.queues.entry(queue).or_default().push_back(waiting);
        self.waiting += 1;
    }

    /// Removes and returns the request that is served next; the queues are served round-robin.
    fn next(&mut self) -> Option<Waiting<W>> {
        let turn = self.next_queue;
        let next = self.remove(turn, 0);
        self.pass(turn + 1);
        next
    }

    /// Removes the request at this offset of a queue.
    fn remove(&mut self, queue: u32, at: usize) -> Option<Waiting<W>> {
        let waiting = self.queues.get_mut(&queue)?;
        let removed = waiting.remove(at)?;
        self.waiting -= 1;
        if waiting.is_empty() {
            self.queues.remove(&queue);
            if queue == self.next_queue {
                self.pass(queue);
            }
        }
        Some(removed)
    }

    /// The next queue from `from` on is served next.
    fn pass(&mut self, from: u32) {
        let next = self.queues.range(from..).next();
        let next = next.or_else(|| self.queues.first_key_value());
        self.next_queue = next.map_or(from, |(queue, _)| *queue);
    }

    /// Whether a request of this width may start. As upstream, a request that is wider than its level starts when the
    /// level has no running request.
    fn can_start(&self, width: usize, spare: usize) -> bool {
        let SeatLimits {
            nominal,
            borrowable,
            ..
        } = self.bounds;
        let after = self.used.saturating_add(width);
        if after > nominal && width <= spare {
            cov_mark::hit!(findings_c54);
        }
        let fits = self.borrows(width) <= spare && after <= nominal.saturating_add(borrowable);
        let has_any = nominal > 0 || spare.min(borrowable) > 0;
        after <= nominal || fits || (self.used == 0 && has_any)
    }

    /// The number of seats that a request of this width borrows from other levels.
    fn borrows(&self, width: usize) -> usize {
        let nominal = self.bounds.nominal;
        let borrowed = |used: usize| used.saturating_sub(nominal);
        borrowed(self.used.saturating_add(width)) - borrowed(self.used)
    }
}

impl<W> Seats<W> {
    /// Replaces the levels; returns the waiting requests that may start now.
    pub(crate) fn configure(&mut self, bounds: &BTreeMap<Arc<str>, SeatLimits>) -> Vec<W> {
        for (name, level) in &mut self.levels {
            level.is_deleted = !bounds.contains_key(name);
        }
        self.levels
            .retain(|_, level| !level.is_deleted || !level.is_idle());
        for (name, bounds) in bounds {
            let level = self.levels.entry(name.clone());
            let level = level.or_insert_with(|| Seating {
                bounds: *bounds,
                is_deleted: false,
                used: 0,
                waiting: 0,
                queues: BTreeMap::new(),
                next_queue: 0,
            });
            level.bounds = *bounds;
        }
        self.start()
    }

    /// Admits a request of this width; `flow` is the hash of its flow.
    pub(crate) fn enter(
        &mut self,
        name: &str,
        width: usize,
        flow: impl FnOnce() -> u64,
        waiter: impl FnOnce() -> W,
    ) -> SeatDecision {
        let spare = self.spare();
        let Some(level) = self.levels.get_mut(name) else {
            return SeatDecision::NoLevel;
        };
        if level.waiting == 0 && level.can_start(width, spare) {
            level.used += width;
            return SeatDecision::Seated;
        }
        let Some(queues) = level.bounds.queues else {
            cov_mark::hit!(findings_c55);
            return SeatDecision::NoSeat;
        };
        let length = |queue: &u32| level.queues.get(queue).map_or(0, VecDeque::len);
        let hand = hand(flow(), queues);
        let Some(shortest) = hand.into_iter().min_by_key(length) else {
            return SeatDecision::QueuesFull;
        };
        if length(&shortest) >= queues.length {
            return SeatDecision::QueuesFull;
        }
        self.tickets += 1;
        let waiting = Waiting {
            ticket: self.tickets,
            width,
            waiter: waiter(),
        };
        level.push(shortest, waiting);
        SeatDecision::Waiting(self.tickets)
    }

    /// Removes a waiting request from its queue; returns the requests that may start now. `None` if the request has
    /// got its seats already.
    pub(crate) fn withdraw(&mut self, name: &str, ticket: u64) -> Option<Vec<W>> {
        let Some(level) = self.levels.get_mut(name) else {
            return Some(Vec::new());
        };
        let (queue, at) = level.queues.iter().find_map(|(queue, waiting)| {
            let at = waiting.iter().position(|other| other.ticket == ticket)?;
            Some((*queue, at))
        })?;
        level.remove(queue, at);
        self.remove_if_deleted(name);
        Some(self.start())
    }

    /// Releases the seats of a request of this width; returns the waiting requests that may start now.
    pub(crate) fn leave(&mut self, name: &str, width: usize) -> Vec<W> {
        if let Some(level) = self.levels.get_mut(name) {
            level.used = level.used.saturating_sub(width);
        }
        self.remove_if_deleted(name);
        self.start()
    }

    /// The nominal seats of each level.
    pub(crate) fn nominal(&self) -> impl Iterator<Item = (&str, usize)> {
        let there = self.levels.iter().filter(|(_, level)| !level.is_deleted);
        there.map(|(name, level)| (&**name, level.bounds.nominal))
    }

    fn remove_if_deleted(&mut self, name: &str) {
        let over = |level: &Seating<W>| level.is_deleted && level.is_idle();
        if self.levels.get(name).is_some_and(over) {
            self.levels.remove(name);
        }
    }

    /// The seats that levels may borrow now: unused lendable seats, minus borrowed seats.
    fn spare(&self) -> usize {
        let mut lent = 0;
        let mut borrowed = 0;
        for level in self.levels.values() {
            let free = level.bounds.nominal.saturating_sub(level.used);
            lent += free.min(if level.is_deleted {
                0
            } else {
                level.bounds.lendable
            });
            borrowed += level.used.saturating_sub(level.bounds.nominal);
        }
        lent.saturating_sub(borrowed)
    }

    /// Assigns free seats to waiting requests: one request per level in each round.
    fn start(&mut self) -> Vec<W> {
        let mut started = Vec::new();
        loop {
            let mut spare = self.spare();
            let before = started.len();
            for level in self.levels.values_mut() {
                let Some(width) = level.first().map(|first| first.width) else {
                    continue;
                };
                if !level.can_start(width, spare) {
                    continue;
                }
                let borrows = level.borrows(width);
                let Some(next) = level.next() else {
                    continue;
                };
                level.used += width;
                spare = spare.saturating_sub(borrows);
                started.push(next.waiter);
            }
            if started.len() == before {
                return started;
            }
        }
    }
}

/// The queues that a flow may use: distinct numbers, chosen by the hash.
fn hand(mut hash: u64, queues: Queues) -> Vec<u32> {
    let mut dealt: Vec<u32> = Vec::with_capacity(queues.hand as usize);
    for left in (queues.count - queues.hand + 1..=queues.count).rev() {
        let left = u64::from(left);
        let mut card = u32::try_from(hash % left).unwrap_or_default();
        hash /= left;
        // `card` is an index among the numbers that are not chosen yet; `dealt` is sorted.
        let mut at = 0;
        while at < dealt.len() && dealt[at] <= card {
            card += 1;
            at += 1;
        }
        dealt.insert(at, card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const QUEUES: Queues = Queues {
        count: 4,
        hand: 1,
        length: 2,
    };

    fn bounds(nominal: usize, lendable: usize, borrowable: usize) -> SeatLimits {
        SeatLimits {
            nominal,
            lendable,
            borrowable,
            width_max: 3,
            queues: Some(QUEUES),
        }
    }

    fn seats(levels: &[(&str, SeatLimits)]) -> Seats<u64> {
        let mut seats = Seats::default();
        seats.configure(&all(levels));
        seats
    }

    fn all(levels: &[(&str, SeatLimits)]) -> BTreeMap<Arc<str>, SeatLimits> {
        let named = levels
            .iter()
            .map(|(name, bounds)| ((*name).into(), *bounds));
        named.collect()
    }

    fn enter(seats: &mut Seats<u64>, name: &str, flow: u64) -> SeatDecision {
        seats.enter(name, 1, || flow, || flow)
    }

    /// Enters a request with three seats.
    fn enter_wide(seats: &mut Seats<u64>, name: &str, flow: u64) -> SeatDecision {
        seats.enter(name, 3, || flow, || flow)
    }

    /// findings C55: a level without queues rejects at once.
    #[test]
    fn without_queues_who_has_no_seat_is_refused() {
        cov_mark::check!(findings_c55);
        let reject = SeatLimits {
            queues: None,
            ..bounds(2, 0, 0)
        };
        let mut seats = seats(&[("a", reject)]);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::NoSeat);
        assert!(seats.leave("a", 1).is_empty());
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        assert_eq!(enter(&mut seats, "b", 0), SeatDecision::NoLevel);
    }

    /// findings C55: a flow with many requests does not delay other flows.
    #[test]
    fn flows_take_turns() {
        let mut seats = seats(&[("a", bounds(1, 0, 0))]);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        for flow in [1, 1, 2, 3] {
            assert!(matches!(
                enter(&mut seats, "a", flow),
                SeatDecision::Waiting(_)
            ));
        }
        assert_eq!(enter(&mut seats, "a", 1), SeatDecision::QueuesFull);
        let order: Vec<u64> = (0..4).flat_map(|_| seats.leave("a", 1)).collect();
        assert_eq!(order, [1, 2, 3, 1]);
        assert!(seats.leave("a", 1).is_empty());
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
    }

    /// findings C54: unused lendable seats are borrowed, and come back to their level.
    #[test]
    fn levels_borrow_what_others_do_not_use() {
        cov_mark::check!(findings_c54);
        let mut seats = seats(&[("a", bounds(1, 0, 9)), ("b", bounds(4, 2, 0))]);
        for _ in 0..3 {
            assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        }
        assert!(matches!(
            enter(&mut seats, "a", 0),
            SeatDecision::Waiting(_)
        ));
        // The level whose seats are borrowed keeps its nominal seats; seats in use are not lent.
        for _ in 0..4 {
            assert_eq!(enter(&mut seats, "b", 0), SeatDecision::Seated);
        }
        assert!(seats.leave("a", 1).is_empty(), "two are still borrowed");
        assert!(seats.leave("b", 1).is_empty());
        assert!(seats.leave("b", 1).len() == 1);
    }

    /// findings C54
    #[test]
    fn borrowing_has_a_limit() {
        let mut seats = seats(&[("a", bounds(1, 0, 1)), ("b", bounds(9, 9, 0))]);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        assert!(matches!(
            enter(&mut seats, "a", 0),
            SeatDecision::Waiting(_)
        ));
    }

    /// findings C55: a wide request waits for all of its seats, and narrow ones do not overtake it.
    #[test]
    fn a_wide_request_takes_more_seats() {
        let mut seats = seats(&[("a", bounds(4, 0, 0))]);
        assert_eq!(enter(&mut seats, "a", 0), SeatDecision::Seated);
        assert_eq!(enter_wide(&mut seats, "a", 0), SeatDecision::Seated);
        let SeatDecision::Waiting(ticket) = enter_wide(&mut seats, "a", 1) else {
            panic!("it waits");
        };
        assert!(matches!(
            enter(&mut seats, "a", 1),
            SeatDecision::Waiting(_)
        ));
        assert!(seats.leave("a", 1).is_empty(), "one seat is too few");
        assert!(matches!(
            enter(&mut seats, "a", 2),
            SeatDecision::Waiting(_)
        ));
        // The wide request is withdrawn; the narrow requests behind it start.
        assert_eq!(seats.withdraw("a", ticket), Some(vec![1]));
        assert_eq!(seats.leave("a", 3), [2]);
        assert_eq!(enter(&mut seats, "a", 3), SeatDecision::Seated);
    }

    /// findings C55: a request that is wider than its level runs alone.
    #[test]
    fn a_request_wider_than_its_level_runs_alone() {
        let mut seats = seats(&[("a", bounds(2, 0, 0))]);
        assert_eq!(enter_wide(&mut seats, "a", 0), SeatDecision::Seated);
        assert!(matches!(
            enter(&mut seats, "a", 1),
            SeatDecision::Waiting(_)
        ));
        assert_eq!(seats.leave("a", 3), [1]);
        assert!(matches!(
            enter_wide(&mut seats, "a", 2),
            SeatDecision::Waiting(_)
        ));
        assert_eq!(seats.leave("a", 1), [2]);
    }

    /// findings C54: a level without shares holds its requests until it changes.
    #[test]
    fn a_jail_holds_its_requests() {
        let mut seats = seats(&[("a", bounds(0, 0, 0))]);
        let SeatDecision::Waiting(ticket) = enter(&mut seats, "a", 7) else {
            panic!("it waits");
        };
        assert!(matches!(
            enter(&mut seats, "a", 8),
            SeatDecision::Waiting(_)
        ));
        assert_eq!(seats.withdraw("a", ticket), Some(vec![]));
        assert_eq!(seats.configure(&all(&[("a", bounds(5, 0, 0))])), [8]);
        assert_eq!(
            seats.withdraw("a", ticket + 1),
            None,
            "it has a seat by now"
        );
        assert!(seats.leave("a", 1).is_empty());
    }

    /// findings C54: requests of a deleted level finish.
    #[test]
    fn a_level_that_goes_empties_itself() {
        let mut seats = seats(&[("a", bounds(1, 0, 0))]);
        assert_eq!(enter(&mut seats, "a", 1), SeatDecision::Seated);
        assert!(matches!(
            enter(&mut seats, "a", 2),
            SeatDecision::Waiting(_)
        ));
        assert!(seats.configure(&BTreeMap::new()).is_empty());
        assert_eq!(seats.nominal().count(), 0);
        assert_eq!(seats.leave("a", 1), [2]);
        assert!(seats.leave("a", 1).is_empty());
        assert!(seats.levels.is_empty());
    }

    /// findings C55: the queues of a hand are distinct, and all queues are used.
    #[test]
    fn a_hand_has_different_queues() {
        let queues = Queues {
            count: 16,
            hand: 4,
            length: 1,
        };
        let mut used = BTreeSet::new();
        for hash in (0..1000_u64).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
            let hand = hand(hash, queues);
            let different: BTreeSet<u32> = hand.iter().copied().collect();
            assert_eq!(different.len(), 4, "{hand:?}");
            assert!(hand.iter().all(|queue| *queue < 16));
            used.extend(different);
        }
        assert_eq!(used.len(), 16);
        let whole = Queues { hand: 16, ..queues };
        assert_eq!(hand(u64::MAX, whole), (0..16).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(usize, usize, u64),
        Leave(usize),
        Withdraw(usize),
        Configure(Vec<(usize, usize, usize)>),
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn step() -> impl Strategy<Value = Step> {
        let figures = || (0..4_usize, 0..4_usize, 0..4_usize);
        prop_oneof![
            4 => (0..3_usize, 1..4_usize, 0..6_u64)
                .prop_map(|(level, width, flow)| Step::Enter(level, width, flow)),
            3 => (0..3_usize).prop_map(Step::Leave),
            1 => (0..3_usize).prop_map(Step::Withdraw),
            1 => proptest::collection::vec(figures(), 0..=3).prop_map(Step::Configure),
        ]
    }

    proptest! {
        /// findings C55: no request waits while it has a free seat, and all seats are released.
        #[test]
        fn nobody_waits_who_could_run(steps in proptest::collection::vec(step(), 0..60)) {
            // The widths of the requests that are expected to run and to wait, for each level.
            let mut seated: [BTreeMap<u64, usize>; 3] = Default::default();
            let mut waiting: [BTreeMap<u64, usize>; 3] = Default::default();
            let mut next = 0;
            let sit = |started: Vec<(usize, u64)>, seated: &mut [BTreeMap<u64, usize>; 3],
                       waiting: &mut [BTreeMap<u64, usize>; 3]| {
                for (level, who) in started {
                    let width = waiting[level].remove(&who).expect("it waited");
                    seated[level].insert(who, width);
                }
            };
            let mut tickets = BTreeMap::new();
            let mut seats: Seats<(usize, u64)> = Seats::default();
            seats.configure(&all(&[("a", bounds(1, 0, 2)), ("b", bounds(2, 1, 0))]));
            for step in steps {
                match step {
                    Step::Enter(level, width, flow) => {
                        next += 1;
                        match seats.enter(NAMES[level], width, || flow, || (level, next)) {
                            SeatDecision::Seated => {
                                seated[level].insert(next, width);
                            }
                            SeatDecision::Waiting(ticket) => {
                                tickets.insert(next, ticket);
                                waiting[level].insert(next, width);
                            }
                            _ => {}
                        }
                    }
                    Step::Leave(level) => {
                        if let Some((_, width)) = seated[level].pop_first() {
                            let started = seats.leave(NAMES[level], width);
                            sit(started, &mut seated, &mut waiting);
                        }
                    }
                    Step::Withdraw(level) => {
                        if let Some((who, _)) = waiting[level].pop_last() {
                            let started = seats.withdraw(NAMES[level], tickets[&who]);
                            prop_assert!(started.is_some());
                            sit(started.unwrap_or_default(), &mut seated, &mut waiting);
                        }
                    }
                    Step::Configure(figures) => {
                        let levels = figures.iter().enumerate();
                        let levels: Vec<(&str, SeatLimits)> = levels
                            .map(|(at, (nominal, lent, most))| (NAMES[at], bounds(*nominal, *lent, *most)))
                            .collect();
                        let started = seats.configure(&all(&levels));
                        sit(started, &mut seated, &mut waiting);
                    }
                }
                let spare = seats.spare();
                for (name, level) in &seats.levels {
                    let at = NAMES.iter().position(|other| *other == &**name).unwrap();
                    prop_assert_eq!(level.used, seated[at].values().sum::<usize>());
                    prop_assert_eq!(level.waiting, waiting[at].len());
                    let first = level.first().map(|first| first.width);
                    prop_assert_eq!(first.is_some(), level.waiting > 0);
                    prop_assert!(first.is_none_or(|width| !level.can_start(width, spare)));
                }
            }
            while let Some(level) = (0..3).find(|level| !seated[*level].is_empty()) {
                let (_, width) = seated[level].pop_first().expect("it is not empty");
                let started = seats.leave(NAMES[level], width);
                sit(started, &mut seated, &mut waiting);
            }
            prop_assert!(seats.levels.values().all(|level| level.used == 0));
        }
    }
}
