//! Ids that the kernel treats as "unchanged", so that a process would keep the shim's id: root.

use container_runtime::RuntimeError;
use container_runtime::spec::{StartErrorKind, UserSpec};

use super::{Rights, refusal};
use crate::harness::Harness;

/// Protected by the bound of every id in `users` and `calls`, and by the check after the change of the
/// user; findings S1.
#[tokio::test]
async fn nobody_becomes_root_by_an_id_that_is_none() {
    let harness = Harness::new("none");
    let none = u32::MAX;
    let named = |name: &str| UserSpec {
        name: name.into(),
        ..UserSpec::default()
    };
    let of_the_pod = [
        UserSpec {
            uid: Some(none),
            ..UserSpec::default()
        },
        UserSpec {
            gid: Some(none),
            ..named("1000")
        },
        UserSpec {
            supplementary_groups: vec![none],
            ..named("1000")
        },
    ];
    let of_the_image = [
        "4294967295",
        "1000:4294967295",
        "none",
        "member",
        "1000:none",
    ];
    for rights in [Rights::Default, Rights::OwnUsers] {
        let sandbox = rights.sandbox(&harness).await;
        for user in of_the_pod.clone() {
            let mut spec = harness.container("a", &["id"]);
            spec.user = user;
            let error = refusal(&sandbox, spec).await;
            assert!(
                matches!(&error, RuntimeError::Invalid { what, .. } if what == "user"),
                "{error}"
            );
        }
        for name in of_the_image {
            let mut spec = harness.container("a", &["id"]);
            spec.user = named(name);
            match refusal(&sandbox, spec).await {
                RuntimeError::Start(error) => {
                    assert_eq!(error.kind, StartErrorKind::UserNotFound, "{name}: {error}");
                }
                other => panic!("{name}: {other}"),
            }
        }
        sandbox.destroy().await.unwrap();
    }
    harness.end().await;
}
