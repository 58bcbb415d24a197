//! Extreme numbers in pods: the pods run and end without a panic.

use json_tree::{Value, json};
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;

use crate::harness::Harness;

const NUMBERS: [i64; 8] = [
    i64::MAX,
    i64::MIN,
    i64::MAX / 1_000_000_000,
    i32::MAX as i64,
    i32::MIN as i64,
    3600,
    0,
    -1,
];
const AMOUNTS: [&str; 5] = ["9223372036854775807", "8Ei", "1n", "0", "-1"];

fn spec(number: i64, amount: &str) -> Value {
    let short = i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX });
    let probe = json!({"exec": {}, "initialDelaySeconds": short, "periodSeconds": short,
        "timeoutSeconds": short, "successThreshold": short, "failureThreshold": short,
        "terminationGracePeriodSeconds": number});
    json!({"terminationGracePeriodSeconds": number, "activeDeadlineSeconds": number,
        "overhead": {"cpu": amount, "memory": amount},
        "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": number}],
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always",
            "startupProbe": probe}],
        "containers": [{"name": "c", "image": "i", "livenessProbe": probe, "readinessProbe": probe,
            "lifecycle": {"preStop": {"sleep": {"seconds": number}}},
            "resources": {"requests": {"cpu": amount}, "limits": {"cpu": amount, "memory": amount}}}]})
}

/// findings S32
#[test]
fn pods_live_and_end_with_any_number() {
    for number in NUMBERS {
        for amount in AMOUNTS {
            for grace in [number, 30, 0] {
                let mut harness = Harness::new(spec(number, amount));
                for (container, kind) in [
                    ("s", ProbeKind::Startup),
                    ("c", ProbeKind::Liveness),
                    ("c", ProbeKind::Readiness),
                ] {
                    let failed = ProbeOutcome::Failure("no".to_owned());
                    let each = [ProbeOutcome::Success, failed].into();
                    harness.behaviour.probes.insert((container, kind), each);
                }
                harness.behaviour.deaf.push("c");
                harness.pass(20);
                harness.exit("c", 1);
                harness.pass(20);
                harness.delete(grace);
                harness.pass(60);
            }
        }
    }
}
