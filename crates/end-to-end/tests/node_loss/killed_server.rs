//! The server is killed while a replicated volume is promoted: the promotion continues after the restart of the server,
//! once, with an unchanged recovery point.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::local_replicated::{
    a_node_is_lost, check_retained_lines, lines, record, wait_for_copy, with_the_set,
};
use super::{Cluster, Loss};

/// Maximum time of a stage, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until a volume is in the stage.
pub(super) fn wait_for_stage(stage: &str, cluster: &Cluster) {
    let kubectl = cluster.server.kubectl();
    let volumes = ["get", "pv", "-o", "jsonpath={.metadata.annotations}"];
    let watch = cluster
        .server
        .network
        .run(|| kubectl.watch(&[&volumes[..], &["--watch"]].concat()));
    let until = Instant::now() + PATIENCE;
    // The annotation is a string that contains JSON.
    let expected = format!(r#"\"stage\":\"{stage}\""#);
    while !watch.output().contains(&expected) {
        assert!(Instant::now() < until, "no {stage}: {}", watch.output());
        // The pause is short, because stages are short.
        sleep(Duration::from_millis(2));
    }
}

/// Kills the server as soon as a volume is in the stage, and starts it again.
fn kill_in(stage: &str, cluster: &mut Cluster) {
    wait_for_stage(stage, cluster);
    cluster.server.kill();
    let flags = cluster.node_flags.iter().map(|flag| &**flag);
    let start: Vec<&str> = ["server", "--with-node"].into_iter().chain(flags).collect();
    cluster.server.start(&start);
}

#[test]
fn a_promotion_goes_on_after_the_server_was_killed() {
    let (mut cluster, kubectl) = with_the_set();
    let mut former: Vec<String> = Vec::new();
    for (stage, epoch) in [("Promoting", 2), ("Promoted", 3)] {
        let kill = |cluster: &mut Cluster| kill_in(stage, cluster);
        let number = a_node_is_lost(&mut cluster, &kubectl, Loss::Killed, epoch, &former, kill);
        let point = cluster.server.network.run(|| {
            former = lines(&kubectl);
            record(&kubectl).expect("a record")["recovery"].clone()
        });
        cluster.bring_back(number, Loss::Killed);
        let lost = cluster.nodes[number].data();
        cluster.server.network.run(|| {
            check_retained_lines(&kubectl, &lost, epoch - 1);
            wait_for_copy(&kubectl);
            // The volume was promoted once.
            let record = record(&kubectl).expect("a record");
            assert_eq!(record["epoch"].as_u64(), Some(epoch), "{record}");
            assert_eq!(record["recovery"], point);
        });
    }
    cluster.shut_down();
}
