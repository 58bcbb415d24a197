//! Keys of the kernel, which no namespace isolates.

use std::collections::BTreeSet;

use super::{Rights, perl};
use crate::world::{World, command, exec, logged, start, until};

/// Protected by the new session keyring of each process of a container; findings S29. The filter
/// `RuntimeDefault` rejects the calls completely.
#[tokio::test]
async fn session_keyrings_are_shared_with_nobody() {
    let world = World::new("keyring");
    let number = libc::SYS_keyctl;
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING; creates a keyring if there is none.
    let script = format!("print syscall({number}, 0, -3, 0), qq(\\n); sleep 1000");
    let mut seen = BTreeSet::new();
    // SAFETY: takes integers, touches no memory.
    let of_the_node = unsafe { libc::syscall(number, 0, -3, 0) };
    seen.insert(of_the_node.to_string());
    let mut all = 1;
    for rights in [Rights::Default, Rights::OwnUsers] {
        let sandbox = rights.sandbox(&world).await;
        for id in ["a", "b"] {
            let spec = rights.give(perl(&world, id, &script));
            start(&sandbox, &spec).await;
            until("it is told", || !logged(&spec).is_empty()).await;
            seen.insert(logged(&spec)[0].clone());
            let once = format!("print syscall({number}, 0, -3, 0)");
            let (out, _, _) = exec(&sandbox, command(id, &["perl", "-e", &once]), b"").await;
            seen.insert(out);
            all += 2;
        }
    }
    assert!(!seen.contains("-1"), "{seen:?}");
    assert_eq!(seen.len(), all, "{seen:?}");
    world.end().await;
}
