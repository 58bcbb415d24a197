//! The tables of `docs/benchmarks.md`: all have the same columns, and each row has a value and one command
//! that exists.

use super::checkout::{Finding, SourceFile};
use super::documented_names::quoted;
use crate::bench;

const PAGE: &str = "docs/benchmarks.md";

/// The head of each table.
const HEAD: &str = "| measurement | value | reference | target | command |";

/// The sources that have the options of `mainstay-bench`.
const OPTIONS: &str = "crates/load-generator/src/";

/// Checks the page.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        return Vec::new();
    };
    let sources = files.iter().filter(|file| file.path.starts_with(OPTIONS));
    let sources: Vec<&str> = sources.map(|file| file.text.as_str()).collect();
    let mut texts = Vec::new();
    let mut lines = page.text.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.starts_with('|') || line.starts_with("|---") {
            continue;
        }
        if lines.peek().is_some_and(|next| next.starts_with("|---")) {
            if line != HEAD {
                texts.push(format!("a table has the columns `{line}`, not `{HEAD}`"));
            }
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [measurement, value, _, _, command] = cells[..] else {
            texts.push(format!("the row `{line}` has not five cells"));
            continue;
        };
        if value.is_empty() || command.is_empty() {
            texts.push(format!(
                "the row of {measurement} lacks its value or its command"
            ));
        }
        for command in quoted(command) {
            texts.extend(fault(command, &sources));
        }
    }
    let finding = |text: String| Finding {
        file: PAGE.to_owned(),
        text,
    };
    texts.into_iter().map(finding).collect()
}

/// The fault of a command that names a benchmark or an option that does not exist.
fn fault(command: &str, sources: &[&str]) -> Option<String> {
    if let Some(name) = command.strip_prefix("cargo xtask bench ") {
        let exists = bench::names().any(|bench_name| bench_name.contains(name));
        return (!exists).then(|| format!("`{command}` names no benchmark"));
    }
    let (_, arguments) = command.split_once("mainstay-bench")?;
    let options = arguments
        .split(' ')
        .filter_map(|word| word.strip_prefix("--"));
    let mut unknown = options.filter(|option| {
        let field = format!("{}:", option.replace('-', "_"));
        !sources.iter().any(|source| source.contains(&field))
    });
    let option = unknown.next()?;
    Some(format!(
        "`{command}` has the option --{option}, which mainstay-bench lacks"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rows: &str) -> Vec<String> {
        let page = format!("{HEAD}\n|---|---|---|---|---|\n{rows}\n");
        let findings = check(&[
            SourceFile::new(PAGE, page),
            SourceFile::new("crates/load-generator/src/main.rs", "pub server_pid: u32,"),
        ]);
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn rows_with_existing_commands_are_no_findings() {
        let rows = "| a | 1 ms | – | – | `cargo xtask bench pods` |\n\
                    | b | 1 ms | – | – | `nice mainstay-bench --server-pid 1` |\n\
                    | c | 1 ms | – | – | by hand |";
        assert_eq!(texts(rows), Vec::<String>::new());
    }

    #[test]
    fn faults_of_rows_are_findings() {
        for row in [
            "| a | 1 ms | – | – | |",
            "| a | | – | – | by hand |",
            "| a | 1 ms | by hand |",
            "| a | 1 ms | – | – | `cargo xtask bench nothing` |",
            "| a | 1 ms | – | – | `mainstay-bench --nothing` |",
            "| measurement | value |\n|---|---|",
        ] {
            assert_eq!(texts(row).len(), 1, "{row}");
        }
    }
}
