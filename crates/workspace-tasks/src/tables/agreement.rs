//! Compares the tables with each other, and the types with the published document. No source of the tables is
//! needed, so this is also a unit test.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, is_served};

/// A field of a type as `types.tsv` has it.
#[derive(Clone, Copy, Debug)]
struct Field<'t> {
    /// The JSON name; empty for an embedded type.
    json: &'t str,
    kind: &'t str,
    /// Whether every object has the field: the mark `!`.
    always: bool,
}

/// A type as `types.tsv` has it.
#[derive(Debug, Default)]
struct Type<'t> {
    /// The `apiVersion` of its objects; `None` if the type is no kind of object.
    api_version: Option<&'t str>,
    fields: Vec<Field<'t>>,
}

/// The types by name, for instance `core/v1.Pod`.
struct Types<'t>(BTreeMap<&'t str, Type<'t>>);

impl<'t> Types<'t> {
    fn read(text: &'t str) -> Self {
        let mut types: BTreeMap<&str, Type<'t>> = BTreeMap::new();
        let mut current = "";
        for line in rows(text) {
            match line.strip_prefix('\t') {
                None => {
                    let mut cells = line.split('\t');
                    current = cells.next().unwrap_or_default();
                    let api_version = cells.next();
                    let fields = Vec::new();
                    types.insert(
                        current,
                        Type {
                            api_version,
                            fields,
                        },
                    );
                }
                Some(row) => {
                    let mut cells = row.split('\t').skip(1);
                    let (name, kind) = (cells.next(), cells.next());
                    if let (Some(name), Some(kind)) = (name, kind) {
                        types.entry(current).or_default().fields.push(Field {
                            json: name.trim_end_matches(['?', '!']),
                            kind,
                            always: name.ends_with('!'),
                        });
                    }
                }
            }
        }
        Self(types)
    }

    /// The fields of a type, including those of embedded types; `None` for an unknown type.
    fn fields(&self, name: &str) -> Option<Vec<Field<'t>>> {
        let fields_of_type = self.0.get(name)?.fields.iter();
        let all = fields_of_type.flat_map(|field| match field.json.is_empty() {
            true => self.fields(field.kind).unwrap_or_default(),
            false => vec![*field],
        });
        Some(all.collect())
    }

    /// Whether the type is a kind of object, which also has `apiVersion` and `kind`.
    fn is_object(&self, name: &str) -> bool {
        let row = self.0.get(name);
        row.is_some_and(|row| row.api_version.is_some())
    }

    fn field(&self, name: &str, json: &str) -> Option<&'t str> {
        let fields = self.fields(name)?;
        fields
            .into_iter()
            .find_map(|field| (field.json == json).then_some(field.kind))
    }

    /// The types with the fields of a type: the type itself, and those that embed it.
    fn owners(&self, name: &'t str) -> Vec<&'t str> {
        let mut owners = vec![name];
        for (owner, row) in &self.0 {
            let embeds = |field: &Field<'_>| field.json.is_empty() && field.kind == name;
            if row.fields.iter().any(embeds) {
                owners.extend(self.owners(owner));
            }
        }
        owners
    }
}

/// The rows of a table without its header.
pub fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// The type of a definition: `io.k8s.api.core.v1.Pod` is `core/v1.Pod`.
fn type_of(definition: &str) -> String {
    let mut words = definition.rsplit('.');
    let (name, version, group) = (words.next(), words.next(), words.next());
    let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
    format!("{}/{}.{}", word(group), word(version), word(name))
}

/// The texts of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'t> {
    pub types: &'t str,
    pub merge: &'t str,
    pub required: &'t str,
    pub defaults: &'t str,
}

/// The contradictions between two tables.
pub fn between(tables: Tables<'_>) -> Vec<String> {
    let types = Types::read(tables.types);
    let mut wrong = Vec::new();
    for row in rows(tables.merge) {
        let cells: Vec<&str> = row.split('\t').collect();
        let [definition, field, list_type, list_keys, _, _, merge_key] = cells[..] else {
            wrong.push(format!("merge facts: a row has not seven cells: {row}"));
            continue;
        };
        let owner = type_of(definition);
        if field == "-" || types.fields(&owner).is_none() {
            continue;
        }
        let Some(kind) = types.field(&owner, field) else {
            wrong.push(format!("merge facts: {definition} has no field {field}"));
            continue;
        };
        if list_type != "-" && !kind.starts_with("[]") && kind != "bytes" {
            wrong.push(format!("merge facts: {definition} {field} is no list"));
        }
        let element = kind.trim_start_matches("[]");
        let keys = list_keys.split(',').chain([merge_key]);
        for key in keys.filter(|key| *key != "-" && types.0.contains_key(element)) {
            if types.field(element, key).is_none() {
                wrong.push(format!(
                    "merge facts: elements of {definition} {field} have no key {key}"
                ));
            }
        }
    }
    for row in rows(tables.required) {
        let (definition, fields) = row.split_once('\t').unwrap_or((row, ""));
        let owner = type_of(definition);
        let is_included = |field: &&str| !(types.is_object(&owner) && is_kind_name(field));
        for field in fields.split(',').filter(is_included) {
            if types.fields(&owner).is_some() && types.field(&owner, field).is_none() {
                wrong.push(format!("required: {definition} has no field {field}"));
            }
        }
    }
    wrong.extend(structures(&types, tables.defaults));
    wrong
}

/// Whether a field names the kind of an object; every object has these fields in JSON, and none in protobuf.
fn is_kind_name(field: &str) -> bool {
    matches!(field, "apiVersion" | "kind")
}

/// Checks that exactly the structures that are no pointers are always present.
fn structures(types: &Types<'_>, defaults: &str) -> Vec<String> {
    let listed: BTreeSet<(String, &str)> = rows(defaults)
        .filter_map(|row| {
            let mut cells = row.split('\t');
            let (definition, field, default) = (cells.next()?, cells.next()?, cells.next()?);
            let owner = type_of(definition);
            let existing = types.0.contains_key(owner.as_str());
            (default == "{}" && existing).then_some((owner, field))
        })
        .collect();
    let names = types.0.keys().filter_map(|name| {
        let fields = types.fields(name)?.into_iter();
        let structures = fields.filter(|field| types.0.contains_key(field.kind));
        Some(structures.map(|field| ((*name).to_owned(), field.json)))
    });
    let always: BTreeSet<(String, &str)> = names.flatten().collect();
    listed
        .symmetric_difference(&always)
        .map(
            |(owner, field)| match listed.contains(&(owner.clone(), field)) {
                true => format!("defaults: {owner} {field} is not always there by its type"),
                false => format!("defaults: {owner} {field} is always there by its type"),
            },
        )
        .collect()
}

/// The differences between the types and the published definitions: fields, the `apiVersion` of objects, and
/// the marks of fields that are always present.
pub fn with_document(types: &str, document: &Document) -> Vec<String> {
    let types = Types::read(types);
    let mut wrong = fields(&types, document);
    wrong.extend(document_facts(&types, document));
    wrong
}

fn fields(types: &Types<'_>, document: &Document) -> Vec<String> {
    document
        .names()
        .filter(|definition| is_served(definition))
        .filter_map(|definition| {
            let fields = types.fields(&type_of(definition))?;
            let fields: BTreeSet<&str> = fields.into_iter().map(|field| field.json).collect();
            let published = document.field_names(definition)?;
            let mut other = fields.symmetric_difference(&published).peekable();
            other.peek()?;
            let other: Vec<&str> = other.copied().collect();
            Some(format!(
                "types: {definition} differs in {}",
                other.join(", ")
            ))
        })
        .collect()
}

/// The parts of `types.tsv` that come from the document.
fn document_facts(types: &Types<'_>, document: &Document) -> Vec<String> {
    let names = document.names().map(|name| (type_of(name), name));
    let definitions: BTreeMap<String, &str> = names.collect();
    let mut wrong = Vec::new();
    for (name, row) in &types.0 {
        let definition = definitions.get(*name);
        let version = definition.and_then(|definition| document.api_version(definition));
        if row.api_version != version.as_deref() {
            let or_none = |version: Option<&str>| version.unwrap_or("none").to_owned();
            wrong.push(format!(
                "types: {name} has the apiVersion {}, and the document has {}",
                or_none(row.api_version),
                or_none(version.as_deref()),
            ));
        }
        let owners = types.owners(name);
        let owners = owners.iter().filter_map(|owner| definitions.get(*owner));
        for field in &row.fields {
            let mut owners = owners.clone();
            let always = owners.any(|definition| document.has_always(definition, field.json));
            let json = field.json;
            match (field.always, always) {
                (true, false) => wrong.push(format!(
                    "types: {name} {json} has the mark !, and the document does not require it"
                )),
                (false, true) => wrong.push(format!(
                    "types: {name} {json} lacks the mark !, and the document requires it"
                )),
                _ => {}
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TYPES: &str = "# head\ncore/v1.Boat\tv1\n\t1\tspec?\tcore/v1.BoatSpec\n\t2\t\tcore/v1.Inner\n\
        core/v1.BoatSpec\n\t1\tports\t[]core/v1.Port\ncore/v1.Inner\n\t1\tengine?\t*core/v1.Port\n\
        core/v1.Port\n\t1\tname\tstring\n";
    const GOOD: Tables<'_> = Tables {
        types: TYPES,
        merge: "io.k8s.api.core.v1.BoatSpec\tports\tmap\tname\t-\tmerge\tname\n",
        required: "io.k8s.api.core.v1.Boat\tengine,kind,spec\n",
        defaults: "# head\nio.k8s.api.core.v1.Boat\tspec\t{}\n",
    };

    /// findings A16: each table is checked against the others.
    #[test]
    fn contradictions_are_found() {
        assert_eq!(between(GOOD), [""; 0]);
        let findings = |tables: Tables<'_>| between(tables).join("; ");
        let merge = "io.k8s.api.core.v1.BoatSpec\tports\tmap\tnumber\t-\t-\t-";
        assert_eq!(
            findings(Tables { merge, ..GOOD }),
            "merge facts: elements of io.k8s.api.core.v1.BoatSpec ports have no key number"
        );
        let merge = "io.k8s.api.core.v1.Port\tname\tset\t-\t-\t-\t-";
        assert_eq!(
            findings(Tables { merge, ..GOOD }),
            "merge facts: io.k8s.api.core.v1.Port name is no list"
        );
        let required = "io.k8s.api.core.v1.Boat\tmast";
        assert_eq!(
            findings(Tables { required, ..GOOD }),
            "required: io.k8s.api.core.v1.Boat has no field mast"
        );
        // In a type that is no object, `kind` is an ordinary field.
        let required = "io.k8s.api.core.v1.Port\tkind";
        assert_eq!(
            findings(Tables { required, ..GOOD }),
            "required: io.k8s.api.core.v1.Port has no field kind"
        );
        let defaults = "io.k8s.api.core.v1.Boat\tengine\t{}";
        assert_eq!(
            findings(Tables { defaults, ..GOOD }),
            "defaults: core/v1.Boat engine is not always there by its type; \
             defaults: core/v1.Boat spec is always there by its type"
        );
    }
    /// findings A16: the marks and the versions of the types are those of the document.
    #[test]
    fn a_wrong_mark_is_named() {
        let document = Document::of(&json!({"definitions": {
            "io.k8s.api.core.v1.Boat": {
                "required": ["spec", "engine"],
                "properties": {"metadata": {}, "spec": {}, "engine": {}},
                "x-kubernetes-group-version-kind": [{"group": "", "kind": "Boat", "version": "v1"}],
            },
            "io.k8s.api.core.v1.Port": {"properties": {"name": {}}},
            "io.k8s.api.core.v1beta1.Raft": {"required": ["logs"], "properties": {"logs": {}}},
        }}))
        .unwrap();
        let good = "core/v1.Boat\tv1\n\t1\tmetadata?!\tstring\n\t2\tspec!\tstring\n\
            \t3\t\tcore/v1.Inner\ncore/v1.Inner\n\t1\tengine!\tstring\ncore/v1.Port\n\
            \t1\tname?\tstring\ncore/v1beta1.Raft\n\t1\tlogs!\tstring\n";
        assert_eq!(with_document(good, &document), [""; 0]);
        let findings = |old: &str, new: &str| {
            let types = good.replace(old, new);
            assert_ne!(types, good);
            with_document(&types, &document).join("; ")
        };
        assert_eq!(
            findings("spec!", "spec"),
            "types: core/v1.Boat spec lacks the mark !, and the document requires it"
        );
        assert_eq!(
            findings("metadata?!", "metadata?"),
            "types: core/v1.Boat metadata lacks the mark !, and the document requires it"
        );
        assert_eq!(
            findings("name?", "name?!"),
            "types: core/v1.Port name has the mark !, and the document does not require it"
        );
        // A definition has the fields of the types that it embeds.
        assert_eq!(
            findings("engine!", "engine"),
            "types: core/v1.Inner engine lacks the mark !, and the document requires it"
        );
        assert_eq!(
            findings("logs!", "logs"),
            "types: core/v1beta1.Raft logs lacks the mark !, and the document requires it"
        );
        assert_eq!(
            findings("Boat\tv1", "Boat\tv2"),
            "types: core/v1.Boat has the apiVersion v2, and the document has v1"
        );
        assert_eq!(
            findings("core/v1.Port\n", "core/v1.Port\tv1\n"),
            "types: core/v1.Port has the apiVersion v1, and the document has none"
        );
    }
}
