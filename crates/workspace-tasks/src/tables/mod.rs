//! `cargo xtask tables`: the tables of published facts of the Kubernetes API. Two sources give all of
//! them: the published API document and the Go types. Neither is in the repository.

mod agreement;
mod definitions;
mod document;
mod facts;
mod go;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use agreement::Tables;
use document::Document;
use go::{Field, Kind, Structures, TypeName};

/// The tables, relative to the checkout.
const TYPES: &str = "crates/resource-kinds/data/types.tsv";
const MERGE: &str = "crates/openapi-documents/data/merge_facts.tsv";
const REQUIRED: &str = "crates/openapi-documents/data/required.tsv";
const DEFAULTS: &str = "crates/openapi-documents/data/defaults.tsv";
const DEFINITIONS: &str = "crates/openapi-documents/data/definitions.json";

/// The kinds whose definitions are written, a table that is edited by hand.
const KINDS: &str = "crates/openapi-documents/data/kinds.tsv";

/// The path of the document for `cargo xtask test`, relative to the checkout.
const PUBLISHED: &str = "../shared/data/kubernetes-openapi-v2.json";

/// The file with facts of the document, in the directory of the document.
const FACTS: &str = "openapi-facts.json";

const TYPES_HEAD: &str = "\
# The types of the Kubernetes API 1.36. Sources: the Go types of the modules k8s.io/api, apimachinery,
# kube-aggregator and metrics (v0.36.0) and the OpenAPI v2 document (`!` and `apiVersion`), by
# `cargo xtask tables --document --types`; not edited by hand.
# A line for each type, with the `apiVersion` of its objects (`*`: several); then for each field its
# protobuf number, JSON name (`?`: left out when empty; `!`: always there; no name: an embedded type) and
# type (`*` pointer, `[]` list, `{}` map).
";
const MERGE_HEAD: &str = "\
# Merge facts of lists and maps. Source: the x-kubernetes-* extensions of the OpenAPI v2 document of
# Kubernetes 1.36, by `cargo xtask tables --document`; not edited by hand.
# Columns: definition, field ('-': the type itself), list type, list map keys, map type,
# patch strategy, patch merge key ('-': none).
";
const REQUIRED_HEAD: &str = "\
# Required fields. Source: the OpenAPI v2 document of Kubernetes 1.36, by
# `cargo xtask tables --document`; not edited by hand. Columns: definition, fields.
";
const DEFAULTS_HEAD: &str = "\
# Structures that are in every object ('{}'), and defaults of fields that are keys of lists. Sources: the
# Go types (v0.36.0; no pointer, `+default`) and the list keys of the OpenAPI v2 document of Kubernetes
# 1.36, by `cargo xtask tables --document --types`; not edited by hand. Columns: definition, field, default.
";

/// The options of `cargo xtask tables`.
#[derive(clap::Args)]
pub struct Options {
    /// Write nothing: say what differs
    #[arg(long)]
    check: bool,
    /// The OpenAPI v2 document of the served version of Kubernetes (api/openapi-spec/swagger.json)
    #[arg(long)]
    document: Option<PathBuf>,
    /// The folder of the Go modules of the same version (staging/src/k8s.io of Kubernetes)
    #[arg(long)]
    types: Option<PathBuf>,
}

/// Writes the tables whose sources are given, or compares them.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    if options.document.is_none() && options.types.is_none() && !options.check {
        bail!("name a source: --document FILE, --types FOLDER, or both");
    }
    let document = options
        .document
        .as_deref()
        .map(Document::read)
        .transpose()?;
    let structures = options.types.as_deref().map(go::read).transpose()?;
    let kinds = read(root, KINDS)?;
    let tables = make(document.as_ref(), structures.as_ref(), &kinds)?;
    if !options.check {
        for table in &tables {
            let path = root.join(table.path);
            fs::write(&path, &table.text).with_context(|| format!("write {}", path.display()))?;
            println!("xtask: wrote {}", table.path);
        }
    }
    let mut wrong = Vec::new();
    for table in &tables {
        let present = read(root, table.path)?;
        wrong.extend(differences(table, &present));
    }
    let texts = Texts::read(root)?;
    wrong.extend(agreement::between(texts.tables()));
    if let Some(document) = &document {
        wrong.extend(agreement::with_document(&texts.types, document));
    }
    if let Some(path) = &options.document {
        wrong.extend(facts::differences(path, &path.with_file_name(FACTS))?);
    }
    if wrong.is_empty() {
        println!("xtask: the tables agree with each other and with the given sources");
        return Ok(());
    }
    for line in &wrong {
        eprintln!("{line}");
    }
    bail!("{} difference(s) in the tables", wrong.len())
}

/// Compares the tables with the document if it is at its path, and prints a line if it is not.
pub fn check_if_published(root: &Path) -> Result<()> {
    let path = root.join(PUBLISHED);
    if !path.is_file() {
        println!(
            "xtask: left out: {PUBLISHED} is not there; `cargo xtask tables --check --document`"
        );
        return Ok(());
    }
    let options = Options {
        check: true,
        document: Some(path),
        types: None,
    };
    run(root, &options)
}

/// The rows of a table, from its sources.
struct Table {
    path: &'static str,
    text: String,
}

fn make(
    document: Option<&Document>,
    structures: Option<&Structures>,
    kinds: &str,
) -> Result<Vec<Table>> {
    let of_rows = |path, head: &str, rows: BTreeSet<String>| {
        let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let text = format!("{head}{rows}");
        Table { path, text }
    };
    let mut tables = Vec::new();
    if let Some(document) = document {
        tables.push(of_rows(MERGE, MERGE_HEAD, document.merge_rows()));
        tables.push(of_rows(REQUIRED, REQUIRED_HEAD, document.required_rows()));
        tables.push(Table {
            path: DEFINITIONS,
            text: definitions::text(document, kinds)?,
        });
    }
    if let (Some(document), Some(structures)) = (document, structures) {
        let rows = default_rows(document, structures);
        tables.push(of_rows(DEFAULTS, DEFAULTS_HEAD, rows));
        let rows = type_rows(document, structures);
        let text = format!("{TYPES_HEAD}{rows}");
        tables.push(Table { path: TYPES, text });
    }
    Ok(tables)
}

/// The types with their fields in the order of their numbers. Definitions of custom kinds are omitted:
/// clients write them in JSON, and their schemas have special forms there.
fn type_rows(document: &Document, structures: &Structures) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    for (name, fields) in structures {
        let message = name.message();
        if message.starts_with("apiextensions/") {
            continue;
        }
        // The document repeats the fields of an embedded type in each definition that embeds it.
        let definitions = definitions(structures, name);
        let mut numbered: Vec<(u32, String)> = fields
            .iter()
            .filter_map(|field| {
                let named = !field.json.is_empty();
                let empty = if named && field.omitempty { "?" } else { "" };
                let mut always = definitions.iter();
                let always = match always.any(|of| document.has_always(of, &field.json)) {
                    true => "!",
                    false => "",
                };
                let row = format!("{}{empty}{always}\t{}", field.json, field.kind.text());
                Some((field.number?, row))
            })
            .collect();
        numbered.sort();
        let fields = numbered
            .iter()
            .map(|(number, row)| format!("\t{number}\t{row}\n"));
        let version = document.api_version(&name.definition());
        let version = version.map(|version| format!("\t{version}"));
        rows.push((message + &version.unwrap_or_default(), fields.collect()));
    }
    rows.sort();
    rows.iter()
        .map(|(message, fields)| format!("{message}\n{fields}"))
        .collect()
}

/// The definitions with the fields of a structure: its definition, and those of the structures that embed it.
fn definitions(structures: &Structures, name: &TypeName) -> Vec<String> {
    let mut names = vec![name.definition()];
    for (owner, fields) in structures {
        let embeds = |field: &Field| {
            let embedded = Kind::Structure(name.clone());
            field.json.is_empty() && field.kind == embedded
        };
        if fields.iter().any(embeds) {
            names.extend(definitions(structures, owner));
        }
    }
    names
}

/// Structures that are always present, and the defaults of the fields that are keys of lists.
fn default_rows(document: &Document, structures: &Structures) -> BTreeSet<String> {
    let keys = document.list_keys();
    let mut rows = BTreeSet::new();
    for name in structures.keys() {
        let definition = name.definition();
        for field in go::all_fields(structures, name) {
            let json = &field.json;
            let key = keys.contains(&(definition.clone(), json.clone()));
            let default = field.default.as_deref().map(|text| text.trim_matches('"'));
            match (&field.kind, default) {
                (Kind::Structure(_), _) => {
                    rows.insert(format!("{definition}\t{json}\t{{}}"));
                }
                (Kind::Plain(_), Some(default)) if key && !default.is_empty() => {
                    rows.insert(format!("{definition}\t{json}\t{default}"));
                }
                _ => {}
            }
        }
    }
    rows
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))
}

/// The texts of the tables in the checkout.
struct Texts {
    types: String,
    merge: String,
    required: String,
    defaults: String,
}

impl Texts {
    fn read(root: &Path) -> Result<Self> {
        Ok(Self {
            types: read(root, TYPES)?,
            merge: read(root, MERGE)?,
            required: read(root, REQUIRED)?,
            defaults: read(root, DEFAULTS)?,
        })
    }

    fn tables(&self) -> Tables<'_> {
        Tables {
            types: &self.types,
            merge: &self.merge,
            required: &self.required,
            defaults: &self.defaults,
        }
    }
}

/// The rows that only the table or only its source contains. A field of a type is listed with the type.
fn differences(table: &Table, present: &str) -> Vec<String> {
    if table.path == DEFINITIONS {
        let same = table.text == present;
        let line = format!("{DEFINITIONS}: differs from its source");
        return (!same).then_some(line).into_iter().collect();
    }
    let (expected, present) = (named_rows(&table.text), named_rows(present));
    let path = table.path;
    let lacking = expected.difference(&present);
    let lacking = lacking.map(|row| format!("{path}: is missing: {row}"));
    let surplus = present.difference(&expected);
    let surplus = surplus.map(|row| format!("{path}: is not in the source: {row}"));
    lacking.chain(surplus).collect()
}

fn named_rows(text: &str) -> BTreeSet<String> {
    let mut owner = "";
    agreement::rows(text)
        .map(|row| match row.strip_prefix('\t') {
            Some(field) => format!("{owner} {field}"),
            None => {
                owner = row;
                row.to_owned()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings A16: the tables of this checkout do not contradict each other.
    #[test]
    fn the_tables_agree_with_each_other() {
        let texts = Texts::read(&crate::workspace_root()).unwrap();
        let tables = texts.tables();
        for (text, least) in [
            (tables.types, 2000),
            (tables.merge, 300),
            (tables.required, 300),
            (tables.defaults, 200),
        ] {
            assert!(agreement::rows(text).count() > least);
        }
        assert_eq!(agreement::between(tables), [""; 0]);
    }

    #[test]
    fn rows_of_one_side_alone_are_differences() {
        let table = Table {
            path: "a.tsv",
            text: "# new head\ncore/v1.Pod\n\t1\tspec\tx\ncore/v1.Node\n\t1\tspec\tx\n".to_owned(),
        };
        let present = "# head\ncore/v1.Pod\n\t1\tspec\tx\n\t2\tstatus\ty\ncore/v1.Node\n";
        assert_eq!(
            differences(&table, present),
            [
                "a.tsv: is missing: core/v1.Node 1\tspec\tx",
                "a.tsv: is not in the source: core/v1.Pod 2\tstatus\ty",
            ]
        );
        assert!(differences(&table, &table.text).is_empty());
    }
}
