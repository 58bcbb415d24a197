use json_tree::json;
use proptest::prelude::*;

use super::super::fence::Renewals;
use super::*;

fn millis(milliseconds: i64) -> SignedDuration {
    SignedDuration::from_millis(milliseconds)
}

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn lease(version: i64) -> Lease {
    let renewed = Timestamp::from_second(1_000_000 + version).unwrap();
    json_tree::from_value(json!({
        "metadata": { "name": "n", "uid": "u", "resourceVersion": version.to_string() },
        "spec": { "holderIdentity": "n", "leaseDurationSeconds": 40,
            "renewTime": format!("{renewed:.6}") },
    }))
    .unwrap()
}

/// A sequence of observers; each one reads the record of its predecessor.
#[derive(Default)]
struct Observer {
    renewals: Renewals,
    record: Option<ObservedSilence>,
}

impl Observer {
    /// Starts a new run, whose clock begins at zero.
    fn start(&mut self) {
        self.renewals = Renewals::default();
        let former = self.record.iter();
        let former = former.map(|one| ("n".to_owned(), (one.lease.clone(), one.unchanged())));
        self.renewals.continue_from(former.collect());
    }

    fn observe(&mut self, lease: &Lease, now: SignedDuration) -> SignedDuration {
        self.renewals
            .unchanged_for("n", &LeaseState::of(lease).unwrap(), now)
    }

    fn save(&mut self, lease: &Lease, now: SignedDuration, is_last: bool) {
        let observed_for = self
            .renewals
            .observed_for("n", &LeaseState::of(lease).unwrap(), now);
        let heartbeat = Heartbeat {
            signs: &[],
            silent_for: secs(0),
        };
        self.record = observed(lease, observed_for, heartbeat, is_last).unwrap();
    }
}

// findings-2 R36
#[test]
fn a_run_continues_the_count_of_the_former_one_except_for_a_quarter_of_the_lease() {
    cov_mark::check!(findings_2_r36);
    let mut observer = Observer::default();
    observer.start();
    assert_eq!(observer.observe(&lease(1), secs(0)), secs(0));
    observer.save(&lease(1), secs(30), true);
    observer.start();
    assert_eq!(observer.observe(&lease(1), secs(2)), secs(20));
    assert_eq!(observer.observe(&lease(1), secs(32)), secs(50));
    // A run that is too short to add time to the count also removes no time.
    observer.start();
    assert_eq!(observer.observe(&lease(1), secs(0)), secs(20));
    observer.save(&lease(1), secs(3), true);
    observer.start();
    assert_eq!(observer.observe(&lease(1), secs(0)), secs(20));
    // Even after a long silence the node has time to reconnect.
    observer.save(&lease(1), secs(3600), true);
    observer.start();
    assert_eq!(observer.observe(&lease(1), secs(0)), secs(40));
}

// findings-2 R36
#[test]
fn a_renewed_lease_counts_from_the_start_of_the_run() {
    let mut observer = Observer::default();
    observer.start();
    observer.observe(&lease(1), secs(0));
    observer.save(&lease(1), secs(45), true);
    observer.start();
    assert_eq!(observer.observe(&lease(2), secs(0)), secs(0));
    // The result is zero also if the store was restored and has the former version again.
    assert_eq!(observer.observe(&lease(1), secs(5)), secs(0));
    // The version is unchanged, but the renewal time differs.
    observer.save(&lease(1), secs(45), true);
    let mut other = lease(1);
    other.spec.as_mut().unwrap().renew_time = lease(7).spec.unwrap().renew_time;
    observer.start();
    assert_eq!(observer.observe(&other, secs(0)), secs(0));
    // The observer received no heartbeats.
    observer.start();
    observer.renewals.restart_all();
    assert_eq!(observer.observe(&lease(1), secs(0)), secs(0));
    observer.save(&lease(1), secs(0), true);
    assert_eq!(observer.record, None);
}

#[test]
fn nodes_that_renew_their_leases_are_not_recorded_except_at_the_end_of_a_run() {
    let unsaid = Heartbeat {
        signs: &[],
        silent_for: secs(0),
    };
    let is_recorded = |unchanged, is_last| {
        let recorded = observed(&lease(1), unchanged, unsaid, is_last);
        recorded.unwrap().is_some()
    };
    assert!(!is_recorded(secs(0), true));
    assert!(!is_recorded(secs(10), false));
    assert!(is_recorded(secs(10), true));
    assert!(!is_recorded(secs(15), false));
    assert!(is_recorded(secs(16), false));
    // The recorded count stops changing, so there are no more writes.
    let of = |unchanged| observed(&lease(1), unchanged, unsaid, false);
    assert_eq!(of(secs(50)), of(secs(500)));
    let mut fenced = lease(1);
    fenced.spec.as_mut().unwrap().holder_identity = None;
    let proof = resource_kinds::annotations::FENCED.to_owned();
    fenced.metadata.annotations = Some([(proof, String::new())].into());
    assert_eq!(observed(&fenced, secs(100), unsaid, true), Ok(None));
}

#[test]
fn a_record_is_usable_for_ten_minutes() {
    let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
    let record = SilenceRecord {
        written: at(0),
        nodes: BTreeMap::new(),
    };
    for (second, expected) in [(-1, false), (0, true), (600, true), (601, false)] {
        assert_eq!(record.is_usable(at(second)), expected, "{second}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// For any sequence of servers and renewals, the count is at most the time since the last renewal was stored.
    // findings-2 R36
    #[test]
    fn no_run_counts_more_than_the_real_silence(
        steps in prop::collection::vec((0u8..6, 0i64..20_000), 1..80),
    ) {
        let mut observer = Observer::default();
        observer.start();
        let (mut now, mut renewed, mut began, mut version) = (0, 0, 0, 1);
        observer.observe(&lease(version), secs(0));
        for (step, time) in steps {
            now += time;
            let reading = millis(now - began);
            match step {
                0 => {
                    version += 1;
                    renewed = now;
                }
                1 => observer.save(&lease(version), reading, false),
                // The observer stops in order, or is killed.
                2 | 3 => {
                    if step == 2 {
                        observer.save(&lease(version), reading, true);
                    }
                    now += time;
                    began = now;
                    observer.start();
                }
                _ => {
                    let counted = observer.observe(&lease(version), reading);
                    prop_assert!(counted <= millis(now - renewed), "{counted:?}");
                }
            }
        }
    }

    /// Servers that run for longer than the time to reconnect fence a silent node after a bounded number of restarts,
    /// even if each of them is killed between two records.
    // findings-2 R36
    #[test]
    fn restarts_do_not_postpone_a_fence_for_ever(
        runs in prop::collection::vec(22_000i64..60_000, 60),
        is_killed: bool,
    ) {
        let mut observer = Observer::default();
        let (mut served, mut number) = (0, 0);
        for run in runs {
            number += 1;
            observer.start();
            observer.observe(&lease(1), secs(0));
            for at in (0..=run).step_by(5000) {
                if observer.observe(&lease(1), millis(at)) >= wait(secs(40)) {
                    // Each run adds its length without the reconnection time and the time since the last record.
                    prop_assert!(number <= 8, "{number}");
                    prop_assert!(served + at <= 50_000 + number * 17_000, "{served} {number}");
                    return Ok(());
                }
                observer.save(&lease(1), millis(at), false);
            }
            if !is_killed {
                observer.save(&lease(1), millis(run), true);
            }
            served += run;
        }
        prop_assert!(false, "never");
    }
}
