//! Containers from creation to removal. Needs root and Debian's busybox.

use crate::harness::{Harness, exit_of, logged, run, start};
use container_runtime::RuntimeError;
use container_runtime::spec::{ContainerStatus, EnvVar, SandboxEvent, StartErrorKind};

#[tokio::test]
async fn a_container_runs_logs_and_ends() {
    let harness = Harness::new("runs");
    let sandbox = harness.sandbox("p1").await;
    let mut events = sandbox.events().await.unwrap();
    let spec = harness.shell("a", "echo one; echo two >&2; hostname; exit 7");
    let exit = run(&sandbox, &spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert!(exit.started_at.unwrap() <= exit.finished_at);
    let mut lines = logged(&spec);
    lines.sort();
    assert_eq!(lines, ["one", "two", "web-0"]);
    let started = events.next().await.unwrap();
    assert!(matches!(started, SandboxEvent::Started { container, .. } if container == "a"));
    assert_eq!(
        events.next().await,
        Some(SandboxEvent::Exited {
            container: "a".into(),
            exit
        })
    );
    sandbox.remove("a").await.unwrap();
    assert!(sandbox.state().await.unwrap().containers.is_empty());
    assert!(!spec.rootfs.upper_dir.exists());
    sandbox.destroy().await.unwrap();
    assert_eq!(events.next().await, Some(SandboxEvent::Gone));
    assert_eq!(events.next().await, None);
    harness.end().await;
}

#[tokio::test]
async fn signals_reach_the_first_process() {
    let harness = Harness::new("signals");
    let sandbox = harness.sandbox("p1").await;
    let spec = harness.shell(
        "term",
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done",
    );
    start(&sandbox, &spec).await;
    crate::harness::until("trap is set", || logged(&spec) == ["up"]).await;
    sandbox.signal("term", 15).await.unwrap();
    let exit = exit_of(&sandbox, "term").await;
    assert_eq!((exit.code, exit.signal), (3, None));
    assert_eq!(logged(&spec), ["up", "bye"]);
    let spec = harness.container("kill", &["sleep", "1000"]);
    start(&sandbox, &spec).await;
    // The first process of a process namespace ignores signals without a handler.
    sandbox.signal("kill", 9).await.unwrap();
    let exit = exit_of(&sandbox, "kill").await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    // A repeated signal is no error.
    sandbox.signal("kill", 9).await.unwrap();
    harness.end().await;
}

#[tokio::test]
async fn a_command_that_cannot_run_is_a_start_error() {
    let harness = Harness::new("badcmd");
    let sandbox = harness.sandbox("p1").await;
    let rows: &[(&str, &str, StartErrorKind, &str)] = &[
        (
            "a",
            "nothere",
            StartErrorKind::CommandNotFound,
            "executable file not found in $PATH",
        ),
        (
            "b",
            "/nothere",
            StartErrorKind::CommandNotFound,
            "no such file or directory",
        ),
        (
            "c",
            "/etc/text",
            StartErrorKind::CommandNotExecutable,
            "permission denied",
        ),
        (
            "d",
            "/etc",
            StartErrorKind::CommandNotExecutable,
            "is a directory",
        ),
    ];
    for (id, name, kind, text) in rows {
        sandbox
            .create_container(harness.container(id, &[name, "x"]))
            .await
            .unwrap();
        let error = sandbox.start(id).await.unwrap_err();
        let RuntimeError::Start(error) = error else {
            panic!("{error:?}")
        };
        assert_eq!(error.kind, *kind, "{error}");
        assert!(
            error.message.contains(text) && error.message.contains(name),
            "{error}"
        );
        let exit = exit_of(&sandbox, id).await;
        assert_eq!((exit.code, exit.start_error), (128, Some(error)));
    }
    harness.end().await;
}

/// Thousands of Services in a namespace create such an environment. The kernel accepts at most 6 MiB
/// (execve(2)), and much larger environments do not even reach the kernel.
#[tokio::test]
async fn an_environment_that_is_too_large_is_told_as_such() {
    let harness = Harness::new("large");
    let sandbox = harness.sandbox("p1").await;
    let variables = |count: usize| {
        let variable = |number| EnvVar {
            name: format!("SERVICE_{number}_PORT_80_TCP"),
            value: "x".repeat(60),
        };
        (0..count).map(variable).collect::<Vec<_>>()
    };
    let mut spec = harness.container("fits", &["true"]);
    spec.env = variables(10_000);
    assert_eq!(run(&sandbox, &spec).await.code, 0);
    let mut spec = harness.container("refused", &["true"]);
    spec.env = variables(100_000);
    sandbox.create_container(spec).await.unwrap();
    let error = sandbox.start("refused").await.unwrap_err().to_string();
    assert!(
        error.contains("argument list too long: 1 arguments and 1000"),
        "{error}"
    );
    assert!(error.contains("enableServiceLinks: false"), "{error}");
    let mut spec = harness.container("larger", &["true"]);
    spec.env = variables(300_000);
    let error = sandbox.create_container(spec).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Invalid { .. }), "{error:?}");
    assert!(
        error.to_string().contains("enableServiceLinks: false"),
        "{error}"
    );
    // The sandbox still works.
    assert_eq!(
        run(&sandbox, &harness.container("next", &["true"]))
            .await
            .code,
        0
    );
    harness.end().await;
}

#[tokio::test]
async fn calls_in_the_wrong_state_are_refused() {
    let harness = Harness::new("state");
    let sandbox = harness.sandbox("p1").await;
    let spec = harness.container("a", &["sleep", "1000"]);
    assert!(matches!(
        sandbox.start("a").await,
        Err(RuntimeError::NoSuchContainer { .. })
    ));
    sandbox.create_container(spec.clone()).await.unwrap();
    // An equal call is repeated, as by an agent that was killed before the response.
    sandbox.create_container(spec.clone()).await.unwrap();
    assert!(matches!(
        sandbox.signal("a", 15).await,
        Err(RuntimeError::WrongState { .. })
    ));
    sandbox.start("a").await.unwrap();
    assert!(matches!(
        sandbox.start("a").await,
        Err(RuntimeError::WrongState { .. })
    ));
    let other = harness.container("a", &["true"]);
    assert!(matches!(
        sandbox.create_container(other).await,
        Err(RuntimeError::WrongState { .. })
    ));
    let state = sandbox.state().await.unwrap();
    assert!(matches!(
        state.containers["a"].status,
        ContainerStatus::Running { .. }
    ));
    // The removal kills the container.
    sandbox.remove("a").await.unwrap();
    sandbox.remove("a").await.unwrap();
    let bad = harness.container("../x", &["true"]);
    assert!(matches!(
        sandbox.create_container(bad).await,
        Err(RuntimeError::Invalid { .. })
    ));
    harness.end().await;
}
