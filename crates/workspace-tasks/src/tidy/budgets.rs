//! The page of budgets is complete: each listener of the program has a row, and each row names its bounds and a
//! test that exists.

use super::checkout::{AROUND, Finding, SourceFile};
use super::exceptions::Exceptions;

const PAGE: &str = "docs/contributing/budgets.md";

/// The calls that make a listener.
const LISTENS: &[&str] = &[
    "TcpListener::bind(",
    "UnixListener::bind(",
    "unix::listen(",
    "UdpSocket::bind(",
    "UnixDatagram::bind",
    "net::listen(",
    ".listen(backlog",
];

/// Files with such a call that serve nobody, or that run in a container of the user.
const NO_LISTENERS: &[(&str, &str)] = &[
    (
        "crates/rpc-channel/src/unix.rs",
        "makes the socket of its callers, which are listed",
    ),
    (
        "crates/debug-tools/src/tools/network.rs",
        "a tool that runs in the user's container",
    ),
    (
        "crates/cluster-dns/src/forward.rs",
        "the socket of one question to another server, which takes answers of that server only",
    ),
    (
        "crates/builtin-images/src/hello/mod.rs",
        "the example's web server, which runs in the user's container",
    ),
    (
        "crates/builtin-images/src/hello/peers.rs",
        "a socket of a question in the user's container",
    ),
];

/// The columns of a row: the thing, its bounds, and the proof.
const COLUMNS: usize = 6;

/// Checks the page against the sources.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut report = |file: &str, text: String| {
        findings.push(Finding {
            file: file.to_owned(),
            text,
        });
    };
    let rows: Vec<Row<'_>> = rows(&page.text).collect();
    let mut exceptions = Exceptions::new("budgets.rs", NO_LISTENERS.iter().map(|(path, _)| *path));
    for file in files.iter().filter(|file| listens(file)) {
        let is_listed = rows
            .iter()
            .any(|row| row.files().any(|path| path == file.path));
        if !is_listed && !exceptions.allow(&file.path) {
            let text = format!("listens, and has no row in {PAGE}");
            report(&file.path, text);
        }
    }
    for row in &rows {
        let thing = row.cells[0];
        if row.cells.len() != COLUMNS || row.cells.iter().any(|cell| cell.is_empty()) {
            report(
                PAGE,
                format!("{thing}: the row has not {COLUMNS} filled cells"),
            );
            continue;
        }
        for path in row.files() {
            if !files.iter().any(|file| file.path == path && listens(file)) {
                report(PAGE, format!("{thing}: {path} does not listen"));
            }
        }
        let tests: Vec<&str> = quoted(row.cells[COLUMNS - 1]).collect();
        if tests.is_empty() {
            report(PAGE, format!("{thing}: no test sends more"));
        }
        for test in tests {
            let is_there = test.split_once("::").is_some_and(|(path, name)| {
                let file = files.iter().find(|file| file.path == path);
                file.is_some_and(|file| file.text.contains(&format!("fn {name}(")))
            });
            if !is_there {
                report(PAGE, format!("{thing}: the test {test} does not exist"));
            }
        }
    }
    findings.extend(exceptions.unneeded(files));
    findings
}

/// Whether the product listens in this file.
fn listens(file: &SourceFile) -> bool {
    let crate_name = file
        .path
        .strip_prefix("crates/")
        .and_then(|path| path.split('/').next());
    let is_product = crate_name.is_some_and(|name| !AROUND.contains(&name));
    is_product && LISTENS.iter().any(|call| file.code.contains(call))
}

/// A row of a table of the page.
struct Row<'a> {
    cells: Vec<&'a str>,
}

impl<'a> Row<'a> {
    /// The source files in the first cell.
    fn files(&self) -> impl Iterator<Item = &'a str> {
        quoted(self.cells[0]).filter(|text| text.starts_with("crates/"))
    }
}

fn rows(page: &str) -> impl Iterator<Item = Row<'_>> {
    page.lines().filter_map(|line| {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
        let is_head = ["listener", "growth"].contains(&cells[0]);
        (!is_head).then_some(Row { cells })
    })
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "| listener | per sender | in all | at the bound | metric | test |\n";

    fn findings_of(row: &str, source: &str) -> Vec<String> {
        let files = [
            SourceFile::new(PAGE, format!("{HEAD}|---|---|---|---|---|---|\n{row}\n")),
            SourceFile::new("crates/a/src/b.rs", source),
            SourceFile::new("crates/a/tests/c.rs", "fn more_is_refused() {}"),
        ];
        check(&files)
            .into_iter()
            .map(|finding| finding.text)
            .collect()
    }

    // findings-2 S40
    #[test]
    fn a_listener_has_a_row_with_bounds_and_a_test() {
        let row = "| door `crates/a/src/b.rs` | 4 | 8 | closed | – | `crates/a/tests/c.rs::more_is_refused` |";
        let source = "let door = TcpListener::bind(address);";
        assert!(findings_of(row, source).is_empty());
        assert_eq!(findings_of("", source).len(), 1, "a listener without a row");
        assert_eq!(findings_of(row, "").len(), 1, "a row without a listener");
        assert_eq!(
            findings_of(&row.replace(" 4 ", "  "), source).len(),
            1,
            "no bound"
        );
        assert_eq!(
            findings_of(&row.replace("more_is", "less_is"), source).len(),
            1
        );
        let in_a_test = format!("#[cfg(test)]\nmod tests {{ fn a() {{ {source} }} }}");
        assert!(findings_of("", &in_a_test).is_empty());
    }
}
