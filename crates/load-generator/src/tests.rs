//! The command line, the order of the work, and the report.

use std::time::Duration;

use clap::Parser;

use crate::arguments::Arguments;
use crate::heartbeats::IdleNodes;
use crate::load::Load;
use crate::objects::BenchSubject;
use crate::plan::{LoadPlan, LoadStep, Operation, plan};
use crate::report::{PodMemory, Report, Row};
use crate::sets::{Policy, SetsStep};
use crate::statistics::Summary;
use crate::watchers::FanOut;

const PODS: BenchSubject = BenchSubject::Pods { distinct: false };

fn parse(words: &str) -> Result<LoadPlan, clap::Error> {
    let words = format!("bench --kubeconfig k.yaml {words}");
    plan(&Arguments::try_parse_from(words.split_whitespace())?)
}

fn steps(words: &str) -> Vec<(Operation, u32, bool)> {
    let plan = parse(words).unwrap();
    let fields = |step: &LoadStep| (step.operation, step.clients, step.reported);
    plan.steps.iter().map(fields).collect()
}

#[test]
fn everything_is_measured_that_can_be() {
    let all = parse("").unwrap();
    assert_eq!(all.steps.len(), 3 * 9);
    assert!(all.steps.iter().all(|step| step.reported));
    assert_eq!(all.watchers, [1, 100, 1000]);
    assert!(!all.memory);
    assert!(parse("--server-pid 1").unwrap().memory);
}

#[test]
fn config_maps_are_measured_without_memory() {
    let all = parse("--config-maps --server-pid 1").unwrap();
    assert_eq!((all.steps.len(), all.memory), (3 * 9, false));
    for refused in ["--only memory --server-pid 1", "--distinct", "--sets 1x1"] {
        assert!(
            parse(&format!("--config-maps {refused}")).is_err(),
            "{refused}"
        );
    }
}

#[test]
fn custom_resources_are_measured_without_memory_and_protobuf() {
    let all = parse("--custom-resources --server-pid 1").unwrap();
    assert_eq!((all.steps.len(), all.memory), (3 * 8, false));
    for refused in ["--custom-resources --only memory --server-pid 1", "--rules"] {
        assert!(parse(refused).is_err(), "{refused}");
    }
}

#[test]
fn pods_are_there_before_they_are_asked_for() {
    use Operation::{Create, Delete, Get, List, ListPaged, ListProtobuf};
    assert_eq!(
        steps("--only get,list --clients 1,2"),
        [
            (Create, 16, false),
            (Get, 1, true),
            (List, 1, true),
            (ListProtobuf, 1, true),
            (ListPaged, 1, true),
            (Get, 2, true),
            (List, 2, true),
            (ListProtobuf, 2, true),
            (ListPaged, 2, true),
        ]
    );
    assert_eq!(
        steps("--only delete --clients 1,2 --objects 5"),
        [
            (Create, 5, false),
            (Delete, 1, true),
            (Create, 5, false),
            (Delete, 2, true),
        ]
    );
    assert_eq!(
        steps("--only create --clients 4,1"),
        [(Create, 4, true), (Delete, 16, false), (Create, 1, true)]
    );
    assert_eq!(
        steps("--only memory --server-pid 1 --clients 1,2"),
        [(Create, 16, false)]
    );
    assert_eq!(steps("--only watch"), []);
    assert_eq!(
        steps("--only get-under-load --clients 1"),
        [(Create, 16, false), (Operation::GetUnderLoad, 1, true)]
    );
}

#[test]
fn the_same_round_is_not_done_twice() {
    assert_eq!(steps("--only create --clients 2,2").len(), 1);
    let twice = parse("--only watch --watchers 5,5,1").unwrap();
    assert_eq!(twice.watchers, [5, 1]);
    assert_eq!(twice.watches_per_connection, 1);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (words, message) in [
        ("--objects 0", "0 is not in"),
        ("--objects many", "many"),
        ("--clients 0", "0 is not in"),
        ("--clients 1,,2", "invalid value"),
        ("--watchers 10001", "10001 is not in"),
        ("--only fly", "possible values"),
        ("--only memory", "--server-pid"),
        ("--server-pid 0", "0 is not in"),
        ("--objects 10", "each of 64 clients"),
    ] {
        let refused = parse(words).unwrap_err().to_string();
        assert!(refused.contains(message), "{words}: {refused}");
    }
    let nowhere = Arguments::try_parse_from(["bench"])
        .unwrap_err()
        .to_string();
    assert!(nowhere.contains("--kubeconfig"), "{nowhere}");
}

fn report() -> Report {
    let mut report = Report::of(4, PODS);
    let step = LoadStep {
        operation: Operation::ListPaged,
        clients: 2,
        reported: true,
    };
    let load = Load {
        latencies: [1, 2, 3, 4].map(Duration::from_millis).to_vec(),
        elapsed: Duration::from_secs(2),
        bytes: 4 * 1024 * 1024,
        failures: 1,
        first_failure: Some("410 Gone: too old".to_owned()),
    };
    report
        .rows
        .push(Row::of(step, load, Some(Duration::from_micros(1000))));
    let of = |milliseconds| Summary::of(vec![Duration::from_millis(milliseconds)]);
    report.fan_outs.push(FanOut {
        watchers: 100,
        median_watcher: of(3),
        last_watcher: of(5),
        bytes_per_watcher: Some(2048),
        processor_per_event: Some(Duration::from_nanos(4_600)),
    });
    report.pod_memory = Some(PodMemory {
        json_bytes: 1000,
        bytes_per_pod: 2500,
        resident_before: 1 << 20,
        resident_after: 2 << 20,
    });
    report
}

#[test]
fn people_get_tables() {
    let text = report().text();
    let words: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let row = [
        "list", "in", "pages", "2", "4", "2", "2.00", "4.00", "2.0", "250", "1",
    ];
    assert!(words.contains(&row.to_vec()), "{text}");
    assert!(
        words.contains(&vec!["100", "3.00", "5.00", "5.00", "2.0", "4.6"]),
        "{text}"
    );
    assert!(
        text.contains("2500 bytes of the server's memory, 2.5 times"),
        "{text}"
    );
    let failure = report().first_failure().unwrap();
    assert_eq!(failure, "list in pages: 410 Gone: too old");
    assert_eq!(Report::of(7, PODS).text(), "7 pods\n");
    let config_maps = Report::of(7, BenchSubject::ConfigMaps);
    assert_eq!(config_maps.text(), "7 configmaps\n");
}

#[test]
fn programs_get_numbers() {
    let json = report().json();
    assert_eq!(json["requests"][0]["operation"], "list in pages");
    assert_eq!(json["requests"][0]["perSecond"], 2.0);
    assert_eq!(json["requests"][0]["p99Milliseconds"], 4.0);
    assert_eq!(json["requests"][0]["serverMicroseconds"], 250);
    assert_eq!(json["watch"][0]["lastWatcher"]["medianMilliseconds"], 5.0);
    assert_eq!(json["watch"][0]["bytesPerWatcher"], 2048);
    assert_eq!(json["watch"][0]["serverMicrosecondsPerEvent"], 4.6);
    assert_eq!(json["memory"]["ratio"], 2.5);
    assert!(Report::of(7, PODS).json()["memory"].is_null());
}

#[test]
fn sets_are_measured_instead_of_requests() {
    let parse = |words: &str| {
        let words = format!("bench --kubeconfig k.yaml {words}");
        Arguments::try_parse_from(words.split_whitespace())
    };
    let arguments = parse("--sets 100x3,1x200 --policy Parallel,OrderedReady").unwrap();
    let sets: Vec<String> = arguments.sets.iter().map(ToString::to_string).collect();
    assert_eq!(sets, ["100x3", "1x200"]);
    assert_eq!(arguments.policy, [Policy::Parallel, Policy::OrderedReady]);
    let ordered = parse("--sets 1x1").unwrap().policy;
    assert_eq!(ordered, [Policy::OrderedReady]);
    for wrong in ["--sets 1x1 --only get", "--sets 3", "--policy Parallel"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(parse("--sets 1x1 --nodes 100").unwrap().nodes, Some(100));
}

#[test]
fn heartbeats_are_measured_instead_of_requests() {
    let parse = |words: &str| {
        let words = format!("bench --kubeconfig k.yaml {words}");
        Arguments::try_parse_from(words.split_whitespace())
    };
    assert_eq!(parse("--nodes 1000").unwrap().seconds, 60);
    for wrong in [
        "--nodes 0",
        "--nodes 5 --only get",
        "--seconds 5",
        "--nodes 5 --sets 1x1 --seconds 5",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    let mut report = Report::of(1, PODS);
    let idle = IdleNodes {
        nodes: 4,
        span: Duration::from_secs(10),
        renewals: Summary::of(vec![Duration::from_millis(2); 4]),
        processor: Some(Duration::from_millis(50)),
        resident: Some([1 << 20, 3 << 20]),
    };
    report.idle_nodes = Some(idle);
    let text = report.text();
    for part in [
        "4 nodes for 10 s: 4 renewals, median 2.00 ms",
        "0.5 % of one",
        "1.0 MiB before the nodes, 3.0 MiB",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(report.json()["idleNodes"]["renewals"], 4);
    assert_eq!(report.json()["idleNodes"]["processorShare"], 0.005);
}

#[test]
fn a_step_of_sets_is_a_row() {
    let mut report = Report::of(1, PODS);
    report.sets.push(SetsStep {
        sets: "2x3".parse().unwrap(),
        policy: Policy::Parallel,
        name: "update",
        elapsed: Duration::from_millis(1500),
        processor: Some(Duration::from_millis(60)),
        resident: Some(3 << 19),
        started: 6,
    });
    let text = report.text();
    let row = text.lines().nth(1).unwrap();
    let row: Vec<&str> = row.split_whitespace().collect();
    let expected = ["2x3", "Parallel", "update", "1.50", "0.06", "10.00", "1.50"];
    assert_eq!(row, expected);
    let json = &report.json()["sets"][0];
    assert_eq!(json["processorMillisecondsPerPod"], 10.0);
    assert_eq!(json["sets"], "2x3");
}
