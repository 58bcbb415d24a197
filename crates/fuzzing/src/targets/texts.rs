//! Short texts with their own grammar.

use std::str::FromStr;
use std::sync::OnceLock;

use certificates::TokenSigner;
use controller_planners::volume_snapshot::Handle;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use json_tree::json;
use kube_api_server::decoders;
use object_model::cron::Schedule;
use object_model::{FieldSelector, LabelSelector, Quantity};
use resource_kinds::stateful_set_policy::{GuardCheck, HookAnswers, HookState, PodHold};

use super::Target;

pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

pub const LABEL_SELECTOR: Target = Target {
    name: "label-selector",
    seeds: &[
        b"app=x,tier!=y,zone in (a, b),env notin (c),!gone,there,size>3,size<9",
        b"a==b",
    ],
    words: &[
        "in",
        "notin",
        "(",
        ")",
        ",",
        "=",
        "==",
        "!=",
        "!",
        ">",
        "<",
        "example.com/name",
    ],
    run: |bytes| {
        if let Some(selector) = text(bytes).and_then(|text| LabelSelector::parse(text).ok()) {
            selector.matches(&json!({"app": "x", "size": "5"}));
        }
        if let Some(value) = decoders::json(bytes) {
            let _refused = LabelSelector::from_json(&value);
        }
    },
};

pub const FIELD_SELECTOR: Target = Target {
    name: "field-selector",
    seeds: &[
        b"metadata.name=a,status.phase!=Running,spec.nodeName==n\\,1",
        b"a=b\\=c\\\\",
    ],
    words: &["metadata.name", "=", "==", "!=", ",", "\\,", "\\=", "\\\\"],
    run: |bytes| {
        if let Some(selector) = text(bytes).and_then(|text| FieldSelector::parse(text).ok()) {
            selector.matches_by(|field| Some(field.to_owned()));
        }
    },
};

pub const QUANTITY: Target = Target {
    name: "quantity",
    seeds: &[
        b"100m",
        b"1.5Gi",
        b"-2e3",
        b"12E",
        b"0.000000001",
        b"9223372036854775807",
        b"1Ki",
    ],
    words: &["m", "u", "n", "k", "M", "Gi", "Ti", "E", "e", "-", "+", "."],
    run: |bytes| {
        let Some(quantity) = text(bytes).and_then(|text| Quantity::from_str(text).ok()) else {
            return;
        };
        // A quantity that is formatted and parsed again is equal.
        let again = Quantity::from_str(&quantity.to_string()).expect("what was written is read");
        assert_eq!(again, quantity);
        let _sums = (
            quantity.plus(&again),
            quantity.minus(&again),
            quantity.round_up_to_milli(),
        );
        let _whole = (quantity.value(), quantity.milli_value());
    },
};

pub const SCHEDULE: Target = Target {
    name: "schedule",
    seeds: &[
        b"*/5 0-12/3 1,15 jan-mar mon-fri",
        b"@daily",
        b"@every 1h30m",
        b"0 0 30 2 *",
        b"59 23 31 12 7",
    ],
    words: &[
        "*", "/", "-", ",", "@hourly", "@every ", "sun", "dec", "L", "?", "TZ=UTC ",
    ],
    run: |bytes| {
        if let Some(schedule) = text(bytes).and_then(|text| Schedule::parse(text).ok()) {
            let mut at = Timestamp::UNIX_EPOCH;
            for _ in 0..3 {
                match schedule.next(at, &TimeZone::UTC) {
                    Some(next) => {
                        assert!(next > at, "{next} after {at}");
                        at = next;
                    }
                    None => return,
                }
            }
        }
    },
};

pub const REQUEST: Target = Target {
    name: "request",
    seeds: &[
        b"/api/v1/namespaces/default/pods?limit=500&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJkZWZhdWx0L2EifQ\napplication/json;as=Table;v=v1;g=meta.k8s.io,application/json;q=0.9",
        b"/apis/apps/v1/namespaces/d/statefulsets/w/scale?fieldManager=x&dryRun=All\n*/*",
        b"/api/v1/watch/pods?watch=1&resourceVersion=7&resourceVersionMatch=NotOlderThan&sendInitialEvents=true\napplication/vnd.kubernetes.protobuf",
    ],
    words: &["%2e", "%", "%ff", "&", "?", "/", "continue=", "limit=", "watch", "namespaces", "as=", "q=", ";", ","],
    run: |bytes| {
        if let Some(text) = text(bytes) {
            let (target, accept) = text.split_once('\n').unwrap_or((text, ""));
            decoders::request(target, accept);
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            node_agent::decoders::request(path, query);
            if let Some((name, port)) = decoders::proxied(path) {
                assert!(!name.contains(':') && !port.contains(':'));
            }
        }
    },
};

pub const GUARD_CHECK: Target = Target {
    name: "guard-check",
    seeds: &[
        br#"{"exec":{"command":["check","-q"]},"container":"db","periodSeconds":5}"#,
        br#"{"httpGet":{"port":"api","path":"/sync","host":"10.0.0.1"},"failureThreshold":3}"#,
        br#"{"id":"Update/drain/1970-01-01T00:00:00Z","purpose":"Update","hook":"drain","since":"1970-01-01T00:00:00Z","until":"1970-01-01T00:10:00Z","done":["leave"],"exec":{"command":["drain"]}}"#,
    ],
    words: &[
        "\"tcpSocket\":",
        "{",
        "}",
        "[",
        "null",
        "-1",
        "99999999999",
        "\"host\":",
    ],
    run: |bytes| {
        let Some(text) = text(bytes) else {
            return;
        };
        if let Some(hold) = PodHold::parse(text) {
            assert_eq!(PodHold::parse(&hold.text()), Some(hold.clone()));
            // Without hooks in the policy, no hook is left.
            let state = hold.state(&[], None, HookAnswers::default(), hold.since);
            assert_eq!(state, HookState::Done);
        }
        if let Some(check) = GuardCheck::parse(text) {
            assert_eq!(GuardCheck::parse(&check.text()), Some(check.clone()));
            let probe = check.probe();
            assert!(probe.http_get.is_none_or(|action| action.host.is_none()));
            assert!(probe.tcp_socket.is_none_or(|action| action.host.is_none()));
        }
    },
};

pub const SNAPSHOT_HANDLE: Target = Target {
    name: "snapshot-handle",
    seeds: &[b"node-1/snapshot-6f1c"],
    words: &["/", "..", ".", "\0", "\n"],
    run: |bytes| {
        if let Some(text) = text(bytes)
            && let Some(handle) = Handle::parse(text)
        {
            assert_eq!(handle.to_string(), text);
        }
    },
};

pub const TOKEN: Target = Target {
    name: "token",
    seeds: &[
        b"eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJ4IiwiZXhwIjoxfQ.AAAA",
        b"eyJhbGciOiJub25lIn0.e30.",
    ],
    words: &[".", "=", "-", "_", "eyJ", "e30"],
    run: |bytes| {
        static SIGNER: OnceLock<TokenSigner> = OnceLock::new();
        let signer = SIGNER.get_or_init(|| TokenSigner::ephemeral().expect("random numbers"));
        if let Some(text) = text(bytes) {
            assert!(signer.verify(text).is_err(), "a token that nobody signed");
            // The header is valid, so that the decoder reads the other parts too.
            let good = signer.sign(&json!({}));
            let header = good.split('.').next().unwrap_or_default();
            assert!(
                signer.verify(&format!("{header}.{text}")).is_err(),
                "a forged token"
            );
        }
    },
};
