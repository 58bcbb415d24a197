//! The memory of the server's process.

use end_to_end::process::memory;
use end_to_end::{Api, Instance, wait_for};
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const COUNT: usize = 4000;
/// Memory that is retained for minutes, in MiB: the history of changes (16 MiB), and buffers.
const REST_MIB: f64 = 64.0;

/// findings R23: after many objects were stored and deleted, the memory is returned to the machine.
#[test]
fn memory_is_given_back_after_deletions() {
    let instance = Instance::start(&[]);
    let api = Api::new(&instance);
    let before = memory(instance.pid()).anonymous;
    // The allocator keeps freed memory of this size; it returns larger blocks by itself.
    let text = "x".repeat(20_000);
    let maps: Vec<_> = (0..COUNT)
        .map(|number| {
            json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": format!("m{number}")},
                "data": {"text": text},
            })
        })
        .collect();
    api.create_all(MAPS, &maps);
    let stored = memory(instance.pid()).anonymous;
    assert!(stored - before > REST_MIB, "{before} MiB, then {stored}");
    api.delete(MAPS);
    wait_for("the memory to be given back", 180, || {
        let now = memory(instance.pid()).anonymous;
        match now - before < REST_MIB {
            true => Ok(()),
            false => Err(format!("{before} MiB, then {stored}, now {now}")),
        }
    });
}
