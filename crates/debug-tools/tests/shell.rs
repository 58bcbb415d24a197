//! The shell and the tools as people and programs use them: processes that are started by the names
//! in a directory of links, as in the built-in images.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory with a link for each tool.
static TOOLS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    for name in debug_tools::names() {
        symlink(
            env!("CARGO_BIN_EXE_debug-tools"),
            directory.path().join(name),
        )
        .expect("a link");
    }
    directory
});

fn tool(name: &str) -> PathBuf {
    TOOLS.path().join(name)
}

fn command(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(tool(name));
    command
        .current_dir(directory)
        .env_clear()
        .env("PATH", TOOLS.path())
        .env("HOME", "/home");
    command
}

/// Timeout of a test; the longest here take a second.
const PATIENCE: Duration = Duration::from_secs(240);

/// Runs to the end, or kills it after the timeout.
fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start it");
    let mut stdin = child.stdin.take().expect("its input");
    // It may end without reading it.
    stdin.write_all(input).ok();
    drop(stdin);
    let id = Pid::from_raw(i32::try_from(child.id()).expect("an id"));
    let (ended, waits) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            kill(id, Signal::SIGKILL).ok();
        }
    });
    let output = child.wait_with_output().expect("its end");
    drop(ended);
    watch.join().expect("the watch");
    output
}

/// The standard output of a script, with its exit status if that is not 0.
fn script(text: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    script_in(directory.path(), text)
}

fn script_in(directory: &Path, text: &str) -> String {
    let mut shell = command("sh", directory);
    shell.args(["-c", text, "name", "one", "two words"]);
    let output = run(shell, b"input\n");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => printed,
        code => format!(
            "{printed}[{code:?}]{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Scripts with their expected output.
const SCRIPTS: &[(&str, &str)] = &[
    ("echo a  b 'c  d' \"e  f\" g\\ h", "a b c  d e  f g h\n"),
    ("echo $0 $1 \"$2\" $# $3.", "name one two words 2 .\n"),
    (
        "for a in \"$@\"; do echo \"<$a>\"; done",
        "<one>\n<two words>\n",
    ),
    (
        "for a in $@; do echo \"<$a>\"; done",
        "<one>\n<two>\n<words>\n",
    ),
    (
        "shift 2; for a in \"$@\"; do echo $a; done; echo \"$#\"",
        "0\n",
    ),
    ("a=1 b='x y'; echo $a $b \"${b}z\"", "1 x y x yz\n"),
    (
        "echo ${n:-none} ${n-unset} ${#HOME} ${HOME:+set}",
        "none unset 5 set\n",
    ),
    (
        "a=; echo \"<${a:-x}>\" \"<${a-x}>\"; : ${b:=y}; echo $b",
        "<x> <>\ny\n",
    ),
    (
        "f=/a/b.tar.gz; echo ${f##*/} ${f#*/} ${f%.*} ${f%%.*}",
        "b.tar.gz a/b.tar.gz /a/b.tar /a/b\n",
    ),
    (
        "echo $((1 + 2 * 3)) $(( (1+2)*3 )); i=4; i=$((i+1)); echo $i",
        "7 9\n5\n",
    ),
    (
        "echo \"$(echo a; echo b)\" `echo c` $(echo $(echo d))",
        "a\nb c d\n",
    ),
    ("echo a | cat | tr a-z A-Z", "A\n"),
    (
        "false || echo no; true && echo yes; ! true || echo neither",
        "no\nyes\nneither\n",
    ),
    (
        "if false; then echo 1; elif true; then echo 2; else echo 3; fi",
        "2\n",
    ),
    (
        "i=0; while [ $i -lt 3 ]; do i=$((i+1)); [ $i = 2 ] && continue; echo $i; done",
        "1\n3\n",
    ),
    ("until false; do break; done; echo $?", "0\n"),
    (
        "for i in 1 2; do for j in 1 2; do break 2; done; echo no; done; echo end",
        "end\n",
    ),
    (
        "case web-0 in db*) echo db;; web-[0-9]|x) echo web;; *) echo other;; esac",
        "web\n",
    ),
    (
        "case \"*\" in \\*) echo star;; esac; case a in '*') echo no;; esac",
        "star\n",
    ),
    (
        "f() { echo \"f $1 $#\"; return 3; }; f x y; echo $?; echo $1",
        "f x 2\n3\none\n",
    ),
    (
        "(cd /; pwd; x=1); echo ${x:-none}; x=2; (x=3; exit 4); echo $? $x",
        "/\nnone\n4 2\n",
    ),
    (
        "{ echo a; echo b; } | while read -r line; do echo \"<$line>\"; done",
        "<a>\n<b>\n",
    ),
    (
        "echo 'a:b c:d' | { IFS=: read -r x y; echo \"$x|$y\"; }",
        "a|b c:d\n",
    ),
    ("IFS=,; set -- $(echo 1,2,,3); echo $#", "4\n"),
    ("read line; echo \"got $line\"", "got input\n"),
    (
        "cat <<END\n$1 $(echo x) \\$y\nEND\necho after",
        "one x $y\nafter\n",
    ),
    ("cat <<'END' | tr a b\n$1 a\nEND\n", "$1 b\n"),
    ("cat <<-A; cat <<B\n\t1\n\tA\n2\nB\n", "1\n2\n"),
    (
        "echo a >f; echo b >>f; cat <f; cat f 2>&1 >/dev/null",
        "a\nb\n",
    ),
    (
        "echo err >&2; { echo out; echo err >&2; } 2>/dev/null",
        "out\n",
    ),
    ("exec 3>&1 >f; echo hidden; cat f >&3", "hidden\n"),
    (
        "(exec sh -c 'exit 3'); echo $?; echo \"<$(exec echo in)>\"; true | exec cat; exec echo last; echo no",
        "3\n<in>\nlast\n",
    ),
    (
        "touch a.log b.log .c.log; echo *.log; echo '*.log' *.none; echo ?.log",
        "a.log b.log\n*.log *.none\na.log b.log\n",
    ),
    (
        "mkdir -p d/e; touch d/e/f; echo d/*/f /*nothing*",
        "d/e/f /*nothing*\n",
    ),
    (
        "set -e; false || true; if false; then :; fi; echo on; false; echo off",
        "on\n[Some(1)]",
    ),
    ("x=$(false); echo $?; x=$(exit 5) || echo $?", "1\n5\n"),
    (
        "true & wait; echo $?; sleep 100 & kill $!; wait; echo $?",
        "0\n143\n",
    ),
    (
        "sh -c 'exit 7'; echo $?; sh -c 'kill -9 $$'; echo $?",
        "7\n137\n",
    ),
    (
        "X=1 sh -c 'echo $X'; echo ${X:-none}; export Y=2; sh -c 'echo $Y'",
        "1\nnone\n2\n",
    ),
    (
        "eval 'a=1; echo $a'; echo 'echo sourced $1' >f; . ./f",
        "1\nsourced one\n",
    ),
    (
        "printf 'echo script $1\\n' >s; chmod 755 s; ./s x",
        "script x\n",
    ),
    (
        "command -v cd; type ls | grep -c ls; command -v nothing || echo none",
        "cd\n1\nnone\n",
    ),
    (
        "yes() { while :; do echo y; done; }; yes | head -n 2",
        "y\ny\n",
    ),
    ("echo a # comment\n# another\necho b#c", "a\nb#c\n"),
    ("echo a \\\n  b", "a b\n"),
    (
        "cd /tmp/../; pwd; cd - >/dev/null; echo ~ ~/x '~'",
        "/\n/home /home/x ~\n",
    ),
    ("test -d / -a ! -f / && [ -n \"$1\" ] && echo yes", "yes\n"),
];

/// findings U8: scripts do what they do in any shell.
#[test]
fn scripts_run() {
    for (text, expected) in SCRIPTS {
        assert_eq!(script(text), *expected, "{text}");
    }
}

/// findings U8: a mistake is told, and nothing hangs or ends in a panic.
#[test]
fn mistakes_are_told() {
    for (text, message) in [
        (
            "nothing-like-it",
            "[Some(127)]name: nothing-like-it: not found",
        ),
        ("if true; then echo", "ends within a command"),
        ("echo 'open", "ends within a command"),
        ("done", "syntax error at \"done\""),
        ("echo )", "syntax error at \")\""),
        ("| cat", "syntax error"),
        ("cat <<END\nno end", "ends within a command"),
        ("echo $((1/0)); echo on", "[Some(2)]name: division by zero"),
        ("set -u; echo $unknown", "unknown is not set"),
        ("echo ${x?needed}", "x: needed"),
        (
            "cat </no/such/file",
            "[Some(1)]name: /no/such/file: No such file",
        ),
        ("f() { f; }; f", "nested too deep"),
        ("cat /no/such/file", "cat: "),
        (
            "ls --wrong",
            "[Some(2)]ls: there is no option --wrong\nusage: ls",
        ),
        ("echo ${x!y}", "there is no such"),
    ] {
        let printed = script(text);
        assert!(printed.contains(message), "{text}: {printed}");
        assert!(!printed.contains("panicked"), "{text}: {printed}");
    }
    let deep = "$(echo ".repeat(5000);
    assert!(script(&deep).contains("nested too deep"));
    let open = "(".repeat(100_000);
    assert!(script(&open).contains("nested too deep"));
}

/// Standard input is run line by line; a command started by a line reads the rest.
#[test]
fn a_script_may_come_on_standard_input() {
    let directory = tempfile::tempdir().expect("a directory");
    let input = b"echo a\nif true\nthen read x\nfi\nthe rest\necho \"got $x\"\nexit 3\necho no\n";
    let output = run(command("sh", directory.path()), input);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\ngot the rest\n");
    assert_eq!(output.status.code(), Some(3));
    let mut shell = command("sh", directory.path());
    shell.arg("-i");
    let output = run(shell, b"echo $((1/0))\necho )\necho on\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "on\n");
}

/// findings U8: the commands of `kubectl cp`, in both directions, on files of all kinds.
#[test]
fn archives_keep_what_they_get() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "mkdir -p from/empty to; printf 'a\\000b' >from/file; ln -s file from/link; \
         chmod 750 from/file; head -c 100000 /dev/zero >from/large; \
         tar cf - from | tar -xmf - -C to; ls -l to/from | cut -c 1-10; \
         readlink to/from/link; sha256sum <from/large >1; sha256sum <to/from/large >2; \
         tr -d - <1 | grep -c \"$(tr -d - <2)\"; tar czf a.tgz from/file; tar tf a.tgz; \
         tar xzf a.tgz -O | wc -c; wc -c <to/from/file; tar -x -f a.tgz -C nowhere";
    let printed = script_in(directory.path(), text);
    assert_eq!(
        printed.split("[Some(1)]").next().unwrap_or_default(),
        "drwxr-xr-x\n-rwxr-x---\n-rw-r--r--\nlrwxrwxrwx\nfile\n1\nfrom/file\n3\n3\n",
        "{printed}"
    );
    assert!(printed.contains("tar: "), "{printed}");
}

/// An archive must not write outside of the directory that it is unpacked into.
#[test]
fn archives_stay_in_their_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    let name = b"../outside";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    archive.append(&header, &b"x"[..]).expect("an entry");
    let bytes = archive.into_inner().expect("an archive");
    let inside = directory.path().join("inside");
    std::fs::create_dir(&inside).expect("a directory");
    let mut tar = command("tar", &inside);
    tar.args(["xf", "-"]);
    let output = run(tar, &bytes);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!directory.path().join("outside").exists());
}

/// findings U8: the tools answer as their namesakes do.
#[test]
fn tools_do_their_work() {
    for (text, expected) in [
        (
            "seq 3 | tail -n 2; seq 12 | head -2; seq 5 | tail -n +4",
            "2\n3\n1\n2\n4\n5\n",
        ),
        (
            "printf abcdef | tail -c +3; echo; printf abcdef | tail -c 2",
            "cdef\nef",
        ),
        (
            "printf 'b\\na\\nb\\n' | sort | uniq -c | sort -rn",
            "      2 b\n      1 a\n",
        ),
        (
            "printf '10\\n9\\n' | sort -n; printf '1 a\\n' | wc",
            "9\n10\n1 2 4\n",
        ),
        (
            "echo a:b:c | cut -d: -f 2-; echo abc | cut -c 1,3",
            "b:c\nac\n",
        ),
        (
            "printf 'ab\\nAc\\n' | grep -i '^a[bc]' | grep -vc b; echo x | grep -q y || echo none",
            "1\nnone\n",
        ),
        (
            "echo a+b | grep 'a+b'; echo aab | grep -E 'a+b'; echo ab | grep 'x\\|b'",
            "a+b\naab\nab\n",
        ),
        (
            "mkdir -p d/e; touch d/e/f; find d -type f; find . -name 'e' -maxdepth 2; grep -r x d || echo no",
            "d/e/f\n./d/e\nno\n",
        ),
        (
            "echo 1 >a; cp a b; mv b c; ln -s c l; cat l; rm -f c none; ls; ls l | cat",
            "1\na\nl\nl\n",
        ),
        (
            "cp -r /proc/sys/kernel/hostname h; test -s h && echo copied; basename /a/b.c .c; dirname /a/b",
            "copied\nb\n/a\n",
        ),
        (
            "env -i A=1 env; printenv HOME; A=2 env | grep ^A",
            "A=1\n/home\nA=2\n",
        ),
        (
            "echo 1 2 3 | xargs -n 2 echo x; echo a | tee f | cat - f",
            "x 1 2\nx 3\na\na\n",
        ),
        (
            "id -u | grep -c '[0-9]'; whoami | wc -l; ps | head -1 | grep -c PID",
            "1\n1\n1\n",
        ),
        (
            "ls -la / | grep -c proc; stat / | cut -c 1-2; df -h / | wc -l; du -s . | cut -f 2",
            "1\n/:\n2\n.\n",
        ),
        (
            "date +%Y | grep -c '^20'; uname; hostname | wc -l; sleep 0.01; which ls | grep -c ls",
            "1\nLinux\n1\n1\n",
        ),
        (
            "ip addr | grep -c 127.0.0.1/8; ip route >/dev/null; netstat -tln >/dev/null; mount | grep -c ' on /proc '",
            "1\n1\n",
        ),
    ] {
        assert_eq!(script(text), expected, "{text}");
    }
}

/// findings U8: pages are fetched, and a connection carries what is typed.
#[test]
fn the_network_is_within_reach() {
    let printed = script(
        "printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello' | nc -l 127.0.0.1 18431 >asked &\n\
         i=0; until netstat -tln | grep -q 127.0.0.1:18431; do i=$((i+1)); [ $i -lt 200 ] || exit 9; sleep 0.05; done\n\
         curl -s -H 'X-Test: 1' http://127.0.0.1:18431/page; echo; wait; grep -c -i 'x-test: 1' asked; head -1 asked",
    );
    assert_eq!(printed, "hello\n1\nGET /page HTTP/1.0\r\n");
    let refused = script("wget -q -O - http://127.0.0.1:1/");
    assert!(
        refused.contains("wget: connect to 127.0.0.1:1"),
        "{refused}"
    );
    assert_eq!(
        script("nc -z 127.0.0.1 1 2>/dev/null || echo closed"),
        "closed\n"
    );
    assert_eq!(script("curl -s http://127.0.0.1:1/; echo $?"), "7\n");
    for shows in ["", "-sS", "--silent --show-error"] {
        let printed = script(&format!("curl {shows} http://127.0.0.1:1/ 2>&1; echo $?"));
        let message = "curl: connect to 127.0.0.1:1: Connection refused (os error 111)";
        assert_eq!(printed, format!("{message}\n7\n"), "{shows}");
    }
    // Errors of files are no part of the exchange.
    let printed = script("curl -s --cacert /missing https://127.0.0.1:1/ || echo failed");
    assert!(printed.ends_with("failed\n"), "{printed}");
}
