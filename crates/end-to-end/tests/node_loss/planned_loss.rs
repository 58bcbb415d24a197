//! A node is drained before it is switched off: with the copy after the drain, its replicated volume loses no data
//! (docs/storage.md, "Before a planned maintenance").

use std::fs;

use end_to_end::{text, wait_for};

use super::local_replicated::{
    CLAIM, acknowledged, check_retained_state, lines, node_and_uid, record,
    the_event_states_the_point, wait_for_copy, wait_for_promotion, with_the_set,
};
use super::{Loss, get};

#[test]
fn a_drained_node_takes_no_write_of_a_replicated_volume_with_it() {
    let (mut cluster, kubectl) = with_the_set();
    let (node, uid, written) = cluster.server.network.run(|| {
        wait_for_copy(&kubectl);
        let (node, uid) = node_and_uid(&kubectl);
        let written = acknowledged(&kubectl, "db-0").expect("the log");
        kubectl.ok(&["drain", &node, "--ignore-daemonsets", "--timeout=300s"]);
        wait_for("the next pod to wait", 120, || {
            let pod = get(&kubectl, &["pod", "db-0"])?;
            let waits = text(&pod, "/metadata/uid") != uid && pod["spec"]["nodeName"].is_null();
            if waits {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        });
        // The second of two further copies started after the end of the pod.
        wait_for_copy(&kubectl);
        wait_for_copy(&kubectl);
        (node, uid, written)
    });
    let number = node[1..].parse::<usize>().expect("a number") - 1;
    cluster.lose(number, Loss::Killed);
    let taint = |change: &str| {
        let taint = format!("node.kubernetes.io/out-of-service{change}");
        kubectl.ok(&["taint", "node", &node, &taint]);
    };
    cluster.server.network.run(|| {
        taint("=maintenance:NoExecute");
        wait_for_promotion(&kubectl, (&node, &uid), 2);
        the_event_states_the_point(&kubectl);
    });
    cluster.bring_back(number, Loss::Killed);
    let former_data = cluster.nodes[number].data();
    cluster.server.network.run(|| {
        taint("-");
        kubectl.ok(&["uncordon", &node]);
        let state = check_retained_state(&kubectl, &former_data, 1);
        let before = fs::read_to_string(state.join("log")).expect("the former lines");
        let before: Vec<&str> = before.lines().collect();
        assert!(
            before.len() >= written.len(),
            "{} {}",
            before.len(),
            written.len()
        );
        // All writes of the former pod are in the volume: the retained state has no further writes.
        let now = lines(&kubectl);
        assert_eq!(now[..before.len()], before);
        wait_for_copy(&kubectl);
        let record = record(&kubectl).expect("the record");
        assert_eq!(record["replica"], *node, "{record}");
        kubectl.ok(&["delete", "statefulset", "db"]);
        kubectl.ok(&["delete", "pvc", CLAIM]);
    });
    cluster.shut_down();
}
