//! Keys of the kernel, which no namespace isolates.

use std::collections::BTreeSet;

use super::{Rights, perl};
use crate::harness::{Harness, command, exec, logged, start, until};

/// Protected by the new session keyring of each process of a container; findings S29. The filter
/// `RuntimeDefault` rejects the calls completely.
#[tokio::test]
async fn session_keyrings_are_shared_with_nobody() {
    let harness = Harness::new("keyring");
    let number = libc::SYS_keyctl;
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING; creates a keyring if there is none.
    let script = format!("print syscall({number}, 0, -3, 0), qq(\\n); sleep 1000");
    let mut keyrings = BTreeSet::new();
    // SAFETY: takes integers, touches no memory.
    let of_the_node = unsafe { libc::syscall(number, 0, -3, 0) };
    keyrings.insert(of_the_node.to_string());
    let mut all = 1;
    for rights in [Rights::Default, Rights::OwnUsers] {
        let sandbox = rights.sandbox(&harness).await;
        for id in ["a", "b"] {
            let spec = rights.give(perl(&harness, id, &script));
            start(&sandbox, &spec).await;
            until("it is told", || !logged(&spec).is_empty()).await;
            keyrings.insert(logged(&spec)[0].clone());
            let once = format!("print syscall({number}, 0, -3, 0)");
            let (out, _, _) = exec(&sandbox, command(id, &["perl", "-e", &once]), b"").await;
            keyrings.insert(out);
            all += 2;
        }
    }
    assert!(!keyrings.contains("-1"), "{keyrings:?}");
    assert_eq!(keyrings.len(), all, "{keyrings:?}");
    harness.end().await;
}
