//! Attacks on pods, whose agent is a part of the server's process.

use end_to_end::{wait_for_text, with_images};
use serde_json::{Value, json};

use super::{Scene, large_map};

const MAPS: usize = 120;

/// Pods have large ConfigMaps in their volumes and environments, as many as a namespace may contain.
// findings-2 S39
#[test]
fn large_config_maps() {
    let (_registry, instance) = with_images();
    let mut scene = Scene::on(instance, 1);
    let tenant = &scene.tenants[0];
    let maps: Vec<Value> = (0..MAPS)
        .map(|number| large_map(number, 1_000_000))
        .collect();
    scene.api.create_all(&tenant.path("configmaps"), &maps);
    scene.begin_with_what_is_stored();
    let tenant = &scene.tenants[0];
    let name = |number: usize| format!("large-{number}");
    let source = |number: usize| {
        let items = json!([{"key": "text", "path": name(number)}]);
        json!({"configMap": {"name": name(number), "items": items}})
    };
    let variable = |number: usize| json!({"configMapRef": {"name": name(number)}});
    let pod = |pod: &str, maps: usize, variables: usize| {
        json!({
            "metadata": {"name": pod},
            "spec": {
                "containers": [{
                    "name": "c",
                    "image": "busybox:1",
                    "command": ["sleep", "1000"],
                    "envFrom": (0..variables).map(variable).collect::<Vec<_>>(),
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}]
                }],
                "volumes": [{"name": "v", "projected": {"sources": (0..maps).map(source).collect::<Vec<_>>()}}]
            }
        })
    };
    let mut pods: Vec<Value> = (0..4)
        .map(|number| pod(&format!("full-{number}"), 60, 0))
        .collect();
    pods.extend((0..4).map(|number| pod(&format!("volume-{number}"), MAPS, 0)));
    pods.extend((0..4).map(|number| pod(&format!("environment-{number}"), 0, MAPS)));
    scene.api.create_all(&tenant.path("pods"), &pods);
    let kubectl = scene.instance.kubectl();
    let full = ["pod/full-0", "pod/full-1", "pod/full-2", "pod/full-3"];
    let wait = [
        "wait",
        "-n",
        "tenant-0",
        "--for=condition=Ready",
        "--timeout=120s",
    ];
    kubectl.ok(&[&wait[..], &full].concat());
    for (pod, refusal) in [
        (
            "volume-3",
            "the files of ConfigMaps and Secrets in the volume have more than 67108864 bytes",
        ),
        (
            "environment-3",
            "the ConfigMaps and Secrets of the environment have more than 6291456 bytes",
        ),
    ] {
        wait_for_text(refusal, 60, || {
            kubectl.ok(&["describe", "pod", "-n", "tenant-0", pod])
        });
    }
    scene.wait_until_stable();
    scene.assert_withstood("large ConfigMaps");
}

/// Commands in a container print without end, and their clients do not read the output.
// findings-2 S38
#[test]
fn unread_sessions() {
    let (_registry, instance) = with_images();
    let mut scene = Scene::on(instance, 2);
    let kubectl = scene.instance.kubectl();
    let talk = "yes talks | head -c 9000000; sleep 1000";
    for tenant in &scene.tenants {
        let run = [
            "run",
            "-n",
            &tenant.namespace,
            "talker",
            "--image=busybox:1",
            "--",
        ];
        kubectl.ok(&[&run[..], &["sh", "-c", talk]].concat());
        let wait = [
            "wait",
            "-n",
            &tenant.namespace,
            "--for=condition=Ready",
            "pod/talker",
        ];
        kubectl.ok(&[&wait[..], &["--timeout=60s"]].concat());
    }
    let Scene {
        runtime, tenants, ..
    } = &scene;
    let mut sockets = Vec::new();
    runtime.block_on(async {
        let exec = "pods/talker/exec?command=yes&stdout=true&container=talker";
        let log = "pods/talker/log?follow=true";
        for tenant in tenants {
            for (path, count) in [(exec, 140), (log, 100)] {
                for _ in 0..count {
                    sockets.push(tenant.web_socket(&tenant.path(path)).await);
                }
            }
        }
    });
    scene.wait_until_stable();
    scene.assert_withstood("unread sessions");
    assert!(scene.refusals("pod_sessions") > 0);
}
