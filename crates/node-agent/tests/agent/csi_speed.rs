//! The duration of a driver's calls in the life of a pod. The test compares them with direct calls, and
//! with a pod without a volume. The calls are checked, the durations are only printed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use csi_client::{AccessMode, AccessType, Driver, PublishRequest, StageRequest, VolumeCapability};
use json_tree::json;

use crate::csi::{CONFIGURED, DRIVER, Disks, claim, key, started, with};
use crate::harness::Harness;

/// Number of pods of each kind.
const ROUNDS: usize = 5;

/// Durations from the creation of a pod until it is ready, and from its deletion until its end.
#[derive(Default)]
struct Times {
    starts: Vec<Duration>,
    ends: Vec<Duration>,
}

impl Times {
    fn show(mut self, what: &str) {
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2]
        };
        let (start, end) = (median(&mut self.starts), median(&mut self.ends));
        println!("{what}: start {start:.1?}, end {end:.1?} (medians of {ROUNDS})");
    }
}

pub async fn a_pod_costs_the_calls_that_a_hand_would_make() {
    let harness = started("csi-speed").await;
    let mut disks = Disks::new(&harness);
    key(&harness).await;
    let spec = json!({"attachRequired": false});
    disks.driver_object(&harness, spec).await;
    disks.claim(&harness, "v").await;
    std::fs::create_dir_all(disks.volumes.join("h")).unwrap();
    disks.start();
    let (mut by_hand, mut plain, mut claimed) = <(Times, Times, Times)>::default();
    for round in 0..ROUNDS {
        hand(&disks, &mut by_hand).await;
        live(
            &harness,
            &format!("plain-{round}"),
            json!({"emptyDir": {}}),
            &mut plain,
        )
        .await;
        let before = disks.calls("v").len();
        live(&harness, &format!("disk-{round}"), claim("v"), &mut claimed).await;
        let begun = Instant::now();
        disks.free("v").await;
        *claimed.ends.last_mut().unwrap() += begun.elapsed();
        let calls = disks.calls("v").split_off(before);
        let changes: Vec<&str> = calls
            .iter()
            .map(String::as_str)
            .filter(|call| !call.contains("Stats"))
            .collect();
        assert_eq!(changes, ["Stage", "Publish", "Unpublish", "Unstage"]);
    }
    by_hand.show("by hand: stage and publish, unpublish and unstage");
    plain.show("pod without the volume");
    claimed.show("pod with the volume");
    disks.end(harness).await;
}

/// Creates a pod with a volume, and deletes it again.
async fn live(harness: &Harness, name: &str, volume: json_tree::Value, times: &mut Times) {
    let begun = Instant::now();
    harness.pod(name, with(volume, "true")).await;
    harness.ready(name).await;
    times.starts.push(begun.elapsed());
    let begun = Instant::now();
    harness.delete(name).await;
    harness.wait_deleted(name).await;
    times.ends.push(begun.elapsed());
}

/// Makes the driver's calls directly, for a volume that no pod has.
async fn hand(disks: &Disks, times: &mut Times) {
    let driver = Driver {
        name: DRIVER.to_owned(),
        socket: disks.kubelet.join("plugins/t/csi.sock"),
    };
    std::fs::create_dir_all(disks.kubelet.join("hand")).unwrap();
    let capability = VolumeCapability {
        access: AccessType::Mount {
            fs_type: "ext4".to_owned(),
            flags: Vec::new(),
            group: None,
        },
        mode: AccessMode::SingleNodeSingleWriter,
    };
    let begun = Instant::now();
    let stage = StageRequest {
        volume_id: "h".to_owned(),
        publish_context: BTreeMap::new(),
        staging_path: format!("{CONFIGURED}/hand"),
        capability: capability.clone(),
        secrets: BTreeMap::new(),
        volume_context: BTreeMap::new(),
    };
    driver.stage(&stage).await.unwrap();
    let target = format!("{CONFIGURED}/hand-mount");
    let publication = PublishRequest {
        volume_id: "h".to_owned(),
        publish_context: BTreeMap::new(),
        staging_path: Some(stage.staging_path.clone()),
        target_path: target.clone(),
        capability,
        read_only: false,
        secrets: BTreeMap::new(),
        volume_context: BTreeMap::new(),
    };
    driver.publish(&publication).await.unwrap();
    times.starts.push(begun.elapsed());
    let begun = Instant::now();
    driver.unpublish("h", &target).await.unwrap();
    driver.unstage("h", &stage.staging_path).await.unwrap();
    times.ends.push(begun.elapsed());
}
