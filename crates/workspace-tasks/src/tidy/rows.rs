//! Tables by hand are complete: each controller has a row in the table of rights, the users' page on
//! pods names each volume source, and each difference from Kubernetes has a row with its code.

use super::checkout::{Finding, SourceFile};

const CONTROLLERS: &str = "crates/controllers/src/lib.rs";
const RIGHTS: &str = "crates/resource-kinds/src/bootstrap.rs";
const TYPES: &str = "crates/resource-kinds/data/types.tsv";
const POD_SPEC: &str = "docs/pod-spec.md";
const DIFFERENCES: &str = "docs/differences.md";
const CODE_OF_DIFFERENCES: &str = "docs/contributing/differences.md";

/// The types whose fields are sources of volumes.
const SOURCES: [&str; 2] = ["core/v1.VolumeSource", "core/v1.VolumeProjection"];

/// Checks the three tables.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let text_of = |path: &str| {
        let file = files.iter().find(|file| file.path == path);
        file.map_or("", |file| file.text.as_str())
    };
    let rights = text_of(RIGHTS);
    let without_right = controllers(text_of(CONTROLLERS))
        .into_iter()
        .filter(|name| !rights.contains(&format!("\ncontroller {name} | ")))
        .map(|name| Finding {
            file: RIGHTS.to_owned(),
            text: format!("has no row in `WORK` with the rights of the controller {name}"),
        });
    let volumes = section(text_of(POD_SPEC), "## Volumes");
    let unnamed = SOURCES
        .iter()
        .flat_map(|name| fields(text_of(TYPES), name))
        .filter(|source| !volumes.contains(&format!("`{source}`")))
        .map(|source| Finding {
            file: POD_SPEC.to_owned(),
            text: format!("has no row for the volume source `{source}`"),
        });
    let rows = text_of(CODE_OF_DIFFERENCES);
    let without_code = differences(text_of(DIFFERENCES))
        .into_iter()
        .filter(|name| !rows.contains(&format!("\n| {name} | `")))
        .map(|name| Finding {
            file: CODE_OF_DIFFERENCES.to_owned(),
            text: format!("has no row with the code of \"{name}\""),
        });
    without_right.chain(unnamed).chain(without_code).collect()
}

/// The headings of the differences: the bold text at the start of a paragraph, on one line.
fn differences(page: &str) -> Vec<String> {
    let paragraphs = page
        .split("\n\n")
        .filter_map(|text| text.strip_prefix("**"));
    let headings = paragraphs.filter_map(|text| text.split_once("**"));
    headings
        .map(|(heading, _)| heading.replace('\n', " ").trim_end_matches('.').to_owned())
        .collect()
}

/// The names in the list of controllers.
fn controllers(source: &str) -> Vec<&str> {
    let list = source.split_once("fn all(").map_or("", |(_, rest)| rest);
    let list = list.split_once("\n}\n").map_or(list, |(list, _)| list);
    list.split('"').skip(1).step_by(2).collect()
}

/// The part of a page from a heading to the next one.
fn section<'t>(page: &'t str, heading: &str) -> &'t str {
    let rest = page.split_once(heading).map_or("", |(_, rest)| rest);
    rest.split_once("\n## ").map_or(rest, |(part, _)| part)
}

/// The names of the fields of a type, as the table of types has them: `\t1\thostPath?\t*…`.
fn fields<'t>(types: &'t str, name: &str) -> Vec<&'t str> {
    let lines = types.lines().skip_while(|line| *line != name).skip(1);
    let lines = lines.take_while(|line| line.starts_with('\t'));
    let names = lines.filter_map(|line| line.split('\t').nth(2));
    names
        .map(|name| name.trim_end_matches(['?', '!']))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rows_are_found() {
        let file = |path: &str, text: &str| SourceFile::new(path, text);
        let findings = check(&[
            file(
                CONTROLLERS,
                "fn all() {\n    vec![(\"job\", run()), (\"pod-gc\", run())]\n}\n\"other\"",
            ),
            file(RIGHTS, "\ncontroller job | create | pods\n"),
            file(
                TYPES,
                "core/v1.VolumeSource\n\t1\tnfs?\t*a\n\t2\timage?\t*b\ncore/v1.Z\n\t1\tz\tstring\n",
            ),
            file(POD_SPEC, "`nfs`\n## Volumes\n| `image` | |\n## Later\n"),
            file(
                DIFFERENCES,
                "# A\n\n**A pod\nwaits.** Text.\n\n**Sets grow** so.\n",
            ),
            file(
                CODE_OF_DIFFERENCES,
                "| - | - |\n| Sets grow | `crates/a.rs` |\n",
            ),
        ]);
        let texts: Vec<&str> = findings
            .iter()
            .map(|finding| finding.text.as_str())
            .collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("pod-gc") && texts[1].contains("`nfs`"));
        assert!(texts[2].contains("\"A pod waits\""));
    }
}
