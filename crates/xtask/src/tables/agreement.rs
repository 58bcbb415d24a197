//! The agreement of the tables with each other, and of the types with the published document. It needs
//! no source of the tables, so it is also a unit test.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;

/// The fields of a type as `types.tsv` has them: JSON name and type.
type Fields<'t> = Vec<(&'t str, &'t str)>;

/// The types by name, for instance `core/v1.Pod`.
struct Types<'t>(BTreeMap<&'t str, Fields<'t>>);

impl<'t> Types<'t> {
    fn read(text: &'t str) -> Self {
        let mut types: BTreeMap<&str, Fields<'t>> = BTreeMap::new();
        let mut current = "";
        for line in rows(text) {
            match line.strip_prefix('\t') {
                None => {
                    current = line.split('\t').next().unwrap_or_default();
                    types.insert(current, Vec::new());
                }
                Some(row) => {
                    let mut cells = row.split('\t').skip(1);
                    let (name, kind) = (cells.next(), cells.next());
                    if let (Some(name), Some(kind)) = (name, kind) {
                        let field = (name.trim_end_matches(['?', '!']), kind);
                        types.entry(current).or_default().push(field);
                    }
                }
            }
        }
        Self(types)
    }

    /// The fields of a type, those of embedded types among them; `None` for an unknown type.
    fn fields(&self, name: &str) -> Option<Fields<'t>> {
        let own = self.0.get(name)?.iter();
        let all = own.flat_map(|(json, kind)| match json.is_empty() {
            true => self.fields(kind).unwrap_or_default(),
            false => vec![(*json, *kind)],
        });
        Some(all.collect())
    }

    fn field(&self, name: &str, json: &str) -> Option<&'t str> {
        let fields = self.fields(name)?;
        fields
            .into_iter()
            .find_map(|(known, kind)| (known == json).then_some(kind))
    }
}

/// The rows of a table without its head.
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

/// Says where two tables contradict each other.
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
            if types.field(element, key).is_none() && !is_kind_name(key) {
                wrong.push(format!(
                    "merge facts: elements of {definition} {field} have no key {key}"
                ));
            }
        }
    }
    for row in rows(tables.required) {
        let (definition, fields) = row.split_once('\t').unwrap_or((row, ""));
        let owner = type_of(definition);
        for field in fields.split(',').filter(|field| !is_kind_name(field)) {
            if types.fields(&owner).is_some() && types.field(&owner, field).is_none() {
                wrong.push(format!("required: {definition} has no field {field}"));
            }
        }
    }
    wrong.extend(structures(&types, tables.defaults));
    wrong
}

/// The fields that every object has in JSON and none has in protobuf.
fn is_kind_name(field: &str) -> bool {
    matches!(field, "apiVersion" | "kind")
}

/// A structure that is no pointer is always there, and nothing else is.
fn structures(types: &Types<'_>, defaults: &str) -> Vec<String> {
    let listed: BTreeSet<(String, &str)> = rows(defaults)
        .filter_map(|row| {
            let mut cells = row.split('\t');
            let (definition, field, default) = (cells.next()?, cells.next()?, cells.next()?);
            let owner = type_of(definition);
            let known = types.0.contains_key(owner.as_str());
            (default == "{}" && known).then_some((owner, field))
        })
        .collect();
    let names = types.0.keys().filter_map(|name| {
        let fields = types.fields(name)?.into_iter();
        let there = fields.filter(|(_, kind)| types.0.contains_key(kind));
        Some(there.map(|(json, _)| ((*name).to_owned(), json)))
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

/// Says where the types have other fields than the published definitions.
pub fn with_document(types: &str, document: &Document) -> Vec<String> {
    let types = Types::read(types);
    document
        .names()
        .filter_map(|definition| {
            let known = types.fields(&type_of(definition))?;
            let known = known.into_iter().map(|(json, _)| json);
            let known: BTreeSet<&str> = known.filter(|json| !is_kind_name(json)).collect();
            let published = document.field_names(definition)?;
            let mut other = known.symmetric_difference(&published).peekable();
            other.peek()?;
            let other: Vec<&str> = other.copied().collect();
            Some(format!(
                "types: {definition} differs in {}",
                other.join(", ")
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: &str = "# head\ncore/v1.Boat\n\t1\tspec?\tcore/v1.BoatSpec\n\t2\t\tcore/v1.Inner\n\
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
        let found = |tables: Tables<'_>| between(tables).join("; ");
        let merge = "io.k8s.api.core.v1.BoatSpec\tports\tmap\tnumber\t-\t-\t-";
        assert_eq!(
            found(Tables { merge, ..GOOD }),
            "merge facts: elements of io.k8s.api.core.v1.BoatSpec ports have no key number"
        );
        let merge = "io.k8s.api.core.v1.Port\tname\tset\t-\t-\t-\t-";
        assert_eq!(
            found(Tables { merge, ..GOOD }),
            "merge facts: io.k8s.api.core.v1.Port name is no list"
        );
        let required = "io.k8s.api.core.v1.Boat\tmast";
        assert_eq!(
            found(Tables { required, ..GOOD }),
            "required: io.k8s.api.core.v1.Boat has no field mast"
        );
        let defaults = "io.k8s.api.core.v1.Boat\tengine\t{}";
        assert_eq!(
            found(Tables { defaults, ..GOOD }),
            "defaults: core/v1.Boat engine is not always there by its type; \
             defaults: core/v1.Boat spec is always there by its type"
        );
    }
}
