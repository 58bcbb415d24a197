use proptest::prelude::*;

use super::*;

const fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

fn named(name: &str) -> HolderIdentity {
    HolderIdentity::new(name).unwrap()
}

fn lease(version: &str, holder: Option<&str>) -> LeaderLease {
    LeaderLease {
        version: version.parse().unwrap(),
        holder: holder.map(named),
        length: LENGTH,
        transitions: 3,
    }
}

#[test]
fn the_first_candidate_creates_the_lease() {
    let mut a = Candidate::new(named("a"));
    assert_eq!(
        a.decide(seconds(5)),
        ElectionDecision::Wait(SignedDuration::ZERO)
    );
    a.saw(None, seconds(5));
    assert_eq!(a.decide(seconds(5)), ElectionDecision::Create);
    assert!(!a.leads(seconds(5)), "before the answer");
    a.wrote(lease("1", Some("a")), seconds(5), seconds(6));
    assert!(a.leads(seconds(13)));
    assert_eq!(a.decide(seconds(7)), ElectionDecision::Renew);
    assert!(!a.leads(seconds(14)), "nine seconds after the sending");
}

#[test]
fn a_lease_is_taken_after_its_length_by_the_own_clock() {
    let mut b = Candidate::new(named("b"));
    b.saw(Some(lease("1", Some("a"))), seconds(1000));
    assert_eq!(b.decide(seconds(1000)), ElectionDecision::Wait(RETRY));
    b.saw(Some(lease("2", Some("a"))), seconds(1010));
    assert_eq!(b.decide(seconds(1023)), ElectionDecision::Wait(seconds(1)));
    b.saw(Some(lease("2", Some("a"))), seconds(1023));
    assert_eq!(
        b.decide(seconds(1024)),
        ElectionDecision::Acquire { transitions: 4 },
        "an unchanged version is counted from its first sight"
    );
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut b = Candidate::new(named("b"));
    b.saw(Some(lease("1", None)), seconds(0));
    assert_eq!(
        b.decide(seconds(0)),
        ElectionDecision::Acquire { transitions: 4 }
    );
}

#[test]
fn a_leader_that_sees_another_holder_leads_no_more() {
    let mut a = Candidate::new(named("a"));
    a.wrote(lease("1", Some("a")), seconds(0), seconds(0));
    a.saw(Some(lease("2", Some("b"))), seconds(1));
    assert!(!a.leads(seconds(1)));
    let mut c = Candidate::new(named("c"));
    c.wrote(lease("1", Some("c")), seconds(0), seconds(0));
    c.saw(None, seconds(1));
    assert!(!c.leads(seconds(1)), "the Lease was deleted");
}

#[test]
fn a_write_whose_answer_was_lost_is_recognised() {
    let mut a = Candidate::new(named("a"));
    a.saw(Some(lease("1", Some("a"))), seconds(0));
    assert!(!a.leads(seconds(0)), "nothing was acknowledged");
    assert_eq!(a.decide(seconds(0)), ElectionDecision::Renew);
}

#[test]
fn the_lease_is_read_as_client_go_writes_it() {
    let object = json_tree::json!({
        "metadata": {"name": "mainstay", "resourceVersion": "7"},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 3},
    });
    let object: Lease = json_tree::from_value(object).unwrap();
    let released = LeaderLease {
        length: seconds(1),
        ..lease("7", None)
    };
    assert_eq!(LeaderLease::try_from(&object), Ok(released));
    let bare = LeaderLease::try_from(&Lease {
        spec: None,
        ..object
    });
    let bare = bare.unwrap();
    assert_eq!((bare.holder, bare.length), (None, LENGTH));
    assert!(
        LeaderLease::try_from(&Lease::default()).is_err(),
        "no version"
    );
}

/// A write of the Lease that has not arrived at the store.
#[derive(Clone, Debug)]
struct Sent {
    by: usize,
    over: Option<ResourceVersion>,
    lease: LeaderLease,
    at: ClockReading,
}

/// A step of the cluster. The numbers choose among the possible messages.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes, in tenths of a second.
    Pass(u8),
    /// A candidate's read arrives, with the present state of the store.
    Read(usize),
    /// A candidate sends its decision.
    Send(usize),
    /// A write arrives at the store, in any order.
    Arrive(usize),
    /// A response arrives.
    Response(usize),
    /// A response is lost.
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..80).prop_map(Step::Pass),
        3 => (0..3usize).prop_map(Step::Read),
        4 => (0..3usize).prop_map(Step::Send),
        4 => (0..8usize).prop_map(Step::Arrive),
        4 => (0..8usize).prop_map(Step::Response),
        1 => (0..8usize).prop_map(Step::Lose),
    ]
}

/// Three candidates, each with its own clock, one store, and the messages between them.
struct Cluster {
    /// Tenths of a second.
    time: i64,
    /// For each clock: milliseconds in a tenth of a second, and its start in seconds.
    clocks: [(i64, i64); 3],
    candidates: Vec<Candidate>,
    stored: Option<LeaderLease>,
    version: u32,
    sent: Vec<Sent>,
    answers: Vec<Sent>,
}

impl Cluster {
    fn new(clocks: [(i64, i64); 3]) -> Self {
        Self {
            time: 0,
            clocks,
            candidates: ["a", "b", "c"]
                .map(|name| Candidate::new(named(name)))
                .to_vec(),
            stored: None,
            version: 0,
            sent: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn reading(&self, of: usize) -> ClockReading {
        let (rate, start) = self.clocks[of];
        SignedDuration::from_millis(self.time * rate) + seconds(start)
    }

    fn send(&mut self, by: usize) {
        let now = self.reading(by);
        let candidate = &self.candidates[by];
        let over = candidate.lease().map(|lease| lease.version);
        let last_transitions = candidate.lease().map_or(0, |lease| lease.transitions);
        let transitions = match candidate.decide(now) {
            ElectionDecision::Wait(_) => return,
            ElectionDecision::Create => 0,
            ElectionDecision::Acquire { transitions } => transitions,
            ElectionDecision::Renew => last_transitions,
        };
        let lease = LeaderLease {
            // The store replaces the version.
            version: "1".parse().unwrap(),
            holder: Some(candidate.identity().clone()),
            length: LENGTH,
            transitions,
        };
        self.sent.push(Sent {
            by,
            over,
            lease,
            at: now,
        });
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Pass(tenths) => self.time += i64::from(tenths),
            Step::Read(of) => {
                let now = self.reading(of);
                self.candidates[of].saw(self.stored.clone(), now);
            }
            Step::Send(by) => self.send(by),
            Step::Arrive(which) if which < self.sent.len() => {
                let mut write = self.sent.swap_remove(which);
                let stored = self.stored.as_ref().map(|lease| lease.version);
                if stored == write.over {
                    self.version += 1;
                    write.lease.version = self.version.to_string().parse().unwrap();
                    self.stored = Some(write.lease.clone());
                    self.answers.push(write);
                }
            }
            Step::Response(which) if which < self.answers.len() => {
                let response = self.answers.swap_remove(which);
                let now = self.reading(response.by);
                self.candidates[response.by].wrote(response.lease, response.at, now);
            }
            Step::Lose(which) if which < self.answers.len() => {
                self.answers.swap_remove(which);
            }
            Step::Arrive(_) | Step::Response(_) | Step::Lose(_) => {}
        }
    }

    fn leaders(&self) -> Vec<&str> {
        let all = self.candidates.iter().enumerate();
        let leading = all.filter(|(of, candidate)| candidate.leads(self.reading(*of)));
        leading
            .map(|(_, candidate)| candidate.identity().as_str())
            .collect()
    }
}

fn clock() -> impl Strategy<Value = (i64, i64)> {
    (85i64..120, 0i64..100_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Messages are late, lost or out of order, and the rates of the clocks differ by 40 %.
    #[test]
    fn two_never_lead_at_once(
        clocks in [clock(), clock(), clock()],
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut cluster = Cluster::new(clocks);
        for step in &steps {
            let before = cluster.stored.as_ref().map_or(-1, |lease| lease.transitions);
            cluster.perform(step);
            let leaders = cluster.leaders();
            prop_assert!(leaders.len() <= 1, "{:?} after {:?}", leaders, step);
            let after = cluster.stored.as_ref().map_or(-1, |lease| lease.transitions);
            prop_assert!(after == before || after == before + 1);
        }
    }

    /// After any history, a cluster whose messages arrive has a leader after the length of a lease and two attempts,
    /// and the leader stays.
    #[test]
    fn a_cluster_that_works_gets_a_leader(
        clocks in [clock(), clock(), clock()],
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut cluster = Cluster::new(clocks);
        for step in &steps {
            cluster.perform(step);
        }
        cluster.sent.clear();
        cluster.answers.clear();
        let mut transitions = None;
        for tenths in 0..600 {
            if tenths % 20 == 0 {
                for of in 0..3 {
                    cluster.perform(&Step::Read(of));
                    cluster.perform(&Step::Send(of));
                    cluster.perform(&Step::Arrive(0));
                    cluster.perform(&Step::Response(0));
                }
            }
            if tenths > 230 {
                prop_assert_eq!(cluster.leaders().len(), 1);
                let now = cluster.stored.as_ref().map(|lease| lease.transitions);
                prop_assert_eq!(*transitions.get_or_insert(now), now);
            }
            cluster.perform(&Step::Pass(1));
        }
    }
}
