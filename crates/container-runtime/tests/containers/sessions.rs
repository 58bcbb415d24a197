//! Commands in running containers, attached clients, terminals, logs.

use std::time::Duration;

use container_runtime::spec::{AttachSpec, ExecSpec, StartErrorKind, TerminalSize};
use container_runtime::{RuntimeError, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Harness, command, exec, exit_of, logged, start};

async fn read_until(session: &mut Session, expected: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    let reading = async {
        while !text.contains(expected) {
            let count = session.stdout.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "ended after {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    if tokio::time::timeout(Duration::from_secs(240), reading)
        .await
        .is_err()
    {
        panic!("no {expected:?} in {text:?}");
    }
    text
}

#[tokio::test]
async fn commands_run_with_separate_streams_and_their_own_exit_code() {
    let harness = Harness::new("exec");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.container("a", &["sleep", "1000"]);
    spec.user.uid = Some(1000);
    start(&sandbox, &spec).await;
    let script = "echo out; echo err >&2; id -u; pwd; env | grep -c HOME; exit 5";
    let got = exec(&sandbox, command("a", &["sh", "-c", script]), b"").await;
    assert_eq!(got, ("out\n1000\n/\n1\n".into(), "err\n".into(), Some(5)));
    let with_input = ExecSpec {
        stdin: true,
        ..command("a", &["wc", "-c"])
    };
    let input = vec![b'x'; 300_000];
    assert_eq!(exec(&sandbox, with_input, &input).await.0, "300000\n");
    let much = command("a", &["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]);
    let much = ExecSpec {
        args: vec![
            "head".into(),
            "-c".into(),
            "3000000".into(),
            "/dev/zero".into(),
        ],
        ..much
    };
    assert_eq!(exec(&sandbox, much, b"").await.0.len(), 3_000_000);
    let error = sandbox.exec(command("a", &["nothere"])).await.unwrap_err();
    let RuntimeError::Start(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind, StartErrorKind::CommandNotFound);
    assert_eq!(
        error.message,
        "exec: \"nothere\": executable file not found in $PATH"
    );
    // Killed by a signal: the code is that of a shell.
    let killed = exec(&sandbox, command("a", &["sh", "-c", "kill -9 $$"]), b"").await;
    assert_eq!(killed.2, Some(137));
    harness.end().await;
}

#[tokio::test]
async fn commands_can_have_a_terminal() {
    let harness = Harness::new("exectty");
    let sandbox = harness.sandbox("p1").await;
    start(&sandbox, &harness.container("a", &["sleep", "1000"])).await;
    let spec = ExecSpec {
        tty: true,
        stdin: true,
        terminal: Some(TerminalSize {
            width: 91,
            height: 33,
        }),
        ..command("a", &["sh"])
    };
    let mut session = sandbox.exec(spec).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"tty; stty size\n").await.unwrap();
    let text = read_until(&mut session, "33 91").await;
    assert!(text.contains("/dev/pts/0"), "{text:?}");
    session
        .control
        .resize(TerminalSize {
            width: 100,
            height: 40,
        })
        .await;
    // The shim sets the size some time after the call, so the test reads the size until it has changed.
    let text = loop {
        stdin.write_all(b"stty size; echo done\n").await.unwrap();
        let text = read_until(&mut session, "done\r\n").await;
        if text.contains("40 100") {
            break text;
        }
    };
    assert!(text.contains("40 100"));
    stdin.write_all(b"exit 9\n").await.unwrap();
    assert_eq!(session.control.wait().await, Some(9));
    harness.end().await;
}

#[tokio::test]
async fn a_dropped_probe_is_killed_and_a_dropped_shell_hangs_up() {
    let harness = Harness::new("drop");
    let sandbox = harness.sandbox("p1").await;
    let spec = harness.container("a", &["sleep", "1000"]);
    start(&sandbox, &spec).await;
    for (kill_on_drop, tty, seconds) in [(true, false, "111"), (false, true, "222")] {
        let spec = ExecSpec {
            kill_on_drop,
            tty,
            ..command("a", &["sleep", seconds])
        };
        drop(sandbox.exec(spec).await.unwrap());
        let script =
            format!("while ps | grep -q '[s]leep {seconds}'; do sleep 0.01; done; echo gone");
        let (out, _, _) = exec(&sandbox, command("a", &["sh", "-c", &script]), b"").await;
        assert_eq!(out, "gone\n");
    }
    harness.end().await;
}

#[tokio::test]
async fn clients_attach_to_a_container() {
    let harness = Harness::new("attach");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.shell("a", "while read line; do echo got $line; done; exit 4");
    spec.stdin = true;
    spec.stdin_once = true;
    start(&sandbox, &spec).await;
    let attach = |stdin| AttachSpec {
        container: "a".into(),
        stdin,
        terminal: None,
    };
    let mut watching = sandbox.attach(attach(false)).await.unwrap();
    let mut typing = sandbox.attach(attach(true)).await.unwrap();
    let mut stdin = typing.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    read_until(&mut typing, "got hello\n").await;
    read_until(&mut watching, "got hello\n").await;
    stdin.shutdown().await.unwrap();
    assert_eq!(typing.control.wait().await, Some(4));
    assert_eq!(watching.control.wait().await, Some(4));
    assert_eq!(exit_of(&sandbox, "a").await.code, 4);
    assert_eq!(logged(&spec), ["got hello"]);
    harness.end().await;
}

#[tokio::test]
async fn a_container_can_have_a_terminal() {
    let harness = Harness::new("tty");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.container("a", &["sh"]);
    spec.tty = true;
    spec.stdin = true;
    start(&sandbox, &spec).await;
    let attach = AttachSpec {
        container: "a".into(),
        stdin: true,
        terminal: Some(TerminalSize {
            width: 80,
            height: 24,
        }),
    };
    let mut session = sandbox.attach(attach).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin
        .write_all(b"tty; stty size; [ -c /dev/console ] && echo console\n")
        .await
        .unwrap();
    let text = read_until(&mut session, "\nconsole").await;
    assert!(
        text.contains("/dev/pts/0") && text.contains("24 80"),
        "{text:?}"
    );
    // The container continues after a client has disconnected, and another client may attach.
    drop(session);
    drop(stdin);
    let attach = AttachSpec {
        container: "a".into(),
        stdin: true,
        terminal: None,
    };
    let mut session = sandbox.attach(attach).await.unwrap();
    session
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"exit 6\n")
        .await
        .unwrap();
    assert_eq!(session.control.wait().await, Some(6));
    harness.end().await;
}

#[tokio::test]
async fn logs_are_rotated_and_complete() {
    let harness = Harness::new("logs");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.shell("a", "seq 1 2000; printf unfinished");
    spec.log.file_bytes_max = 20_000;
    spec.log.files_max = 100;
    crate::harness::run(&sandbox, &spec).await;
    let path = spec.log.path.clone().unwrap();
    let mut text = String::new();
    for number in (1..100).rev() {
        let rotated = format!("{}.{number}", path.display());
        text.push_str(&std::fs::read_to_string(rotated).unwrap_or_default());
    }
    text.push_str(&std::fs::read_to_string(&path).unwrap());
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.splitn(4, ' ').nth(3).unwrap())
        .collect();
    assert_eq!(lines.len(), 2001);
    assert_eq!(
        (lines[0], lines[1999], lines[2000]),
        ("1", "2000", "unfinished")
    );
    assert!(std::fs::metadata(&path).unwrap().len() <= 20_000);
    harness.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_much_input_behind_costs_nothing() {
    let harness = Harness::new("leftinput");
    let sandbox = harness.sandbox("p1").await;
    start(&sandbox, &harness.container("a", &["sleep", "1000"])).await;
    let spec = ExecSpec {
        stdin: true,
        ..command("a", &["sleep", "50"])
    };
    let mut session = sandbox.exec(spec).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    // No process reads the data, so pipes and queues fill up.
    let writing = stdin.write_all(&[b'x'; 4 << 20]);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), writing)
            .await
            .is_err()
    );
    drop(stdin);
    drop(session);
    let pid = sandbox.state().await.unwrap().pid;
    crate::recovery::comes_to_rest(&[pid], 1).await;
    harness.end().await;
}

/// findings-2 K1: a command that reads late receives the data that its client has sent before it
/// disconnected, and then the end of the input.
#[tokio::test]
async fn input_of_a_client_that_has_left_is_delivered() {
    let harness = Harness::new("lateinput");
    let sandbox = harness.sandbox("p1").await;
    start(&sandbox, &harness.container("a", &["sleep", "1000"])).await;
    // More than the shim's queue and the pipe can hold: the rest waits in the socket.
    const MUCH: usize = 140_000;
    let script = "until [ -e /tmp/go ]; do sleep 0.01; done; cat > /tmp/got; echo end > /tmp/end";
    let spec = ExecSpec {
        stdin: true,
        ..command("a", &["sh", "-c", script])
    };
    let mut session = sandbox.exec(spec).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(&[b'x'; MUCH]).await.unwrap();
    stdin.shutdown().await.unwrap();
    stdin.wait_until_sent().await;
    drop(session);
    let script = "touch /tmp/go; until [ -e /tmp/end ]; do sleep 0.01; done; wc -c < /tmp/got";
    let (out, _, _) = exec(&sandbox, command("a", &["sh", "-c", script]), b"").await;
    assert_eq!(out, format!("{MUCH}\n"));
    harness.end().await;
}
