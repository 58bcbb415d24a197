//! The cost of idle pods: memory and processor time of the server and of the shims, with 1, 50 and 110 pods.
//!
//! Run the benchmark on an idle machine with `cargo xtask bench idle`.

use std::thread::sleep;
use std::time::Duration;

use end_to_end::applications::busybox;
use end_to_end::samples::{Sample, sized};
use end_to_end::{Instance, process, with_registry_of};

const SET: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: idle}
spec:
  replicas: 0
  podManagementPolicy: Parallel
  serviceName: idle
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1', command: [sleep, '100000']}]
";

pub(crate) fn bench() {
    let image = busybox();
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &image)]);
    let kubectl = instance.kubectl();
    kubectl.apply(SET);
    for count in sized([1, 50, 110], [1, 2, 5]) {
        kubectl.ok(&[
            "scale",
            "statefulset",
            "idle",
            &format!("--replicas={count}"),
        ]);
        let ready = format!("--for=jsonpath={{.status.readyReplicas}}={count}");
        kubectl.ok(&["wait", "statefulset", "idle", &ready, "--timeout=300s"]);
        // The work that follows from the start has ended by then.
        sleep(Duration::from_secs(sized(30, 2)));
        measure(&instance, count, Duration::from_secs(sized(60, 3)));
    }
}

fn measure(instance: &Instance, count: usize, span: Duration) {
    let server = instance.pid();
    let shims = process::shims(&instance.data());
    assert_eq!(shims.len(), count, "a shim for each pod");
    let of_shims = || -> Duration { shims.iter().map(|pid| process::processor_time(*pid)).sum() };
    let before = (process::processor_time(server), of_shims());
    sleep(span);
    let after = (process::processor_time(server), of_shims());
    let per_minute = |used: Duration| used.as_secs_f64() * 60.0 / span.as_secs_f64();
    let memory = process::memory(server);
    println!("{count} idle pods");
    println!(
        "  server: resident {:.1} MiB, proportional {:.1} MiB; {:.2} s of processor per minute",
        memory.resident,
        memory.proportional,
        per_minute(after.0 - before.0)
    );
    let [mut resident, mut proportional, mut private] = [(); 3].map(|()| Sample::new("MiB"));
    let mut sum = 0.0;
    for pid in &shims {
        let memory = process::memory(*pid);
        resident.push(memory.resident);
        proportional.push(memory.proportional);
        private.push(memory.private);
        sum += memory.proportional;
    }
    println!("  a shim: resident {resident}, proportional {proportional}, its own {private}");
    println!(
        "  all shims: proportional {sum:.1} MiB; {:.2} s of processor per minute",
        per_minute(after.1 - before.1)
    );
}
