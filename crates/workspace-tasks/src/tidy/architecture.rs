//! The claims of ARCHITECTURE.md that a machine can compare with the code: the table of crates and its layers, the
//! commands of the programs, the checks behind the invariants, and the crates that an invariant names.

use std::collections::{BTreeMap, BTreeSet};

use super::checkout::{Finding, SourceFile};
use super::dependencies::{self, manifest_of};
use super::documented_names::quoted;
use super::{clocks, layers, sources, walks};

const PAGE: &str = "ARCHITECTURE.md";

/// The layers of the table of crates, the lowest first.
const LAYERS: [&str; 6] = [
    "vocabulary",
    "decisions",
    "engines",
    "services",
    "binary",
    "around",
];

/// The programs with commands: the crate, the file and the head of the list of commands.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("mainstay", "crates/mainstay/src/lib.rs", "\nenum Command {"),
    (
        "workspace-tasks",
        "crates/workspace-tasks/src/main.rs",
        "\nenum Chore {",
    ),
];

/// Words of an invariant, and the crates that it names.
type Scope = (&'static str, fn() -> BTreeSet<String>);

const SCOPES: [Scope; 5] = [
    ("open the store", dependencies::store_openers),
    ("contain `unsafe`", sources::crates_with_unsafe),
    ("import downwards", layers::layered_crates),
    ("work with descriptors", walks::walking_crates),
    ("wall clock", clocks::clocked_crates),
];

/// Checks the page; a checkout without it has no findings.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        return Vec::new();
    };
    let crates: BTreeSet<&str> = files.iter().filter_map(|f| manifest_of(&f.path)).collect();
    let rows = crate_rows(section(&page.text, "## The crates"));
    let mut texts = compare_crates(&rows, &crates);
    texts.extend(compare_dependencies(&rows, files));
    for program in PROGRAMS {
        texts.extend(compare_commands(program, &rows, files));
    }
    let invariants = section(&page.text, "## Invariants");
    texts.extend(compare_checks(invariants, files));
    for scope in SCOPES {
        texts.extend(compare_scope(scope, invariants, &crates));
    }
    texts.extend(compare_controllers(&page.text, files));
    texts.extend(unknown_hyphenated(&page.text, &crates, files));
    let finding = |text: String| Finding {
        file: PAGE.to_owned(),
        text,
    };
    texts.into_iter().map(finding).collect()
}

/// A row of the table of crates.
#[derive(Debug)]
struct CrateRow<'t> {
    layer: &'t str,
    name: &'t str,
    content: &'t str,
}

/// The rows of the table of crates. A row without a layer has that of the row above it.
fn crate_rows(section: &str) -> Vec<CrateRow<'_>> {
    let mut layer = "";
    let mut rows = Vec::new();
    for line in section.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line
            .trim_matches('|')
            .splitn(3, '|')
            .map(str::trim)
            .collect();
        let [first, name, content] = cells[..] else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|n| n.strip_suffix('`')) else {
            continue;
        };
        if !first.is_empty() {
            layer = first;
        }
        rows.push(CrateRow {
            layer,
            name,
            content,
        });
    }
    rows
}

/// The crates of the table and those of the workspace, in both directions, and the lists of pure crates.
fn compare_crates(rows: &[CrateRow<'_>], crates: &BTreeSet<&str>) -> Vec<String> {
    let mut texts = Vec::new();
    for name in crates {
        let count = rows.iter().filter(|row| row.name == *name).count();
        if count != 1 {
            texts.push(format!(
                "crate {name} has {count} rows in the table of crates"
            ));
        }
    }
    for row in rows {
        if !crates.contains(row.name) {
            texts.push(format!(
                "the table of crates has {}, which does not exist",
                row.name
            ));
        }
        if !LAYERS.contains(&row.layer) {
            texts.push(format!(
                "crate {} is in the unknown layer {}",
                row.name, row.layer
            ));
        }
        for (layer, list) in [
            ("vocabulary", dependencies::VOCABULARY),
            ("decisions", dependencies::DECISIONS),
        ] {
            if (row.layer == layer) != list.contains(&row.name) {
                texts.push(format!(
                    "the table of crates and tidy's list of pure crates disagree about {}",
                    row.name
                ));
            }
        }
    }
    texts
}

/// Dependencies of a crate on one of a higher layer of the table.
fn compare_dependencies(rows: &[CrateRow<'_>], files: &[SourceFile]) -> Vec<String> {
    let height = |layer: &str| LAYERS.iter().position(|existing| *existing == layer);
    let layers: BTreeMap<&str, Option<usize>> = rows
        .iter()
        .map(|row| (row.name, height(row.layer)))
        .collect();
    let mut texts = Vec::new();
    for file in files {
        let Some(name) = manifest_of(&file.path) else {
            continue;
        };
        let Ok(manifest) = file.text.parse::<toml::Table>() else {
            texts.push(format!("{} cannot be parsed", file.path));
            continue;
        };
        let below = layers.get(name).copied().flatten();
        for dependency in dependencies::table_keys(&manifest, "dependencies") {
            let above = layers.get(dependency.as_str()).copied().flatten();
            if above > below && below.is_some() {
                texts.push(format!(
                    "{name} depends on {dependency}, which is in a higher layer of the table"
                ));
            }
        }
    }
    texts
}

/// The commands in the row of a program and those of its command line.
fn compare_commands(
    (name, path, head): (&str, &str, &str),
    rows: &[CrateRow<'_>],
    files: &[SourceFile],
) -> Vec<String> {
    let Some(file) = files.iter().find(|file| file.path == path) else {
        return vec![format!("{path}, which has the commands of {name}, is gone")];
    };
    let commands = commands(&file.text, head);
    let row = rows.iter().find(|row| row.name == name);
    let named: BTreeSet<String> = row
        .iter()
        .flat_map(|row| quoted(row.content))
        .map(str::to_owned)
        .collect();
    if commands == named {
        return Vec::new();
    }
    let show = |names: Vec<&String>| format!("{names:?}");
    vec![format!(
        "the row of {name} lacks the commands {} and has others: {}",
        show(commands.difference(&named).collect()),
        show(named.difference(&commands).collect())
    )]
}

/// The commands of a list of clap that are not hidden, as the command line has them.
fn commands(source: &str, head: &str) -> BTreeSet<String> {
    let list = source.split_once(head).map_or("", |(_, rest)| rest);
    let list = list.split_once("\n}").map_or(list, |(list, _)| list);
    let mut is_hidden = false;
    let mut commands = BTreeSet::new();
    for line in list.lines() {
        let Some(line) = line
            .strip_prefix("    ")
            .filter(|line| !line.starts_with(' '))
        else {
            continue;
        };
        is_hidden |= line.starts_with("#[command(") && line.contains("hide = true");
        let word: String = line
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        let is_command = word.starts_with(|first: char| first.is_ascii_uppercase());
        if is_command && !std::mem::take(&mut is_hidden) {
            commands.insert(hyphenated(&word));
        }
    }
    commands
}

/// `VirtualMachine` as `virtual-machine`.
fn hyphenated(word: &str) -> String {
    let mut text = String::new();
    for letter in word.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// The checks in the table of invariants and the modules of tidy that check, in both directions.
fn compare_checks(section: &str, files: &[SourceFile]) -> Vec<String> {
    let modules = files.iter().filter_map(|file| {
        let name = file.path.strip_prefix("crates/workspace-tasks/src/tidy/")?;
        let name = name.strip_suffix(".rs")?.trim_end_matches("/mod");
        file.text.contains("\npub fn check(").then_some(name)
    });
    let modules: BTreeSet<&str> = modules.collect();
    let named = section.lines().filter_map(|line| {
        let cell = line.strip_suffix(" |")?.rsplit_once('|')?.1;
        Some(quoted(cell))
    });
    let named: BTreeSet<&str> = named.flatten().collect();
    let without_row = modules.difference(&named);
    let without_row =
        without_row.map(|name| format!("no invariant names the check {name} of tidy"));
    let without_check = named.difference(&modules);
    let without_check =
        without_check.map(|name| format!("an invariant names the check {name}, which tidy lacks"));
    without_row.chain(without_check).collect()
}

/// The crates that an invariant names and those that its check has.
fn compare_scope((words, scope): Scope, section: &str, crates: &BTreeSet<&str>) -> Option<String> {
    let mut lines = section.lines().filter(|line| line.contains(words));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Some(format!("not exactly one invariant has the words `{words}`"));
    };
    let named = quoted(line).into_iter();
    let named: BTreeSet<String> = named
        .filter(|name| crates.contains(name))
        .map(str::to_owned)
        .collect();
    let scope = scope();
    (named != scope).then(|| {
        format!("the invariant with the words `{words}` names the crates {named:?}, its check has {scope:?}")
    })
}

/// The controllers without a folder in `controller-planners`, which the page names.
fn compare_controllers(page: &str, files: &[SourceFile]) -> Vec<String> {
    let folders = |start: &str| -> BTreeSet<String> {
        let below = files
            .iter()
            .filter_map(|file| file.path.strip_prefix(start));
        let folders = below.filter_map(|path| path.split_once('/'));
        folders.map(|(folder, _)| folder.to_owned()).collect()
    };
    let planners = folders("crates/controller-planners/src/");
    let controllers = folders("crates/controllers/src/");
    let named = page
        .lines()
        .filter_map(|line| line.split_once("Controllers without a planner of their own: "))
        .flat_map(|(_, rest)| quoted(rest))
        .map(str::to_owned)
        .collect::<BTreeSet<String>>();
    let without: BTreeSet<String> = controllers.difference(&planners).cloned().collect();
    if named == without {
        return Vec::new();
    }
    vec![format!(
        "the page names the controllers without a planner {named:?}, and the code has {without:?}"
    )]
}

/// Names with hyphens that are no crates: of Kubernetes, of programs and of storage classes.
const HYPHENATED: &[&str] = &["kube-dns", "kube-proxy", "local-cow"];

/// Words with hyphens in back ticks that are neither crates nor commands.
fn unknown_hyphenated(page: &str, crates: &BTreeSet<&str>, files: &[SourceFile]) -> Vec<String> {
    let mut commands_of_all = BTreeSet::new();
    for (_, path, head) in PROGRAMS {
        if let Some(file) = files.iter().find(|file| file.path == path) {
            commands_of_all.extend(commands(&file.text, head));
        }
    }
    let words = quoted(page).into_iter().filter(|word| {
        let is_name = word
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        is_name && word.contains('-') && !word.starts_with('-')
    });
    let unknown = words.filter(|word| {
        !crates.contains(word) && !HYPHENATED.contains(word) && !commands_of_all.contains(*word)
    });
    unknown
        .map(|word| format!("names `{word}`, which is no crate and no command"))
        .collect()
}

/// The part of a page from a heading to the next one of its level.
fn section<'t>(page: &'t str, heading: &str) -> &'t str {
    let rest = page.split_once(heading).map_or("", |(_, rest)| rest);
    rest.split_once("\n## ").map_or(rest, |(part, _)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| layer | crate | content |\n|---|---|---|\n\
                         | vocabulary | `json-text` | text |\n| engines | `grpc` | calls |\n";

    #[test]
    fn the_table_of_crates_is_compared_in_both_directions() {
        let rows = crate_rows(TABLE);
        let crates = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<&str>>();
        assert_eq!(
            compare_crates(&rows, &crates(&["grpc", "json-text"])),
            Vec::<String>::new()
        );
        assert_eq!(compare_crates(&rows, &crates(&["grpc"])).len(), 1);
        assert_eq!(
            compare_crates(&rows, &crates(&["csi-client", "grpc", "json-text"])).len(),
            1
        );
        let wrong = TABLE.replace("vocabulary", "engines");
        assert_eq!(
            compare_crates(&crate_rows(&wrong), &crates(&["grpc", "json-text"])).len(),
            1
        );
    }

    #[test]
    fn dependencies_on_higher_layers_are_findings() {
        let manifest = |name: &str, dependency: &str| {
            SourceFile::new(
                format!("crates/{name}/Cargo.toml"),
                format!("[dependencies]\n{dependency}.workspace = true\n"),
            )
        };
        let rows = crate_rows(TABLE);
        let down = manifest("grpc", "json-text");
        let up = manifest("json-text", "grpc");
        assert!(compare_dependencies(&rows, &[down]).is_empty());
        assert_eq!(compare_dependencies(&rows, &[up]).len(), 1);
    }

    #[test]
    fn commands_are_compared_with_the_command_line() {
        let source = "enum A {}\n\nenum Chore {\n    /// Text\n    VirtualTest(A),\n    Bench {\n        \
                      Other: b,\n    },\n    #[command(hide = true)]\n    Hidden,\n}\n\nenum B {\n    No,\n}\n";
        let findings = commands(source, "\nenum Chore {");
        assert_eq!(
            findings,
            ["bench", "virtual-test"].map(str::to_owned).into()
        );
        let file = SourceFile::new("crates/workspace-tasks/src/main.rs", source);
        let differences = |row: &str| {
            let rows = crate_rows(row);
            compare_commands(PROGRAMS[1], &rows, std::slice::from_ref(&file)).len()
        };
        assert_eq!(
            differences("| a | `workspace-tasks` | `bench`, `virtual-test` |"),
            0
        );
        assert_eq!(differences("| a | `workspace-tasks` | `bench` |"), 1);
        assert_eq!(compare_commands(PROGRAMS[0], &[], &[]).len(), 1);
        assert_eq!(
            differences("| a | `workspace-tasks` | `bench`, `old`, `virtual-test` |"),
            1
        );
    }

    #[test]
    fn checks_are_compared_with_the_modules_of_tidy() {
        let module = |name: &str| {
            let text = "\npub fn check(files: &[SourceFile]) {}\n";
            SourceFile::new(format!("crates/workspace-tasks/src/tidy/{name}.rs"), text)
        };
        let table = "| invariant | check |\n|---|---|\n| `x` holds | `walks` |\n";
        assert!(compare_checks(table, &[module("walks")]).is_empty());
        assert_eq!(compare_checks(table, &[]).len(), 1);
        assert_eq!(
            compare_checks(table, &[module("leaks"), module("walks")]).len(),
            1
        );
    }

    #[test]
    fn the_crates_of_an_invariant_are_compared_with_its_check() {
        let scope: Scope = ("open the store", || ["a".to_owned()].into());
        let crates = ["a", "b"].into();
        let findings = |text: &str| compare_scope(scope, text, &crates).is_some();
        assert!(!findings("Only `a` may open the store of `other`."));
        assert!(findings("Only `a` and `b` open the store."));
        assert!(findings("Nobody opens it."));
        assert!(findings("`a`: open the store\n`a`: open the store"));
    }

    #[test]
    fn controllers_without_a_planner_are_named() {
        let files = [
            SourceFile::new("crates/controllers/src/a/mod.rs", ""),
            SourceFile::new("crates/controllers/src/b/mod.rs", ""),
            SourceFile::new("crates/controller-planners/src/a/mod.rs", ""),
        ];
        let findings = |text: &str| compare_controllers(text, &files).len();
        assert_eq!(
            findings("Controllers without a planner of their own: `b`."),
            0
        );
        assert_eq!(
            findings("Controllers without a planner of their own: `a`."),
            1
        );
        assert_eq!(findings(""), 1);
    }

    #[test]
    fn unknown_words_with_hyphens_are_findings() {
        let crates = ["json-text"].into();
        let findings = |text: &str| unknown_hyphenated(text, &crates, &[]);
        assert!(findings("`json-text`, `local-cow`, `--flag`, `a b-c`").is_empty());
        assert_eq!(findings("`xml-text`").len(), 1);
    }
}
